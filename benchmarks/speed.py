"""Everything about speed and memory, one after the other, into one file and one table.

    python -m benchmarks.speed [--only start matching ...] [--threads 1 2] [--small]

Each part runs in a process of its own (`python -m benchmarks.speed_<part>`, `benchmarks.data_speed`,
`benchmarks.training_data_speed`), so that one part's memory and caches do not reach another. Writes
benchmarks/results/speed.json after every part; `python -m benchmarks.documents` puts the table into
benchmarks/README.md. `--small` tries every part with the smallest sizes and writes nothing.
"""

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.measuring import RESULTS, in_own_process, in_own_process_for_files, machine
from modeling_anomalygpt.files import write_atomically

SPEED = RESULTS / "speed.json"
DATA, TRAINING_DATA = RESULTS / "data_speed.json", RESULTS / "training_data_speed.json"
PARTS = {  # arguments, and those of --small
    "start": ((), ("--rounds", "1")),
    "embedded": (("--files", "1000"), ("--rounds", "1", "--files", "16")),
    "matching": ((), ("--rounds", "1", "--width", "64")),
    "original": ((), ("--rounds", "1", "--small")),
    "metrics": ((), ("--maps", "4", "--side", "64")),
    "data": (("--draws", "30", "--rows", "60"), ("--draws", "1", "--rows", "4")),
    "training_data": (
        (),
        ("--mixture", "nsa", "--pictures", "8", "--batch-size", "2", "--steps", "1", "--blocks", "1"),
    ),
}


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
        table.append(
            (f"prefill of {answering['prompt_tokens']} tokens, {threads}", shown_ms(answering["prefill"]), "")
        )
        table.append((f"tokens a second, {threads}", f"{answering['tokens_per_second']:.0f}", ""))
        batch = answering["batch_generation"]
        shown = f"{batch['tokens_per_second']:.0f} ({batch['to_one']} x)"
        table.append((f"tokens a second, {batch['batch']} answers at once, {threads}", shown, ""))
        table.append((f"answer / verdict alone, {threads}", f"{answering['answer_to_verdict_ratio']} x", ""))
        table.append((f"second look / follow-up, {threads}", f"{answering['second_look_to_follow_up_ratio']} x", ""))
        for name, variant in part["variants"].items():
            if isinstance(variant, dict):
                shown = f"{variant['time_to_float32']} x, maps differ by {variant['largest_map_difference']}"
                table.append((f"{name} / float32, {threads}", shown, ""))
        end = part["end_to_end"]
        table += [
            (
                f"{end['pictures']} JPEGs of 1024 px to verdicts, {threads}",
                f"{end['pictures_per_second']} a second",
                "",
            ),
            (
                f"{end['pictures']} JPEGs of 1024 px: end to end / (decoding + model), {threads}",
                f"{end['end_to_end_to_decode_plus_model']} x",
                "< 1 x",
            ),
        ]
        table.append((f"peak memory, {threads}", f"{part['peak_memory_bytes'] / 1e6:.0f} MB", ""))
    if metrics := results.get("metrics"):
        name = f"pixel metrics of {metrics['maps']} maps of {metrics['side']} px"
        extra = metrics["extra_megabytes"]
        table += [
            (f"{name}, scikit-learn's AUROC and AP / ours with all", f"{metrics['scikit_learn_to_ours']} x", ""),
            (f"{name}, naive AUPRO / ours with all", f"{metrics['naive_aupro_to_ours']} x", ""),
            (f"{name}, both together / ours", f"{metrics['together_to_ours']} x", "10 x"),
            (f"{name}, memory, ours / scikit-learn's", f"{extra['ours']:.0f} / {extra['scikit_learn']:.0f} MB", ""),
        ]
    return table + start_rows(results) + data_rows()


def shown_ms(times: dict[str, float]) -> str:
    """A median."""
    return f"{times['median_ms']:.0f} ms"


def start_rows(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Starting, less what Python itself takes where the goal says so."""
    times = results.get("start")
    if not times:
        return []
    goals = {"anomalygpt --help": "500 ms", "first verdict": "6000 ms"}
    rows = [(f"start: {name}", shown_ms(times[name]), goals.get(name, "")) for name in times]
    beyond = times["import modeling_anomalygpt"]["median_ms"] - times["python alone"]["median_ms"]
    return [*rows, ("start: import modeling_anomalygpt beyond Python alone", f"{beyond:.0f} ms", "300 ms")]


def data_rows() -> list[tuple[str, str, str]]:
    """Making and reading data, one core; CPU time."""
    rows = []
    if DATA.exists():
        data = json.loads(DATA.read_text())
        side, each = data["size"], {"a picture rendered": data["rendering"]["all"]["mean_ms"]}
        each |= {f"a defect made, {name}": row["mean_ms"] for name, row in data["synthesis"].items()}
        each["a row read from PNG files"] = data["reading_ms_a_row"]["check_and_stream"]
        rows += [(f"{what}, {side} px", f"{1000 / took:.0f} a second and core", "") for what, took in each.items()]
        ratios = data["naive_over_ours"]
        rows.append(("synthesis, the original's steps / ours (nsa)", f"{ratios['nsa']} x", ""))
    if TRAINING_DATA.exists():
        training = json.loads(TRAINING_DATA.read_text())
        for name in ("nsa", "mixed"):
            if name in training:
                loss = training[name]["loss_of_throughput"]["median"]
                rows.append((f"training, loss of throughput by synthesis on the fly, {name}", f"{loss:.1%}", "< 10 %"))
    return rows


def markdown(results: dict[str, Any]) -> str:
    """The table for benchmarks/README.md."""
    lines = ["| what | measured | at least / at most |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {goal} |" for what, figure, goal in rows(results)]
    card = results["machine"]
    lines.append(f"\n{card['processor']}, {card['cores']} cores, torch {card['torch']}; commit {card['commit']}.")
    return "\n".join(lines)


def run_part(part: str, threads: list[int], small: bool) -> Any:
    """What a part measured; the parts about data write a file of their own, and give nothing."""
    arguments = PARTS[part][small]
    if part == "start":
        return in_own_process("benchmarks.speed_start", *arguments)
    if part in ("data", "training_data"):
        output = [] if small else ["--output", str(DATA if part == "data" else TRAINING_DATA)]
        return in_own_process_for_files(f"benchmarks.{part}_speed", *arguments, *output, threads=1)
    if part == "metrics":
        return in_own_process("benchmarks.speed_metrics", *arguments, threads=1)
    counts = threads if part == "embedded" else threads[-1:]
    return {
        f"{count} thread{'s' * (count > 1)}": in_own_process(f"benchmarks.speed_{part}", *arguments, threads=count)
        for count in counts
    }


def main() -> None:
    """Runs the parts and writes file and table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="others keep their figures"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--small", action="store_true", help="smallest sizes, to try everything; writes nothing")
    options = parser.parse_args()
    results = json.loads(SPEED.read_text()) if SPEED.exists() and not options.small else {}
    for part in options.only:
        start = time.perf_counter()
        measured = run_part(part, options.threads, options.small)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        if measured is not None:
            results[part] = measured
        results["machine"] = machine()
        if not options.small:
            write_atomically(SPEED, json.dumps(results, indent=1) + "\n")
    print(markdown(results))


if __name__ == "__main__":
    main()
