"""Facts about a picture, as far as words can tell them: category, regions, kinds of defect, scale.

Knows regions and names of kinds; knows no image, no sentence and no model.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..regions import Region
from .phrases import load_phrases, read_words

_KINDS = read_words("defect_kinds.json")
_WORDS = {word: kind for kind, words in _KINDS["words"].items() for word in words}

GRAVE = frozenset(_KINDS["grave"])
"""Kinds that may harm a part's function."""

CLEANABLE = frozenset(_KINDS["cleanable"])
"""Kinds that may come off."""


def kind_of(defect_type: str) -> str | None:
    """The kind that a data set's name of a defect means.

    Args:
        defect_type (`str`): Such as `"bent_wire"`, any case; words separated by spaces, hyphens or underscores.

    Returns:
        `str`, *optional*: A kind; the name itself where it is specific but unknown here; None where it names no kind.

    Example:
    ```python
    >>> kind_of("bent_wire"), kind_of("Colour change"), kind_of("rust"), kind_of("combined")
    ('bent', 'color', 'rust', None)

    ```
    """
    name = re.sub(r"[\W_]+", "_", defect_type.casefold()).strip("_")
    if name in _KINDS["names"]:  # whole names that their words would mislead about; null: cannot be named
        return _KINDS["names"][name]
    for word in name.split("_"):
        if word in _WORDS:
            return _WORDS[word]
    if name in _KINDS["unnamed"] or not any(letter.isalpha() for letter in name):
        return None
    return name.replace("_", " ")


def kind_words(kind: str, language: str) -> tuple[str, str, str]:
    """How a kind is called: one of it with its article, several, and the bare word.

    Returns:
        `tuple[str, str, str]`: Such as `("a scratch", "scratches", "scratch")`.
    """
    phrases = load_phrases(language)
    return tuple(phrases["kinds"].get(kind) or (words.format(kind=kind) for words in phrases["unknown_kind"]))


def absent_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Common kinds that surely are not there.

    Returns:
        `tuple[str, ...]`: All common kinds where there is none; none where one is vague or unknown.
    """
    if any(kind in _KINDS["vague"] or kind not in _KINDS["words"] for kind in kinds):
        return ()
    # kinds within a group are easily taken for each other: never deny one where another is
    alike = set(kinds).union(*(group for group in _KINDS["alike"] if set(kinds).intersection(group)))
    return tuple(kind for kind in _KINDS["common"] if kind not in alike)


@dataclass(frozen=True)
class Facts:
    """What is known about a picture.

    Attributes:
        category (`str`): What the object is called; any name, empty where unknown.
        image_size (`tuple[int, int]`): `(height, width)` of the picture in pixels.
        regions (`Sequence[Region]`, *optional*, defaults to `()`): The anomalous regions, from the target mask.
        defect_types (`Sequence[str]`, *optional*, defaults to `()`): The kinds of defect in the picture, in the words
            of its data set; not one a region.
        description (`str` or `Mapping[str, str]`, *optional*): How a good object looks: a sentence (said in the
            language it is written in) or one for each language.
        mm_per_pixel (`float`, *optional*): Edge length of a pixel in millimetres.
        anomalous (`bool`, *optional*): For pictures that have a label but no mask. Defaults to whether there are
            regions.
    """

    category: str
    image_size: tuple[int, int]
    regions: Sequence[Region] = ()
    defect_types: Sequence[str] = ()
    description: str | Mapping[str, str] | None = None
    mm_per_pixel: float | None = None
    anomalous: bool | None = None

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise ValueError(f"`image_size` must be (height, width), got {self.image_size}. Use the mask's.")
        if self.mm_per_pixel is not None and not self.mm_per_pixel > 0:
            raise ValueError(f"`mm_per_pixel` must be positive, got {self.mm_per_pixel}. Leave it out when unknown.")
        if self.anomalous is None:
            object.__setattr__(self, "anomalous", bool(self.regions))
        elif self.regions and not self.anomalous:
            raise ValueError(
                f"`anomalous` must be True where there are regions, got False and {len(self.regions)} regions. "
                "Leave it out: it follows from the mask."
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of defect, each once; empty unless all of them can be named."""
        kinds = [kind_of(defect_type) for defect_type in self.defect_types] if self.anomalous else []
        return () if None in kinds else tuple(dict.fromkeys(kind for kind in kinds if kind is not None))

    @property
    def cells(self) -> tuple[tuple[int, int], ...]:
        """Cells `(row, column)` of the 3 x 3 grid with a region, each once, in reading order."""
        return tuple(sorted({(region.row, region.column) for region in self.regions}))

    @property
    def share(self) -> float:
        """Area of all regions as a share of the picture, in [0, 1]."""
        return sum(region.area_pixels for region in self.regions) / (self.image_size[0] * self.image_size[1])
