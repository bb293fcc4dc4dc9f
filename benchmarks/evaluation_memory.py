"""Peak memory of an evaluation of large pictures, in a process of its own.

    python -m benchmarks.evaluation_memory [--pictures 1000] [--side 1024] [--output CSV]

Draws a data set of noisy pictures, every second test picture with a bright square, and runs `anomalygpt evaluate` on
it with one reference, answers included: pixel metrics at full size. Prints the largest resident set of that process.
"""

import argparse
import csv
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from benchmarks.measuring import RESULTS, ROOT

FIELDS = ("pictures", "side", "peak_mb", "seconds", "seconds_per_picture")


def draw(folder: pathlib.Path, pictures: int, side: int) -> None:
    """A set in the MVTec layout."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
    for kind in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (folder / kind).mkdir(parents=True)
    for number in range(pictures + 1):
        picture = texture + np.uint8(90 + number % 8)
        kind = "train/good" if number == pictures else "test/spot" if number % 2 else "test/good"
        if kind == "test/spot":
            row, column = rng.integers(0, side * 7 // 8, 2)
            picture[row : row + side // 8, column : column + side // 8] += 60
            mask = np.zeros((side, side), np.uint8)
            mask[row : row + side // 8, column : column + side // 8] = 255
            Image.fromarray(mask).save(folder / "ground_truth/spot" / f"{number:05d}_mask.png", compress_level=1)
        Image.fromarray(picture).save(folder / kind / f"{number:05d}.jpg", quality=90)


def measure(pictures: int, side: int) -> dict[str, float]:
    """One row."""
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        draw(folder / "parts", pictures, side)
        command = [sys.executable, "-m", "modeling_anomalygpt.cli", "evaluate", "--dataset", "anomaly_folder"]
        command += ["--data-dir", str(folder / "parts"), "--k-shot", "1", "--seeds", "0", "--device", "cpu"]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, "--output", str(folder / "results.csv")], cwd=ROOT, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "pictures": pictures,
        "side": side,
        "peak_mb": round(peak),
        "seconds": round(seconds),
        "seconds_per_picture": round(seconds / pictures, 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evaluation_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / "evaluation_memory.csv")
    options = parser.parse_args(arguments)
    row = measure(options.pictures, options.side)
    print(row)
    rows = []
    if options.output.exists():
        with options.output.open(newline="") as file:
            rows = [one for one in csv.DictReader(file) if one["pictures"] != str(options.pictures)]
    with options.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows([*rows, row])


if __name__ == "__main__":
    main()
