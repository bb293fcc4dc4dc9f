"""Everything about speed, one part after the other, into benchmarks/results/speed.json.

    python -m benchmarks.speed [--only start matching ...] [--threads 1 2] [--small]

Each part but `start` is `python -m benchmarks.speed_<part>`, a process of its own whose last line is its result, so
that one part's memory and caches do not reach another. The file is written after every part. `--small` tries every
part with the smallest sizes and writes nothing.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks.measuring import RESULTS, ROOT, in_own_process, in_turns, machine, summary, write_result

SPEED = RESULTS / "speed.json"
PARTS = {  # arguments, and those of --small
    "start": ((), ()),
    "embedded": (("--files", "1000"), ("--rounds", "1", "--files", "16")),
    "matching": ((), ("--rounds", "1", "--width", "64")),
    "original": ((), ("--rounds", "1", "--small")),
    "metrics": ((), ("--maps", "4", "--side", "64")),
    "training": ((), ("--pictures", "8", "--batch-size", "2", "--steps", "1", "--blocks", "1")),
}
FIRST_VERDICT = """
from modeling_anomalygpt import AnomalyInspector
inspector = AnomalyInspector.from_pretrained()
inspector.set_references(["examples/capsules/good/good_1.jpg"], category="capsules")
inspector.inspect("examples/capsules/query/part_3_stain.jpg", answer=False)
"""
PROCESSES = {
    "python alone": ["-c", "pass"],
    "import modeling_anomalygpt": ["-c", "import modeling_anomalygpt"],
    "anomalygpt --help": ["-m", "modeling_anomalygpt.cli", "--help"],
    "first verdict": ["-c", FIRST_VERDICT],
}


def start(rounds: int) -> dict[str, Any]:
    """How long starting takes, from cold processes: wall clock."""

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)

    calls = {name: lambda arguments=arguments: run(arguments) for name, arguments in PROCESSES.items()}
    return {name: summary(seconds) for name, seconds in in_turns(calls, rounds).items()}


def run_part(part: str, threads: list[int], small: bool) -> dict[str, Any]:
    """What a part measured; those about the model by number of threads."""
    if part == "start":
        return start(1 if small else 5)
    module, arguments = f"benchmarks.speed_{part}", PARTS[part][small]
    if part in ("metrics", "training"):
        return in_own_process(module, *arguments, threads=1)
    return {
        f"{count} thread{'s' * (count > 1)}": in_own_process(module, *arguments, threads=count)
        for count in (threads if part == "embedded" else threads[-1:])
    }


def main() -> None:
    """Runs the parts and writes the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="others keep their figures"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--small", action="store_true", help="smallest sizes, to try everything; writes nothing")
    options = parser.parse_args()
    results = json.loads(SPEED.read_text()) if SPEED.exists() and not options.small else {}
    for part in options.only:
        began = time.perf_counter()
        results[part] = run_part(part, options.threads, options.small)
        results.setdefault("machines", {})[part] = machine()
        print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if not options.small:
            write_result(SPEED, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
