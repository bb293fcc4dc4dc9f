"""From facts about a picture to conversations about it, in English and Chinese.

Knows in which order topics make sense; knows no image, no tokenizer and no model.
"""

from collections.abc import Sequence

import numpy as np

from .facts import Facts
from .instruction_topics import TOPICS, Speaker
from .prompts import opening_question

__all__ = ["TOPIC_NAMES", "Facts", "conversation", "fixed_answer", "fixed_turn"]

TOPIC_NAMES = tuple(TOPICS)
"""What a turn can be about."""

_FIRST = {
    "presence": 74, "where_if_any": 6, "count": 4, "intact": 4, "describe": 4, "highlight": 3, "object": 3,
    "replace": 1, "unknowable": 2,
}  # fmt: skip
_LATER = {
    "presence": 4, "where": 18, "count": 10, "kind": 12, "describe": 4, "highlight": 6, "replace": 7, "size": 8,
    "share": 4, "object": 5, "sure": 3, "largest": 8, "other": 30, "half": 3, "place_check": 14, "kind_check": 6,
    "false_kind": 4, "absent_thing": 3, "unknowable": 9, "intact": 1,
}  # fmt: skip
_TELLS_OF_THEM = {"presence", "count", "where", "where_if_any", "describe", "highlight", "intact"}


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
    turns = int(rng.integers(1, max_turns + 1))
    asked: list[str] = []
    messages: list[dict[str, str]] = []
    refused: set[str] = set()
    while len(asked) < turns:
        weights = _LATER if asked else _FIRST
        topics = [topic for topic in weights if topic not in asked and topic not in refused and _fits(topic, asked)]
        if not topics:
            break
        chances = np.array([weights[topic] for topic in topics])
        topic = topics[int(rng.choice(len(topics), p=chances / chances.sum()))]
        turn = TOPICS[topic](speaker)
        if turn is None:
            refused.add(topic)
            continue
        refused.clear()
        question, answer = turn
        if not asked and topic != "object" and rng.random() < 0.65:
            question = opening_question(facts.category, language, speaker.description(), question)
        asked.append(topic)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def fixed_turn(facts: Facts, topic: str = "presence", language: str = "en") -> tuple[str, str] | None:
    """The canonical question and answer of a topic, as used to measure a model.

    Args:
        facts (`Facts`): What is true.
        topic (`str`, *optional*, defaults to `"presence"`): One of `TOPIC_NAMES`.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

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
        raise ValueError(f"`topic` must be one of {', '.join(TOPIC_NAMES)}, got {topic!r}. Choose one of them.")
    return TOPICS[topic](Speaker(facts, language, None))


def fixed_answer(facts: Facts, language: str = "en") -> str:
    """The canonical answer to the main question.

    Args:
        facts (`Facts`): What is true.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.

    Returns:
        `str`: Such as `"Yes, there is an anomaly in the image, at the top right."`.
    """
    return TOPICS["presence"](Speaker(facts, language, None))[1]


def _fits(topic: str, asked: Sequence[str]) -> bool:
    """Whether the earlier turns allow the topic: some only make sense after others."""
    if topic == "other":
        return asked[-1:] == ["largest"]
    if topic in ("sure", "half", "largest"):
        return bool(_TELLS_OF_THEM.intersection(asked))
    return not (topic == "where" and "where_if_any" in asked)
