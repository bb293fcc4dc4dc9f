"""The measured rows of docs/results.md: `anomalygpt evaluate` on folders of photographs, then the tables filled in.

    python -m benchmarks.results --data DIR [--teacher mobilenet_v2_imagenet.safetensors] [--no-answers]
    python -m benchmarks.results --fill

--data holds sets in the MVTec layout. Rows that are in benchmarks/results/evaluation_inspection.csv are not measured
again; rows of an earlier embedded checkpoint are dropped. --teacher adds the methods on MobileNetV2 (ImageNet weights
with torchvision's names). --fill writes the tables of docs/results.md from the CSV and measures nothing.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from benchmarks.measuring import RESULTS, ROOT
from modeling_anomalygpt.evaluation.tables import EvaluationRows, read_rows, summarize

ROWS = RESULTS / "evaluation_inspection.csv"
MEMORY = RESULTS / "evaluation_memory.csv"
DOCUMENT = ROOT / "docs" / "results.md"
QUALITY = {
    "image_auroc": "image AUROC", "image_average_precision": "image AP", "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC", "pixel_average_precision": "pixel AP", "aupro_0.3": "AUPRO .3",
    "aupro_0.05": "AUPRO .05",
}  # fmt: skip
DECISION = {
    "accuracy_paper": "accuracy, text", "accuracy_log_odds": "accuracy, log-odds",
    "accuracy_verdict": "accuracy, verdict", "balanced_accuracy": "balanced",
    "balanced_accuracy_decided": "balanced, decided", "balanced_accuracy_log_odds": "language only",
    "balanced_accuracy_map": "map only", "balanced_accuracy_both": "both", "oracle_balanced_accuracy": "oracle",
    "false_alarm_rate": "false alarms", "miss_rate": "misses", "uncertain_rate": "uncertain",
}  # fmt: skip


def sections() -> dict[str, str]:
    """The tables of docs/results.md, by the name of their marker."""
    rows = read_rows(ROWS) if ROWS.exists() else []
    ours = [row for row in rows if row["method"] == "anomalygpt"]
    return {
        "measured quality": quality_table(rows),
        "measured decisions": decision_table(ours),
        "measured sets": set_table(ours),
        "measured commands": provenance(rows),
        "evaluation memory": memory_line(),
    }


def quality_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Means over the sets, a method and number of references a line."""
    lines = [["method", "vision model", "references", *QUALITY.values()]]
    for one in sorted(summarize(rows, tuple(QUALITY)), key=_order):
        lines.append([one["method"], _vision(one), one["k_shot"], *(_percent(one[name]) for name in QUALITY)])
    return _markdown(lines)


def decision_table(rows: Sequence[Mapping[str, str]]) -> str:
    """What verdicts and words are worth, a number of references a line."""
    lines = [["references", *DECISION.values()]]
    for one in sorted(summarize(rows, tuple(DECISION)), key=_order):
        lines.append([one["k_shot"], *(_percent(one[name]) for name in DECISION)])
    return _markdown(lines)


def set_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Means over the seeds, a set and number of references a line."""
    columns = {name: (QUALITY | DECISION)[name] for name in (
        "image_auroc", "pixel_auroc", "aupro_0.3", "accuracy_paper", "balanced_accuracy_decided", "false_alarm_rate",
        "miss_rate", "uncertain_rate", "oracle_balanced_accuracy",
    )}  # fmt: skip
    lines = [["set", "references", *columns.values()]]
    for category in sorted({row["category"] for row in rows}):
        own = [row for row in rows if row["category"] == category]
        for one in sorted(summarize(own, tuple(columns)), key=_order):
            lines.append([category, one["k_shot"], *(_percent(one[name]) for name in columns)])
    return _markdown(lines)


def provenance(rows: Sequence[Mapping[str, str]]) -> str:
    """Which weights, versions and commits made the rows."""
    told: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        told.setdefault((row["checkpoint"], row["checkpoint_hash"], row["versions"]), []).append(row)
    lines = []
    for (checkpoint, weights, versions), own in sorted(told.items()):
        commits = ", ".join(sorted({row["commit"] for row in own} - {""})) or "unknown"
        lines.append(f"- {len(own)} rows: {checkpoint or 'no model'} ({weights}), commit {commits}; {versions}")
    return "\n".join(lines)


def memory_line() -> str:
    """Peak memory of an evaluation of large pictures."""
    if not MEMORY.exists():
        return ""
    with MEMORY.open(newline="") as file:
        row = max(csv.DictReader(file), key=lambda one: int(one["pictures"]))
    return (
        f"An evaluation of {int(row['pictures']):,} pictures of {row['side']} x {row['side']} with one reference, "
        f"answers and pixel metrics at full size takes at most {int(row['peak_mb']):,} MB in one process, libraries "
        f"included ({row['seconds_per_picture']} s a picture on one core of a busy machine): "
        f"`python -m benchmarks.evaluation_memory`."
    )


def fill(text: str) -> str:
    """The document with its tables."""
    from benchmarks.documents import filled

    return filled(text, sections())


def measure(data: pathlib.Path, teacher: pathlib.Path | None, answers: bool) -> None:
    """Runs the commands and writes the CSV."""
    drop_other_checkpoints()
    command = ["evaluate", "--dataset", "anomaly_folder", "--data-dir", str(data), "--output", str(ROWS)]
    command += ["--k-shot", "1", "4"]
    run(*command, "0", *([] if answers else ["--no-answers"]))
    compare(command, [])
    run(*command, "--methods", "pixel_difference")
    if teacher is not None:
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / "mobilenet_v2"
            save_teacher(teacher, folder)
            compare(command, ["--backbone", str(folder)])


def compare(command: Sequence[str], backbone: Sequence[str]) -> None:
    """The methods on one vision model."""
    run(*command, "--methods", "patchcore_few", "patchcore", "padim", "spade", *backbone)


def drop_other_checkpoints() -> None:
    """Leaves out rows of another embedded checkpoint than the present one."""
    if not ROWS.exists():
        return
    from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT, load_checkpoint
    from modeling_anomalygpt.evaluation.tables import result_facts

    present = result_facts(load_checkpoint(device="cpu")[0], str(EMBEDDED_CHECKPOINT))
    rows = read_rows(ROWS)
    kept = [
        row
        for row in rows
        if row["checkpoint"] != present["checkpoint"] or row["checkpoint_hash"] == present["checkpoint_hash"]
    ]
    if len(kept) < len(rows):
        ROWS.unlink()
        table = EvaluationRows(ROWS)
        for row in kept:
            table.add(row)


def save_teacher(weights: pathlib.Path, folder: pathlib.Path) -> None:
    """MobileNetV2 as a folder for --backbone."""
    from recipes.tiny.mobilenet_teacher import load_mobilenet

    load_mobilenet(weights).save_pretrained(folder)
    normalisation = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(normalisation))


def run(*words: str) -> None:
    """One `anomalygpt` command; stops where it fails."""
    done = subprocess.run([sys.executable, "-m", "modeling_anomalygpt.cli", *words], cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.returncode)


def _order(one: Mapping[str, str]) -> tuple:
    own = one["backbone"] in ("", "own")
    shots = 10**6 if one["k_shot"] == "all" else int(one["k_shot"])
    return one["method"] != "anomalygpt", shots, one["method"], not own


def _vision(one: Mapping[str, str]) -> str:
    return (
        {"": "-", "own": "the checkpoint's"}.get(one["backbone"], one["backbone"])
        if one["method"] != "anomalygpt"
        else ("the checkpoint's")
    )


def _percent(value: tuple[float, float | None, float | None] | None) -> str:
    if value is None:
        return "-"
    mean, seeds, _ = value
    return f"{100 * mean:.1f}" + (f" ± {100 * seeds:.1f}" if seeds is not None else "")


def _markdown(lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0]), *rows[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder of sets in the MVTec layout")
    parser.add_argument("--teacher", type=pathlib.Path, help="MobileNetV2 weights")
    parser.add_argument("--no-answers", action="store_true", help="measure without generated answers")
    parser.add_argument("--fill", action="store_true", help="only write the tables")
    options = parser.parse_args(arguments)
    if not options.fill:
        if options.data is None:
            parser.error("--data or --fill must be given")
        measure(options.data, options.teacher, not options.no_answers)
    DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
