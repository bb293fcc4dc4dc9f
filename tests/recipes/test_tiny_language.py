"""The conversations with which the embedded language model practises."""

import numpy as np

from benchmarks.answers import UNHEARD
from modeling_anomalygpt.conversations.facts import Facts
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.regions import regions_of_mask
from recipes.tiny.language import told_conversation
from recipes.tiny.unknowable_questions import unknowable_question

UNKNOWABLE = {language: load_phrases(language)["questions"]["unknowable"] for language in ("en", "zh")}


def facts(anomalous: bool) -> Facts:
    mask = np.zeros((224, 224), bool)
    mask[20:40, 20:60] = anomalous
    return Facts("bracket", mask.shape, regions_of_mask(mask), ["scratch"] if anomalous else [])


def test_questions_without_an_answer_are_many_and_none_of_them_is_measured_as_unheard():
    for language in ("en", "zh"):
        made = [unknowable_question(np.random.default_rng(seed), language) for seed in range(800)]
        assert len(set(made)) > 200
        assert not set(made) & set(UNHEARD[language])
        assert not set(UNKNOWABLE[language]) & set(UNHEARD[language])
        assert all(question.endswith("?" if language == "en" else "？") for question in made)
        assert all(question.isascii() == (language == "en") for question in made)


def test_a_question_without_an_answer_is_always_refused():
    refusals = {language: load_phrases(language)["answers"]["unknowable"] for language in ("en", "zh")}
    asked = 0
    for index in range(400):
        language = ("en", "zh")[index % 2]
        turns = told_conversation(facts(index % 3 == 0), np.random.default_rng(index), language)
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        known = {*UNKNOWABLE["en"], *UNKNOWABLE["zh"]}
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            if question["content"] in known:
                asked += 1
                assert answer["content"] in refusals[language]
    assert asked > 20


def test_a_name_is_only_said_after_the_user_has_said_it():
    for index in range(300):
        turns = told_conversation(facts(index % 2 == 0), np.random.default_rng(index), "en")
        heard = ""
        for turn in turns:
            if turn["role"] == "assistant" and "bracket" in turn["content"]:
                assert "bracket" in heard
            heard += turn["content"] if turn["role"] == "user" else ""
