"""Everything about speed and memory, one after the other, into one file and one table.

    python -m benchmarks.speed [--only start matching ...] [--threads 1 2]

Each part runs in a process of its own (`python -m benchmarks.speed_<part>`), so that one part's memory and caches do
not reach another. Writes benchmarks/results/speed.json after every part; `python -m benchmarks.documents` puts the
table into benchmarks/README.md.
"""

import argparse
import json
from typing import Any

from benchmarks.measuring import RESULTS, in_own_process, machine
from modeling_anomalygpt.atomic_write import write_atomically

PARTS = ("start", "embedded", "matching", "original")
SPEED = RESULTS / "speed.json"


def rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured, the figure, and what had to be reached."""
    table = []
    for threads, part in results.get("original", {}).items():
        table += [
            (f"ImageBind-Huge map, 1 reference, original / ours, {threads}", f"{part['few_shot_ratio']} x", "6 x"),
            (f"ImageBind-Huge map, no reference, original / ours, {threads}", f"{part['zero_shot_ratio']} x", "4 x"),
        ]
    for threads, part in results.get("matching", {}).items():
        for row in part["matching"]:
            name = f"matching, k = {row['k']} with turned copies, broadcast / ours, {threads}"
            if "not_run" in row:
                table.append((name, row["not_run"], ""))
            else:
                goals = ("10 x", "50 x") if row["k"] == 4 else ("", "")
                table.append((f"{name}: time", f"{row['time_ratio']} x", goals[0]))
                table.append((f"{name}: memory", f"{row['memory_ratio']} x", goals[1]))
        grown = part["growth"]
        growth = ", ".join(f"k = {row['k']}: {row['median_ms'] / grown[0]['median_ms']:.0f} x" for row in grown[1:])
        table.append((f"matching, growth of time over k = 1, {threads}", growth, "linear"))
        table.append(
            (f"greedy k-centre, naive / ours, {threads}", f"{part['reduction']['time_ratio']} x", ""),
        )
    for threads, part in results.get("embedded", {}).items():
        for batch, stages in part["stages"].items():
            for stage, times in stages.items():
                goal = {"verdict": "150 ms", "answer": "1000 ms"}.get(stage, "") if batch == "batch 1" else ""
                table.append(
                    (f"embedded checkpoint, {stage}, {batch}, {threads}", f"{times['median_ms']:.0f} ms", goal)
                )
        answering = part["answering"]
        table.append((f"tokens a second, {threads}", f"{answering['tokens_per_second']:.0f}", ""))
        table.append((f"answer / verdict alone, {threads}", f"{answering['answer_to_verdict_ratio']} x", ""))
        table.append((f"second look / follow-up, {threads}", f"{answering['second_look_to_follow_up_ratio']} x", ""))
        for name, variant in part["variants"].items():
            if isinstance(variant, dict):
                shown = f"{variant['time_to_float32']} x, maps differ by {variant['largest_map_difference']}"
                table.append((f"{name} / float32, {threads}", shown, ""))
        end = part["end_to_end"]
        shown = f"{end['end_to_end_to_decode_plus_model']} x"
        table.append(
            (f"{end['pictures']} JPEGs of 1024 px: end to end / (decoding + model), {threads}", shown, "< 1 x")
        )
    goals = {"import modeling_anomalygpt": "300 ms", "anomalygpt --help": "500 ms", "first verdict": "6000 ms"}
    for name, times in results.get("start", {}).items():
        table.append((f"start: {name}", f"{times['median_ms']:.0f} ms", goals.get(name, "")))
    return table


def markdown(results: dict[str, Any]) -> str:
    """The table for benchmarks/README.md."""
    lines = ["| what | measured | at least / at most |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {goal} |" for what, figure, goal in rows(results)]
    card = results["machine"]
    lines.append(f"\n{card['processor']}, {card['cores']} cores, torch {card['torch']}; commit {card['commit']}.")
    return "\n".join(lines)


def main() -> None:
    """Runs the parts and writes file and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the others keep their figures")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    results = json.loads(SPEED.read_text()) if SPEED.exists() else {}
    for part in options.only:
        if part == "start":
            results[part] = in_own_process(f"benchmarks.speed_{part}")
        else:
            counts = options.threads if part == "embedded" else options.threads[-1:]
            results[part] = {
                f"{count} thread{'s' * (count > 1)}": in_own_process(f"benchmarks.speed_{part}", threads=count)
                for count in counts
            }
        results["machine"] = machine()
        write_atomically(SPEED, json.dumps(results, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
