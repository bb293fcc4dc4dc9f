"""Words against masks, worked by hand."""

import numpy as np
import pytest

from modeling_anomalygpt.conversations.word_metrics import WordMetrics


def mask(*corners):
    found = np.zeros((90, 90), bool)
    for y, x in corners:
        found[y : y + 10, x : x + 10] = True
    return found


TWO = mask((5, 5), (75, 75))
ONE = mask((40, 40))


def test_places_and_counts_worked_by_hand_in_both_languages():
    metrics = WordMetrics()
    metrics.update(
        [ONE, TWO, TWO, ONE, mask()],
        [
            "Yes, there is an anomaly in the image, at the center.",  # both right
            "Yes, there are two anomalies, at the top left and the bottom right.",  # both right
            "是，有两处异常，位于左上角。",  # one place of two, count right
            "No, there is no anomaly in the image.",  # both wrong
            "Yes, at the top.",  # a good picture does not count
        ],
    )
    expected = {"positions_exact": 2 / 4, "positions_overlap": (1 + 1 + 0.5 + 0) / 4, "count_exact": 3 / 4}
    assert metrics.compute() == pytest.approx(expected)


def test_parts_joined_are_the_whole():
    parts, whole = [WordMetrics(), WordMetrics()], WordMetrics()
    answers = ["Yes, at the center.", "Yes, one at the top left."]
    whole.update([ONE, TWO], answers)
    for part, picture, answer in zip(parts, (ONE, TWO), answers, strict=True):
        part.update([picture], [answer])
    parts[0].merge(parts[1])
    assert parts[0].compute() == whole.compute()


def test_what_cannot_be_measured_is_said():
    metrics = WordMetrics()
    metrics.update([mask()], ["No."])
    with pytest.raises(ValueError, match="Places and counts are undefined: no mask held an anomaly."):
        metrics.compute()
    with pytest.raises(ValueError, match="`answers` must be as many as `masks`, got 0 and 1. Give pairs."):
        metrics.update([ONE], [])
