"""What is said about a training picture: facts from its mask, and conversations from facts.

Knows masks and words; knows no tensors and no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .facts import Facts
from .image_processing_anomalygpt import place
from .instructions import conversation, fixed_turn
from .prompts import check_language, opening_question
from .regions import regions_of_mask
from .training_sources import Example


@dataclass(frozen=True)
class Wording:
    """How conversations about training pictures are worded.

    Attributes:
        languages (`Mapping[str, float]`, *optional*, defaults to `{"en": 1.0}`):
            Shares of `"en"` and `"zh"`.
        max_turns (`int`, *optional*, defaults to 3):
            At most so many questions; 1 as published.
        varied (`bool`, *optional*, defaults to `True`):
            Whether topics and wording vary. If not, every conversation is the description of a good object, the
            question whether there is an anomaly, and the answer with the places (the published unsupervised training).
        descriptions (`Mapping[str, str]`, *optional*):
            A sentence for each category that says how a good object looks. Those of MVTec AD and VisA are known.

    Example:
    ```python
    >>> facts = Facts("bolt", (224, 224))
    >>> Wording(varied=False, descriptions={"bolt": "a bolt with a clean thread"}).messages(
    ...     facts, np.random.default_rng(0)
    ... )[1]["content"]
    'No, there is no anomaly in the image.'

    ```
    """

    languages: Mapping[str, float] = field(default_factory=lambda: {"en": 1.0})
    max_turns: int = 3
    varied: bool = True
    descriptions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for language, share in self.languages.items():
            check_language(language)
            if not 0 <= share < float("inf"):
                raise ValueError(f"`languages` must have shares of at least 0, got {share} for {language!r}.")
        if not sum(self.languages.values()) > 0:
            raise ValueError(f"`languages` must have a positive share, got {dict(self.languages)}. Try {{'en': 1}}.")
        if self.max_turns < 1:
            raise ValueError(f"`max_turns` must be at least 1, got {self.max_turns}. The published training has 1.")

    def messages(self, facts: Facts, rng: np.random.Generator) -> list[dict[str, str]]:
        """A conversation about a picture.

        Args:
            facts (`Facts`): What is true.
            rng (`np.random.Generator`): Draws language, topics and wording.

        Returns:
            `list[dict[str, str]]`: Questions and answers in turn.
        """
        names = list(self.languages)
        shares = np.array([self.languages[name] for name in names], dtype=float)
        language = names[int(rng.choice(len(names), p=shares / shares.sum()))]
        if self.varied:
            return conversation(facts, rng, language, self.max_turns)
        return fixed_messages(facts, language)

    def description(self, category: str) -> str | None:
        """The sentence given for a category, if any."""
        return self.descriptions.get(category)


def fixed_messages(facts: Facts, language: str = "en") -> list[dict[str, str]]:
    """The question of the paper, after the description of a good object, and its answer.

    Args:
        facts (`Facts`): What is true.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

    Returns:
        `list[dict[str, str]]`: A question and an answer.
    """
    question, answer = fixed_turn(facts, "presence", language)
    description = facts.description if isinstance(facts.description, str) else None
    content = opening_question(facts.category, language, description, question)
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def facts_of(example: Example, description: str | None = None) -> Facts:
    """Facts of an example; what is said follows from its mask.

    Args:
        example (`Example`): With a label.
        description (`str`, *optional*): How a good object looks.

    Returns:
        `Facts`: Regions and sizes in pixels of the picture.
    """
    size = (example.picture.height, example.picture.width)
    if example.mask is None or not example.mask.any():
        return Facts(
            example.category, size, (), example.defect_types, description=description, anomalous=example.anomalous
        )
    regions = regions_of_mask(example.mask)
    return Facts(example.category, size, regions, example.defect_types, description=description)


def seen_part(mask: np.ndarray, canvas_size: tuple[int, int], geometry: str) -> np.ndarray:
    """A mask without what the model does not see of the picture.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): `bool`.
        canvas_size (`tuple[int, int]`): `(height, width)` of the model's input.
        geometry (`str`): `"square"`, `"center_crop"` or `"letterbox"`; only the second cuts.

    Returns:
        `np.ndarray` of shape `(height, width)`: `bool`.

    Example:
    ```python
    >>> seen_part(np.ones((2, 4), bool), (8, 8), "center_crop").astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]

    ```
    """
    at = place(mask.shape, canvas_size, geometry)
    if at.top >= 0 and at.left >= 0:
        return mask
    seen = np.zeros_like(mask)
    rows, columns = (
        slice(
            round(max(-corner, 0) / resized * side),
            round(min(resized, canvas - corner) / resized * side),
        )
        for corner, resized, canvas, side in zip(
            (at.top, at.left), (at.height, at.width), canvas_size, mask.shape, strict=True
        )
    )
    seen[rows, columns] = mask[rows, columns]
    return seen


__all__ = ["Wording", "facts_of", "fixed_messages", "seen_part"]
