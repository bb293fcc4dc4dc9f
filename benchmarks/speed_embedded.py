"""The embedded checkpoint on the example pictures: map, verdict, answer; rounded products; from files to verdicts;
references; the vision model against plain products of its shapes.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_embedded [--rounds 7]

Pictures are decoded before, except where "end to end" is said. The last line printed is the result as JSON.
"""

import argparse
import itertools
import json
import pathlib
import tempfile
from functools import partial

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import ROOT, in_turns, peak_memory, ratio, summary
from modeling_anomalygpt import AnomalyInspector, load_picture
from modeling_anomalygpt.onednn import product

ALL_GOOD = sorted((ROOT / "examples" / "capsules" / "good").glob("*.jpg"))
GOOD = ALL_GOOD[:1]
QUERIES = sorted((ROOT / "examples" / "capsules" / "query").glob("*.jpg"))


def pictures(number: int) -> list[Image.Image]:
    """The example queries, repeated."""
    loaded = [load_picture(path) for path in QUERIES]
    return [loaded[index % len(loaded)] for index in range(number)]


def stages(inspector: AnomalyInspector, rounds: int) -> dict:
    """Map only, map and verdict, and a one-sentence answer, at batch 1 and 16: milliseconds a picture."""
    rows = {}
    for batch in (1, 16):
        shown = pictures(batch)

        def run(shown=shown, batch=batch, **options):
            return list(inspector.inspect_many(shown, batch_size=batch, progress=False, **options))

        calls = {"map": partial(run, use_language=False), "verdict": partial(run, answer=False), "answer": run}
        times = in_turns(calls, rounds)
        rows[f"batch {batch}"] = {name: summary(values, per_call=batch) for name, values in times.items()}
    return rows


def variants(rounds: int) -> dict:
    """The products chosen on this processor (bfloat16 with AMX) against float32: time, and how far maps lie apart."""
    images, inspectors, maps = pictures(len(QUERIES)), {}, {}
    for name, dtype in (("float32", "float32"), ("chosen", None)):
        inspectors[name] = inspector = AnomalyInspector.from_pretrained(dtype=dtype)
        inspector.set_references(GOOD, category="capsules")
        maps[name] = [result.anomaly_map for result in inspector.inspect_many(images, progress=False)]
    calls = {name: partial(one.inspect, images[0], answer=False) for name, one in inspectors.items()}
    times = in_turns(calls, rounds)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(maps["float32"], maps["chosen"], strict=True))
    return {
        "bfloat16": inspectors["chosen"].model.model.vision_tower.bfloat16_products,
        "time_to_float32": ratio(times["chosen"], times["float32"]),
        "largest_map_difference": round(apart, 5),
    }


def references(inspector: AnomalyInspector, rounds: int) -> dict:
    """Learning four and forty good pictures, which differ by what is cut off at their edges."""
    sides, shown = [1 - 0.01 * cut for cut in range(10)], []
    for image, side in itertools.product(map(load_picture, ALL_GOOD), sides):
        shown.append(image.crop((0, 0, round(image.width * side), round(image.height * side))))
    calls = {str(number): partial(inspector.set_references, shown[:: 40 // number]) for number in (4, 40)}
    return {number: summary(values) for number, values in in_turns(calls, rounds).items()}


def vision_pass(inspector: AnomalyInspector, rounds: int) -> dict:
    """The vision model's pass against matrix products of the same shapes, each in the dtype that is used for it.

    Products stand for linear layers and for convolutions that mix channels; filters of single channels, norms and
    attention count nothing.
    """
    tower, products = inspector.model.model.vision_tower, []
    size = inspector.processor.image_processor.size
    pixel_values = torch.randn(1, 3, size["height"], size["width"])

    def note(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(layer, torch.nn.Conv2d):
            rows, dtype = output[0, 0].numel(), torch.float32
        else:
            rows, dtype = output[..., 0].numel(), torch.bfloat16 if tower.bfloat16_products else torch.float32
        if getattr(layer, "groups", 1) == 1:
            weight = layer.weight.detach().flatten(1).to(dtype)
            products.append((torch.randn(rows, weight.shape[1]).to(dtype), weight))

    layers = [one for one in tower.modules() if isinstance(one, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    tower(pixel_values)  # with gradients, so through its single layers
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        calls = {
            "pass": lambda: tower(pixel_values),
            "products": lambda: [product(rows, weight) for rows, weight in products],
        }
        times = in_turns(calls, 5 * rounds, warm_up=3)
    arithmetic = 2 * sum(rows.shape[0] * weight.numel() for rows, weight in products)
    return {name: summary(values) for name, values in times.items()} | {
        "gigaflop_of_products": round(arithmetic / 1e9, 2),
        "pass_to_products": ratio(times["pass"], times["products"]),
    }


def end_to_end(inspector: AnomalyInspector, number: int) -> dict:
    """JPEG files of 1024 px from the disk to verdicts, reading ahead or not: seconds and ratio."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, image in enumerate(pictures(number)):
            file = pathlib.Path(folder) / f"{index:05d}.jpg"
            image.resize((1024, 1024), Image.Resampling.BICUBIC).save(file, quality=92)
            files.append(file)

        def decode():
            for file in files:
                load_picture(file)

        def inspect(images):
            for _ in inspector.inspect_many(images, batch_size=8, progress=False, answer=False):
                pass

        shown = [load_picture(file) for file in files[:64]]
        calls = {"decode": decode, "end to end": lambda: inspect(files), "model only": lambda: inspect(shown)}
        times = in_turns(calls, 1, warm_up=0)
    model_seconds = times["model only"][0] * number / len(shown)
    return {
        "pictures": number,
        "pictures_per_second": round(number / times["end to end"][0], 1),
        "end_to_end_to_decode_plus_model": round(times["end to end"][0] / (times["decode"][0] + model_seconds), 3),
    }


def main() -> None:
    """Runs the measurements and prints them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_embedded", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=1000, help="JPEG files for the end-to-end part")
    options = parser.parse_args()
    inspector = AnomalyInspector.from_pretrained()
    inspector.set_references(GOOD, category="capsules")
    result = {
        "threads": torch.get_num_threads(),
        "stages": stages(inspector, options.rounds),
        "variants": variants(options.rounds),
        "vision_pass": vision_pass(inspector, options.rounds),
        "end_to_end": end_to_end(inspector, options.files),
        "references": references(inspector, min(3, options.rounds)),
        "peak_memory_bytes": peak_memory(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
