"""How well answers say where anomalies are and how many: words against masks.

Knows answers as text and masks; runs no model. NumPy only.
"""

import re
from collections.abc import Sequence

import numpy as np

from ..regions import regions_of_mask

MANY = 10
"""What [`parse_count`] gives for "more than nine"."""

_ROWS = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_PLACES_EN = re.compile(
    r"\b(?:(?P<row>top|upper|bottom|lower)[\s-]+(?P<column>left|right)"
    r"|(?P<single>top|bottom|left|right|center|centre|middle))\b(?! half)"
)
_PLACES_ZH = {
    "左上": "top left", "右上": "top right", "左下": "bottom left", "右下": "bottom right",
    "上方": "top", "下方": "bottom", "左侧": "left", "右侧": "right",
    "中央": "center", "中间": "center", "中心": "center",
}  # fmt: skip
_NUMBERS = {
    "no": 0, "none": 0, "nothing": 0, "nowhere": 0, "zero": 0, "a": 1, "an": 1, "one": 1,
    "two": 2, "both": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
}  # fmt: skip
_NUMBERS_ZH = {"一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}


def parse_presence(answer: str) -> bool | None:
    """What an answer to the main question says.

    Returns:
        `bool`, *optional*: True for yes, False for no, by its first word; None where it begins otherwise.

    Example:
    ```python
    >>> parse_presence("Yes, at the top."), parse_presence("否，没有异常。"), parse_presence("Perhaps.")
    (True, False, None)

    ```
    """
    answer = answer.strip().casefold()
    if re.match(r"yes\b|是|有", answer):
        return True
    if re.match(r"no\b|否|没|无|不", answer):
        return False
    return None


def parse_positions(answer: str) -> frozenset[str]:
    """The cells of the 3 x 3 grid that an answer names.

    Returns:
        `frozenset[str]`: English names, such as `"top left"`.

    Example:
    ```python
    >>> sorted(parse_positions("They are at the top left and the center.")), sorted(parse_positions("在右下角。"))
    (['center', 'top left'], ['bottom right'])

    ```
    """
    found = {_PLACES_ZH[hit] for hit in re.findall("|".join(_PLACES_ZH), answer)}
    for hit in _PLACES_EN.finditer(answer.casefold()):
        if hit["single"]:
            found.add("center" if hit["single"] in ("centre", "middle") else hit["single"])
        else:
            found.add(f"{_ROWS[hit['row']]} {hit['column']}")
    return frozenset(found)


def parse_count(answer: str) -> int | None:
    """How many anomalies an answer speaks of.

    Returns:
        `int`, *optional*: The first number in it, "no" counting as 0 and "an anomaly" as 1; 10 for more than nine;
            None where there is none.

    Example:
    ```python
    >>> parse_count("Yes, there are two anomalies."), parse_count("没有异常。"), parse_count("Yes, at the top.")
    (2, 0, None)

    ```
    """
    answer = answer.casefold()
    if "more than nine" in answer or "九处以上" in answer:
        return MANY
    chinese = re.search(r"没有|为零|否|([一两二三四五六七八九]|\d+)处", answer)
    if chinese:
        number = chinese[1]
        return 0 if number is None else _NUMBERS_ZH.get(number) or min(int(number), MANY)
    for word in re.findall(r"[a-z]+|\d+", answer):
        if word.isdigit():
            return min(int(word), MANY)
        if word in _NUMBERS:
            return _NUMBERS[word]
    return None


class WordMetrics:
    """Places and numbers in the answers to anomalous pictures, against the regions of their masks.

    Pictures without an anomaly do not count: whether one is seen at all is what [`ImageMetrics`] measures.

    Example:
    ```python
    >>> mask = np.zeros((90, 90), dtype=bool)
    >>> mask[5:20, 5:20] = True
    >>> metrics = WordMetrics()
    >>> metrics.update([mask, mask], ["Yes, there is an anomaly, at the top left.", "Two: top left and right."])
    >>> found = metrics.compute()
    >>> found["positions_exact"], found["positions_overlap"], found["count_exact"]
    (0.5, 0.75, 0.5)

    ```
    """

    def __init__(self) -> None:
        self._rows: list[tuple[bool, float, bool]] = []

    def __len__(self) -> int:
        """Pictures that count."""
        return len(self._rows)

    def update(self, masks: Sequence[np.ndarray], answers: Sequence[str]) -> None:
        """Adds pictures.

        Args:
            masks (`Sequence[np.ndarray]` of shape `(height, width)`): Anomalous where not zero; pictures with empty
                masks are passed over.
            answers (`Sequence[str]`): In English or Chinese.

        Raises:
            ValueError: If there are not as many answers as masks.
        """
        if len(masks) != len(answers):
            raise ValueError(f"`answers` must be as many as `masks`, got {len(answers)} and {len(masks)}. Give pairs.")
        for mask, answer in zip(masks, answers, strict=True):
            regions = regions_of_mask(np.asarray(mask) != 0)
            if not regions:
                continue
            places, named = {region.position for region in regions}, parse_positions(answer)
            overlap = len(places & named) / len(places | named)
            self._rows.append((places == named, overlap, parse_count(answer) == min(len(regions), MANY)))

    def merge(self, other: "WordMetrics") -> None:
        """Adds the pictures of another object, which is unchanged."""
        self._rows += other._rows

    def compute(self) -> dict[str, float]:
        """The metrics of all pictures so far.

        Returns:
            `dict[str, float]`: `positions_exact`, the share of answers that name exactly the cells of the 3 x 3 grid
            in which the mask's regions lie; `positions_overlap`, the mean intersection over union of these cells;
            `count_exact`, the share that says how many regions there are.

        Raises:
            ValueError: If no picture had an anomaly.
        """
        if not self._rows:
            raise ValueError("Places and counts are undefined: no mask held an anomaly. Evaluate pictures with masks.")
        exact, overlap, count = (float(np.mean(column)) for column in zip(*self._rows, strict=True))
        return {"positions_exact": exact, "positions_overlap": overlap, "count_exact": count}
