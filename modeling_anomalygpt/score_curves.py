"""Metrics over all thresholds, from counts at each distinct score: AUROC, average precision, F1, overlap of regions.

All take arrays that rise with the score, as [`ScoreTable`] holds them; a sample is called anomalous when its score is
at least the threshold. Knows no picture and no mask.
"""

import numpy as np


def area_under_roc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Probability that an anomalous sample scores above a normal one, ties counting half.

    Args:
        normal, anomalous (`np.ndarray` of shape `(num_scores,)`): Number of samples at each score, rising.

    Returns:
        `float`: In [0, 1].
    """
    normal_below = np.cumsum(normal) - normal / 2
    return float(anomalous @ normal_below / (anomalous.sum() * normal.sum()))


def area_under_precision(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """Average precision: the precision at each anomalous sample's own score, averaged; no interpolation.

    Args:
        normal, anomalous (`np.ndarray` of shape `(num_scores,)`): Number of samples at each score, rising.

    Returns:
        `float`: In (0, 1].
    """
    hits, alarms = _at_or_above(normal, anomalous)
    return float(anomalous @ (hits / (hits + alarms)) / anomalous.sum())


def best_f1(scores: np.ndarray, normal: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    """Largest F1 over all thresholds.

    Args:
        scores (`np.ndarray` of shape `(num_scores,)`): Distinct, rising.
        normal, anomalous (`np.ndarray` of shape `(num_scores,)`): Number of samples at each score.

    Returns:
        `tuple(float, float)`: F1 and the (highest) threshold at which it is reached.
    """
    hits, alarms = _at_or_above(normal, anomalous)
    f1 = 2 * hits / (hits + alarms + anomalous.sum())
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(f1[best]), float(scores[best])


def area_under_overlap(normal: np.ndarray, overlap: np.ndarray, limit: float) -> float:
    """Mean overlap of the regions, averaged over false-positive rates from 0 to a limit (AUPRO).

    The curve is linear between thresholds, as in MVTec's own evaluation (https://arxiv.org/abs/1911.02357, section 5).

    Args:
        normal (`np.ndarray` of shape `(num_scores,)`): Number of normal pixels at each score, rising.
        overlap (`np.ndarray` of shape `(num_scores,)`): Pixels of regions there, each one over its region's area.
        limit (`float`): Largest false-positive rate, in (0, 1].

    Returns:
        `float`: In [0, 1].
    """
    rate = np.append(0.0, np.cumsum(normal[::-1]) / normal.sum())
    overlap = np.append(0.0, np.cumsum(overlap[::-1]) / overlap.sum())
    inside = np.searchsorted(rate, limit, side="right")  # at least 1: the first rate is 0
    at_limit = np.interp(limit, rate[inside - 1 : inside + 1], overlap[inside - 1 : inside + 1])
    rate, overlap = np.append(rate[:inside], limit), np.append(overlap[:inside], at_limit)
    return float(np.trapezoid(overlap, rate) / limit)


def _at_or_above(normal: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum(anomalous[::-1])[::-1], np.cumsum(normal[::-1])[::-1]


__all__ = ["area_under_overlap", "area_under_precision", "area_under_roc", "best_f1"]
