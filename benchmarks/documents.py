"""Writes measured numbers into the documents: the tables of both READMEs and the embedded checkpoint's model card.

    python -m benchmarks.documents [--check]

Reads `quality_inspection.csv`, `rendered_quality.json` and `followup_quality.json` in `benchmarks/results`. What
the commands of the Chinese README print is copied from README.md (blocks after `<!-- ... output -->`). With --check,
writes nothing; the exit code is 1 when a document does not say what the results say.
"""

import argparse
import csv
import json
import pathlib
import re
import sys
from collections.abc import Sequence

from benchmarks import results
from benchmarks.quality import DECISIONS, TEACHER, table
from benchmarks.speed import SPEED, markdown
from benchmarks.targets import soak_table, targets_table
from modeling_anomalygpt.hub.card import with_results

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (
    ROOT / "README.md",
    ROOT / "README_zh.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "docs" / "reliability.md",
    ROOT / "docs" / "results.md",
    ROOT / "modeling_anomalygpt" / "anomalygpt_tiny" / "README.md",
)


def sections() -> dict[str, str]:
    """What stands between the markers `<!-- name -->` and `<!-- end name -->`."""
    rows = rows_of("quality_inspection.csv", "embedded")
    teacher = {"teacher": table(found, TEACHER)} if (found := rows_of("quality_teacher.csv")) else {}
    rendered = json.loads((RESULTS / "rendered_quality.json").read_text())
    speed = {"speed": markdown(json.loads(SPEED.read_text()))} if SPEED.exists() else {}
    followup = json.loads((RESULTS / "followup_quality.json").read_text())
    return {
        "quality": table(rows),
        "decisions": table(rows, DECISIONS),
        "rendered": rendered_table(rendered),
        "followup": followup_table(followup),
        "targets": targets_table(),
        "soak": soak_table(),
        **results.sections(),
        **speed,
        **teacher,
    }


def rows_of(name: str, model: str | None = None) -> list[dict[str, str]]:
    """The measured rows of a CSV, of one model alone if given; none without the file."""
    if not (RESULTS / name).exists():
        return []
    with (RESULTS / name).open(newline="") as file:
        return [row for row in csv.DictReader(file) if model in (None, row["model"])]


def rendered_table(rendered: dict[str, dict]) -> str:
    """Words against facts on the held-back families, a family a line."""
    asked = {
        "yes_no": "yes or no", "text_agrees": "text agrees with log-odds", "places": "places exactly right",
        "count": "count right",
    }  # fmt: skip
    lines = ["| family | image AUROC | " + " | ".join(f"{name} (en / zh)" for name in asked.values()) + " |"]
    lines.append("|" + " --- |" * (2 + len(asked)))
    for family, row in rendered.items():
        cells = [f"{row[f'{key}_en']['right']:.2f} / {row[f'{key}_zh']['right']:.2f}" for key in asked]
        lines.append(f"| {family} | {row['image_auroc']:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def followup_table(rows: dict[str, dict]) -> str:
    """Follow-up questions against facts, a topic a line."""
    topics = {
        "where": "place", "count": "number", "kind": "kind", "kind_alike": "kind, or one easily taken for it",
        "size": "size", "object": "object", "place_check": "is it at ...?", "kind_check": "is there a ...?",
        "unknowable": "refuses what it cannot know", "unheard": "the same, questions of no training conversation",
    }  # fmt: skip
    lines = ["| asked about | all pictures (en / zh) | where the verdict was right (en / zh) |", "| --- | --- | --- |"]
    for topic, name in topics.items():
        both = [rows[f"{topic}_{language}"] for language in ("en", "zh")]
        cells = [" / ".join(f"{row[part]:.2f}" for row in both) for part in ("agree", "verdict_right")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    mean = rows["mean"]
    return "\n".join([*lines, f"| **mean** | {mean['agree']:.2f} | {mean['verdict_right']:.2f} |"])


def filled(text: str, parts: dict[str, str]) -> str:
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


def main(arguments: Sequence[str] | None = None) -> int:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.documents", description=__doc__, formatter_class=plain)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 where a document differs")
    options = parser.parse_args(arguments)
    parts, differ = sections(), False
    for document in DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        after = with_outputs(filled(before, parts), (ROOT / "README.md").read_text(encoding="utf-8"))
        if document.parent.name == "anomalygpt_tiny":  # the Hub reads the same rows in its front matter
            after = with_results(after, rows_of("quality_inspection.csv", "embedded"), "AnomalyGPT tiny")
        differ |= before != after
        if not options.check:
            document.write_text(after, encoding="utf-8")
    return int(options.check and differ)


if __name__ == "__main__":
    sys.exit(main())
