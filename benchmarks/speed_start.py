"""How long starting takes, from cold processes: the command's help, the import, the first verdict.

    python -m benchmarks.speed_start [--rounds 5]

The last line printed is the result as JSON; seconds are wall clock, of processes that have the machine to themselves.
"""

import argparse
import json
import subprocess
import sys

from benchmarks.measuring import ROOT, in_turns, summary

GOOD = "examples/capsules/good/good_1.jpg"
QUERY = "examples/capsules/query/part_3_stain.jpg"
FIRST_VERDICT = f"""
from modeling_anomalygpt import AnomalyInspector
inspector = AnomalyInspector.from_pretrained()
inspector.set_references([{GOOD!r}], category="capsules")
inspector.inspect({QUERY!r}, answer=False)
"""
PROCESSES = {
    "python alone": ["-c", "pass"],
    "import modeling_anomalygpt": ["-c", "import modeling_anomalygpt"],
    "anomalygpt --help": ["-m", "modeling_anomalygpt.cli", "--help"],
    "first verdict": ["-c", FIRST_VERDICT],
}


def main() -> None:
    """Starts the processes in turn and prints the seconds they took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_start", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    def start(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=True)

    calls = {name: lambda arguments=arguments: start(arguments) for name, arguments in PROCESSES.items()}
    times = in_turns(calls, options.rounds)
    print(json.dumps({name: summary(values) for name, values in times.items()}))


if __name__ == "__main__":
    main()
