"""Feedback changes the next verdicts, is written down, and can be taken back."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.inspector import FeedbackHistory, without_matches
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from tests.tiny import tiny_pair


def photograph(path, seed):
    pixels = np.random.default_rng(seed).normal(120, 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def inspector(tmp_path):
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([photograph(tmp_path / "good.png", 0)])
    inspector.feedback_history = FeedbackHistory(tmp_path / "audit.jsonl")
    return inspector


def test_a_picture_called_good_scores_nothing_afterwards_and_as_before_when_undone(inspector, tmp_path):
    path = photograph(tmp_path / "query.png", 1)
    before = inspector.inspect(path, answer=False)
    inspector.feedback(before, is_normal=True)
    assert inspector.inspect(path, answer=False).pred_score < 1e-2 * before.pred_score
    inspector.undo_feedback()
    assert inspector.inspect(path, answer=False).pred_score == pytest.approx(before.pred_score)


def test_a_missed_defect_scores_higher_afterwards(inspector, tmp_path):
    path = photograph(tmp_path / "query.png", 1)
    before = inspector.inspect(path, answer=False)
    inspector.feedback(before, is_normal=False)
    after = inspector.inspect(path, answer=False)
    assert after.pred_score > before.pred_score
    assert len(inspector.memory_bank.features[0]) < 16 * 16


def test_everything_said_is_in_the_audit_file(inspector, tmp_path):
    result = inspector.inspect(photograph(tmp_path / "query.png", 1), answer=False)
    inspector.feedback(result, is_normal=True)
    inspector.undo_feedback()
    rows = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [row.get("is_normal", row.get("undo")) for row in rows] == [True, True]
    assert rows[0]["image"].endswith("query.png")
    assert rows[0]["patches"] == sum(map(len, inspector.memory_bank.features))


def test_nothing_to_undo_no_picture_and_no_references_are_refused(inspector, tmp_path):
    with pytest.raises(RuntimeError, match="There is no feedback to undo"):
        inspector.undo_feedback()
    result = inspector.inspect(photograph(tmp_path / "query.png", 1), answer=False)
    result.image = None
    with pytest.raises(ValueError, match="`picture` must be given for a result that names no file, got None"):
        inspector.feedback(result, is_normal=True)
    empty = AnomalyInspector(*tiny_pair())
    with pytest.raises(RuntimeError, match="Call `set_references` before `feedback`"):
        empty.feedback(result, is_normal=True, picture=tmp_path / "query.png")


def test_only_matches_of_what_stands_out_are_taken_out():
    good = MemoryBank.build((PatchFeatures(torch.eye(4).unsqueeze(0), (2, 2)),))
    bad = MemoryBank.build((PatchFeatures(torch.tensor([[[1.0, 0, 0, 0], [0.3, 0.3, 0.2, 0.9]]]), (1, 2)),))
    left = without_matches(good, bad)
    assert left.sources[0].tolist() == [0, 1, 2]
