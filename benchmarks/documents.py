"""Writes measured numbers into the documents: README, model card, results page, reliability page.

    python -m benchmarks.documents [--check]

Reads `evaluation_inspection.csv` (rows of `anomalygpt evaluate`) and the other files of benchmarks/results, and
replaces what stands between `<!-- name -->` and `<!-- end name -->`. What the commands of the Chinese README print is
copied from README.md (blocks after `<!-- ... output -->`). With --check, writes nothing; the exit code is 1 when a
document does not say what the results say.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks import drift, kinds, peers, pose, presence
from benchmarks.measuring import RESULTS, ROOT
from benchmarks.targets import targets_table
from modeling_anomalygpt.evaluation.tables import Summary, read_rows, summarize
from modeling_anomalygpt.hub.card import with_results

CARD = ROOT / "modeling_anomalygpt" / "anomalygpt_tiny" / "README.md"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "README_zh.md",
    ROOT / "docs" / "decision.md",
    ROOT / "docs" / "line.md",
    ROOT / "docs" / "reliability.md",
    ROOT / "docs" / "results.md",
    CARD,
)
QUALITY = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_0.3": "AUPRO .3",
    "balanced_accuracy": "balanced accuracy, `uncertain` counted as wrong",
    "balanced_accuracy_decided": "balanced accuracy of the decided alone", "uncertain_rate": "`uncertain`",
    "false_alarm_rate": "false alarms", "miss_rate": "misses",
    "balanced_accuracy_forced": "balanced accuracy, every picture forced to one of two",
    "balanced_accuracy_map": "... by the map alone",
    "oracle_balanced_accuracy": "... by the best threshold, chosen on these pictures (oracle)",
    "positions_exact": "places exactly right in the answer", "count_exact": "number of defects right in the answer",
}  # fmt: skip
BY_SET = {
    "image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "balanced_accuracy": "balanced",
    "balanced_accuracy_decided": "decided alone", "balanced_accuracy_forced": "forced",
    "oracle_balanced_accuracy": "oracle", "false_alarm_rate": "false alarms", "miss_rate": "misses",
    "uncertain_rate": "uncertain", "positions_exact": "places", "count_exact": "number",
}  # fmt: skip
METHODS = {
    "image_auroc": "image AUROC", "image_average_precision": "image AP", "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC", "pixel_average_precision": "pixel AP", "aupro_0.3": "AUPRO .3",
    "aupro_0.05": "AUPRO .05", "oracle_balanced_accuracy": "oracle",
}  # fmt: skip
MODELS = {"embedded": "answers.json", "small": "answers_small.json"}
TOPICS = ("presence", "where", "count", "size", "kind", "object", "advice", "place_check", "number_check")


def sections() -> dict[str, str]:
    """What stands between the markers, by their names."""
    rows = read_rows(RESULTS / "evaluation_inspection.csv")
    ours = [row for row in rows if row["method"] == "anomalygpt"]
    answers = {
        name: json.loads((RESULTS / file).read_text()) for name, file in MODELS.items() if (RESULTS / file).is_file()
    }
    beside = json.loads(peers.PEERS.read_text())
    return {
        "quality": quality_table(ours),
        "sets": set_table(ours),
        "methods": method_table(rows),
        "made by": provenance(rows),
        "measured with": measured_with(ours),
        "answers": answers_table(answers),
        "topics": topics_table(answers),
        "evaluation memory": memory_line(),
        "targets": targets_table(),
        "speed": peers.table(beside, peers.SHORT),
        "peers": peers.table(beside),
        "peers measured with": peers.measured_with(beside),
        "soak": soak_table(),
        "kinds": kinds.table(json.loads((RESULTS / "kinds.json").read_text())),
        "drift": drift.table(json.loads((RESULTS / "drift.json").read_text())),
        "pose": pose.table(json.loads((RESULTS / "pose.json").read_text())),
        "presence": presence.table(json.loads(presence.PRESENCE.read_text())),
        "presence on photographs": variant_table(rows, "anomalygpt_presence", "off / on"),
        "foreground": variant_table(rows, "anomalygpt_foreground", "whole picture / part alone"),
        "aligned": variant_table(rows, "anomalygpt_aligned", "as they lie / aligned"),
    }


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    rows = [list(head), ["---"] * len(head), *map(list, lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def quality_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A metric a line: mean over the sets, spread over the draws, and the worst set, for each number of references."""
    few = sorted((one for one in summarize(rows, tuple(QUALITY)) if one["k_shot"] in ("1", "4")), key=_order)
    head = [""]
    for one in few:
        head += [f"{one['k_shot']} reference{'s' * (one['k_shot'] != '1')}", "worst set"]
    lines = []
    for metric, name in QUALITY.items():
        values = [one[metric] for one in few]
        lines.append([name, *(cell for value in values for cell in (_shown(value), f"{value.worst:.3f}"))])
    return markdown(head, lines)


def set_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A set and number of references a line: means over the draws."""
    lines = []
    for category in sorted({row["category"] for row in rows}):
        members = [row for row in rows if row["category"] == category]
        for one in sorted(summarize(members, tuple(BY_SET)), key=_order):
            lines.append([category, one["k_shot"], *(_shown(one[metric], spread=False) for metric in BY_SET)])
    return markdown(["set", "references", *BY_SET.values()], lines)


def method_table(rows: Sequence[Mapping[str, str]]) -> str:
    """A method, vision model and number of references a line: means over the sets."""
    lines = []
    for one in sorted(summarize(rows, tuple(METHODS)), key=_order):
        own = one["method"] == "anomalygpt" or one["backbone"] == "own"
        vision = "the checkpoint's" if own else one["backbone"] or "-"
        lines.append([one["method"], vision, one["k_shot"], *(_shown(one[metric]) for metric in METHODS)])
    return markdown(["method", "vision model", "references", *METHODS.values()], lines)


def measured_with(rows: Sequence[Mapping[str, str]]) -> str:
    """The checkpoint and the code behind the first table, in one line."""
    hashes, commits = ({row[name] for row in rows} for name in ("checkpoint_hash", "commit"))
    return f"Checkpoint hash {', '.join(sorted(hashes))}; commit {', '.join(sorted(commits))}."


def provenance(rows: Sequence[Mapping[str, str]]) -> str:
    """Which weights, versions and commits made the rows."""
    groups: dict[tuple[str, ...], int] = {}
    for row in rows:
        key = (row["checkpoint"], row["checkpoint_hash"], row["protocol"], row["commit"], row["versions"])
        groups[key] = groups.get(key, 0) + 1
    return "\n".join(
        f"- {count} rows: {checkpoint or 'no model'} ({weights}), protocol {protocol}, commit {commit}; {versions}"
        for (checkpoint, weights, protocol, commit, versions), count in sorted(groups.items())
    )


def answers_table(models: Mapping[str, Mapping]) -> str:
    """What was asked of each language model, and how much of it was answered rightly."""

    def contradicted(found: str) -> Callable[[Mapping], str]:
        def shown(rows: Mapping) -> str:
            both = [rows[name]["contradictions"] for name in ("drawn", "free", "fresh", "photographs") if name in rows]
            return f"{sum(one[found] for one in both)} of {sum(one['asked'] for one in both):,}"

        return shown

    def right(group: str, name: str = "all") -> Callable[[Mapping], str]:
        return lambda rows: f"{rows[group][name]['right']:.2f}" if group in rows else "-"

    def of_lists(name: str) -> Callable[[Mapping], str]:
        def shown(rows: Mapping) -> str:
            both = [rows[group][name] for group in ("free", "fresh")]
            return f"{sum(one['right'] * one['asked'] for one in both) / sum(one['asked'] for one in both):.2f}"

        return shown

    lines: dict[str, Callable[[Mapping], str]] = {
        "answers that contradict the verdict": contradicted("verdict"),
        "... or anything else that was measured or told": contradicted("found"),
        "follow-ups about photographs (place, number, size, kind, object, advice)": right("photographs", "follow_ups"),
        "... whose answer tells the fact asked for, in whatever words, and nothing false": right(
            "photographs", "follow_ups_told"
        ),
        "follow-ups in the words of the two lists below": of_lists("follow_ups"),
        "... whose answer tells the fact asked for": of_lists("follow_ups_told"),
        "all topics, photographs": right("photographs"),
        "... the worst set": lambda rows: (
            f"{min(row['all']['right'] for name, row in rows.items() if name.startswith('photographs ')):.2f}"
        ),
        "all topics, drawn facts": right("drawn"),
        "free questions, English": right("free", "en"),
        "free questions, Chinese": right("free", "zh"),
        "a second list, by one who saw three examples a topic; in no training, English": right("fresh", "en"),
        "the second list, Chinese": right("fresh", "zh"),
        "the same questions first / after ten turns": lambda rows: " / ".join(
            f"{rows['after_ten_turns'][when]:.2f}" for when in ("first", "last")
        ),
        "made names, asked for in held-back words: answers that name the part": lambda rows: (
            f"{rows['names']['named'] / rows['names']['asked']:.2f}"
        ),
        "of these with the name as it was given": lambda rows: f"{rows['names']['copied']:.2f}",
    }
    return markdown(
        ["", *models], [[name, *(shown(rows) for rows in models.values())] for name, shown in lines.items()]
    )


def variant_table(rows: Sequence[Mapping[str, str]], variant: str, names: str) -> str:
    """What a variant of the method gains on each set with four references, and on average with each number of them.

    Args:
        rows (`list[dict]`): Of `anomalygpt evaluate`.
        variant (`str`): Its method.
        names (`str`): What the two figures of a cell are.
    """
    metrics = {"image_auroc": "image AUROC", "balanced_accuracy_forced": "forced"}
    metrics |= {"false_alarm_rate": "false alarms", "miss_rate": "misses"}
    methods = ("anomalygpt", variant)
    known = {(row["category"], row["k_shot"]) for row in rows if row["method"] == variant}
    both = [row for row in rows if row["method"] in methods and (row["category"], row["k_shot"]) in known]
    groups = {
        name: [row for row in both if row["category"] == name and row["k_shot"] == "4"]
        for name in sorted({one["category"] for one in both})
    }
    for shots in ("4", "1"):
        groups[f"mean, references: {shots}"] = [row for row in both if row["k_shot"] == shots]
    lines = []
    for name, members in groups.items():
        found = {one["method"]: one for one in summarize(members, tuple(metrics))}
        if set(methods) <= found.keys():
            cells = [" / ".join(_shown(found[one][metric], spread=False) for one in methods) for metric in metrics]
            lines.append([name, *cells])
    return markdown(["set", *(f"{name}: {names}" for name in metrics.values())], lines)


def topics_table(models: Mapping[str, Mapping]) -> str:
    """Held-back questions about photographs, a topic a line."""
    known = {name: rows["photographs"] for name, rows in models.items() if "photographs" in rows}
    lines = [
        [topic.replace("_", " ")]
        + [
            " / ".join(f"{rows[f'{topic}_{language}']['right']:.2f}" for language in ("en", "zh"))
            for rows in known.values()
        ]
        for topic in TOPICS
    ]
    return markdown(["asked about", *(f"{name} (en / zh)" for name in known)], lines)


def memory_line() -> str:
    """Peak memory of an evaluation of large pictures."""
    with (RESULTS / "evaluation_memory.csv").open(newline="") as file:
        row = max(csv.DictReader(file), key=lambda one: int(one["pictures"]))
    return (
        f"An evaluation of {int(row['pictures']):,} pictures of {row['side']} x {row['side']} with one reference, "
        f"answers and pixel metrics at full size takes at most {int(row['peak_mb']):,} MB in one process, libraries "
        f"included ({row['seconds_per_picture']} s a picture on one core of a busy machine): "
        "`python -m benchmarks.memory evaluation`."
    )


def soak_table() -> str:
    """What the two soaks found."""
    soak, space = (json.loads((RESULTS / name).read_text()) for name in ("soak.json", "space_soak.json"))
    first, last = soak["resident_megabytes_first_and_last"]
    lines = [
        ("inspections in one process", f"{soak['inspections']:,} in {soak['minutes']:g} minutes"),
        ("errors; marks found in another place", f"{soak['errors']}; {soak['marks_in_another_place']}"),
        ("resident memory after a quarter, at the end", f"{first} MB, {last} MB"),
        ("slope after a quarter", f"{soak['slope_kilobytes_per_thousand']:g} KB in a thousand inspections"),
        ("chats of the Space", f"{space['chats']} from {space['clients']} clients in {space['minutes']:g} minutes"),
        ("errors; marks of another client", f"{len(space['errors'])}; {len(space['cross_talk'])}"),
        ("seconds a chat, median and slowest", f"{space['median_seconds_per_chat']}, {space['slowest_seconds']}"),
        ("resident memory, begin and end", f"{space['megabytes_at_start']} MB, {space['megabytes_at_end']} MB"),
        ("slope over the second half", f"{space['megabytes_per_100_chats']} MB in a hundred chats"),
    ]
    return markdown(["what", "found"], lines)


def card_rows() -> list[dict[str, str]]:
    """The rows of the embedded checkpoint as its card's front matter wants them."""
    rows = read_rows(RESULTS / "evaluation_inspection.csv")
    return [row for row in rows if row["method"] == "anomalygpt" and row["k_shot"] in ("1", "4")]


def filled(text: str, parts: Mapping[str, str]) -> str:
    """The document with its marked sections replaced."""
    for name, content in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(
            pattern, lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text, flags=re.DOTALL
        )
    return text


def with_outputs(text: str, source: str) -> str:
    """The document with what its commands print, the block after each `<!-- ... output -->`, taken from another."""
    pattern = r"(<!-- ([\w ]+ output) -->\n```text\n)(.*?)(```)"
    printed = {found[2]: found[3] for found in re.finditer(pattern, source, flags=re.DOTALL)}
    return re.sub(
        pattern, lambda found: f"{found[1]}{printed.get(found[2], found[3])}{found[4]}", text, flags=re.DOTALL
    )


def _order(one: Mapping[str, str]) -> tuple:
    shots = 10**6 if one["k_shot"] == "all" else int(one["k_shot"])
    return one["method"] != "anomalygpt", shots, one["method"], one["backbone"] not in ("", "own")


def _shown(value: Summary | None, spread: bool = True) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.3f}" + (f" ± {value.seeds:.3f}" if spread and value.seeds is not None else "")


def main(arguments: Sequence[str] | None = None) -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.documents", description=__doc__, formatter_class=plain)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a document differs")
    options = parser.parse_args(arguments)
    parts, differ = sections(), False
    for document in DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        after = with_outputs(filled(before, parts), (ROOT / "README.md").read_text(encoding="utf-8"))
        if document == CARD:  # the Hub reads the same rows in its front matter
            after = with_results(after, card_rows(), "AnomalyGPT tiny")
        differ |= before != after
        if not options.check:
            document.write_text(after, encoding="utf-8")
    return int(options.check and differ)


if __name__ == "__main__":
    sys.exit(main())
