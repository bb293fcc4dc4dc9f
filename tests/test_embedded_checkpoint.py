"""The embedded checkpoint works: small, and right more often than not on parts it never saw."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks.conversations import QUESTIONS
from datasets_scripts import HELD_BACK_FAMILIES, render_product
from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT
from modeling_anomalygpt.conversations.checking import contradictions
from modeling_anomalygpt.conversations.grounded import Question, grounded_answer
from modeling_anomalygpt.conversations.word_metrics import parse_presence
from modeling_anomalygpt.inspector import AnomalyInspector

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def inspector(embedded_pair) -> AnomalyInspector:
    return AnomalyInspector(*embedded_pair)


@pytest.fixture(scope="module")
def inspected(inspector):
    """Label and result of held-back products, two references each."""
    rows = []
    for family in HELD_BACK_FAMILIES:
        rng = np.random.default_rng(99)
        product = render_product(family, rng)
        references = [product.photograph(rng).image for _ in range(2)]
        inspector.set_references(references, category=family.replace("_", " "))
        for defect in (None, "random") * 2:
            part = product.photograph(rng, defect=defect)
            rows.append((part.label, inspector.inspect(part.image)))
    return rows


def test_the_folder_is_at_most_40_mb_and_its_language_model_has_at_most_10_million_parameters(inspector):
    assert sum(file.stat().st_size for file in EMBEDDED_CHECKPOINT.rglob("*") if file.is_file()) <= 40e6
    assert sum(weight.numel() for weight in inspector.model.model.language_model.parameters()) <= 10e6


def test_references_that_earlier_versions_saved_with_it_are_still_its_own(inspector):
    former = f"{inspector.model.model.encoder_fingerprint()}-square-256x256-tile0"
    assert inspector.encoder.fingerprint() == former


def test_anomalous_parts_score_higher_than_good_ones(inspected):
    good = [result.pred_score for label, result in inspected if not label]
    bad = [result.pred_score for label, result in inspected if label]
    ordered = np.mean([b > g for b in bad for g in good])
    assert ordered > 0.8


def test_the_verdict_is_right_more_often_than_not(inspected):
    right = [(result.verdict == "anomalous") == bool(label) for label, result in inspected]
    assert np.mean(right) >= 0.75


def test_the_answer_says_what_the_verdict_says(inspected):
    for _, result in inspected:
        expected = {"normal": False, "anomalous": True}.get(result.verdict)
        assert parse_presence(result.answer) == expected


def test_without_references_there_is_no_verdict(inspector):
    alone = AnomalyInspector(inspector.model, inspector.processor)
    result = alone.inspect(np.full((64, 64, 3), 90, np.uint8))
    assert (result.verdict, result.regions) == ("unknown", [])
    assert "good picture" in result.answer


@pytest.mark.parametrize(("language", "questions"), QUESTIONS.items())
def test_a_conversation_of_twelve_turns_never_contradicts_what_was_measured(inspector, inspected, language, questions):
    for _, result in inspected[::5]:
        for question in questions:
            answer = inspector.ask(result, question)
            assert contradictions(answer, result.facts) == [], (question, answer)
            assert any("\u4e00" <= letter <= "\u9fff" for letter in answer) == (language == "zh")


def test_the_answer_to_a_question_is_the_same_at_the_beginning_and_after_ten_turns(inspector, inspected):
    _, result = inspected[-1]
    first = inspector.ask(result, QUESTIONS["en"][0])
    for question in QUESTIONS["zh"]:
        inspector.ask(result, question)
    assert inspector.ask(result, QUESTIONS["en"][0]) == first


def test_the_suggested_questions_of_the_page_get_their_answers(inspector, inspected):
    for language in ("en", "zh"):
        words = json.loads((ROOT / "spaces_app" / f"words_{language}.json").read_text(encoding="utf-8"))
        for _, result in inspected[-2:]:
            for name, topic in (("ask_where", "where"), ("ask_where_full", "where"), ("ask_what", "kind")):
                expected = grounded_answer(Question(words[name], topic), result.facts, language)
                assert inspector.ask(result, words[name]) == expected


def test_a_name_it_never_saw_comes_back_as_it_was_given(inspector, inspected):
    for name in ("GX-7 flange", "弹簧座圈", "Ölwannendichtung"):
        result = inspector.inspect(inspected[-1][1].judged_image, category=name, answer=False)
        assert name in inspector.ask(result, "What is this part called?")
        assert name in inspector.ask(result, "这是什么物体？")
