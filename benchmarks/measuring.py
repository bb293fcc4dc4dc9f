"""How the benchmarks measure: in turns within one process, medians, peak memory of a process of its own.

Machines differ and are shared, so what is compared is called in turn, round by round, and the ratio of two medians of
one run is what counts. Knows nothing of what is measured.
"""

import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from modeling_anomalygpt.files import write_atomically

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Wall-clock seconds of each call, `rounds` of them; in every round each is called once."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float], per_call: int = 1) -> dict[str, float]:
    """Median and quartiles in milliseconds for each of the `per_call` things that a call does."""
    each = [1000 * value / per_call for value in seconds]
    low, _, high = statistics.quantiles(each, n=4) if len(each) > 1 else (each[0],) * 3
    return {"median_ms": round(statistics.median(each), 3), "quartiles_ms": [round(low, 3), round(high, 3)]}


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median of the first over median of the second."""
    return round(statistics.median(slow) / statistics.median(fast), 2)


def peak_memory(process: int | str = "self") -> int:
    """Bytes that a process held at most (Linux; `ru_maxrss` would begin at its parent's)."""
    return _status_bytes(process, "VmHWM")


def resident_megabytes(process: int | str = "self") -> float:
    """What a process holds now (Linux)."""
    return _status_bytes(process, "VmRSS") / 2**20


def _status_bytes(process: int | str, name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", pathlib.Path(f"/proc/{process}/status").read_text())[1])


def forget_peak() -> None:
    """Sets the peak back to what is held now (Linux)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def extra_memory(call: Callable[[], Any]) -> int:
    """Bytes that a call needed at most beyond what the process held before it."""
    forget_peak()
    before = peak_memory()
    call()
    return peak_memory() - before


def in_own_process(module: str, *arguments: str, threads: int | None = None) -> dict[str, Any]:
    """Runs `python -m module arguments`; the last line of its output is the result as JSON."""
    environment = dict(os.environ)
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} ended with code {done.returncode}.")
    return json.loads(done.stdout.strip().splitlines()[-1])


def write_result(file: pathlib.Path, found: Any) -> None:
    """Writes a result as JSON, whole or not at all."""
    write_atomically(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def photograph_sets(folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """The folders of sets of photographs (with `train/good` and `test`) in these folders."""
    return sorted(path for folder in folders for path in folder.iterdir() if (path / "test").is_dir())


def good_pair(folder: pathlib.Path, rng: Any) -> list[pathlib.Path]:
    """Two good pictures of a set, drawn."""
    good = sorted(path for path in (folder / "train" / "good").iterdir() if path.is_file())
    return [good[index] for index in rng.permutation(len(good))[:2]]


def machine() -> dict[str, Any]:
    """What the figures belong to: processor, cores, versions, commit."""
    import torch
    import transformers

    info = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }
