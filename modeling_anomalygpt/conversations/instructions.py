"""From facts about a picture to conversations about it, in English and Chinese.

Knows in which order topics make sense; knows no image, no tokenizer and no model.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..prompts import category_name, opening_question, position_name
from ..regions import Region
from .facts import CLEANABLE, GRAVE, Facts, absent_kinds, kind_words
from .phrases import load_phrases

_CANONICAL_SHARE = 0.5
Topic = Callable[["Speaker"], tuple[str, str] | None]


class Speaker:
    """Picks phrases and fills them in; without a generator always the canonical ones."""

    def __init__(self, facts: Facts, language: str, rng: np.random.Generator | None) -> None:
        self.facts, self.language, self.rng = facts, language, rng
        self.phrases = load_phrases(language)
        self.name = category_name(facts.category, language)
        self.count = len(facts.regions)

    def description(self) -> str | None:
        """The description in this language, if there is one."""
        description = self.facts.description
        if isinstance(description, Mapping):
            return description.get(self.language)
        if description is None:
            return None
        chinese = any("\u4e00" <= letter <= "\u9fff" for letter in description)
        return description if chinese == (self.language == "zh") else None

    def pick(self, options: Sequence[Any]) -> Any:
        """One of the options, each as likely."""
        return options[0] if self.rng is None else options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        """True with this probability; never without a generator."""
        return self.rng is not None and self.rng.random() < probability

    def say(self, table: Mapping[str, Sequence[str]], key: str, **fields: object) -> str:
        """A phrase of this key, filled in."""
        options = table[key]
        phrase = self.pick(options) if self.chance(1 - _CANONICAL_SHARE) else options[0]
        return phrase.format(name=self.name, **fields)

    def ask(self, key: str, **fields: object) -> str:
        """A question."""
        return self.say(self.phrases["questions"], key, **fields)

    def answer(self, key: str, **fields: object) -> str:
        """An answer; number, places and object are filled in from the facts."""
        for field, words in (("places", self.places), ("both", self.both), ("count", self.number)):
            fields.setdefault(field, words())
        return self.say(self.phrases["answers"], key, object=self.object(), **fields)

    def number(self, count: int | None = None) -> str:
        """A number in words, by default that of the regions."""
        count = self.count if count is None else count
        numbers = self.phrases["numbers"]
        return numbers[count] if count < len(numbers) else self.phrases["more_than_nine"]

    def place(self, cell: tuple[int, int]) -> str:
        """The name of a cell."""
        return position_name(*cell, self.language)

    def places(self) -> str:
        """The names of all cells with a region."""
        return self.join([self.place(cell) for cell in self.facts.cells], self.phrases["article"])

    def both(self) -> str:
        """`both` or `all` where several regions lie in one cell."""
        if self.count < 2 or len(self.facts.cells) > 1:
            return ""
        return self.phrases["both" if self.count == 2 else "all"]

    def join(self, words: Sequence[str], article: str = "") -> str:
        """The words as a list in a sentence; the article stands before all but the first."""
        words = [word if i == 0 else article + word for i, word in enumerate(words)]
        start = self.phrases["comma"].join(words[:-1])
        return start + (self.phrases["and"] if len(words) > 1 else "") + "".join(words[-1:])

    def object(self) -> str:
        """The object's name with its article."""
        plural = self.name.endswith("s") and not self.name.endswith("ss")
        if self.language == "zh" or plural or self.name in self.phrases["without_article"]:
            return self.name
        return ("an " if self.name[0] in "aeiouAEIOU" else "a ") + self.name

    def kind(self, kind: str) -> dict[str, str]:
        """The words of a kind, as fields of the phrases."""
        return dict(zip(("kind", "kinds", "bare"), kind_words(kind, self.language), strict=True))

    def only_kind(self) -> dict[str, str] | None:
        """The words of the kind where all regions are of one."""
        return self.kind(self.facts.kinds[0]) if len(self.facts.kinds) == 1 else None

    def form(self) -> str:
        """Which form of an answer fits: none, unplaced, one, many."""
        if not self.facts.anomalous:
            return "none"
        return ("unplaced", "one", "many")[min(self.count, 2)]


def _by_form(topic: str, only_placed: bool = True) -> Topic:
    """A topic with an answer for each form; `only_placed` leaves anomalies without a mask out."""

    def question_and_answer(speaker: Speaker) -> tuple[str, str] | None:
        form = speaker.form()
        if only_placed and form == "unplaced":
            return None
        return speaker.ask(topic), speaker.answer(f"{topic}_{form}")

    return question_and_answer


def _presence(speaker: Speaker) -> tuple[str, str]:
    form, kind = speaker.form(), speaker.only_kind() or {}
    key = f"presence_{form}"
    if form in ("one", "many"):
        if speaker.chance(0.15):
            key = "presence_unplaced" + ("_many" if form == "many" else "")
        elif kind and speaker.chance(0.3):
            key += "_kind"
    return speaker.ask("presence"), speaker.answer(key, **kind)


def _where(speaker: Speaker, question: str = "where") -> tuple[str, str] | None:
    form, cells = speaker.form(), Counter((region.row, region.column) for region in speaker.facts.regions)
    if form == "unplaced":
        return None
    if 9 >= speaker.count > len(cells) > 1 and speaker.chance(0.3):
        parts = [
            speaker.phrases["answers"]["each_part"].format(
                count=speaker.number(cells[cell]), place=speaker.place(cell)
            )
            for cell in sorted(cells)
        ]
        return speaker.ask(question), speaker.answer("where_each", each=speaker.join(parts))
    return speaker.ask(question), speaker.answer(f"where_{form}")


def _kind(speaker: Speaker) -> tuple[str, str] | None:
    form, kinds, only = speaker.form(), speaker.facts.kinds, speaker.only_kind()
    if form == "none":
        return speaker.ask("kind"), speaker.answer("kind_none")
    if only:
        return speaker.ask("kind"), speaker.answer("kind_many" if form == "many" else "kind_one", **only)
    if kinds:
        words = [speaker.kind(kind)["bare"] for kind in kinds]
        return speaker.ask("kind"), speaker.answer("kind_mixed", list=speaker.join(words))
    return None


def _size(speaker: Speaker) -> tuple[str, str] | None:
    form, scale = speaker.form(), speaker.facts.mm_per_pixel
    if form == "unplaced":
        return None
    height, width = speaker.facts.image_size
    key = "size" if scale is None else "size_mm"
    question = speaker.ask(key, width=width, height=height, mm=_two_digits(scale or 1, digits=4))
    if form == "none":
        return question, speaker.answer("size_none")
    region, scale = _largest(speaker.facts), scale or 1
    sizes = {"width": _two_digits(region.width * scale), "height": _two_digits(region.height * scale)}
    return question, speaker.answer(f"{key}_{form}", **sizes)


def _share(speaker: Speaker) -> tuple[str, str] | None:
    form, percent = speaker.form(), 100 * speaker.facts.share
    if form == "unplaced":
        return None
    if form == "none":
        return speaker.ask("share"), speaker.answer("share_none")
    if percent < 1:
        return speaker.ask("share"), speaker.answer("share_tiny")
    rounded = round(percent) if percent < 10 else 5 * round(percent / 5)
    return speaker.ask("share"), speaker.answer("share_some", percent=rounded)


def _object(speaker: Speaker) -> tuple[str, str] | None:
    if speaker.name == category_name("", speaker.language):
        return None
    return speaker.ask("object"), speaker.answer("object")


def _describe(speaker: Speaker) -> tuple[str, str]:
    form, kind = speaker.form(), speaker.only_kind()
    key = "describe_one_kind" if form == "one" and kind and speaker.chance(0.5) else f"describe_{form}"
    return speaker.ask("describe"), speaker.answer(key, **(kind or {}))


def _replace(speaker: Speaker) -> tuple[str, str]:
    return speaker.ask("replace"), speaker.answer(f"replace_{_advice(speaker.facts)}")


def _biggest(speaker: Speaker) -> tuple[str, str] | None:
    ranked = sorted((region.area_pixels for region in speaker.facts.regions), reverse=True)
    if len(ranked) < 2 or ranked[0] < 1.5 * ranked[1] or len(speaker.facts.cells) < 2:
        return None
    largest = _largest(speaker.facts)
    return speaker.ask("largest"), speaker.answer("largest", place=speaker.place((largest.row, largest.column)))


def _other(speaker: Speaker) -> tuple[str, str] | None:
    if speaker.count != 2:
        return None
    smallest = min(speaker.facts.regions, key=lambda region: region.area_pixels)
    return speaker.ask("other"), speaker.answer("other", place=speaker.place((smallest.row, smallest.column)))


def _half(speaker: Speaker) -> tuple[str, str] | None:
    if speaker.count != 1:
        return None
    (x0, y0, x1, y1), (height, width) = speaker.facts.regions[0].box, speaker.facts.image_size
    sides = [(2 * x1 <= width, "left", "right"), (2 * x0 >= width, "right", "left")]
    sides += [(2 * y1 <= height, "upper", "lower"), (2 * y0 >= height, "lower", "upper")]
    sides = [(inside, outside) for true, inside, outside in sides if true]
    if not sides:
        return None
    inside, outside = speaker.pick(sides)
    no = speaker.chance(0.5)
    question = speaker.ask("half", half=speaker.phrases["halves"][outside if no else inside])
    return question, speaker.answer("half_no" if no else "half_yes")


def _place_check(speaker: Speaker) -> tuple[str, str] | None:
    form, (height, width) = speaker.form(), speaker.facts.image_size
    if form == "unplaced":
        return None
    cells = [(row, column) for row in range(3) for column in range(3)]
    if form == "none":
        return speaker.ask("place_check", place=speaker.place(speaker.pick(cells))), speaker.answer("place_none")
    if speaker.chance(0.5):
        place = speaker.place(speaker.pick(speaker.facts.cells))
        return speaker.ask("place_check", place=place), speaker.answer("place_yes")
    for x0, y0, x1, y1 in (region.box for region in speaker.facts.regions):
        rows = range(3 * y0 // height, (3 * y1 - 1) // height + 1)
        columns = range(3 * x0 // width, (3 * x1 - 1) // width + 1)
        cells = [cell for cell in cells if cell[0] not in rows or cell[1] not in columns]
    if not cells:
        return None
    answer = speaker.answer("place_no_many" if form == "many" else "place_no")
    return speaker.ask("place_check", place=speaker.place(speaker.pick(cells))), answer


def _kind_check(speaker: Speaker) -> tuple[str, str] | None:
    form, only = speaker.form(), speaker.only_kind()
    if form == "none":
        kind = speaker.kind(speaker.pick(absent_kinds(())))
        return speaker.ask("kind_check", **kind), speaker.answer("kind_check_none", **kind)
    if only and speaker.chance(0.5):
        key = "kind_check_yes" + {"one": "", "many": "_many"}.get(form, "_unplaced")
        return speaker.ask("kind_check", **only), speaker.answer(key, **only)
    absent = absent_kinds(speaker.facts.kinds)
    if not only or not absent:
        return None
    other = speaker.kind(speaker.pick(absent))
    key = "kind_check_other" + ("_many" if form == "many" else "")
    return speaker.ask("kind_check", **other), speaker.answer(key, **{**only, "bare": other["bare"]})


def _false_kind(speaker: Speaker) -> tuple[str, str] | None:
    form, only, absent = speaker.form(), speaker.only_kind(), absent_kinds(speaker.facts.kinds)
    if not absent or (form != "none" and not only):
        return None
    other = speaker.kind(speaker.pick(absent))
    key = "false_kind_none" if form == "none" else "false_kind_other" + ("_many" if form == "many" else "")
    return speaker.ask("false_kind", **other), speaker.answer(key, **{**(only or {}), "bare": other["bare"]})


def _absent_thing(speaker: Speaker) -> tuple[str, str] | None:
    thing = speaker.pick(speaker.phrases["absent_things"])
    if thing.split()[-1] in speaker.name.casefold():
        return None
    return speaker.ask("absent_thing", thing=thing), speaker.answer("absent_thing")


def _unknowable(speaker: Speaker) -> tuple[str, str]:
    return speaker.ask("unknowable"), speaker.answer("unknowable")


TOPICS: dict[str, Topic] = {
    "presence": _presence, "intact": _by_form("intact", only_placed=False), "count": _by_form("count"),
    "where": _where, "where_if_any": functools.partial(_where, question="where_if_any"),
    "kind": _kind, "size": _size, "share": _share, "object": _object, "describe": _describe,
    "highlight": _by_form("highlight"), "replace": _replace, "sure": _by_form("sure", only_placed=False),
    "largest": _biggest, "other": _other, "half": _half, "place_check": _place_check, "kind_check": _kind_check,
    "false_kind": _false_kind, "absent_thing": _absent_thing, "unknowable": _unknowable,
}  # fmt: skip
"""Each topic makes a question and its answer, or None where it does not fit the facts."""


def _largest(facts: Facts) -> Region:
    return max(facts.regions, key=lambda region: region.area_pixels)


def _advice(facts: Facts) -> str:
    """What to do with the part, from the kinds and the area: none, must, clean, keep, open."""
    if not facts.anomalous:
        return "none"
    if GRAVE.intersection(facts.kinds) or facts.share >= 0.05:
        return "must"
    if facts.kinds and CLEANABLE.issuperset(facts.kinds):
        return "clean"
    return "keep" if facts.kinds and 0 < facts.share < 0.01 else "open"


def _two_digits(value: float, digits: int = 2) -> str:
    """Rounded to that many significant digits, never in exponent form."""
    rounded = float(f"{value:.{digits}g}")
    return np.format_float_positional(rounded, trim="-")


_FIRST = {
    "presence": 74, "where_if_any": 6, "count": 4, "intact": 4, "describe": 4, "highlight": 3, "object": 3,
    "replace": 1, "unknowable": 2,
}  # fmt: skip
_LATER = {
    "presence": 4, "where": 18, "count": 10, "kind": 12, "describe": 4, "highlight": 6, "replace": 7, "size": 8,
    "share": 4, "object": 5, "sure": 3, "largest": 8, "other": 30, "half": 3, "place_check": 14, "kind_check": 6,
    "false_kind": 4, "absent_thing": 3, "unknowable": 9, "intact": 1,
}  # fmt: skip
_MENTIONS_ANOMALIES = {"presence", "count", "where", "where_if_any", "describe", "highlight", "intact"}


def conversation(
    facts: Facts, rng: np.random.Generator, language: str = "en", max_turns: int = 3
) -> list[dict[str, str]]:
    """A conversation about a picture that never says what the facts do not.

    Most begin with the question whether there is an anomaly, often after a sentence that describes the object; the
    answer to it begins with the word for yes or no. `Yes` opens an answer only where there is an anomaly.

    Args:
        facts (`Facts`): What is true.
        rng (`np.random.Generator`): Decides on length, topics and wording; nothing else does.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.
        max_turns (`int`, *optional*, defaults to 3): At most so many questions, each with its answer.

    Returns:
        `list[dict[str, str]]`: Messages `{"role": "user" | "assistant", "content": text}`, alternating.

    Raises:
        ValueError: If the language has no words here, or `max_turns` is below 1.

    Example:
    ```python
    >>> messages = conversation(Facts("bottle", (224, 224)), np.random.default_rng(0), max_turns=1)
    >>> [message["role"] for message in messages]
    ['user', 'assistant']

    ```
    """
    if max_turns < 1:
        raise ValueError(f"`max_turns` must be at least 1, got {max_turns}. A turn is a question and its answer.")
    speaker = Speaker(facts, language, rng)
    number = int(rng.integers(1, max_turns + 1))
    asked: list[str] = []
    messages: list[dict[str, str]] = []
    refused: set[str] = set()
    while len(asked) < number:
        weights = _LATER if asked else _FIRST
        topics = [topic for topic in weights if topic not in asked and topic not in refused and _fits(topic, asked)]
        if not topics:
            break
        chances = np.array([weights[topic] for topic in topics])
        topic = topics[int(rng.choice(len(topics), p=chances / chances.sum()))]
        exchange = TOPICS[topic](speaker)
        if exchange is None:
            refused.add(topic)
            continue
        refused.clear()
        question, answer = exchange
        if not asked and topic != "object" and rng.random() < 0.65:
            question = opening_question(facts.category, language, speaker.description(), question)
        asked.append(topic)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def fixed_turn(facts: Facts, topic: str = "presence", language: str = "en") -> tuple[str, str] | None:
    """The canonical question and answer of a topic, as used to measure a model.

    Returns:
        `tuple[str, str]`, *optional*: The question and its answer; None where the topic does not fit the facts.

    Raises:
        ValueError: If there is no such topic.

    Example:
    ```python
    >>> fixed_turn(Facts("bottle", (224, 224)))
    ('Is there any anomaly in the image?', 'No, there is no anomaly in the image.')

    ```
    """
    if topic not in TOPICS:
        raise ValueError(f"`topic` must be one of {', '.join(TOPICS)}, got {topic!r}. Choose one of them.")
    return TOPICS[topic](Speaker(facts, language, None))


def _fits(topic: str, asked: Sequence[str]) -> bool:
    """Whether the earlier questions allow the topic: some only make sense after others."""
    if topic == "other":
        return asked[-1:] == ["largest"]
    if topic in ("sure", "half", "largest"):
        return bool(_MENTIONS_ANOMALIES.intersection(asked))
    return not (topic == "where" and "where_if_any" in asked)
