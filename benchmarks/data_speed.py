"""How fast pictures are rendered, defects made, data sets read and conversations written, on one core.

    OMP_NUM_THREADS=1 python -m benchmarks.data_speed --output benchmarks/results/data_speed.json

Times are CPU time of the process (`time.process_time`), so that other programs on the machine hardly matter; medians
over the calls, beside the means where a few calls cost more. Synthesis stands beside a naive implementation of the
original's steps, in turn for each draw. Everything is drawn; nothing is read but what the benchmark has written.
"""

import argparse
import json
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial

import cv2
import datasets
import numpy as np

from benchmarks.synthesis_speed import drawn_pictures, naive
from datasets_scripts import FAMILIES, load_anomaly_dataset, render_product
from modeling_anomalygpt.cli import main as run_command
from modeling_anomalygpt.cli.made_pictures import METHODS
from modeling_anomalygpt.conversations.facts import Facts
from modeling_anomalygpt.conversations.instructions import conversation
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.regions import regions_of_mask
from modeling_anomalygpt.synthesis.synthesizer import NSA_SETTINGS, cut_paste, cut_paste_scar, nsa, perlin_texture


def milliseconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


def summary(values: list[float]) -> dict[str, float]:
    return {"median_ms": round(statistics.median(values), 3), "mean_ms": round(statistics.fmean(values), 3)}


def rendering(size: int, draws: int) -> dict[str, dict[str, float]]:
    rows, everything = {}, []
    for number, family in enumerate(FAMILIES):
        product = render_product(family, np.random.default_rng(number), size)
        times = []
        for draw in range(-1, draws):
            rng = np.random.default_rng([number, draw + 1])
            took = milliseconds(partial(product.photograph, rng, "random" if draw % 2 else None))
            if draw >= 0:
                times.append(took)
        rows[family] = summary(times)
        everything += times
    return {**rows, "all": summary(everything)}


def synthesis(size: int, draws: int) -> dict[str, dict[str, float]]:
    pictures, categories = drawn_pictures(size), [*NSA_SETTINGS, "unknown"]
    with_category = {
        "naive": naive,
        "nsa_original": partial(nsa, compat="original"),
        "nsa": nsa,
        "perlin": perlin_texture,
    }
    without = {
        "cut_paste": cut_paste,
        "scar": cut_paste_scar,
        "scratch": METHODS["scratch"],
        "stain": METHODS["stain"],
    }
    times = {name: [] for name in (*with_category, *without)}
    for draw in range(-2, draws):
        image, source = pictures[draw % len(pictures)], pictures[(7 * draw + 1) % len(pictures)]
        for name, method in (with_category | without).items():
            extra = [categories[draw % len(categories)]] if name in with_category else []
            took = milliseconds(partial(method, image, source, np.random.default_rng(draw + 2), *extra))
            if draw >= 0:
                times[name].append(took)
    return {name: summary(values) for name, values in times.items()}


def reading(size: int, number: int) -> dict[str, float]:
    """Milliseconds a row (PNG files in MVTec's layout), decoding included."""
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as place:
        folder, cache = pathlib.Path(place) / "made", pathlib.Path(place) / "cache"
        arguments = ["--family", "gear", "leather", "--number", number, "--size", size, "--output", folder]
        run_command(["synthesize", *map(str, arguments)])
        load = partial(load_anomaly_dataset, "anomaly_folder", folder, split="test", cache_dir=cache)
        list(load(streaming=True))  # warm-up: imports
        streamed = milliseconds(lambda: [row["mask"] for row in load(streaming=True)])
        prepared = milliseconds(load)
        rows = load()
        read = milliseconds(lambda: [(row["image"], row["mask"]) for row in rows])
    times = {"check_and_stream": streamed, "check_and_prepare": prepared, "read_prepared": read}
    return {name: round(value / number, 3) for name, value in times.items()}


def conversations(number: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    result = {}
    for language in ("en", "zh"):
        facts = []
        for _ in range(number):
            mask = np.zeros((224, 224), bool)
            for _ in range(rng.integers(0, 4)):
                row, column = rng.integers(0, 190, 2)
                mask[row : row + rng.integers(6, 30), column : column + rng.integers(6, 30)] = True
            regions = regions_of_mask(mask)
            kinds = ["scratch"] if regions else []
            facts.append(Facts(category="gear", regions=regions, defect_types=kinds, image_size=(224, 224)))
        took = milliseconds(lambda facts=facts, language=language: [conversation(f, rng, language) for f in facts])
        result[f"{language}_per_second"] = round(1000 * number / took)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    parser.add_argument("--draws", type=int, default=40, help="calls of each method and family")
    parser.add_argument("--rows", type=int, default=100, help="pictures of the data set that is read")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file to write")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    made = synthesis(options.size, options.draws)
    result = {
        "benchmark": "data_speed",
        "clock": "CPU time of one thread; median and mean over the calls",
        "size": options.size,
        "draws": options.draws,
        "machine": platform.machine(),
        "versions": {"opencv": cv2.__version__, "numpy": np.__version__, "datasets": datasets.__version__},
        "rendering": rendering(options.size, options.draws),
        "synthesis": made,
        "naive_over_ours": {
            name: round(made["naive"]["median_ms"] / made[name]["median_ms"], 2) for name in ("nsa_original", "nsa")
        },
        "reading_ms_a_row": reading(options.size, options.rows),
        "conversations": conversations(1000),
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output, text)
    print(text, end="")


if __name__ == "__main__":
    main()
