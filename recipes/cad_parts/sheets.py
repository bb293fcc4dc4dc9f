"""Contact sheets of the set: every kind of part, and every type of defect with its mask's outline.

python -m recipes.cad_parts.sheets [--data DIR] [--output docs/cad_parts]
"""

from __future__ import annotations

import argparse
import pathlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import concatenate_datasets
from PIL import Image, ImageDraw, ImageFont

from datasets_scripts import load_anomaly_dataset

SIDE = 150
CAPTION = 26


def tile(row: dict, caption: str, outlined: bool) -> Image.Image:
    """A picture with a caption; outlined: its defect's rim in red."""
    image = row["image"].convert("RGB")
    if outlined:
        inside = np.asarray(row["mask"]) > 0
        steps = ((step, axis) for axis in (0, 1) for step in (-2, -1, 1, 2))
        near = np.any([np.roll(inside, *one) for one in steps], axis=0)
        pixels = np.asarray(image).copy()
        pixels[near & ~inside] = (255, 0, 0)
        image = Image.fromarray(pixels)
    made = Image.new("RGB", (SIDE, SIDE + CAPTION), "white")
    made.paste(image.resize((SIDE, SIDE), Image.LANCZOS))
    ImageDraw.Draw(made).text((2, SIDE + 1), caption, fill="black", font=ImageFont.load_default(10), spacing=1)
    return made


def sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles in rows."""
    rows = -(-len(tiles) // columns)
    made = Image.new("RGB", (columns * (SIDE + 4), rows * (SIDE + CAPTION + 4)), "white")
    for index, one in enumerate(tiles):
        made.paste(one, (index % columns * (SIDE + 4), index // columns * (SIDE + CAPTION + 4)))
    return made


def wrapped(text: str, width: int = 27) -> str:
    """Text in at most two lines."""
    words, lines = text.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])


def main(arguments: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.cad_parts.sheets", description=__doc__, formatter_class=plain)
    parser.add_argument("--data", type=pathlib.Path, help="folder of recipes.cad_parts.pack (default: the package's)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/cad_parts"))
    options = parser.parse_args(arguments)
    loaded = load_anomaly_dataset("cad_parts", options.data)
    rows = concatenate_datasets([loaded[split] for split in loaded])
    parts, types = defaultdict(list), defaultdict(list)
    facts = rows.remove_columns(["image", "mask"]).to_list()
    for index, fact in enumerate(facts):
        (types[fact["defect_type"]] if fact["label"] else parts[fact["part_kind"]]).append(index)
    options.output.mkdir(parents=True, exist_ok=True)
    good = []
    for kind in sorted(parts):
        chosen = {facts[index]["category"]: index for index in reversed(parts[kind])}
        good += [tile(rows[chosen[category]], wrapped(category), False) for category in sorted(chosen)[:3]]
    bad = []
    for name in sorted(types):
        of = types[name]
        for index in [of[k * len(of) // 4] for k in range(min(4, len(of)))]:
            bad.append(tile(rows[index], wrapped(f"{name}: {facts[index]['words']}"), True))
    for name, tiles in (("parts", good), ("defects", bad)):
        path = options.output / f"{name}.jpg"
        sheet(tiles, 12).save(path, quality=80, optimize=True)
        print(f"{path}: {len(tiles)} pictures, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
