"""Scores, verdicts, reasons and what order statistics promise, against sums written out and drawn numbers."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.references import Calibration, NormalScores, References
from modeling_anomalygpt.scoring import (
    PREFERENCES,
    Scorer,
    decide,
    decision_score,
    false_alarm_threshold,
    normals_needed,
    supported_false_alarm_rate,
)
from modeling_anomalygpt.wording import reason_in_words

DECISION = AnomalyGPTConfig().decision


def scorer(threshold: float | None = 0.2, normalised: bool = False, needs_references: bool = False, **facts) -> Scorer:
    bank = MemoryBank((torch.eye(4),), (torch.arange(4),), ((2, 2),), 1, "encoder", threshold)
    decision = DECISION | {"normalised_maps": normalised, "needs_references": needs_references}
    return Scorer(References(bank, **facts), "auto", decision)


def peak_of(value: float) -> np.ndarray:
    anomaly_map = np.zeros((30, 30), np.float32)
    anomaly_map[3:6, 24:27] = value
    return anomaly_map


# Order statistics


@pytest.mark.parametrize(("rate", "needed"), [(0.10, 29), (0.05, 59), (0.02, 149), (0.01, 299)])
def test_the_known_numbers_of_normals_support_the_known_rates(rate, needed):
    assert normals_needed(rate) == needed
    assert supported_false_alarm_rate(needed) <= rate < supported_false_alarm_rate(needed - 1)
    assert supported_false_alarm_rate(0) == 1.0


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"`false_alarm_rate` must be between 0 and 1, got .+\. 0\.02 is usual\."):
        normals_needed(rate)
    with pytest.raises(ValueError, match="`false_alarm_rate`"):
        false_alarm_threshold([1.0], rate)
    with pytest.raises(ValueError, match="`scores` must hold at least one good picture, got none"):
        false_alarm_threshold([], 0.1)


@pytest.mark.parametrize(("count", "rate"), [(2400, 0.1), (4000, 0.05), (20000, 0.5)])
def test_thousands_of_good_pictures_give_a_threshold(count, rate):
    numbers = np.random.default_rng(count).random(count)
    above = int(stats.binom.ppf(0.05, count, rate)) - 1  # the most that may exceed it within the confidence
    assert stats.binom.cdf(above, count, rate) <= 0.05 < stats.binom.cdf(above + 1, count, rate)
    assert false_alarm_threshold(list(numbers), rate) == np.sort(numbers)[::-1][above]


def test_of_few_pictures_the_threshold_is_that_of_exact_fractions():
    for count in range(1, 70):
        for rate in (Fraction(1, 50), Fraction(1, 10), Fraction(1, 4), Fraction(1, 2)):
            tail, above = Fraction(0), -1
            while tail + (term := chance(count, above + 1, rate)) <= Fraction(1, 20):
                tail, above = tail + term, above + 1
            assert false_alarm_threshold(range(count), float(rate)) == count - 1 - max(above, 0), (count, rate)


def chance(count: int, above: int, rate: Fraction) -> Fraction:
    """That so many of the pictures exceed what exceeds this rate of all."""
    return math.comb(count, above) * rate**above * (1 - rate) ** (count - above)


def test_the_promise_is_kept_on_drawn_numbers():
    rng = np.random.default_rng(0)
    thresholds = [false_alarm_threshold(rng.normal(size=100), 0.1) for _ in range(400)]
    assert np.mean([stats.norm.sf(threshold) <= 0.1 for threshold in thresholds]) >= 0.93


# Decision


def test_the_decision_score_is_that_of_the_formula_and_zero_at_the_threshold():
    weights = {"map_weight": 3.0, "language_weight": 0.5, "max_language": 2.0, "false_alarm_weight": 1.0}
    assert decision_score(math.e, 1.0, weights) == pytest.approx(3.5)
    assert decision_score(math.e**2, -9.0, weights) == pytest.approx(5.0)
    assert decision_score(1.0, None, weights) == 0.0
    costly = weights | {"false_alarm_weight": math.e}
    assert decision_score(math.e, 1.0, costly) == pytest.approx(2.5)
    assert math.isfinite(decision_score(0.0, -1e9, weights))


def test_who_prefers_to_catch_defects_decides_lower_than_who_prefers_to_pass_parts():
    scores = [decision_score(1.0, None, DECISION | {"false_alarm_weight": PREFERENCES[name]}) for name in PREFERENCES]
    assert list(PREFERENCES) == ["catch", "balance", "pass"]
    assert scores[0] > scores[1] == 0 > scores[2]


def test_regions_keep_to_the_places_near_the_highest():
    anomaly_map = peak_of(0.9)
    anomaly_map[20:24, 2:6] = 0.6
    all_of_them, highest = (
        replace(scorer(normalised=True), decision=DECISION | {"normalised_maps": True, "region_peak": part})
        for part in (0.0, 0.8)
    )
    assert len(all_of_them.regions(anomaly_map, "anomalous", None)) == 2
    assert [region.position for region in highest.regions(anomaly_map, "anomalous", None)] == ["top right"]


def test_neither_map_nor_language_model_outvotes_a_clear_other():
    assert decision_score(4.0, -1e6, DECISION) > 0 > decision_score(0.2, 1e6, DECISION)


def test_verdicts_are_uncertain_near_the_threshold_and_out_of_domain():
    assert [decide(value, margin=0.5) for value in (-3.0, 0.4, 3.0)] == ["normal", "uncertain", "anomalous"]
    assert [decide(value, out_of_domain=True) for value in (-3.0, 0.0, 3.0)] == ["uncertain"] * 3
    assert decide(3.0, threshold=4.0) == "normal"


def test_the_score_is_the_ratio_to_the_threshold_whether_the_map_is_normalised_or_not():
    assert scorer().score(peak_of(0.3)).pred_score == pytest.approx(1.5)
    steep = replace(scorer(normalised=True), decision=DECISION | {"normalised_maps": True, "map_contrast": 3.0})
    assert steep.score(peak_of(1.5**3 / (1 + 1.5**3))).pred_score == pytest.approx(1.5, rel=1e-5)
    assert scorer(normalised=True).score(peak_of(0.3 / 0.5)).pred_score == pytest.approx(1.5, rel=1e-5)


def test_regions_begin_at_the_threshold():
    assert scorer().region_threshold == 0.2
    assert scorer(normalised=True).region_threshold == scorer(threshold=None).region_threshold == 0.5
    (region,) = scorer().regions(peak_of(0.5), "anomalous", None)
    assert (region.position, region.area_pixels) == ("top right", 9)
    assert scorer().regions(peak_of(0.5), "normal", None) == []


def test_below_is_normal_far_above_anomalous_and_at_the_threshold_uncertain():
    assert [scorer().score(peak_of(value)).verdict for value in (0.1, 0.6, 0.2)] == [
        "normal",
        "anomalous",
        "uncertain",
    ]
    assert scorer().score(peak_of(0.9), log_odds=-30.0).verdict == "anomalous"


def test_a_picture_that_cannot_be_compared_is_uncertain_and_says_why():
    found = scorer().score(peak_of(0.9), log_odds=4.0, out_of_domain_reasons=["unlike"])
    assert (found.verdict, found.reasons[0][0]) == ("uncertain", "unlike")


def test_without_references_the_word_decides_or_nothing_does():
    alone = Scorer(None, "auto", DECISION)
    verdicts = [alone.score(peak_of(p), log_odds=o).verdict for p, o in ((0.4, 0.01), (0.6, -0.01), (0.6, None))]
    assert verdicts == ["anomalous", "normal", "anomalous"]
    careful = Scorer(None, "auto", DECISION | {"needs_references": True})
    found = careful.score(peak_of(0.6), log_odds=5.0)
    assert (found.verdict, [kind for kind, _ in found.reasons]) == ("unknown", ["no_references"])
    assert careful.regions(peak_of(0.6), "unknown", None) == []


def test_a_peak_too_small_or_too_low_to_be_a_region_is_still_shown():
    anomaly_map = np.full((400, 400), 0.1, np.float32)
    anomaly_map[198:203, 198:203] = 0.45
    anomaly_map[200, 200] = 0.55
    (region,) = Scorer(None, "auto", DECISION).regions(anomaly_map, "anomalous", None)
    assert region.area_pixels == 25


def test_a_small_peak_is_named_before_a_weaker_larger_place():
    anomaly_map = np.full((400, 400), 0.1, np.float32)
    anomaly_map[50:54, 50:54] = 0.95
    anomaly_map[200:260, 200:260] = 0.8
    first, second = Scorer(None, "auto", DECISION).regions(anomaly_map, "anomalous", None)
    assert (first.box, first.peak_score) == ((50, 50, 54, 54), pytest.approx(0.95))
    assert second.area_pixels == 3600


@pytest.mark.parametrize("localization", ["text", "mean"])
def test_a_map_that_is_not_measured_against_the_references_says_nothing(localization):
    """A checkpoint without a text tower would call every picture normal."""
    decision = DECISION | {"needs_references": True}
    known = replace(scorer(), localization=localization, decision=decision)
    for peak in (0.05, 0.9):
        score = known.score(peak_of(peak))
        assert (score.verdict, score.reasons) == ("unknown", [("not_compared", {})])
    assert known.score(peak_of(0.9)).evidence["num_references"] == (0 if localization == "text" else 1)


def test_what_a_false_alarm_costs_moves_no_calibrated_threshold():
    learned = Calibration(60, 0.05, 0.05, 4, 0.95, True, 59, decision_threshold=0.1)
    verdicts = [
        replace(scorer(calibration=learned), decision=DECISION | {"false_alarm_weight": weight})
        .score(peak_of(0.3))
        .evidence["decision_score"]
        for weight in (0.5, 1.0, 2.0)
    ]
    assert len(set(verdicts)) == 1


def test_a_rate_is_promised_only_by_a_calibration():
    compared = NormalScores((0.1,), (0.1, 0.12, 0.11))
    evidence = scorer(normal_scores=compared).score(peak_of(0.1)).evidence
    assert evidence["num_normals"] == 3
    assert "supported_false_alarm_rate" not in evidence
    learned = Calibration(60, 0.05, 0.05, 4, 0.95, True, 59, decision_threshold=3.0)
    calibrated = scorer(normal_scores=compared, calibration=learned).score(peak_of(0.3))
    assert 0 < calibrated.evidence["decision_score"] < 3
    assert calibrated.verdict == "normal"
    assert (calibrated.evidence["supported_false_alarm_rate"], calibrated.evidence["num_stopped"]) == (0.05, 4)


# Words


def test_every_reason_has_words_in_both_languages():
    from modeling_anomalygpt import wording

    numbers = {"ratio": 2.0, "probability": 0.4, "count": 1, "degrees": 90, "compared": 0.9}
    assert set(wording._REASONS["en"]) == set(wording._REASONS["zh"])
    for kind in wording._REASONS["en"]:
        assert reason_in_words(kind, "en", **numbers).isascii()
        assert not reason_in_words(kind, "zh", **numbers).isascii()


@pytest.mark.parametrize(("share", "text"), [(0.9996, "> 99%"), (0.874, "87%"), (0.0004, "< 1%")])
def test_a_probability_in_words_never_claims_certainty(share, text):
    for language in ("en", "zh"):
        assert text in reason_in_words("language_yes", language, probability=share)


def test_a_language_model_that_disagrees_is_a_reason_and_not_the_answer():
    found = scorer().score(peak_of(0.9), log_odds=-0.25)
    assert found.verdict == "anomalous"
    kinds = dict(found.reasons)
    assert kinds["language_alone_no"]["probability"] == pytest.approx(1 / (1 + math.exp(0.25)))
