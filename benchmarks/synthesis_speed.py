"""How long a synthetic anomaly takes, beside a naive implementation of the original's steps, in the same run.

    python -m benchmarks.synthesis_speed --pictures folder/of/normal/pictures --size 224 --draws 200

Without `--pictures` drawn pictures are used. All methods see the same pictures and seeds, in turn for each draw,
so that a change of the machine's load meets them all. The last line is JSON: medians in milliseconds a picture and
the naive steps' median divided by ours.
"""

import argparse
import json
import pathlib
import platform
import statistics
import time
from functools import partial

import cv2
import numpy as np
from PIL import Image

from modeling_anomalygpt.synthesis.nsa import nsa_settings
from modeling_anomalygpt.synthesis.synthesizer import NSA_SETTINGS, cut_paste, cut_paste_scar, nsa, perlin_texture
from tests.references.nsa_naive import nsa_naive


def drawn_pictures(size: int, count: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        tiles = rng.integers(40, 216, (size // 8, size // 8, 3), dtype=np.uint8)
        picture = cv2.resize(tiles, (size, size), interpolation=cv2.INTER_CUBIC)
        if number % 2:  # an object on a background that some categories know
            rows, columns = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
            picture[rows**2 + columns**2 > 0.5] = (20, 200)[number // 2 % 2]
        pictures.append(picture)
    return pictures


def read_pictures(folder: pathlib.Path, size: int) -> list[np.ndarray]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in {".png", ".jpg", ".jpeg", ".bmp"})
    if not files:
        raise SystemExit(f"`--pictures` must be a folder with png, jpg or bmp files, got {folder}.")
    return [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file in files[:64]]


def naive(image: np.ndarray, source: np.ndarray, rng: np.random.Generator, category: str) -> None:
    values = nsa_settings(category)
    nsa_naive(image, source, rng, values.size_bounds, values.logistic, values.background, values.resize_bounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=pathlib.Path, help="folder of normal pictures, read recursively")
    parser.add_argument("--size", type=int, default=224, help="side of the square pictures in pixels")
    parser.add_argument("--draws", type=int, default=200, help="draws of each method")
    parser.add_argument("--threads", type=int, default=1, help="threads of OpenCV")
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    pictures = read_pictures(options.pictures, options.size) if options.pictures else drawn_pictures(options.size)
    methods = {
        "naive": naive,
        "nsa_original": partial(nsa, compat="original"),
        "nsa": nsa,
        "perlin_texture": perlin_texture,
        "cut_paste": cut_paste,
        "cut_paste_scar": cut_paste_scar,
    }
    categories = [*NSA_SETTINGS, "unknown"]
    seconds = {name: [] for name in methods}
    for draw in range(-5, options.draws):  # negative: warm-up
        image, source = pictures[draw % len(pictures)], pictures[(7 * draw + 1) % len(pictures)]
        category = categories[draw % len(categories)]
        for name, method in methods.items():
            arguments = [image, source, np.random.default_rng(draw + 5)]
            if not name.startswith("cut_paste"):
                arguments.append(category)
            start = time.thread_time()
            method(*arguments)
            if draw >= 0:
                seconds[name].append(time.thread_time() - start)

    medians = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    print(f"{options.draws} draws at {options.size} px, categories in turn, {options.threads} thread(s)")
    for name, value in medians.items():
        print(f"{name:16s}{value:9.2f} ms{medians['naive'] / value:8.1f} x")
    result = {
        "benchmark": "synthesis_speed",
        "size": options.size,
        "draws": options.draws,
        "pictures": "photographs" if options.pictures else "drawn",
        "machine": platform.machine(),
        "opencv": cv2.__version__,
        "milliseconds": {name: round(value, 3) for name, value in medians.items()},
        "naive_over_ours": {name: round(medians["naive"] / medians[name], 2) for name in ("nsa_original", "nsa")},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
