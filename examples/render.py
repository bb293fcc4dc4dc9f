"""Renders the example pictures again: parts of families that the embedded checkpoint has not seen in training.

python examples/render.py
"""

import pathlib

import numpy as np
from PIL import Image

from datasets_scripts import render_product

FOLDER = pathlib.Path(__file__).parent
SIZE = 448
# Family, seed of the product, and the defects of the queries ("good": none).
SETS = {
    "capsules": (2, ("good", "missing_part", "stain", "good", "misplaced_part", "crack")),
    "zipper": (0, ("good", "missing_part", "stain", "good", "bent_part", "thread")),
}


def main() -> None:
    """Renders all sets."""
    for family, (seed, defects) in SETS.items():
        product = render_product(family, np.random.default_rng(seed), SIZE)
        for index in range(4):
            part = product.photograph(np.random.default_rng([seed, 0, index]))
            save(part.image, FOLDER / family / "good" / f"good_{index + 1}.jpg")
        for index, defect in enumerate(defects):
            part = product.photograph(
                np.random.default_rng([seed, 1, index]), defect=None if defect == "good" else defect
            )
            save(part.image, FOLDER / family / "query" / f"part_{index + 1}_{part.defect_type}.jpg")


def save(image: np.ndarray, path: pathlib.Path) -> None:
    """Writes a JPEG, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=90)


if __name__ == "__main__":
    main()
