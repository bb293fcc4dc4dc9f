"""What is said of a judgement, in English and Chinese: its reasons, its facts for a language model, its numbers.

Knows verdicts, regions and numbers; knows no model. Travels with a checkpoint, so its words are Python.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
from PIL import Image, ImageDraw

from .prompts import category_name, check_language, position_name
from .regions import Region, position_words

try:  # a checkpoint's own code must do without it
    import cv2
except ImportError:
    cv2 = None

_REASONS = {
    "en": {
        "no_references": "Give at least one good picture: without one, nothing says what is normal here.",
        "not_compared": "This kind of map is not measured against the good pictures, so nothing says what is normal.",
        "map_above": "The most conspicuous place differs {ratio:.2f} times as much as good parts do.",
        "map_below": "The most conspicuous place differs only {ratio:.2f} times as much as good parts may.",
        "absent": "What all good pictures show at the most conspicuous place is not found in this picture.",
        "language_yes": "The language model sees an anomaly ({probability} sure).",
        "language_no": "The language model sees no anomaly (probability of one: {probability}).",
        "language_alone_yes": "The language model alone would say yes ({probability}); the comparison decided.",
        "language_alone_no": "The language model alone would say no (anomaly: {probability}); the comparison decided.",
        "close": "It is too close to call: look at the marked place.",
        "unlike": "The picture is unlike all good pictures: another part, camera or distance?",
        "rotated": "The part lies rotated by {degrees} degrees compared with the good pictures.",
        "aligned": "The part lies rotated by {degrees} degrees; {compared:.0%} of the picture were compared, in the "
        "good ones' pose.",
        "shifted": "The part lies elsewhere than in the good pictures; {compared:.0%} of the picture were compared.",
        "exposure": "The picture is much darker or brighter than the good pictures.",
        "exposure_matched": "The picture is darker or brighter than the good ones; it was compared in their light.",
        "is_reference": "This picture is one of the good pictures itself: the comparison says nothing about it.",
        "blur": "The picture is much less sharp than the good pictures.",
        "few_references": "Only {count} good picture(s) to compare with: more of them make the verdict surer.",
    },
    "zh": {
        "no_references": "请至少提供一张良品图片：没有它就无法知道什么是正常。",
        "not_compared": "这种异常图没有与良品比较，因此无法知道什么是正常。",
        "map_above": "最可疑处与良品的差异是良品之间差异的 {ratio:.2f} 倍。",
        "map_below": "最可疑处与良品的差异仅为良品允许差异的 {ratio:.2f} 倍。",
        "absent": "所有良品图片在最可疑处都有的东西，在这张图片中找不到。",
        "language_yes": "语言模型认为存在异常（把握 {probability}）。",
        "language_no": "语言模型认为没有异常（异常概率 {probability}）。",
        "language_alone_yes": "语言模型单独会回答“是”（{probability}），以图片比较的结果为准。",
        "language_alone_no": "语言模型单独会回答“否”（异常概率 {probability}），以图片比较的结果为准。",
        "close": "过于接近界限，无法判定：请查看标出的位置。",
        "unlike": "图片与所有良品图片都不相似：是否换了零件、相机或距离？",
        "rotated": "与良品图片相比，零件旋转了 {degrees} 度。",
        "aligned": "零件旋转了 {degrees} 度，已转到良品图片的姿态，图片的 {compared:.0%} 参与了比较。",
        "shifted": "零件的位置与良品图片不同，图片的 {compared:.0%} 参与了比较。",
        "exposure": "图片比良品图片明显更暗或更亮。",
        "exposure_matched": "图片比良品图片更暗或更亮，已换成良品图片的亮度进行比较。",
        "is_reference": "这张图片本身就是良品图片之一：比较不能说明它的好坏。",
        "blur": "图片明显不如良品图片清晰。",
        "few_references": "只有 {count} 张良品图片可供比较，图片越多判断越可靠。",
    },
}  # fmt: skip
_FACTS = {
    "en": {
        "verdict": {"normal": "normal", "anomalous": "anomalous", "uncertain": "undecided"},
        "clear": {True: "clear", False: "close"},
        "places": {0: "no place", 1: "{count} place: {places}", 2: "{count} places: {places}"},
        "scale": {True: "scale known", False: "scale unknown"},
        "picture": {
            "fine": "picture fine", "blur": "picture blurred", "exposure": "picture dark or bright",
            "unlike": "picture unlike the good ones", "rotated": "part rotated",
            "exposure_matched": "light evened out",
        },
        "kind": {True: "kind known", False: "kind unknown"},
        "name": {True: "name given", False: "no name"},
        "description": {True: "described", False: "not described"},
        "unknown": "no references",
        "measured": "Measured: {}.",
        "comma": ", ",
        "gap": "; ",
    },
    "zh": {
        "verdict": {"normal": "正常", "anomalous": "异常", "uncertain": "无法判定"},
        "clear": {True: "明显", False: "接近界限"},
        "places": {0: "没有位置", 1: "{count}处：{places}", 2: "{count}处：{places}"},
        "scale": {True: "比例已知", False: "比例未知"},
        "picture": {
            "fine": "图片正常", "blur": "图片模糊", "exposure": "图片过暗或过亮", "unlike": "图片与良品不相似",
            "rotated": "零件转了方向", "exposure_matched": "光线已校正",
        },
        "kind": {True: "种类已知", False: "种类未知"},
        "name": {True: "有名称", False: "没有名称"},
        "description": {True: "有描述", False: "没有描述"},
        "unknown": "没有良品图片",
        "measured": "测量：{}。",
        "comma": "、",
        "gap": "；",
    },
}  # fmt: skip
_WORDS = {
    "en": {
        "and": " and ",
        "comma": ", ",
        "size": "{width} x {height} pixels",
        "size_mm": "{size} ({millimetres})",
        "millimetres": "{width} x {height} mm",
        "at": "{value} at the {place}",
        "kind_at": "{value} at the {place}",
        "found": {
            "all": "an anomaly {place}",
            "part": "part of an anomaly {place}",
            "none": "nothing wrong {place}",
            "undecided": "nothing I can decide {place}",
        },
        "less": "less than {}",
        "cell": "at the {place}",
        "side": "in the {place} third",
        "ratio": "{} times",
        "references": ("one good picture", "{} good pictures"),
        "shape": {True: "long and narrow", False: "compact"},
        "unknown": {
            "millimetres": "not known, for nobody told me the scale",
            "description": "nothing",
            "kind": "something that I cannot name",
            "region": "nothing",
            "again": "I have said nothing yet: ask me what I found in the picture.",
        },
    },
    "zh": {
        "and": "和",
        "comma": "、",
        "size": "{width} x {height} 像素",
        "size_mm": "{size}（{millimetres}）",
        "millimetres": "{width} x {height} 毫米",
        "at": "{place} {value}",
        "kind_at": "{place}的{value}",
        "found": {
            "all": "{place}有异常",
            "part": "{place}有异常的一部分",
            "none": "{place}没有异常",
            "undecided": "{place}无法判定",
        },
        "less": "不到 {}",
        "cell": "{place}",
        "side": "{place}三分之一处",
        "ratio": "{} 倍",
        "references": ("一张良品图片", "{} 张良品图片"),
        "shape": {True: "细长", False: "较集中"},
        "unknown": {
            "millimetres": "未知，没有人告诉我比例",
            "description": "没有描述",
            "kind": "我说不出名称的问题",
            "region": "没有",
            "again": "我还没有说过什么：您可以问我在图片中发现了什么。",
        },
    },
}
_KINDS = {
    "en": {
        "missing": "a missing piece", "extra": "something extra", "misplaced": "a misplaced piece",
        "broken": "a break or crack", "deformed": "a deformation", "surface": "surface damage",
        "colour": "a wrong colour", "contamination": "dirt", "print": "a misprint",
    },
    "zh": {
        "missing": "缺件", "extra": "多余物", "misplaced": "错位", "broken": "破损或裂纹", "deformed": "变形",
        "surface": "表面损伤", "colour": "颜色异常", "contamination": "污物", "print": "印刷缺陷",
    },
}  # fmt: skip
_NUMBERS = {
    "en": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "zh": "一两三四五六七八九",
}
# Row and column of the 3 x 3 grid, `None` for a whole side.
_PLACES = {
    "topleft": (0, 0), "top": (0, None), "topright": (0, 2), "left": (None, 0), "center": (1, 1),
    "right": (None, 2), "bottomleft": (2, 0), "bottom": (2, None), "bottomright": (2, 2),
}  # fmt: skip
# What made a picture hard to compare, in the order in which it is told; light that was evened out hinders no more.
_CONDITIONS = ("unlike", "exposure", "blur", "rotated", "exposure_matched")
_NOTICEABLE = 0.1  # part of a region, or of a place
# From so many times the limit (or below one part in so many) a verdict is called clear.
_CLEAR = 1.5
_LONG = 2.5  # times as long as wide
_FIELD = re.compile("@([a-z]+)")
_ARTICLE = re.compile(r"^(?:an?|the) (?=\S)", re.IGNORECASE)  # an answer has its own
FIELDS = (
    "places", "count", "size", "sizes", "millimetres", "share", "ratio", "worst", "largest", "others", "shape", "kind",
    "references", "reason", "name", "description",
    "topleft", "top", "topright", "left", "center", "right", "bottomleft", "bottom", "bottomright", "again",
)  # fmt: skip
"""What an answer may leave to be filled in, see [`fill_in`]; `@again` stands for the answer before."""


def reason_in_words(kind: str, language: str, **numbers: float) -> str:
    """One reason of a verdict as a sentence.

    Args:
        kind (`str`): As in [`Score`].
        language (`str`): `"en"` or `"zh"`.
        numbers: Those of the reason.

    Example:
    ```python
    >>> reason_in_words("language_alone_no", "en", probability=0.44)
    'The language model alone would say no (anomaly: 44%); the comparison decided.'

    ```
    """
    check_language(language)
    if "probability" in numbers:  # rounded, it never claims certainty
        share = numbers["probability"]
        numbers["probability"] = "> 99%" if share > 0.99 else "< 1%" if share < 0.01 else f"{share:.0%}"
    return _REASONS[language][kind].format(**numbers)


@dataclass(frozen=True)
class MeasuredFacts:
    """What was measured on a picture, as far as words can tell it.

    Args:
        verdict (`str`): `"normal"`, `"anomalous"`, `"uncertain"` or `"unknown"` (nothing to compare with).
        regions (`tuple[Region, ...]`): The most conspicuous first.
        image_size (`tuple[int, int]`): Height and width in pixels.
        ratio (`float`): Greatest difference as a ratio to what good pictures show (1.0 = the limit).
        reasons (`Mapping[str, Mapping[str, float]]`): Kinds of reasons and the numbers in them, as in [`Score`].
        num_references (`int`): Good pictures that it was compared with.
        category (`str`): Name of the part, `"object"` where nobody named it.
        description (`str`, *optional*): How a good one looks, in the user's words.
    """

    verdict: str
    regions: tuple[Region, ...] = ()
    image_size: tuple[int, int] = (1, 1)
    ratio: float = 0.0
    reasons: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    num_references: int = 0
    category: str = "object"
    description: str | None = None

    @property
    def condition(self) -> str:
        """What made the picture hard to compare: a kind of `reasons`, else `"fine"`."""
        conditions = {"rotated" if kind == "aligned" else kind for kind in self.reasons}
        return next((kind for kind in _CONDITIONS if kind in conditions), "fine")

    @property
    def clear(self) -> bool:
        """Whether the verdict lies far from the limit; compared with itself a good picture tells nothing."""
        if "is_reference" in self.reasons:
            return False
        return self.ratio >= _CLEAR if self.verdict == "anomalous" else self.ratio <= 1 / _CLEAR

    @property
    def named(self) -> bool:
        """Whether the part has a name."""
        return category_name(self.category) != category_name("")

    @property
    def kind_known(self) -> bool:
        """Whether it can be told what kind of defect a place looks like."""
        return any(region.kind is not None for region in self.regions)

    @property
    def scaled(self) -> bool:
        """Whether sizes in millimetres are known."""
        return bool(self.regions) and self.regions[0].width_mm is not None


def facts_in_words(facts: MeasuredFacts, language: str) -> str:
    """The facts as the short text that a language model is given before a question.

    Numbers that an answer only repeats are left out: an answer names their fields (`@size`), see [`fill_in`].

    Example:
    ```python
    >>> facts_in_words(MeasuredFacts("normal", ratio=0.4), "en")
    'Measured: normal, clear; no place; scale unknown; kind unknown; picture fine; no name; not described.'

    ```
    """
    check_language(language)
    words = _FACTS[language]
    parts = [words["unknown"]]
    if facts.verdict != "unknown":
        count = len(facts.regions)
        parts = [words["verdict"][facts.verdict]]
        if facts.verdict != "uncertain":
            parts[0] += words["comma"] + words["clear"][facts.clear]
        places = words["comma"].join(_cells(facts.regions, language))
        parts.append(words["places"][min(count, 2)].format(count=number_in_words(count, language), places=places))
        parts += [words["scale"][facts.scaled], words["kind"][facts.kind_known], words["picture"][facts.condition]]
    parts += [words["name"][facts.named], words["description"][facts.description is not None]]
    return words["measured"].format(words["gap"].join(parts))


def fill_in(answer: str, facts: MeasuredFacts, language: str) -> str:
    """An answer with its fields filled in: `@places`, `@count`, `@size` and the like.

    What is not known says so (`@millimetres` without a scale). A language model chooses the words and never copies a
    number, so none can be miscopied. In Chinese a number stands apart from the character before it.

    Example:
    ```python
    >>> fill_in("It differs @ratio as much.", MeasuredFacts("anomalous", ratio=2.12), "en")
    'It differs 2.1 times as much.'
    >>> fill_in("差异是允许范围的@ratio。", MeasuredFacts("anomalous", ratio=2.12), "zh")
    '差异是允许范围的 2.1 倍。'

    ```
    """

    def filled(found: re.Match) -> str:
        words, before = field_in_words(found[1], facts, language), answer[: found.start()][-1:]
        return f" {words}" if words[:1].isdigit() and "\u4e00" <= before <= "\u9fff" else words

    return _FIELD.sub(filled, answer)


def field_in_words(name: str, facts: MeasuredFacts, language: str) -> str:
    """What a field of an answer stands for; says so where that is not known; empty where there is no such thing.

    Args:
        name (`str`): One of `FIELDS`.
        facts ([`MeasuredFacts`]): Of the picture.
        language (`str`): `"en"` or `"zh"`.
    """
    words, regions = _WORDS[language], facts.regions
    known = {"millimetres": facts.scaled, "description": facts.description, "kind": facts.kind_known}
    if not known.get(name, True):
        return words["unknown"][name]
    if name == "places":
        return _joined(_cells(regions, language), language)
    if name == "count":
        return number_in_words(len(regions), language)
    if name == "ratio":
        return words["ratio"].format(_ratio(facts.ratio, words["less"]))
    if name == "references":
        one, several = words["references"]
        return one if facts.num_references == 1 else several.format(facts.num_references)
    if name == "reason":
        hinders = facts.condition in facts.reasons and facts.condition != "exposure_matched"
        kind = facts.condition if hinders else "close"
        return reason_in_words(kind, language, **facts.reasons.get(kind, {}))
    if name == "name":
        return _ARTICLE.sub("", category_name(facts.category, language))
    if name == "description":
        return facts.description
    if name == "again":  # with an answer before it, that one is given, see `Dialogue`
        return words["unknown"]["again"]
    if name in _PLACES:
        place, found = _PLACES[name], "none"
        if any(lies_at(region, place) for region in regions):
            found = "all"
        elif any(reaches(region, place, facts.image_size) for region in regions):
            found = "part"
        elif facts.verdict in ("uncertain", "unknown"):
            found = "undecided"  # nobody has said that nothing is there
        return words["found"][found].format(place=_place_asked_about(*place, language))
    if name in FIELDS and not regions:
        return words["unknown"]["region"]
    return _region_field(name, facts, language)


def lies_at(region: Region, place: tuple[int | None, int | None]) -> bool:
    """Whether a region lies at a place; a side means all of its cells.

    Args:
        region ([`Region`]): Its cell counts.
        place (`tuple`): Row and column, `None` for any.
    """
    row, column = place
    return row in (None, region.row) and column in (None, region.column)


def reaches(region: Region, place: tuple[int | None, int | None], image_size: tuple[int, int]) -> bool:
    """Whether a noticeable part of a region lies at a place: a tenth of the region, or of the place.

    Args:
        region ([`Region`]): Its outline counts, or its box where it has none.
        place (`tuple`): Row and column, `None` for any.
        image_size (`tuple[int, int]`): Height and width in pixels.
    """
    side, (height, width), (x0, y0, x1, y1) = 240, image_size, region.box
    outline = region.outline or ((x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1))
    points = [((x + 0.5) / width * side - 0.5, (y + 0.5) / height * side - 0.5) for x, y in outline]
    picture = Image.new("L", (side, side))
    (ImageDraw.Draw(picture).polygon if len(points) > 1 else ImageDraw.Draw(picture).point)(points, fill=1)
    covered, third = np.asarray(picture), side // 3
    rows, columns = (slice(None) if one is None else slice(one * third, (one + 1) * third) for one in place)
    there = covered[rows, columns]
    return bool(there.mean() >= _NOTICEABLE or there.sum() >= _NOTICEABLE * max(1, covered.sum()))


def place_field(place: tuple[int | None, int | None]) -> str:
    """The field that says whether something was found at a place.

    Example:
    ```python
    >>> place_field((0, 2)), place_field((None, 0))
    ('topright', 'left')

    ```
    """
    return next(name for name, known in _PLACES.items() if known == place)


def _place_asked_about(row: int | None, column: int | None, language: str) -> str:
    side = row is None or column is None
    place = position_name(1 if row is None else row, 1 if column is None else column, language)
    return _WORDS[language]["side" if side else "cell"].format(place=place)


def _region_field(name: str, facts: MeasuredFacts, language: str) -> str:
    words, regions = _WORDS[language], facts.regions
    if name == "size":
        return _size(regions[0], language)
    if name == "sizes":
        return _listed([_size(region, language) for region in regions], regions, language)
    if name == "millimetres":
        return _listed([_millimetres(region, language) for region in regions], regions, language)
    if name == "share":
        percent = 100 * sum(region.area_pixels for region in regions) / (facts.image_size[0] * facts.image_size[1])
        return words["less"].format("0.1 %") if percent < 0.1 else f"{plain_number(percent)} %"
    if name == "worst":
        return position_words(regions[0], language)
    if name == "largest":
        return position_words(max(regions, key=lambda region: region.area_pixels), language)
    if name == "others":
        return words["comma"].join(position_words(region, language) for region in regions[1:])
    if name == "kind":
        known = [region for region in regions if region.kind is not None]
        said = [_KINDS[language][region.kind] for region in known]
        return said[0] if len(regions) == 1 and said else _joined(_placed(said, known, language, "kind_at"), language)
    if name == "shape":
        short, long = _sides(regions[0])
        return words["shape"][long >= _LONG * short]
    return ""


def number_in_words(count: int, language: str) -> str:
    """A whole number in words up to nine, in digits beyond."""
    return _NUMBERS[language][count - 1] if 1 <= count <= 9 else str(count)


def _cells(regions: Sequence[Region], language: str) -> list[str]:
    return list(dict.fromkeys(position_words(region, language) for region in regions))


def _joined(words: Sequence[str], language: str) -> str:
    table = _WORDS[language]
    return table["comma"].join(words[:-1]) + (table["and"] if words[1:] else "") + "".join(words[-1:])


def _listed(values: Sequence[str], regions: Sequence[Region], language: str) -> str:
    """The values, each with its place where there are several."""
    return values[0] if len(values) == 1 else _WORDS[language]["comma"].join(_placed(values, regions, language))


def _placed(values: Sequence[str], regions: Sequence[Region], language: str, form: str = "at") -> list[str]:
    form = _WORDS[language][form]
    return [
        form.format(value=value, place=position_words(region, language))
        for value, region in zip(values, regions, strict=True)
    ]


def _size(region: Region, language: str) -> str:
    words = _WORDS[language]
    size = words["size"].format(width=region.width, height=region.height)
    if region.width_mm is None:
        return size
    return words["size_mm"].format(size=size, millimetres=_millimetres(region, language))


def _millimetres(region: Region, language: str) -> str:
    return _WORDS[language]["millimetres"].format(
        width=plain_number(region.width_mm, 3), height=plain_number(region.height_mm, 3)
    )


def plain_number(value: float, digits: int = 2) -> str:
    """A number with so many digits that count, never with an exponent: whole where it is too large for them.

    Example:
    ```python
    >>> [plain_number(value) for value in (0.00003, 0.456, 7, 1234.5)]
    ['0.00003', '0.46', '7', '1234']

    ```
    """
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e+" in text else f"{Decimal(text):f}"


def _ratio(value: float, less: str) -> str:
    """A ratio in two digits; near the limit in decimals that tell on which side it lies."""
    if value < 0.01:
        return less.format("0.01")
    return f"{value:.3g}" if 0.95 <= value < 1.05 else plain_number(value)


def _sides(region: Region) -> list[float]:
    """The short and the long side of a region: of the narrowest box around its outline, else of its upright box."""
    if cv2 is None or not region.outline:
        return sorted((region.width, region.height))
    sides = cv2.minAreaRect(np.array(region.outline, np.float32))[1]
    return sorted(side + 1 for side in sides)  # an outline runs through the middles of pixels


__all__ = [
    "FIELDS",
    "MeasuredFacts",
    "facts_in_words",
    "fill_in",
    "lies_at",
    "number_in_words",
    "place_field",
    "plain_number",
    "reaches",
    "reason_in_words",
]
