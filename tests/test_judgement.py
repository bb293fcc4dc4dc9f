"""Verdict, score, regions and reasons of one picture from its map, its odds and the references' limit."""

import json

import numpy as np
import pytest
import torch

from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from modeling_anomalygpt.scoring import Judge


def bank(limit: float | None = 0.2, **notes: str) -> MemoryBank:
    layer = PatchFeatures(torch.eye(4).unsqueeze(0), (2, 2))
    built = MemoryBank.build((layer,), "encoder")
    return MemoryBank(built.features, built.sources, built.grids, 1, "encoder", limit, notes)


def judge(limit: float | None = 0.2, relative: bool = False, language: str = "en", **notes: str) -> Judge:
    return Judge(bank(limit, **notes), "auto", relative, 0.5, language)


def peak_of(value: float) -> np.ndarray:
    anomaly_map = np.zeros((30, 30), np.float32)
    anomaly_map[3:6, 24:27] = value
    return anomaly_map


def test_the_score_is_the_ratio_to_the_limit_whether_the_map_is_relative_or_not():
    assert judge().score(peak_of(0.3)) == pytest.approx(1.5)
    relative = 0.3 / (0.3 + 0.2)
    assert judge(relative=True).score(peak_of(relative)) == pytest.approx(1.5, rel=1e-5)


def test_regions_begin_at_the_limit():
    assert judge().threshold == 0.2
    assert judge(relative=True).threshold == 0.5
    assert judge(limit=None).threshold == 0.5
    (region,) = judge().judge(peak_of(0.5)).regions
    assert (region.position, region.area_pixels) == ("top right", 9)


def test_below_the_limit_is_normal_far_above_anomalous_and_at_it_uncertain():
    assert judge().judge(peak_of(0.1)).verdict == "normal"
    assert judge().judge(peak_of(0.6)).verdict == "anomalous"
    assert judge().judge(peak_of(0.21)).verdict == "uncertain"


def test_a_clear_language_model_decides_where_the_map_cannot():
    assert judge().judge(peak_of(0.2), log_odds=4.0).verdict == "anomalous"
    assert judge().judge(peak_of(0.2), log_odds=-4.0).verdict == "normal"


def test_map_and_words_weigh_the_same_whatever_the_number_of_references():
    found = [judge(normal_scores=json.dumps({"crossed": [0.1] * number})) for number in (0, 2, 50)]
    evidence = [one.judge(peak_of(0.225), log_odds=2.0).evidence["evidence"] for one in found]
    np.testing.assert_allclose(evidence, 2 * np.log(1.125) + 0.125, atol=1e-4)


def test_a_clear_map_is_not_outvoted():
    assert judge().judge(peak_of(0.9), log_odds=-30.0).verdict == "anomalous"


def test_a_picture_that_cannot_be_compared_is_uncertain_and_says_why():
    found = judge().judge(peak_of(0.9), log_odds=4.0, doubts=["unlike"])
    assert found.verdict == "uncertain"
    assert found.evidence["reasons"][0]["kind"] == "unlike"
    assert "another part, camera or distance" in found.evidence["reasons"][0]["text"]


def test_without_references_the_sign_of_the_log_odds_decides():
    alone = Judge(None, "auto", True, 0.5)
    assert alone.judge(peak_of(0.4), log_odds=0.01).verdict == "anomalous"
    assert alone.judge(peak_of(0.6), log_odds=-0.01).verdict == "normal"
    assert alone.judge(peak_of(0.6)).verdict == "anomalous"
    assert alone.judge(peak_of(0.4)).verdict == "normal"
    assert alone.judge(peak_of(0.4)).evidence["localization"] == "text_guided"


def test_a_peak_too_small_or_too_low_to_be_a_region_is_still_shown():
    anomaly_map = np.full((400, 400), 0.1, np.float32)
    anomaly_map[198:203, 198:203] = 0.45
    anomaly_map[200, 200] = 0.55
    (region,) = Judge(None, "auto", False, 0.5).judge(anomaly_map, log_odds=3.0).regions
    assert region.area_pixels == 25


def test_the_evidence_says_what_so_few_good_pictures_can_promise():
    found = judge(normal_scores='{"views": [0.1], "crossed": [0.1, 0.12, 0.11, 0.1]}').judge(peak_of(0.1))
    assert found.evidence["num_normals"] == 4
    assert found.evidence["supported_false_alarm_rate"] == pytest.approx(0.5271, abs=1e-4)
    text = found.evidence["reasons"][-1]["text"]
    assert text == "4 good pictures support a false-alarm rate of 53% at 95% confidence; 59 would support 5%."


def test_a_calibration_moves_the_limit_of_the_evidence():
    learned = '{"num_normals": 60, "supported_false_alarm_rate": 0.05, "confidence": 0.95, "evidence_limit": 3.0}'
    evidence = judge().judge(peak_of(0.3)).evidence["evidence"]
    assert 0 < evidence < 3
    assert judge(calibration=learned).judge(peak_of(0.3)).verdict == "normal"


def test_reasons_come_in_chinese_too():
    found = judge(language="zh").judge(peak_of(0.6), log_odds=2.0)
    assert found.evidence["reasons"][0]["text"] == "异常图最高值为良品上限的 3.00 倍。"
    assert found.evidence["reasons"][1]["text"] == "语言模型认为存在异常（概率 88%）。"
