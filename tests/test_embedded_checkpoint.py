"""The embedded checkpoint works: small, and right more often than not on parts it never saw."""

import numpy as np
import pytest
import torch

from datasets_scripts import HELD_BACK_FAMILIES, render_product
from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT
from modeling_anomalygpt.conversations.word_metrics import parse_presence
from modeling_anomalygpt.inspector import AnomalyInspector


@pytest.fixture(scope="module")
def inspector() -> AnomalyInspector:
    return AnomalyInspector.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def inspected(inspector):
    """Label and result of held-back products, two references each."""
    rows = []
    for family in HELD_BACK_FAMILIES:
        for index in range(4):
            rng = np.random.default_rng([99, index])
            product = render_product(family, rng)
            references = [product.photograph(rng).image for _ in range(2)]
            inspector.set_references(references, category=family.replace("_", " "))
            for defect in (None, "random"):
                part = product.photograph(rng, defect=defect)
                rows.append((part.label, inspector.inspect(part.image)))
    return rows


def test_the_folder_is_at_most_30_mb():
    assert sum(file.stat().st_size for file in EMBEDDED_CHECKPOINT.rglob("*") if file.is_file()) <= 30e6


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
    assert result.answer == "There is no verdict: give at least one good picture to compare with."


def test_it_answers_in_chinese(inspector, inspected):
    _, result = inspected[-1]
    answer = inspector.ask(result, "异常在哪里？")
    assert any("一" <= letter <= "鿿" for letter in answer)


def test_the_language_model_follows_the_map_and_no_rule(inspector):
    """The same picture with a good one's map must change the log-odds: they come from the prompts of the map."""
    rng = np.random.default_rng(5)
    product = render_product("capsules", rng)
    inspector.set_references([product.photograph(rng).image for _ in range(2)], category="capsules")
    good = inspector.inspect(product.photograph(rng).image)
    result = inspector.inspect(product.photograph(rng, defect="hole").image)
    images = inspector.model.model.config.num_image_tokens
    tokens = torch.cat([result.image_tokens[:, :images], good.image_tokens[:, images:]], dim=1)
    _, (exchanged,) = inspector.dialogue.answer([result.conversation[:1]], tokens, "en", max_new_tokens=1)
    assert result.log_odds > 0 > good.log_odds
    assert exchanged < 0
