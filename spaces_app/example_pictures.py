"""The examples of the page: pictures of the repository's `examples` folder, with references and category."""

import pathlib
from dataclasses import dataclass

_HERE = pathlib.Path(__file__).parent
# Installed as a wheel, the pictures lie inside the package; in the repository and in a Space, beside it.
EXAMPLES_FOLDER = next((path for path in (_HERE / "examples", _HERE.parent / "examples") if path.is_dir()), _HERE)

_PRODUCTS = {"capsules": {"en": "capsules", "zh": "胶囊"}, "zipper": {"en": "zipper", "zh": "拉链"}}
_DEFECTS = {
    "good": {"en": "good", "zh": "良品"},
    "missing_part": {"en": "missing part", "zh": "缺件"},
    "stain": {"en": "stain", "zh": "污渍"},
    "misplaced_part": {"en": "misplaced part", "zh": "错位"},
    "crack": {"en": "crack", "zh": "裂纹"},
    "bent_part": {"en": "bent part", "zh": "弯曲"},
    "thread": {"en": "loose thread", "zh": "线头"},
}
_CHOSEN = (
    ("capsules", "part_2_missing_part"),
    ("capsules", "part_6_crack"),
    ("capsules", "part_1_good"),
    ("zipper", "part_5_bent_part"),
    ("zipper", "part_6_thread"),
    ("zipper", "part_1_good"),
)


@dataclass(frozen=True)
class ExamplePicture:
    """A picture with its references and what it shows."""

    picture: str
    references: tuple[str, ...]
    category: str
    captions: dict[str, str]


def example_pictures() -> list[ExamplePicture]:
    """The examples whose files are there."""
    examples = []
    for product, name in _CHOSEN:
        folder = EXAMPLES_FOLDER / product
        picture, good = folder / "query" / f"{name}.jpg", sorted((folder / "good").glob("*.jpg"))
        if not picture.exists() or not good:
            continue
        defect = _DEFECTS[name.split("_", 2)[2]]
        captions = {
            "en": f"{_PRODUCTS[product]['en']}: {defect['en']}",
            "zh": f"{_PRODUCTS[product]['zh']}：{defect['zh']}",
        }
        examples.append(ExamplePicture(str(picture), tuple(map(str, good)), product, captions))
    return examples


__all__ = ["EXAMPLES_FOLDER", "ExamplePicture", "example_pictures"]
