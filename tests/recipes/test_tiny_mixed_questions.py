"""Questions mixed of two others, with the topic that a classifier of words finds in them."""

import numpy as np
import pytest

from modeling_anomalygpt.conversations.grounded import load_questions
from recipes.tiny.mixed_questions import mixed, mixed_questions, topic_classifier

TOPICS = ("where", "size", "place_check", "number_check", "greeting", "again")


def some(language: str, first: int, last: int) -> dict[str, tuple[str, ...]]:
    return {topic: load_questions(language)[topic][first:last] for topic in TOPICS}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_mixed_question_is_words_in_a_row_of_one_or_of_two(language):
    rng, gap, both = np.random.default_rng(0), " " if language == "en" else "", 0
    first, second = load_questions(language)["where"][3], load_questions(language)["place_check"][5]
    for _ in range(200):
        text = mixed(rng, first, second, language)
        words = text.split(" ") if language == "en" else list(text)
        of_one = text in first
        of_two = any(
            (one in first and other in second) or (one in second and other in first)
            for one, other in ((gap.join(words[:cut]), gap.join(words[cut:])) for cut in range(1, len(words)))
        )
        assert of_one or of_two, text
        both += not of_one
    assert 60 < both < 140


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_classifier_of_words_understands_questions_it_never_saw(language):
    classifier = topic_classifier(some(language, 0, 120), language)
    right = [
        classifier.predict([text])[0] == topic for topic, texts in some(language, 120, 140).items() for text in texts
    ]
    assert np.mean(right) > 0.75


@pytest.mark.parametrize("language", ["en", "zh"])
def test_mixed_questions_have_the_topic_that_is_found_in_them_and_the_slot_it_needs(language):
    questions = some(language, 0, 60)
    found = mixed_questions(questions, language, 400, seed=3)
    classifier = topic_classifier(questions, language)
    for topic, texts in found.items():
        assert set(classifier.predict(texts)) == {topic}
    assert all("{place}" in text for text in found["place_check"])
    assert all("{number}" in text for text in found["number_check"])
    assert 300 < sum(map(len, found.values())) <= 400
    assert found == mixed_questions(questions, language, 400, seed=3)
    assert found != mixed_questions(questions, language, 400, seed=4)
