"""The words of the conversations, read from one data file a language: `phrases_en.json`, `phrases_zh.json`.

Rules that keep the texts true: the first phrase of each list is the canonical one; a place, a count or a kind stands
only where its field is filled from the facts; the word for yes opens an answer only where there is an anomaly. Both
languages have the same keys and fields.
"""

import functools
import json
import pathlib
from typing import Any

from ..prompts import check_language


@functools.cache
def load_phrases(language: str) -> dict[str, Any]:
    """The phrases of a language; shared, so do not write into them.

    Returns:
        `dict[str, Any]`: `questions` and `answers` by topic; `kinds` of defects (one with its article, several, the
            bare word) and `unknown_kind`; `numbers` to nine and `more_than_nine`; `halves`, `both`, `all`, `comma`,
            `and`, `article`, `without_article`, `absent_things`.

    Raises:
        ValueError: If the language has no words here.
    """
    check_language(language)
    return read_words(f"phrases_{language}.json")


def read_words(name: str) -> dict[str, Any]:
    """What is in a JSON file beside this one."""
    return json.loads(pathlib.Path(__file__).with_name(name).read_text(encoding="utf-8"))
