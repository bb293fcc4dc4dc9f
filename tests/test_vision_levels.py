"""Figures that tell whether one threshold serves all parts."""

import numpy as np
import pytest

from benchmarks.vision_levels import balanced_accuracy, figures

LOW = (np.array([0.1, 0.2]), np.array([0.3, 0.4]))  # told apart by .25
HIGH = (np.array([0.5, 0.6]), np.array([0.7, 0.8]))  # told apart by .65


def test_balanced_accuracy_is_the_mean_of_both_rates_at_each_threshold():
    found = balanced_accuracy(np.array([0.1, 0.5]), np.array([0.4, 0.6, 0.7, 0.8]), np.array([0.0, 0.45, 0.5, 0.9]))
    np.testing.assert_allclose(found, [0.5, (3 / 4 + 1 / 2) / 2, (3 / 4 + 1) / 2, 0.5])


def test_parts_that_are_told_apart_within_need_not_share_a_threshold():
    found = figures([[LOW], [HIGH]])
    assert found["image AUROC"] == 1
    assert found["one for each"] == 1
    assert found["one threshold"] == pytest.approx(0.75)  # right on one part, a coin on the other
    assert found["spread"] == pytest.approx(np.log(0.585 / 0.185) / 2)  # 85 % lie below .185 and .585


def test_parts_of_the_same_level_share_one():
    found = figures([[LOW], [LOW, LOW]])
    assert found["one threshold"] == found["one for each"] == 1
    assert found["spread"] == 0
