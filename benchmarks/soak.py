"""Thousands of inspections in one process: does memory stay flat, does every picture get its own result?

    OMP_NUM_THREADS=1 python -m benchmarks.soak [--inspections 10000] [--minutes 60]

Pictures differ in a mark (a dark square at one of nine places) that must come back at its place in the map. Prints
the slope of the resident memory after the first quarter, in kilobytes for a thousand inspections, and writes
benchmarks/results/soak.json.
"""

import argparse
import json
import time

import numpy as np
from tqdm import tqdm

from benchmarks.measuring import RESULTS, machine, resident_megabytes, write_result
from modeling_anomalygpt import AnomalyInspector

SIDE, MARK = 240, 40


def marked(good: np.ndarray, place: int) -> np.ndarray:
    """The good picture with a mark in one of nine fields."""
    picture = good.copy()
    field = SIDE // 3
    top, left = place // 3 * field + 20, place % 3 * field + 20
    picture[top : top + MARK, left : left + MARK] = (20, 20, 90)
    return picture


def main() -> None:
    """Runs the inspections and prints what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--inspections", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, help="stop after so many, however many inspections were made")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    good = rng.normal(160, 6, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    inspector = AnomalyInspector.from_pretrained()
    inspector.set_references([good], category="plate")
    places = rng.integers(0, 9, options.inspections)
    samples, wrong, errors, start = [], 0, 0, time.monotonic()
    for number, place in enumerate(tqdm(places, desc="inspecting")):
        result = inspector.inspect(marked(good, int(place)), answer=number % 10 == 0)
        errors += result.error is not None
        row, column = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
        wrong += row * 3 // SIDE * 3 + column * 3 // SIDE != place
        if number % 20 == 0:
            samples.append((number, resident_megabytes()))
        if options.minutes and time.monotonic() - start > 60 * options.minutes:
            break
    done = number + 1
    settled = [sample for sample in samples if sample[0] >= done / 4]
    slope = np.polyfit(*np.array(settled, dtype=float).T, 1)[0]
    row = {
        "inspections": done,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "errors": errors,
        "marks_in_another_place": int(wrong),
        "resident_megabytes_first_and_last": [round(settled[0][1], 1), round(settled[-1][1], 1)],
        "slope_kilobytes_per_thousand": round(1000 * 1024 * slope, 1),
        "machine": machine(),
    }
    write_result(RESULTS / "soak.json", row)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
