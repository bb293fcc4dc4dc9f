"""What had to be reached in speed, memory and steadiness, and what was: the table of docs/reliability.md.

    python -m benchmarks.targets

Reads `speed.json`, `training_data_speed.json`, `soak.json`, `space_soak.json` and `gpu.json` in `benchmarks/results`;
what no file tells is "not measured". `python -m benchmarks.documents` writes the table into the document.
"""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import RESULTS

NOT_MEASURED = "not measured"


def first(part: dict[str, Any]) -> dict[str, Any]:
    """The measurement with the most threads."""
    return part[max(part)]


def matching(speed: dict[str, Any], name: str) -> float:
    """A ratio of matching at k = 4."""
    return next(row[name] for row in first(speed["matching"])["matching"] if row["k"] == 4)


def growth(speed: dict[str, Any]) -> float:
    """How much longer 256 references take than 64, of which there are a quarter."""
    rows = {row["k"]: row["median_ms"] for row in first(speed["matching"])["growth"]}
    return rows[256] / rows[64]


def embedded(speed: dict[str, Any], batch: str, stage: str) -> float:
    """Milliseconds on one thread."""
    return speed["embedded"][min(speed["embedded"])]["stages"][batch][stage]["median_ms"]


def start(speed: dict[str, Any], name: str) -> float:
    """Milliseconds from a cold process; of the import, beyond Python alone."""
    times = speed["start"]
    less = times["python alone"]["median_ms"] if name.startswith("import") else 0.0
    return times[name]["median_ms"] - less


# What, sign and limit, unit, file, how it is read.
TARGETS: list[tuple[str, str, float, str, str, Callable[[dict[str, Any]], float]]] = [
    ("map at ImageBind-Huge size, 1 reference, against the original's steps", "≥", 6, "x", "speed",
     lambda row: first(row["original"])["few_shot_ratio"]),
    ("the same without references", "≥", 4, "x", "speed", lambda row: first(row["original"])["zero_shot_ratio"]),
    ("bank matching, k = 4 with turned copies, against the broadcast: time", "≥", 10, "x", "speed",
     lambda row: matching(row, "time_ratio")),
    ("the same: memory", "≥", 50, "x", "speed", lambda row: matching(row, "memory_ratio")),
    ("time of 256 references over 64 (linear: 4)", "≤", 5, "x", "speed", growth),
    ("embedded checkpoint, verdict, one thread", "≤", 150, "ms", "speed",
     lambda row: embedded(row, "batch 1", "verdict")),
    ("embedded checkpoint, answer, one thread", "≤", 1000, "ms", "speed",
     lambda row: embedded(row, "batch 1", "answer")),
    ("1,000 JPEGs of 1024 px: end to end over decoding + model", "≤", 1, "x", "speed",
     lambda row: first(row["embedded"])["end_to_end"]["end_to_end_to_decode_plus_model"]),
    ("bfloat16 on the CPU: maps differ by", "≤", 0.01, "", "speed",
     lambda row: first(row["embedded"])["variants"]["bfloat16"]["largest_map_difference"]),
    ("AUROC, AP and AUPRO of 100 maps of 512 px, against scikit-learn and a naive AUPRO", "≥", 10, "x", "speed",
     lambda row: row["metrics"]["together_to_ours"]),
    ("training, loss of throughput by synthesis on the fly", "≤", 10, "%", "training_data_speed",
     lambda row: 100 * max(row[name]["loss_of_throughput"]["median"] for name in ("nsa", "mixed"))),
    ("`import modeling_anomalygpt` beyond Python alone", "≤", 300, "ms", "speed",
     lambda row: start(row, "import modeling_anomalygpt")),
    ("`anomalygpt --help`", "≤", 500, "ms", "speed", lambda row: start(row, "anomalygpt --help")),
    ("first verdict from a cold process", "≤", 6000, "ms", "speed", lambda row: start(row, "first verdict")),
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
    for what, sign, limit, unit, file, read in TARGETS:
        path = RESULTS / f"{file}.json"
        value = None
        if path.exists():
            row = json.loads(path.read_text())
            try:
                value = read(row)
            except (KeyError, StopIteration, ValueError):  # a part that was not run, or left out for its memory
                value = None
        target = f"{sign} {limit:,} {unit}".strip()
        if value is None:
            lines.append(f"| {what} | {target} | {NOT_MEASURED} | |")
            continue
        holds = value >= limit if sign == "≥" else value <= limit
        lines.append(f"| {what} | {target} | {shown(value)} {unit}".rstrip() + f" | {'yes' if holds else '**no**'} |")
    return "\n".join(lines)


def soak_table() -> str:
    """What the two soaks found."""
    rows = []
    if (path := RESULTS / "soak.json").exists():
        row = json.loads(path.read_text())
        first_megabytes, last_megabytes = row["resident_megabytes_first_and_last"]
        rows += [
            ("inspections in one process", f"{row['inspections']:,} in {row['minutes']:g} minutes"),
            ("errors; marks found in another place", f"{row['errors']}; {row['marks_in_another_place']}"),
            ("resident memory after a quarter, at the end", f"{first_megabytes} MB, {last_megabytes} MB"),
            ("slope after a quarter", f"{row['slope_kilobytes_per_thousand']:g} KB in a thousand inspections"),
        ]
    if (path := RESULTS / "space_soak.json").exists():
        row = json.loads(path.read_text())
        rows += [
            ("chats of the Space", f"{row['chats']} from {row['clients']} clients in {row['minutes']:g} minutes"),
            ("errors; marks of another client", f"{len(row['errors'])}; {len(row['cross_talk'])}"),
            ("seconds a chat, median and slowest", f"{row['median_seconds_per_chat']}, {row['slowest_seconds']}"),
            ("resident memory, begin and end", f"{row['megabytes_at_start']} MB, {row['megabytes_at_end']} MB"),
            ("slope over the second half", f"{row['megabytes_per_100_chats']} MB in a hundred chats"),
        ]
    return "\n".join(["| what | found |", "|---|---|", *(f"| {what} | {found} |" for what, found in rows)])


if __name__ == "__main__":
    print(targets_table())
    print()
    print(soak_table())
