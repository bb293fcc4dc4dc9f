"""Questions between questions: parts of two put together, and what a plain classifier of words says they ask.

    python -m recipes.tiny.mixed_questions    # how many held-back questions the classifier understands

A small language model learns its training questions by heart before it has learnt what in them decides. A linear
classifier of words and letters makes fewer mistakes with new questions. What it knows beyond the labels shows only
with questions it did not learn from; so it labels mixed ones, as many as are wanted (as a large teacher does in Tang
et al., "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", https://arxiv.org/abs/1903.12136).
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC

from modeling_anomalygpt.conversations.grounded import load_questions

# What these are answered with needs the slot.
_SLOTS = {"place_check": "{place}", "number_check": "{number}"}
_WORDS = {"en": re.compile(r"\S+"), "zh": re.compile(r"\{\w+\}|[a-zA-Z0-9]+|\S")}
_GAP = {"en": " ", "zh": ""}


def topic_classifier(questions: Mapping[str, Sequence[str]], language: str) -> Pipeline:
    """A linear classifier of topics from the words and letters of a question.

    Args:
        questions (`Mapping[str, Sequence[str]]`): By topic.
        language (`str`): `"en"` or `"zh"`.

    Example:
    ```python
    >>> questions = {"where": ["Where is it?", "In which place is it?"], "size": ["How big is it?", "How large?"]}
    >>> topic_classifier(questions, "en").predict(["Where?", "How big?"]).tolist()
    ['where', 'size']

    ```
    """
    if language == "en":
        words = [
            TfidfVectorizer(ngram_range=(1, 3), token_pattern=r"\S+", sublinear_tf=True),
            TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|\?|!", sublinear_tf=True),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
        ]
    else:
        words = [TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)]
    texts = [text for several in questions.values() for text in several]
    topics = [topic for topic, several in questions.items() for _ in several]
    return make_pipeline(make_union(*words), LinearSVC(random_state=0)).fit(texts, topics)


def mixed(rng: np.random.Generator, first: str, second: str, language: str) -> str:
    """Some words in a row of one question; half the time some of another before or after them.

    Example:
    ```python
    >>> mixed(np.random.default_rng(5), "Where is the worst place?", "How big is it?", "en")
    'Where is the worst'

    ```
    """
    parts = [_some(rng, _WORDS[language].findall(first))]
    if rng.random() < 0.5:
        parts.insert(int(rng.integers(2)), _some(rng, _WORDS[language].findall(second)))
    return _GAP[language].join(word for part in parts for word in part)


def _some(rng: np.random.Generator, words: list[str]) -> list[str]:
    length = max(1, round(len(words) * rng.uniform(0.4, 1)))
    start = int(rng.integers(len(words) - length + 1))
    return words[start : start + length]


def mixed_questions(
    questions: Mapping[str, Sequence[str]], language: str, count: int, seed: int
) -> dict[str, tuple[str, ...]]:
    """`count` mixed questions by the topic that a classifier finds in them, less those that have lost their slot.

    Args:
        questions (`Mapping[str, Sequence[str]]`): To mix and to learn from, by topic.
        language (`str`): `"en"` or `"zh"`.
        count (`int`): How many.
        seed (`int`): Same seed, same questions.
    """
    rng, topics = np.random.default_rng(seed), list(questions)

    def one() -> str:
        several = questions[topics[int(rng.integers(len(topics)))]]
        return several[int(rng.integers(len(several)))]

    texts = [mixed(rng, one(), one(), language) for _ in range(count)]
    found = defaultdict(list)
    for text, topic in zip(texts, topic_classifier(questions, language).predict(texts), strict=True):
        if _SLOTS.get(topic, "") in text:
            found[str(topic)].append(text)
    return {topic: tuple(found[topic]) for topic in topics if topic in found}


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(
        prog="python -m recipes.tiny.mixed_questions",
        description="Prints how many held-back questions a classifier of words understands, a minute a language.",
    ).parse_args(arguments)
    for language in ("en", "zh"):
        held_back = load_questions(language, held_back=True)
        texts, topics = zip(*((text, topic) for topic, several in held_back.items() for text in several), strict=True)
        found = topic_classifier(load_questions(language), language).predict(texts)
        print(
            f"{language}: {np.mean(found == np.array(topics)):.3f} of {len(texts):,} held-back questions", flush=True
        )


if __name__ == "__main__":
    main()
