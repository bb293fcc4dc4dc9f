"""Questions as people type them: in a hurry, with a typing error, with a word less, of a "unit", not of a part.

A small model that always reads a question in the same words learns the sentence, not what its words mean.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

_PARTS = {
    "en": ("part", "piece", "component", "item", "product", "unit", "sample", "workpiece", "object", "specimen"),
    "zh": ("零件", "产品", "工件", "物件", "部件", "样品", "东西"),
}
_BEFORE = {
    "en": ("please ", "hi, ", "ok, ", "okay, ", "and ", "so ", "hey, ", "sorry, ", "well, ", "then ", "excuse me, "),
    "zh": ("请问", "那么", "你好，", "好的，", "那", "请", "麻烦问一下，"),
}
_PATTERNS = {"en": re.compile(rf"\b({'|'.join(_PARTS['en'])})\b"), "zh": re.compile("|".join(_PARTS["zh"]))}
_WORD = re.compile("[a-z]{4,}")
_LEFT_OUT = {"en": 0.1, "zh": 0.05}  # part of the words, part of the characters
_EXCHANGED = 0.06


def alike(words: Sequence[str], vectors: np.ndarray, count: int = 3, least: float = 0.5) -> dict[str, tuple[str, ...]]:
    """For each word those of nearly the same sense (or form), by the cosine of their vectors.

    Args:
        words (`Sequence[str]`): One for each vector.
        vectors (`np.ndarray` of shape `(words, width)`): Their vectors.
        count (`int`, *optional*, defaults to 3): At most so many for each.
        least (`float`, *optional*, defaults to 0.5): Least cosine.

    Example:
    ```python
    >>> alike(["big", "large", "where"], np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]), least=0.9)
    {'big': ('large',), 'large': ('big',), 'where': ()}

    ```
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    best = np.argpartition(-cosines, min(count, len(words) - 1), axis=1)[:, :count]
    return {
        word: tuple(
            words[other] for other in row[np.argsort(-cosines[number, row])] if cosines[number, other] >= least
        )
        for number, (word, row) in enumerate(zip(words, best, strict=True))
    }


def roughened(
    question: str,
    rng: np.random.Generator,
    language: str,
    others: Mapping[str, Sequence[str]],
    whole: bool = False,
) -> str:
    """The same question, often in slightly other words or letters.

    Args:
        question (`str`): As it was written.
        rng (`np.random.Generator`): Decides what changes.
        language (`str`): `"en"` or `"zh"`.
        others (`Mapping[str, Sequence[str]]`): Words alike, see [`alike`].
        whole (`bool`, *optional*, defaults to `False`): Whether no word may be left out or exchanged: its places and
            numbers decide what is true.
    """
    chance = rng.random(7)
    if chance[0] < 0.4:
        question = _PATTERNS[language].sub(lambda _: _one(rng, _PARTS[language]), question)
    if not whole and chance[6] < 0.7:
        question = _with_fewer_words(question, rng, language, others)
    if chance[1] < 0.15:
        before = _one(rng, _BEFORE[language])
        question = before + (question if question.startswith("I ") else question[:1].lower() + question[1:])
    if chance[2] < 0.3:
        question = question.lower()
    if chance[3] < 0.3:
        question = question.rstrip("?.!？。！")
    if chance[4] < 0.08 and len(question) > 8:
        place = int(rng.integers(1, len(question) - 2))
        letters = question[place : place + 2]
        if language == "en" and letters.isalpha():
            question = question[:place] + (letters[::-1] if chance[5] < 0.5 else letters[0]) + question[place + 2 :]
    return question


def _with_fewer_words(
    question: str, rng: np.random.Generator, language: str, others: Mapping[str, Sequence[str]]
) -> str:
    gap = " " if language == "en" else ""
    words = question.split(" ") if language == "en" else list(question)
    kept = [word for word in words if rng.random() >= _LEFT_OUT[language]]
    if len(kept) < 0.6 * len(words):
        return question

    def exchanged(found: re.Match) -> str:
        near = others.get(found[0], ())
        return _one(rng, near) if near and rng.random() < _EXCHANGED else found[0]

    return gap.join(_WORD.sub(exchanged, word) if language == "en" else word for word in kept)


def _one(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
