"""Kinds of defect: from the names that data sets use to the few kinds that have words, and which exclude each other.

Knows names alone; the words in each language stand in the phrase files.
"""

import re

from .instruction_phrases_en import KINDS as _KINDS_EN
from .instruction_phrases_zh import KINDS as _KINDS_ZH

GRAVE = frozenset({"crack", "hole", "missing", "misplaced", "bent", "break", "cut", "deformation", "leak"})
"""Kinds that may harm a part's function."""

CLEANABLE = frozenset({"contamination", "stain", "thread", "glue"})
"""Kinds that may come off."""

# words of a defect type's name -> kind; the first hit wins
_WORDS = {
    "scratch": "scratch", "scratches": "scratch", "scratched": "scratch",
    "dent": "dent", "dented": "dent",
    "crack": "crack", "cracks": "crack", "cracked": "crack",
    "hole": "hole", "holes": "hole", "poke": "hole",
    "stain": "stain", "stained": "stain", "oil": "stain", "liquid": "stain", "stroke": "stain", "spot": "stain",
    "print": "print", "imprint": "print", "misprint": "print", "printing": "print",
    "missing": "missing", "lost": "missing",
    "misplaced": "misplaced", "flip": "misplaced", "swap": "misplaced", "swapped": "misplaced", "split": "misplaced",
    "bent": "bent", "bend": "bent",
    "color": "color", "colour": "color", "discoloration": "color", "discolouration": "color",
    "contamination": "contamination", "dirt": "contamination", "dirty": "contamination", "foreign": "contamination",
    "thread": "thread", "threads": "thread",
    "broken": "break", "break": "break", "breakage": "break", "chip": "break", "chipped": "break", "damaged": "break",
    "cut": "cut", "cuts": "cut", "fold": "fold", "crease": "fold",
    "squeeze": "deformation", "squeezed": "deformation", "deformation": "deformation", "deformed": "deformation",
    "rough": "rough", "leak": "leak", "leakage": "leak", "bubble": "bubble", "extra": "extra", "glue": "glue",
    "burn": "burn", "burnt": "burn", "melt": "burn", "texture": "texture", "patch": "patch", "scar": "patch",
}  # fmt: skip

# whole names that their words would mislead about; None: cannot be named
_NAMES = {
    "foreign_texture": "patch", "thread_side": None, "thread_top": None, "combined": None, "fabric_border": None,
    "fabric_interior": None, "pill_type": None,
}  # fmt: skip

_UNNAMED = frozenset({
    "", "good", "normal", "ok", "anomaly", "anomalous", "abnormal", "defect", "defects", "defective", "bad", "faulty",
    "unknown", "other", "others", "none", "mixed", "structural_anomalies", "logical_anomalies", "damage", "flaw", "ng",
    "nsa", "cutpaste", "perlin", "draem", "synthetic",
})  # fmt: skip

# kinds within a group are easily taken for each other: never deny one where another is
_ALIKE = (
    {"scratch", "crack", "cut", "break", "thread", "fold"},
    {"stain", "contamination", "color", "glue", "burn", "leak", "bubble", "rough"},
    {"hole", "missing", "break", "dent", "contamination", "stain"},
    {"dent", "deformation", "bent", "fold", "bubble"},
    {"misplaced", "missing", "extra", "bent"},
    {"print", "missing", "stain", "scratch"},
    {"extra", "contamination"},
    {"misplaced", "deformation", "break", "missing", "bent"},
)
_COMMON = ("scratch", "dent", "crack", "hole", "stain", "print", "missing", "bent", "color", "thread")
_VAGUE = frozenset({"patch", "texture"})


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
    if name in _NAMES:
        return _NAMES[name]
    for word in name.split("_"):
        if word in _WORDS:
            return _WORDS[word]
    if name in _UNNAMED or not any(letter.isalpha() for letter in name):
        return None
    return name.replace("_", " ")


def kind_words(kind: str, language: str) -> tuple[str, str, str]:
    """How a kind is called: one of it with its article, several, and the bare word.

    Args:
        kind (`str`): From [`kind_of`].
        language (`str`): `"en"` or `"zh"`.

    Returns:
        `tuple[str, str, str]`: Such as `("a scratch", "scratches", "scratch")`.
    """
    if language == "zh":
        return _KINDS_ZH.get(kind, (f"{kind}类缺陷",) * 3)
    return _KINDS_EN.get(kind, (f"a defect of type {kind}", f"defects of type {kind}", f"defect of type {kind}"))


def absent_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Common kinds that surely are not there.

    Args:
        kinds (`tuple[str, ...]`): The kinds that are there.

    Returns:
        `tuple[str, ...]`: All common kinds where there is none; none where one is vague or unknown.
    """
    if any(kind in _VAGUE or kind not in _KINDS_EN for kind in kinds):
        return ()
    alike = set(kinds).union(*(group for group in _ALIKE if group.intersection(kinds)))
    return tuple(kind for kind in _COMMON if kind not in alike)
