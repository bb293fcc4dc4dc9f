"""Questions about measured facts and the answers that agree with them, in English and Chinese.

Training data of `answering="grounded"`: `questions_*.json` holds questions by topic, in the words of many people, and
`answers_*.json` what is said, by topic and case. Knows no picture, no tokenizer and no model.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..prompts import category_name
from ..regions import DEFECT_KINDS, Region
from ..wording import MeasuredFacts, fill_in, number_in_words, place_field
from .phrases import load_phrases, read_words

HELD_BACK_EVERY = 10
"""Every tenth question of a topic is left out of the training, to measure with."""

_ROWS = {
    "en": (("top", "upper"), ("",), ("bottom", "lower")),
    "zh": (("上",), ("",), ("下",)),
}
_SIDES = {
    "en": {
        (0, None): ("top", "top edge", "upper edge"), (2, None): ("bottom", "bottom edge", "lower edge"),
        (None, 0): ("left", "left side", "left edge"), (None, 2): ("right", "right side", "right edge"),
        (1, 1): ("center", "centre", "middle"),
    },
    "zh": {
        (0, None): ("上方", "上部", "顶部", "上边"), (2, None): ("下方", "下部", "底部", "下边"),
        (None, 0): ("左侧", "左边", "左方"), (None, 2): ("右侧", "右边", "右方"),
        (1, 1): ("中央", "中间", "中心", "正中"),
    },
}  # fmt: skip
_CORNERS = {
    "en": ("{row} {column}", "{row} {column} corner"),
    "zh": ("{column}{row}角", "{column}{row}方", "{column}{row}"),
}
_COLUMNS = {"en": ("left", "", "right"), "zh": ("左", "", "右")}
_THINGS = {
    "en": (
        "dog", "cat", "person", "car", "tree", "hand", "cup", "flower", "logo", "second screw", "cable", "barcode",
        "serial number", "box", "sticker", "battery", "wheel", "handle", "lid", "display", "spring", "magnet",
        "manual", "packaging", "other bolt", "machine", "conveyor", "ruler", "glove", "tool",
    ),
    "zh": (
        "狗", "猫", "人", "汽车", "树", "手", "杯子", "花", "商标", "第二颗螺丝", "电缆", "条形码", "序列号",
        "盒子", "贴纸", "电池", "轮子", "把手", "盖子", "显示屏", "弹簧", "磁铁", "说明书", "包装", "另一颗螺栓",
        "机器", "传送带", "尺子", "手套", "工具",
    ),
}  # fmt: skip
_BY_CONDITION = ("quality", "retake", "same_part", "rotated")


@dataclass(frozen=True)
class Question:
    """A question of a topic, and what it asks about.

    Args:
        text (`str`): As a user types it.
        topic (`str`): Key of `questions_*.json`.
        place (`tuple[int | None, int | None]`, *optional*): Row and column of the 3 x 3 grid it asks about, `None` for
            a whole side.
        number (`int`, *optional*): The number it asks about.
        before ([`Question`], *optional*): The one before it in the conversation; only `"again"` leans on it.
    """

    text: str
    topic: str
    place: tuple[int | None, int | None] | None = None
    number: int | None = None
    before: "Question | None" = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """What the user said, as messages."""
        texts = [self.text] if self.before is None else [self.before.text, self.text]
        return [{"role": "user", "content": text} for text in texts]


@functools.cache
def load_answers(language: str) -> dict[str, dict[str, str]]:
    """Answers by topic and case, with fields as in [`fill_in`]; shared, so do not write into them."""
    return read_words(f"answers_{language}.json")


@functools.cache
def load_questions(language: str, held_back: bool = False) -> dict[str, tuple[str, ...]]:
    """Questions by topic: those of the training, or those that are held back from it."""
    return {
        topic: tuple(text for index, text in enumerate(texts) if (index % HELD_BACK_EVERY == 9) == held_back)
        for topic, texts in read_words(f"questions_{language}.json").items()
    }


def named_place(name: str) -> tuple[int | None, int | None]:
    """Row and column of an English name; a side stands for all of its cells.

    Example:
    ```python
    >>> named_place("top left"), named_place("top"), named_place("center")
    ((0, 0), (0, None), (1, 1))

    ```
    """
    rows, columns = {"top": 0, "bottom": 2}, {"left": 0, "right": 2}
    found = [table.get(next((word for word in name.split() if word in table), "")) for table in (rows, columns)]
    return (1, 1) if found == [None, None] else (found[0], found[1])


def case_of(question: Question, facts: MeasuredFacts) -> str:
    """Which of a topic's answers is true: a key of `answers_*.json`.

    Example:
    ```python
    >>> case_of(Question("Where is it?", "where"), MeasuredFacts("normal"))
    'normal'

    ```
    """
    cases, topic = load_answers("en")[question.topic], question.topic
    found = facts.verdict
    if topic == "again":
        return "*" if question.before is None else "before"
    if topic == "object":
        return "named" if facts.named else "unnamed"
    if topic == "description":
        return "unknown" if facts.description is None else "known"
    if topic == "references":
        return "unknown" if found == "unknown" else "some"
    if topic in _BY_CONDITION:
        found = "unknown" if found == "unknown" else facts.condition
        return found if found in cases else "fine"
    if found == "anomalous":
        found = "one" if len(facts.regions) == 1 else "many"
        if topic in ("kind", "kind_check") and facts.kind_known:
            found += "_known"
        elif topic == "millimetres":
            found = "scaled" if facts.scaled else "unscaled"
        elif topic == "sure":
            found = "bad_clear" if facts.clear else "bad_close"
        elif topic in ("place_check", "number_check"):
            found = "found"
    elif found == "normal" and topic == "sure":
        found = "normal_clear" if facts.clear else "normal_close"
    return found if found in cases else "*"


def marked_answer(question: Question, facts: MeasuredFacts, language: str) -> str:
    """The true answer, its fields still to be filled in: `@again` where the one before is asked for again."""
    answer = load_answers(language)[question.topic][case_of(question, facts)]
    return answer if question.place is None else answer.replace("@at", f"@{place_field(question.place)}")


def grounded_answer(question: Question, facts: MeasuredFacts, language: str) -> str:
    """The true answer in full.

    Example:
    ```python
    >>> grounded_answer(Question("Any defect?", "presence"), MeasuredFacts("normal"), "zh")
    '否，图像中没有异常。'

    ```
    """
    if question.topic == "again" and question.before is not None:
        return grounded_answer(question.before, facts, language)
    return fill_in(marked_answer(question, facts, language), facts, language)


def draw_question(
    rng: np.random.Generator,
    topic: str,
    facts: MeasuredFacts,
    language: str,
    held_back: bool = False,
    questions: Mapping[str, Sequence[str]] | None = None,
) -> Question:
    """A question of a topic, its slots filled in; half of the places and numbers asked about are the true ones.

    Args:
        rng (`np.random.Generator`): Decides on the words.
        topic (`str`): Key of `questions_*.json`.
        facts ([`MeasuredFacts`]): Of the picture.
        language (`str`): `"en"` or `"zh"`.
        held_back (`bool`, defaults to `False`): Whether it is one that no training has.
        questions (`Mapping[str, Sequence[str]]`, *optional*): Others to take it from, by topic.
    """
    text = _pick(rng, (questions or load_questions(language, held_back))[topic])
    place = number = None
    fields: dict[str, str] = {}
    if "{place}" in text:
        place, fields["place"] = _draw_place(rng, facts, language)
    if "{number}" in text:
        number = len(facts.regions) if facts.regions and rng.random() < 0.5 else int(rng.integers(1, 6))
        fields["number"] = str(number) if rng.random() < 0.3 else number_in_words(number, language)
    if "{kind}" in text:
        fields["kind"] = _pick(rng, _kind_names(language))
    if "{thing}" in text:
        fields["thing"] = _pick(rng, _THINGS[language])
    before = None
    if topic == "again" and rng.random() < 0.9:
        earlier = _pick(rng, [other for other in load_questions(language) if other != "again"])
        before = draw_question(rng, earlier, facts, language, held_back)
    return Question(text.format(**fields) if fields else text, topic, place, number, before)


@functools.cache
def _kind_names(language: str) -> tuple[str, ...]:
    return tuple(words[2] for words in load_phrases(language)["kinds"].values())


def _draw_place(rng: np.random.Generator, facts: MeasuredFacts, language: str) -> tuple[tuple, str]:
    row, column = (int(value) for value in rng.integers(0, 3, 2))
    if facts.regions and rng.random() < 0.5:
        region = facts.regions[int(rng.integers(len(facts.regions)))]
        row, column = region.row, region.column
    if row != 1 and column != 1 and rng.random() < 0.7:
        form = _pick(rng, _CORNERS[language])
        return (row, column), form.format(row=_pick(rng, _ROWS[language][row]), column=_COLUMNS[language][column])
    if (row, column) == (1, 1):
        side = (1, 1)
    elif row != 1 and (column == 1 or rng.random() < 0.5):
        side = (row, None)
    else:
        side = (None, column)
    return side, _pick(rng, _SIDES[language][side])


def _pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


_VERDICTS = {"normal": 0.33, "anomalous": 0.48, "uncertain": 0.14, "unknown": 0.05}


def draw_facts(
    rng: np.random.Generator, regions: tuple[Region, ...], image_size: tuple[int, int], category: str
) -> MeasuredFacts:
    """Facts of a picture that nobody took.

    Args:
        rng (`np.random.Generator`): Decides on what is not given.
        regions (`tuple[Region, ...]`): Places that differ; none: the verdict is `"normal"` or `"unknown"`.
        image_size (`tuple[int, int]`): Height and width in pixels.
        category (`str`): Name of the part.
    """
    verdict = str(rng.choice(list(_VERDICTS), p=list(_VERDICTS.values())))
    if regions and verdict in ("normal", "unknown"):
        verdict = "anomalous" if rng.random() < 0.8 else "uncertain"
    elif not regions and verdict in ("anomalous", "uncertain"):
        verdict = "normal"
    ratio = {"normal": rng.uniform(0.2, 0.95), "anomalous": 1.05 + rng.gamma(1.2, 0.8)}.get(
        verdict, rng.uniform(0.7, 1.4)
    )
    reasons: dict[str, dict[str, float]] = {}
    if verdict == "uncertain" and rng.random() < 0.7:
        kind = str(rng.choice(("unlike", "rotated", "exposure", "blur")))
        reasons[kind] = {"degrees": int(rng.choice((90, 180, 270)))} if kind == "rotated" else {}
    if not reasons and verdict in ("normal", "anomalous"):
        kind = rng.random()
        if kind < 0.06:
            reasons["aligned"] = {"degrees": int(rng.integers(3, 358)), "compared": 1.0}
        elif kind < 0.12:
            reasons["exposure_matched"] = {}
    scale = float(rng.choice((0.02, 0.05, 0.1, 0.125, 0.25, 0.5))) if rng.random() < 0.4 else None
    if scale is not None:
        regions = tuple(
            replace(one, width_mm=one.width * scale, height_mm=one.height * scale, area_mm2=one.area_pixels * scale**2)
            for one in regions
        )
    if rng.random() < 0.4:
        regions = tuple(
            replace(one, kind=str(rng.choice(DEFECT_KINDS)) if rng.random() < 0.7 else None) for one in regions
        )
    name = category if rng.random() < 0.7 else "object"
    described = f"This is the {category_name(category)}." if rng.random() < 0.5 else None
    count = 0 if verdict == "unknown" else int(rng.choice((1, 2, 4, 8, 16)))
    return MeasuredFacts(verdict, regions, image_size, ratio, reasons, count, name, described)
