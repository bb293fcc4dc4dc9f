"""Verdicts of three and what order statistics promise, against sums written out and against drawn numbers."""

import math

import numpy as np
import pytest
from scipy import stats

from modeling_anomalygpt.scoring import (
    decide,
    evidence_limit,
    evidence_of,
    normals_needed,
    reason,
    supported_false_alarm_rate,
)


@pytest.mark.parametrize(("rate", "needed"), [(0.10, 29), (0.05, 59), (0.02, 149), (0.01, 299)])
def test_the_known_numbers_of_normals_support_the_known_rates(rate, needed):
    assert normals_needed(rate) == needed
    assert supported_false_alarm_rate(needed) <= rate < supported_false_alarm_rate(needed - 1)


def test_no_normals_support_nothing():
    assert supported_false_alarm_rate(0) == 1.0


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"`false_alarm_rate` must be between 0 and 1, got .+\. 0\.02 is usual\."):
        normals_needed(rate)
    with pytest.raises(ValueError, match="`false_alarm_rate`"):
        evidence_limit([1.0], rate)


def test_no_evidence_is_refused():
    with pytest.raises(ValueError, match="`evidences` must hold at least one good picture, got none"):
        evidence_limit([], 0.1)


def test_with_too_few_normals_the_highest_is_the_limit():
    assert evidence_limit([0.1, 3.0, 2.0], 0.02) == 3.0


@pytest.mark.parametrize(("count", "rate"), [(29, 0.1), (100, 0.1), (300, 0.05), (500, 0.1)])
def test_the_limit_is_the_lowest_order_statistic_that_keeps_the_confidence(count, rate):
    numbers = np.random.default_rng(count).normal(size=count)
    ordered = np.sort(numbers)[::-1]
    # The (e + 1)-th highest of n is at or above the true limit unless fewer than e + 1 exceed it.
    good = [e for e in range(count) if stats.binom.cdf(e, count, rate) <= 0.05]
    assert evidence_limit(numbers, rate) == ordered[max(good)]


def test_the_promise_is_kept_on_drawn_numbers():
    rng = np.random.default_rng(0)
    limits = [evidence_limit(rng.normal(size=100), 0.1) for _ in range(400)]
    kept = np.mean([stats.norm.sf(limit) <= 0.1 for limit in limits])
    assert kept >= 0.93


def test_evidence_grows_with_both_and_is_zero_at_the_limit():
    assert evidence_of(1.0, 0.0) == 0.0
    assert evidence_of(2.0, 0.0) > evidence_of(1.5, 0.0) > evidence_of(0.5, 0.0)
    assert evidence_of(1.0, 2.0) > evidence_of(1.0, 1.0) > evidence_of(1.0, -1.0)
    assert math.isfinite(evidence_of(0.0, -1e9))


def test_evidence_is_that_of_the_formula():
    assert evidence_of(math.e, 2.0) == pytest.approx(2 + 0.125)
    assert evidence_of(math.e**2, -9.0) == pytest.approx(4 - 0.25)


def test_neither_piece_outvotes_a_clear_other():
    assert evidence_of(4.0, -1e6) > 0
    assert evidence_of(0.2, 1e6) < 0


def test_doubts_make_every_verdict_uncertain():
    assert [decide(value) for value in (-3.0, 0.0, 3.0)] == ["normal", "uncertain", "anomalous"]
    assert [decide(value, doubts=["blur"]) for value in (-3.0, 0.0, 3.0)] == ["uncertain"] * 3
    assert decide(3.0, limit=4.0) == "normal"


@pytest.mark.parametrize("kind", ["unlike", "exposure", "blur", "close"])
def test_every_reason_has_words_in_both_languages(kind):
    assert reason(kind, "en").text.isascii()
    assert not reason(kind, "zh").text.isascii()


@pytest.mark.parametrize(("share", "said"), [(0.9996, "> 99%"), (0.874, "87%"), (0.0004, "< 1%")])
def test_a_probability_in_words_never_claims_certainty(share, said):
    for language in ("en", "zh"):
        assert said in reason("language_yes", language, probability=share).text
