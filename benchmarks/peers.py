"""Beside anomalib's PatchCore (ResNet-18) and EfficientAD: start, references, pictures, memory; one run, same files.

    python -m benchmarks.peers [--pictures 1000] [--threads 1] [--rounds 5] [--environment build/peers_venv]

anomalib is installed into an environment of its own, once (6 GB), and ours as users install it into another beside it
(`plain_venv`): what only tests need costs time at the start. Each method runs in processes of its own
(benchmarks/peers_worker.py), all with so many threads and pinned to as many cores, and takes its turn in every round.
The table tells processor time, which other work on the machine hardly lengthens; the clock's is in the file as well.
The peers' networks have random weights, which take the time of trained ones; nothing is said of how well they judge.
Writes benchmarks/results/peers.json; `python -m benchmarks.documents` makes the table of it.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from benchmarks.measuring import RESULTS, ROOT, machine, summary, write_result

PEERS = RESULTS / "peers.json"
INSTALLED = {"torch": "2.14.1", "torchvision": "0.29.1", "anomalib": "2.7.0"}
OURS, COMPARED = "anomalygpt", ("patchcore", "engine", "efficient_ad")
NAMES = {
    OURS: "AnomalyGPT",
    "patchcore": "PatchCore, by hand",
    "engine": "PatchCore, `Engine`",
    "efficient_ad": "EfficientAD",
}
# A row of the table: name, unit, and the most that ours may be of the least of the peers.
ROWS: dict[str, tuple[str, str, float | None]] = {
    "ready": ("process start to model ready", "s", None),
    "known_part": ("process start to first verdict, a known part", "s", 0.5),
    "new_part": ("from nothing to the first verdict on a new part, 4 good pictures", "s", 0.2),
    "learn": ("4 good pictures, the model loaded", "s", None),
    "good": ("a good picture of 1024 px, file to score and map", "ms", 0.7),
    "defective": ("a defective one", "ms", 0.7),
    "many": ("each of many, one in three good", "ms", 0.7),
    "known_part_memory": ("peak memory, a known part, one picture", "MB", 0.5),
    "new_part_memory": ("peak memory, a new part", "MB", 0.5),
    "many_memory": ("peak memory, many pictures", "MB", 0.5),
}
SHORT = ("known_part", "new_part", "good", "defective", "new_part_memory", "many_memory")  # in README
_SIDE = 1024
QUERIES = sorted((ROOT / "examples" / "capsules" / "query").glob("*.jpg"))
GOOD_QUERIES = {index for index, file in enumerate(QUERIES) if file.stem.endswith("_good")}
# Method, row: a pair each time, seconds by the clock and of processor time; or bytes twice.
Figures = dict[str, dict[str, list[tuple[float, float]]]]


def prepare(environment: pathlib.Path) -> pathlib.Path:
    """The Python of an environment that holds anomalib; made where it is missing or holds other versions.

    Raises:
        SystemExit: If it cannot be made.
    """
    python = environment / "bin" / "python"
    if python.exists() and installed(python) == INSTALLED:
        return python
    print(f"Installing anomalib {INSTALLED['anomalib']} into {environment}: 6 GB, minutes.", file=sys.stderr)
    return made(environment, [f"{name}=={version}" for name, version in INSTALLED.items()])


def made(environment: pathlib.Path, wanted: Sequence[str]) -> pathlib.Path:
    """The Python of a new environment with these packages.

    Raises:
        SystemExit: If it cannot be made.
    """
    python = environment / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", *wanted],
    ):
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"`--environment` must be installable, but this failed: {' '.join(command)}")
    return python


def installed(python: pathlib.Path) -> dict[str, str]:
    """Versions in an environment; empty where one is missing."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {list(INSTALLED)}}}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


class Worker:
    """A method in a process of its own. Use with `with`.

    Args:
        method (`str`): One of the worker's methods.
        python (`pathlib.Path`): Of the environment that holds it.
        folder (`pathlib.Path`): Where it runs, and may leave files.
        threads (`int`): Threads, and cores.
    """

    def __init__(self, method: str, python: pathlib.Path, folder: pathlib.Path, threads: int):
        self.method, self.answer, cores = method, {}, sorted(os.sched_getaffinity(0))[-threads:]
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        offline = {"HF_HUB_OFFLINE": "1", "TRUST_REMOTE_CODE": "1"}  # the file that anomalib reads is its own
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | counts | offline
        if method == OURS:
            environment["PYTHONPATH"] = str(ROOT)
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), python, "-P", ROOT / "benchmarks/peers_worker.py", method],
            cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def call(self, name: str, *arguments: Any) -> tuple[float, float]:
        """Calls one of its methods; returns the seconds that it took there, by the clock and of processor time.

        Raises:
            SystemExit: If it failed.
        """
        print(json.dumps([name, arguments]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.method} failed in `{name}`; try: python benchmarks/peers_worker.py {self.method}")
        self.answer = json.loads(line)
        return self.answer["seconds"], self.answer["processor_seconds"]

    def lived(self) -> tuple[float, float]:
        """Seconds since the process was started: by the clock now, of processor time at the last answer."""
        return time.perf_counter() - self.began, self.answer["processor_seconds_since_start"]

    def peak(self) -> tuple[float, float]:
        """Bytes that it held at most."""
        return self.answer["peak_bytes"], self.answer["peak_bytes"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        self.process.wait()


def pictures(folder: pathlib.Path, number: int) -> tuple[list[str], list[str]]:
    """The example pictures with a side of 1024 px as JPEG files: the four good ones, and so many queries."""
    files: dict[str, list[str]] = {"good": [], "query": []}
    goods = sorted((ROOT / "examples" / "capsules" / "good").glob("*.jpg"))
    for kind, found, many in (("good", goods, len(goods)), ("query", QUERIES, number)):
        (folder / kind).mkdir()
        for index in range(many):
            file = folder / kind / f"{index:05d}.jpg"
            with Image.open(found[index % len(found)]) as image:
                image.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(file, quality=92)
            files[kind].append(str(file))
    return files["good"], files["query"]


def measure(
    start: Callable[[str], Worker], folder: pathlib.Path, good: list[str], queries: list[str], rounds: int
) -> Iterator[Figures]:
    """Figures of every method, in turns; given as far as they are after each round of new processes and at the end."""
    methods = (OURS, *COMPARED)
    figures: Figures = {method: {row: [] for row in ROWS} for method in methods}
    learned = {method: str(folder / f"{method}.{'safetensors' if method == OURS else 'pt'}") for method in methods}
    for number in range(rounds):
        for method in methods:
            for row, value in first_verdicts(
                start, method, learned[method], good, queries[number % len(queries)]
            ).items():
                figures[method][row].append(value)
        yield figures
    workers = {method: start(method) for method in methods}
    for method, worker in workers.items():
        worker.call("load", learned[method])
        worker.call("score", queries[0])
    for index in range(6 * rounds):
        place = index % len(queries)
        row = "good" if place % len(QUERIES) in GOOD_QUERIES else "defective"
        for method, worker in workers.items():
            figures[method][row].append(worker.call("score", queries[place]))
    for method, worker in workers.items():
        clock, processor = worker.call("many", queries)
        figures[method]["many"] = [(clock / len(queries), processor / len(queries))]
        figures[method]["many_memory"] = [worker.peak()]
        worker.__exit__()
    yield figures


def first_verdicts(
    start: Callable[[str], Worker], method: str, learned: str, good: list[str], query: str
) -> dict[str, tuple[float, float]]:
    """From a new process: a verdict on a new part, which is kept, then from another process on the same."""
    with start(method) as worker:
        worker.call("open")
        rows = {"ready": worker.lived()}
        learning = worker.call("learn", good)
        worker.call("verdict", query)
        if method != "efficient_ad":
            rows |= {"learn": learning, "new_part": worker.lived(), "new_part_memory": worker.peak()}
        worker.call("save", learned)
    with start(method) as worker:
        worker.call("load", learned)
        worker.call("verdict", query)
        rows |= {"known_part": worker.lived(), "known_part_memory": worker.peak()}
    return rows


def measured_with(results: Mapping[str, Any]) -> str:
    """What the figures belong to, in a sentence or two."""
    where, alone, peers = results["machine"], results["torch_alone"], results["peers"]
    ours, theirs = (f"{row['seconds']} s of processor time and {row['megabytes']} MB" for row in alone.values())
    return (
        f"{where['processor']}, {results['threads']} thread(s), median of {results['rounds']} rounds; "
        f"{results['pictures']} pictures in the row of many; commit {where['commit']}. anomalib {peers['anomalib']} "
        f"with torch {peers['torch']}, of which the import alone takes {theirs}; "
        f"ours with torch {where['torch']}: {ours}."
    )


def torch_alone(start: Callable[[str], Worker]) -> dict[str, float]:
    """What importing torch takes in the environment of a worker."""
    with start("torch") as worker:
        worker.call("open")
        return {"seconds": round(worker.lived()[1], 2), "megabytes": round(worker.peak()[0] / 1e6)}


def summarized(figures: Figures) -> dict[str, Any]:
    """Medians of each method, and ours over the least of the peers with the most that it may be."""
    methods: dict[str, Any] = {method: {} for method in figures}
    for method, rows in figures.items():
        for row, pairs in rows.items():
            clock, processor = ([pair[index] for pair in pairs] for index in (0, 1))
            if pairs and row.endswith("_memory"):
                methods[method][row] = {"megabytes": round(statistics.median(clock) / 1e6)}
            elif pairs:
                processor_ms = round(1000 * statistics.median(processor), 1)
                methods[method][row] = summary(clock) | {"processor_ms": processor_ms}
    ratios: dict[str, Any] = {}
    for row in methods[OURS]:
        ratios[row] = {"at_most": ROWS[row][2]}
        for name in ("megabytes",) if ROWS[row][1] == "MB" else ("median_ms", "processor_ms"):
            least, peer = min((methods[one][row][name], one) for one in COMPARED if row in methods[one])
            ratios[row][name] = {"ratio": round(methods[OURS][row][name] / least, 2), "peer": peer}
    return {"methods": methods, "ratios": ratios}


def table(results: Mapping[str, Any], rows: Iterable[str] = tuple(ROWS)) -> str:
    """Processor time or memory, a row of [`ROWS`] a line; ratios that are above what they may be stand out."""
    head = ["", *NAMES.values(), "ours / the best peer", "by the clock", "at most"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        if row not in results["ratios"]:
            continue
        name, unit, most = ROWS[row]
        cells = [_shown(results["methods"][method].get(row), unit) for method in NAMES]
        for measure_name in ("megabytes" if unit == "MB" else "processor_ms", "median_ms"):
            ratio = results["ratios"][row].get(measure_name, {}).get("ratio")
            above = most is not None and ratio is not None and ratio > most
            cells.append("" if ratio is None else f"**{ratio:.2f}**" if above else f"{ratio:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {most or ''} |")
    return "\n".join(lines)


def _shown(value: Mapping[str, float] | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "MB":
        return f"{value['megabytes']:,} MB"
    return f"{value['processor_ms'] / 1000:.1f} s" if unit == "s" else f"{value['processor_ms']:.0f} ms"


def main() -> None:
    """Measures, writes the file, prints the table."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__, formatter_class=plain)
    parser.add_argument("--pictures", type=int, default=100, help="files of 1024 px for the row of many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--environment", type=pathlib.Path, default=ROOT / "build" / "peers_venv")
    options = parser.parse_args()
    theirs = prepare(options.environment.resolve())
    plain_install = ["--constraint", str(ROOT / "constraints.txt"), "--editable", str(ROOT)]
    own = made(options.environment.resolve().with_name("plain_venv"), plain_install)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        good, queries = pictures(folder, options.pictures)

        def start(method: str, ours: bool = False) -> Worker:
            return Worker(method, own if ours or method == OURS else theirs, folder, options.threads)

        facts = {name: getattr(options, name) for name in ("pictures", "threads", "rounds")}
        facts |= {
            "torch_alone": {"ours": torch_alone(lambda one: start(one, ours=True)), "theirs": torch_alone(start)}
        }
        facts |= {"peers": INSTALLED, "machine": machine()}
        for figures in measure(start, folder, good, queries, options.rounds):
            results = summarized(figures) | facts
            write_result(PEERS, results)
    print(table(results))


if __name__ == "__main__":
    main()
