"""What had to be reached in speed, memory and steadiness, and what was: the table of docs/reliability.md.

    python -m benchmarks.targets

Reads `speed.json`, `soak.json`, `space_soak.json` and `gpu.json` in `benchmarks/results`; what no file holds is "not
measured". `python -m benchmarks.documents` writes the table into the document.
"""

import functools
import json
import operator
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import RESULTS

FILES = ("speed", "soak", "space_soak", "gpu")


def threads(part: dict[str, Any], count: int) -> dict[str, Any]:
    """The measurement with so many threads."""
    return part[f"{count} thread{'s' * (count > 1)}"]


def most(part: dict[str, Any]) -> dict[str, Any]:
    """The measurement with the most threads."""
    return part[max(part)]


def matching(speed: dict[str, Any], name: str) -> float:
    """A ratio of matching at k = 4."""
    return next(row[name] for row in most(speed["matching"])["matching"] if row["k"] == 4)


def growth(speed: dict[str, Any], less: int) -> float:
    """How much longer 256 references take than fewer."""
    rows = {row["k"]: row["median_ms"] for row in most(speed["matching"])["growth"]}
    return rows[256] / rows[less]


def measured(count: int, *names: str) -> Callable[[dict[str, Any]], float]:
    """A figure of the embedded checkpoint with so many threads."""
    return lambda row: functools.reduce(operator.getitem, names, threads(row["embedded"], count))


def stage(count: int, name: str) -> Callable[[dict[str, Any]], float]:
    """Milliseconds a picture, alone, with so many threads."""
    return measured(count, "stages", "batch 1", name, "median_ms")


def answer_beyond_verdict(count: int) -> Callable[[dict[str, Any]], float]:
    """Milliseconds that a first answer takes more than the verdict."""
    return lambda row: stage(count, "answer")(row) - stage(count, "verdict")(row)


def start(name: str) -> Callable[[dict[str, Any]], float]:
    """Milliseconds from a cold process; of the import, beyond Python alone."""

    def read(row: dict[str, Any]) -> float:
        times = row["start"]
        return times[name]["median_ms"] - (times["python alone"]["median_ms"] if name.startswith("import") else 0.0)

    return read


# Of the embedded checkpoint: what, unit, limits with one and two threads, how it is read.
EMBEDDED: list[tuple[str, str, tuple[float, float], Callable[[int], Callable[[dict[str, Any]], float]]]] = [
    ("embedded checkpoint, verdict", "ms", (150, 60), lambda count: stage(count, "verdict")),
    ("embedded checkpoint, answer", "ms", (1000, 1000), lambda count: stage(count, "answer")),
    ("embedded checkpoint, answer beyond verdict", "ms", (40, 40), answer_beyond_verdict),
    ("1,000 JPEGs of 1024 px: end to end over decoding + model", "x", (0.8, 0.6),
     lambda count: measured(count, "end_to_end", "end_to_end_to_decode_plus_model")),
    ("vision model's pass over matrix products of its shapes", "x", (1.3, 1.3),
     lambda count: measured(count, "vision_pass", "pass_to_products")),
]  # fmt: skip
# What, sign and limit, unit, file, how it is read.
TARGETS: list[tuple[str, str, float, str, str, Callable[[dict[str, Any]], float]]] = [
    ("map at ImageBind-Huge size, 1 reference, against the original's steps", "≥", 6, "x", "speed",
     lambda row: most(row["original"])["few_shot_ratio"]),
    ("the same without references", "≥", 4, "x", "speed", lambda row: most(row["original"])["zero_shot_ratio"]),
    ("bank matching, k = 4 with turned copies, against the broadcast: time", "≥", 10, "x", "speed",
     lambda row: matching(row, "time_ratio")),
    ("the same: memory", "≥", 50, "x", "speed", lambda row: matching(row, "memory_ratio")),
    ("matching, time of 256 references over 64 (linear: 4)", "≤", 5, "x", "speed", lambda row: growth(row, 64)),
    ("matching, time of 256 references over 1 (linear: 256)", "≤", 320, "x", "speed", lambda row: growth(row, 1)),
    *((f"{what}, {count} thread{'s' * (count > 1)}", "≤", limits[count - 1], unit, "speed", figure(count))
      for what, unit, limits, figure in EMBEDDED for count in (1, 2)),
    *((f"learning {number} good pictures, 2 threads", "≤", limit, "ms", "speed",
       measured(2, "references", number, "median_ms")) for number, limit in (("4", 500), ("40", 3000))),
    ("products in bfloat16 where they are chosen: maps differ by", "≤", 0.01, "", "speed",
     lambda row: most(row["embedded"])["variants"]["largest_map_difference"]),
    ("AUROC, AP and AUPRO of 100 maps of 512 px, against scikit-learn and a naive AUPRO", "≥", 10, "x", "speed",
     lambda row: row["metrics"]["together_to_ours"]),
    ("training, loss of throughput by synthesis on the fly", "≤", 10, "%", "speed",
     lambda row: 100 * max(row["training"][name]["loss_of_throughput"]["median"] for name in ("nsa", "mixed"))),
    ("`import modeling_anomalygpt` beyond Python alone", "≤", 300, "ms", "speed", start("import modeling_anomalygpt")),
    ("`anomalygpt --help`", "≤", 500, "ms", "speed", start("anomalygpt --help")),
    ("first verdict from a cold process", "≤", 3000, "ms", "speed", start("first verdict")),
    ("GPU: the whole script", "≤", 10, "minutes", "gpu", lambda row: row["minutes"]),
    ("soak: inspections in one process", "≥", 10_000, "", "soak", lambda row: row["inspections"]),
    ("soak: errors, marks in another place", "≤", 0, "", "soak",
     lambda row: row["errors"] + row["marks_in_another_place"]),
    ("soak: growth of memory in a thousand inspections", "≤", 1, "MB", "soak",
     lambda row: row["slope_kilobytes_per_thousand"] / 1024),
    ("Space: chats from 8 clients at once", "≥", 500, "", "space_soak", lambda row: row["chats"]),
    ("Space: errors, cross-talk", "≤", 0, "", "space_soak", lambda row: len(row["errors"]) + len(row["cross_talk"])),
    ("Space: growth of memory in a hundred chats", "≤", 5, "MB", "space_soak",
     lambda row: row["megabytes_per_100_chats"]),
]  # fmt: skip


def shown(value: float) -> str:
    """Three figures, whole numbers from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def targets_table() -> str:
    """The targets with what was measured."""
    lines = ["| what | target | measured | holds |", "|---|---|---|---|"]
    files = [path for name in FILES if (path := RESULTS / f"{name}.json").exists()]
    found = {path.stem: json.loads(path.read_text()) for path in files}
    for what, sign, limit, unit, file, read in TARGETS:
        target = f"{sign} {limit:,} {unit}".strip()
        try:
            value = read(found[file])
        except (KeyError, StopIteration, ValueError):  # a part that was not run, or left out for its memory
            lines.append(f"| {what} | {target} | not measured | |")
            continue
        holds = value >= limit if sign == "≥" else value <= limit
        lines.append(f"| {what} | {target} | {shown(value)} {unit}".rstrip() + f" | {'yes' if holds else '**no**'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(targets_table())
