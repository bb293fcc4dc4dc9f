"""Metrics against scikit-learn, against a naive overlap of regions, by hand, and by what must not change them."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from modeling_anomalygpt.evaluation import metrics as score_table
from modeling_anomalygpt.evaluation.metrics import (
    ImageMetrics,
    PixelMetrics,
    accuracy,
    auroc,
    average_precision,
    f1_max,
    oracle_accuracy,
    paper_accuracy,
    verdict_metrics,
)

EXACT, AGREED = 1e-9, 1e-4


def naive_f1(labels, scores):
    precision, recall, _ = precision_recall_curve(labels, scores)
    return max(2 * p * r / (p + r) for p, r in zip(precision, recall, strict=True) if p + r > 0)


def naive_aupro(masks, maps, limit):
    """Per-region overlap at every threshold there is, straight lines between them (MVTec's definition)."""
    labelled = [ndimage.label(mask, structure=np.ones((3, 3)))[0] for mask in masks]
    normal = np.concatenate([m[mask == 0] for mask, m in zip(masks, maps, strict=True)])
    points = [(0.0, 0.0)]
    for threshold in sorted({float(value) for m in maps for value in m.ravel()}, reverse=True):
        overlaps = [
            (m[regions == number] >= threshold).mean()
            for regions, m in zip(labelled, maps, strict=True)
            for number in range(1, regions.max() + 1)
        ]
        points.append((float((normal >= threshold).mean()), float(np.mean(overlaps))))
    rate, overlap = map(np.array, zip(*points, strict=True))
    inside = rate <= limit
    if not inside.all():
        first = int(np.argmin(inside))
        low, high = first - 1, first
        at = overlap[low] + (overlap[high] - overlap[low]) * (limit - rate[low]) / (rate[high] - rate[low])
        rate, overlap = np.append(rate[inside], limit), np.append(overlap[inside], at)
    else:
        rate, overlap = np.append(rate, limit), np.append(overlap, overlap[-1])
    return float(np.trapezoid(overlap, rate) / limit)


def drawn_scores(kind, rng, number):
    scores = rng.normal(size=number)
    return {
        "spread": scores,
        "ties": np.round(scores, 1),
        "one value": np.full(number, 0.3),
        "very near": 0.5 + 1e-12 * np.round(scores, 2),
        "huge": scores * 1e12,
        "tiny": scores * 1e-30,
        "crowded at one": 1 - np.exp(5 * scores - 20),
    }[kind]


KINDS = ("spread", "ties", "one value", "very near", "huge", "tiny", "crowded at one")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [2, 7, 400])
def test_curves_of_pictures_agree_with_scikit_learn(kind, number):
    rng = np.random.default_rng(number)
    labels = np.append([0, 1], rng.integers(0, 2, number - 2))
    scores = drawn_scores(kind, rng, number)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=EXACT)
    f1, threshold = f1_max(labels, scores)
    assert f1 == pytest.approx(naive_f1(labels, scores), abs=EXACT)
    called = scores >= threshold
    assert f1 == pytest.approx(2 * (called & (labels == 1)).sum() / (called.sum() + labels.sum()), abs=EXACT)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=40))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_threshold_beats_the_oracle_and_it_is_reached(rows):
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    if len(set(labels.tolist())) < 2:
        return
    tried = [*np.unique(scores), np.inf]
    best = max(accuracy(labels, scores >= threshold) for threshold in tried)
    balanced = max(accuracy(labels, scores >= threshold, balanced=True) for threshold in tried)
    for expected, is_balanced in ((best, False), (balanced, True)):
        found, threshold = oracle_accuracy(labels, scores, is_balanced)
        assert found == pytest.approx(expected, abs=EXACT)
        assert accuracy(labels, scores >= threshold, is_balanced) == pytest.approx(expected, abs=EXACT)


def test_rates_of_verdicts_worked_by_hand():
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]
    verdicts = ["normal", "normal", "anomalous", "uncertain", "anomalous", "anomalous", "normal", "normal"]
    found = verdict_metrics(labels, [*verdicts, "uncertain", "error"])
    expected = {
        "false_alarm_rate": 1 / 4,
        "miss_rate": 2 / 5,
        "uncertain_rate": 2 / 9,
        "uncertain_rate_normal": 1 / 4,
        "uncertain_rate_anomalous": 1 / 5,
        "accuracy_verdict": 4 / 9,
        "balanced_accuracy": (2 / 4 + 2 / 5) / 2,
        "balanced_accuracy_decided": (2 / 3 + 2 / 4) / 2,
        "accuracy_decided": 4 / 7,
        "num_errors": 1,
    }
    assert found == pytest.approx(expected)


def test_the_papers_accuracy_searches_for_a_word():
    assert paper_accuracy([1, 1, 0, 0], ["Yes.", "yes.", "No, none.", "Yes and No."]) == 0.75


@pytest.mark.parametrize("function", [auroc, average_precision, f1_max, oracle_accuracy])
def test_one_class_alone_is_an_error_and_not_a_number(function):
    for labels, there in (([0, 0, 0], "3 normal and 0 anomalous"), ([1, 1, 1], "0 normal and 3 anomalous")):
        with pytest.raises(ValueError, match=f"is undefined: there are {there} pictures. Evaluate a split that has"):
            function(labels, [0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([0, 1], [0.1]), "`scores` must be as many as `labels`, got 1 and 2."),
        (([0, 2], [0.1, 0.2]), "`labels` must be a list of 0 (normal) and 1 (anomalous), got 2."),
        (([0, 1], [0.1, np.nan]), "`scores` must be a list of finite numbers, got NaN or infinity. Leave failed"),
        (([[0, 1]], [0.1, 0.2]), "`labels` must be a list of 0 (normal) and 1 (anomalous), got the shape (1, 2)."),
    ],
)
def test_what_does_not_fit_is_refused_by_name(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        auroc(*arguments)
    with pytest.raises(ValueError, match="`verdicts` must be among normal, anomalous, uncertain, error, got 'bad'."):
        verdict_metrics([0, 1], ["normal", "bad"])
    with pytest.raises(ValueError, match="Accuracy is undefined: there are no samples."):
        accuracy([], [])


def image_rows(rng, number):
    labels = np.append([0, 1], rng.integers(0, 2, number - 2))
    return {
        "labels": labels,
        "scores": rng.normal(size=number) + labels,
        "verdicts": rng.choice(["normal", "anomalous", "uncertain"], number).tolist(),
        "log_odds": rng.normal(size=number),
        "answers": rng.choice(["Yes.", "No."], number).tolist(),
    }


@given(st.integers(0, 10**6), st.lists(st.integers(0, 40), max_size=4))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_parts_joined_are_the_whole_in_any_number_and_order(seed, cuts):
    rng = np.random.default_rng(seed)
    rows = image_rows(rng, 40)
    whole, parts = ImageMetrics(), []
    whole.update(**rows)
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True):
        parts.append(ImageMetrics())
        parts[-1].update(**{name: values[first:last] for name, values in rows.items()})
    joined = ImageMetrics()
    for index in rng.permutation(len(parts)):
        joined.merge(pickle.loads(pickle.dumps(parts[index])))  # as between processes
    with pytest.raises(ValueError, match="`verdicts` must be given in every call or in none, got both."):
        joined.update([0, 1], [0.1, 0.2])
    assert joined.compute() == pytest.approx(whole.compute(), abs=EXACT)


def pixel_pictures(rng, kind, number=4, size=24):
    masks = []
    for index in range(number):
        mask = np.zeros((size, size), bool)
        for _ in range(index % 3):  # the first has none
            y, x, h, w = rng.integers(0, size - 6, 2).tolist() + rng.integers(1, 6, 2).tolist()
            mask[y : y + h, x : x + w] = True
        masks.append(mask)
    maps = [drawn_scores(kind, rng, size * size).reshape(size, size).astype(np.float32) for _ in masks]
    if kind in ("spread", "ties"):
        maps = [m + mask.astype(np.float32) for m, mask in zip(maps, masks, strict=True)]
    return masks, maps


@pytest.mark.parametrize("kind", ["spread", "ties", "one value", "huge", "crowded at one"])
def test_pixels_agree_with_scikit_learn_and_a_naive_overlap_of_regions(kind):
    masks, maps = pixel_pictures(np.random.default_rng(1), kind)
    metrics = PixelMetrics()
    metrics.update(masks, maps)
    found, back = metrics.compute(), PixelMetrics()
    back.update(masks[::-1], maps[::-1])
    assert back.compute() == pytest.approx(found, abs=EXACT), "the order of pictures counts"
    labels, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=AGREED)
    assert found["pixel_average_precision"] == pytest.approx(average_precision_score(labels, scores), abs=AGREED)
    assert found["pixel_f1_max"] == pytest.approx(naive_f1(labels, scores), abs=AGREED)
    for limit in (0.3, 0.05):
        assert found[f"aupro_{limit}"] == pytest.approx(naive_aupro(masks, maps, limit), abs=AGREED)


def test_shortened_tables_stay_exact_to_a_ten_thousandth(monkeypatch):
    monkeypatch.setattr(score_table, "EXACT_ENTRIES", 2**15)
    monkeypatch.setattr(score_table, "BUFFERED_SAMPLES", 2**16)
    rng = np.random.default_rng(2)
    masks = [np.zeros((128, 128), bool) for _ in range(40)]
    for index, mask in enumerate(masks[1:], 1):
        mask[10 : 12 + index, 30 : 33 + index] = True
    for kind in ("spread", "crowded at one"):
        maps = [drawn_scores(kind, rng, 128 * 128).reshape(128, 128).astype(np.float32) for _ in masks]
        maps = [np.float32(m + 0.5 * mask) for m, mask in zip(maps, masks, strict=True)]
        streamed, halves = PixelMetrics(), [PixelMetrics(), PixelMetrics()]
        for number, (mask, anomaly_map) in enumerate(zip(masks, maps, strict=True)):
            streamed.update(mask, anomaly_map)
            halves[number % 2].update(mask, anomaly_map)
        halves[0].merge(pickle.loads(pickle.dumps(halves[1])))
        labels, scores = np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])
        with monkeypatch.context() as exactly:
            exactly.setattr(score_table, "EXACT_ENTRIES", 2**30)
            exactly.setattr(score_table, "BUFFERED_SAMPLES", 2**30)
            exact = PixelMetrics()
            exact.update(masks, maps)
            expected = exact.compute()
        expected["pixel_auroc"] = roc_auc_score(labels, scores)
        expected["pixel_average_precision"] = average_precision_score(labels, scores)
        for metrics in (streamed, halves[0]):
            found = metrics.compute()
            assert sum(len(table.scores) for level in metrics._sketch._levels for table in level) < 40 * 128 * 128 / 2
            for name in ("pixel_auroc", "pixel_average_precision", "pixel_f1_max", "aupro_0.3", "aupro_0.05"):
                assert found[name] == pytest.approx(expected[name], abs=AGREED), (kind, name)


@pytest.mark.parametrize(
    ("masks", "maps", "text"),
    [
        (np.zeros((2, 3)), np.zeros((3, 2)), "`masks` and `maps` must be pictures of one size, got (2, 3) and (3, 2)"),
        (np.zeros((2, 2)), np.full((2, 2), np.nan), "`maps` must hold finite scores, got NaN or infinity."),
        ([np.zeros((2, 2))], [], "`maps` must be as many as `masks`, got 0 and 1. Give pairs."),
        (np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), "`masks` must have the shape (height, width) or"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(masks, maps, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        PixelMetrics().update(masks, maps)


def test_masks_of_one_kind_are_an_error_that_says_which():
    metrics = PixelMetrics()
    metrics.update(np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="the masks of 1 pictures hold no anomalous pixels. Evaluate a split that"):
        metrics.compute()
    with pytest.raises(ValueError, match="`limits` must be false-positive rates in \\(0, 1\\], got 0."):
        PixelMetrics(limits=(0,))
    with pytest.raises(ValueError, match="`other` must have the limits"):
        metrics.merge(PixelMetrics(limits=(0.1,)))
