"""Is a slow drift of the light seen, how early, and is none made up where there is none?

    python -m benchmarks.drift PHOTOGRAPHS [PHOTOGRAPHS ...] [--pictures 400]

PHOTOGRAPHS are folders with train/good and test/good. Two good photographs are the references; pictures are cut, lit
(by 3 % more or less) and shaken copies of the others, judged by the embedded checkpoint's map. The light falls slowly
by 20 % (every pixel times 1.0 to 0.8) from picture 100 to the last, or stays as it is. Prints a table and writes
benchmarks/results/drift.json.
"""

import argparse
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks.measuring import RESULTS, machine, write_result
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.images import find_pictures, load_picture
from modeling_anomalygpt.inspector import InspectionOptions
from modeling_anomalygpt.line.drift import WINDOW, Drift

SIDE, FALL = 320, 0.2


def next_picture(images: list[Image.Image], rng: np.random.Generator, side: int, light: float = 1.0) -> Image.Image:
    """What the camera of a line takes next: a cut, lit (by 3 % more or less) and shaken copy of a photograph."""
    image = images[rng.integers(len(images))]
    cut = int(min(image.size) * rng.uniform(0.97, 1.0))
    left, top = (int(rng.integers(0, extent - cut + 1)) for extent in image.size)
    pixels = np.asarray(image.crop((left, top, left + cut, top + cut)).resize((side, side)), np.float32)
    pixels = pixels * (rng.uniform(0.97, 1.03) * light) + rng.normal(0, 2, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def copies(photographs: list[str], number: int, fall: float, seed: int) -> Iterator[Image.Image]:
    """Pictures of a line whose light falls by this share after the first hundred."""
    images, rng = [load_picture(path) for path in photographs], np.random.default_rng(seed)
    for index in range(number):
        yield next_picture(images, rng, SIDE, 1 - fall * max(0, index - WINDOW) / (number - WINDOW))


def follow(inspector: AnomalyInspector, photographs: list[str], number: int, fall: float, seed: int) -> dict:
    """Each quantity's first warning, as the number of its picture, and verdicts of the last hundred."""
    drift, warned, verdicts = Drift(), {}, []
    options = InspectionOptions(answer=False, use_language=False)
    stream = inspector.inspect_many(copies(photographs, number, fall, seed), options, progress=False)
    for index, result in enumerate(stream):
        drift.add(result)
        verdicts.append(result.verdict)
        for line in drift.warnings():
            if line.startswith("Drift:"):
                warned.setdefault(line.split()[2], index + 1)
    return {"warned": warned, "stopped": sum(verdict != "normal" for verdict in verdicts[-WINDOW:])}


def table(found: dict) -> str:
    """The rows of drift.json in Markdown."""
    lines = ["| set | light | warned of, at picture (light then) | of the last 100 not normal |", "|---|---|---|---|"]
    for row in found["rows"]:
        said = ", ".join(
            f"{name} {at} ({1 - row['fall'] * max(0, at - WINDOW) / (found['pictures'] - WINDOW):.2f})"
            for name, at in row["warned"].items()
        )
        light = f"falls by {row['fall']:.0%}" if row["fall"] else "steady"
        lines.append(f"| {row['set']} | {light} | {said or 'nothing'} | {row['stopped']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift", description=__doc__.split("\n")[0])
    parser.add_argument("photographs", nargs="+")
    parser.add_argument("--pictures", type=int, default=400)
    options = parser.parse_args()
    inspector, rows = AnomalyInspector.from_pretrained(), []
    for folder in options.photographs:
        good, test = (find_pictures([f"{folder}/{part}/good"]) for part in ("train", "test"))
        inspector.set_references(good[:2])
        for fall in (0.0, FALL):
            found = follow(inspector, [*good[2:32], *test[:30]], options.pictures, fall, seed=len(rows))
            rows.append({"set": pathlib.Path(folder).name, "fall": fall, **found})
    found = {"rows": rows, "pictures": options.pictures, "machine": machine()}
    print(table(found))
    write_result(RESULTS / "drift.json", found)


if __name__ == "__main__":
    main()
