"""How well scores and verdicts tell good pictures from anomalous ones; NumPy only.

Each metric is a plain function of two arrays; [`ImageMetrics`] and [`PixelMetrics`] collect a whole evaluation.
A metric that needs both classes says so instead of giving NaN.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..regions import connected_components


def _binary(values: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    """Classes as booleans; `name` is what an error calls them."""
    values = np.asarray(values)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        wrong = f"the shape {values.shape}" if values.ndim != 1 else repr(values[~np.isin(values, (0, 1))][0].item())
        raise ValueError(f"`{name}` must be a list of 0 (normal) and 1 (anomalous), got {wrong}. Translate others.")
    return values.astype(bool)


def _finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """Numbers as float64; `name` is what an error calls them."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        wrong = f"the shape {values.shape}" if values.ndim != 1 else "NaN or infinity"
        raise ValueError(f"`{name}` must be a list of finite numbers, got {wrong}. Leave failed pictures out.")
    return values


def _same_length(labels: np.ndarray, values: Sequence, name: str) -> None:
    """An error where there are more or fewer values than labels."""
    if len(values) != len(labels):
        raise ValueError(
            f"`{name}` must be as many as `labels`, got {len(values)} and {len(labels)}. Give one for each picture."
        )


def _both_classes(metric: str, labels: np.ndarray) -> None:
    """An error where all pictures are of one class, which leaves `metric` undefined."""
    anomalous = int(labels.sum())
    if anomalous in (0, len(labels)):
        raise ValueError(
            f"{metric} is undefined: there are {len(labels) - anomalous} normal and {anomalous} anomalous pictures. "
            "Evaluate a split that has both."
        )


EXACT_ENTRIES = 2**18
"""Tables with at most so many distinct scores are never shortened."""

BUFFERED_SAMPLES = 2**21
"""Samples collected before they become a table."""

_STEP = 2.0**-15  # a joined group holds at most about this part of the samples above it
_FAN_IN = 8  # tables of one level that become one table of the next
_TIGHT_SHARE = 0.05  # down to this false-positive rate normal samples are told apart as finely (AUPRO up to 0.05)


@dataclass(frozen=True)
class ScoreTable:
    """Distinct scores, rising, with what lies at each.

    Attributes:
        scores (`np.ndarray` of shape `(num_entries,)`): Rising, each once.
        weights (`np.ndarray` of shape `(3, num_entries)`): float64: number of normal samples, number of anomalous
            samples, and the anomalous ones weighted (for overlaps of regions: one over the area of the sample's
            region).
    """

    scores: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(
        cls,
        normal: np.ndarray,
        anomalous: np.ndarray,
        anomalous_weights: np.ndarray | None = None,
        shorten: bool = False,
    ) -> "ScoreTable":
        """Table of samples.

        Args:
            normal (`np.ndarray` of shape `(num_normal,)`): Scores of normal samples; sorted in place.
            anomalous (`np.ndarray` of shape `(num_anomalous,)`): Scores of anomalous samples, of the same dtype.
            anomalous_weights (`np.ndarray` of shape `(num_anomalous,)`, *optional*): Their weights; default 1.
            shorten (`bool`, defaults to `False`): Whether more than `EXACT_ENTRIES` distinct scores are shortened as
                the table is made, normal and anomalous samples each by themselves: a group holds at most 1.5 steps of
                the samples of its own kind down to it (and of all weights), or one sample; the rest is as
                [`ScoreTable.shortened`] says, and several times faster.

        Returns:
            `ScoreTable`: Exact unless shortened.

        Example:
        ```python
        >>> table = ScoreTable.of(np.array([0.5, 0.1, 0.1]), np.array([0.5]))
        >>> table.scores.tolist(), table.weights.tolist()
        ([0.1, 0.5], [[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])

        ```
        """
        normal.sort()  # values alone sort several times faster than values that carry a label
        order = np.argsort(anomalous, kind="stable")
        weights = np.ones(len(anomalous)) if anomalous_weights is None else anomalous_weights[order]
        anomalous = anomalous[order]
        starts = _run_starts(normal), _run_starts(anomalous)
        if shorten and len(starts[0]) + len(starts[1]) > EXACT_ENTRIES:
            starts = _group_starts(normal), _group_starts(anomalous, weights)
        tables = []
        for row, (rising, begins) in enumerate(zip((normal, anomalous), starts, strict=True)):
            ends = np.append(begins[1:], len(rising))[: len(begins)]
            table = cls(rising[(begins + ends) // 2], np.zeros((3, len(begins))))
            table.weights[row] = ends - begins
            if row and len(rising):
                table.weights[2] = np.add.reduceat(weights, begins)
            tables.append(table)
        return cls.merged(tables)

    @classmethod
    def merged(cls, tables: "Iterable[ScoreTable]") -> "ScoreTable":
        """The table of all samples of several tables; nothing is lost."""
        tables = [table for table in tables if len(table.scores)]
        if not tables:
            return cls(np.zeros(0), np.zeros((3, 0)))
        if len(tables) == 1:
            return tables[0]
        scores = np.concatenate([table.scores for table in tables])
        order = np.argsort(scores, kind="stable")  # joins rising runs
        scores = scores[order]
        starts = _run_starts(scores)
        scores = scores[starts]
        weights = np.empty((3, len(scores)))
        for column in range(3):
            merged = np.concatenate([table.weights[column] for table in tables])
            weights[column] = np.add.reduceat(merged[order], starts)
        return cls(scores, weights)

    def shortened(self) -> "ScoreTable":
        """Joins neighbouring scores, if there are many, where no curve changes visibly.

        Going down from the highest score, a joined group holds at most 1.5 steps (2^-15) of: the samples down to it;
        the normal samples down to it, or 5 % of all if that is more; all anomalous samples; all their weights. The
        group takes the score at the middle of its samples, so each rank moves by at most 0.75 steps of itself. A score
        that many samples share keeps its value and stays alone: ties stay ties.
        """
        if len(self.scores) <= EXACT_ENTRIES:
            return self
        falling = self.weights[:, ::-1]
        samples = falling[0] + falling[1]
        down_to = np.cumsum(samples)
        normal_down_to = np.cumsum(falling[0]) - falling[0] / 2
        _, anomalous_total, weight_total = self.weights.sum(axis=1)
        cost = samples / (down_to - samples / 2)
        bounds = (
            (falling[0], np.maximum(normal_down_to, _TIGHT_SHARE * falling[0].sum())),
            (falling[1], anomalous_total),
            (falling[2], weight_total),
        )
        for mass, bound in bounds:
            cost = np.maximum(cost, np.divide(mass, bound, out=np.zeros_like(mass), where=mass > 0))
        cost /= _STEP
        cell = np.floor(np.cumsum(cost) - cost / 2)
        alone = cost > 0.5
        begins = np.ones(len(cost), dtype=bool)
        begins[1:] = (cell[1:] != cell[:-1]) | alone[1:] | alone[:-1]
        starts = np.flatnonzero(begins)
        before = down_to[starts] - samples[starts]
        after = np.append(before[1:], down_to[-1])
        middle = np.searchsorted(down_to, (before + after) / 2)
        weights = np.add.reduceat(falling, starts, axis=1)
        return ScoreTable(self.scores[::-1][middle][::-1].copy(), weights[:, ::-1].copy())


class ScoreSketch:
    """A [`ScoreTable`] of a stream of samples, in memory that does not grow with the stream.

    Exact for up to `BUFFERED_SAMPLES` samples or `EXACT_ENTRIES` distinct scores. Beyond, tables are merged and
    shortened eight at a time, level by level, so a sample is moved once a level: after `2^21 * 8^n` samples a rank is
    off by at most `0.75 * (n + 1) * 2^-15` of itself, 9.2e-5 for a thousand million samples. Metrics are integrals of
    such ranks, over which the errors cancel: measured errors are below 1e-6 (`benchmarks/speed_metrics.py`).
    """

    def __init__(self) -> None:
        self._samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._levels: list[list[ScoreTable]] = []

    def add(self, normal: np.ndarray, anomalous: np.ndarray, anomalous_weights: np.ndarray) -> None:
        """Adds samples; see [`ScoreTable.of`]. The arrays must not be changed afterwards."""
        self._samples.append((normal, anomalous, anomalous_weights))
        self._waiting += len(normal) + len(anomalous)
        if self._waiting >= BUFFERED_SAMPLES:
            table = self._waiting_table(shorten=True)
            self._samples, self._waiting = [], 0
            self._push(table, level=0)

    def merge(self, other: "ScoreSketch") -> None:
        """Adds all samples of another sketch."""
        for level, tables in enumerate(other._levels):
            for table in tables:
                self._push(table, level)
        for samples in other._samples:
            self.add(*samples)

    def table(self) -> ScoreTable:
        """The table of all samples so far; adding may go on afterwards."""
        tables = [table for level in self._levels for table in level]
        return ScoreTable.merged([*tables, self._waiting_table()])

    def _waiting_table(self, shorten: bool = False) -> ScoreTable:
        if not self._waiting:
            return ScoreTable.merged([])
        return ScoreTable.of(*(np.concatenate(part) for part in zip(*self._samples, strict=True)), shorten)

    def _push(self, table: ScoreTable, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(table)
        if len(self._levels[level]) == _FAN_IN:
            merged = ScoreTable.merged(self._levels[level]).shortened()
            self._levels[level] = []
            self._push(merged, level + 1)


def _run_starts(rising: np.ndarray) -> np.ndarray:
    """Where each distinct value of a sorted array begins."""
    begins = np.ones(len(rising), dtype=bool)
    np.not_equal(rising[1:], rising[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def _group_starts(rising: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Where the groups of a sorted array begin; see [`ScoreTable.of`]."""
    number, alone = len(rising), 1.5 / _STEP  # so many samples from the top are groups of one
    begins = np.zeros(number + 1, dtype=bool)
    begins[max(0, number - int(alone)) :] = True
    steps = np.arange(alone * np.log(max(number / alone, 1)))
    begins[number - (alone * np.exp(steps / alone)).astype(np.int64)] = True
    if weights is not None:
        cells = np.floor(np.cumsum(weights) / (weights.sum() * _STEP))
        begins[1:number] |= cells[1:] != cells[:-1]
    starts = np.flatnonzero(begins[1:number]) + 1
    in_run = starts[rising[starts] == rising[starts - 1]]
    begins[in_run] = False
    for side in ("left", "right"):
        begins[np.searchsorted(rising, rising[in_run], side=side)] = True
    begins[0] = True
    return np.flatnonzero(begins[:number])


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
    """Average precision, in (0, 1]: the precision at each anomalous sample's own score, averaged; no interpolation."""
    hits, alarms = _at_or_above(normal, anomalous)
    return float(anomalous @ (hits / (hits + alarms)) / anomalous.sum())


def best_f1(scores: np.ndarray, normal: np.ndarray, anomalous: np.ndarray) -> tuple[float, float]:
    """Largest F1 over all thresholds, and the highest threshold of `scores` (distinct, rising) that reaches it."""
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


class PixelMetrics:
    """Metrics of anomaly maps, pooled over all pixels of all pictures.

    Memory does not grow with the number of pictures; see [`ScoreSketch`] for what that costs (nothing up to two
    million pixels, below 1e-4 always). Scores are compared as float32.

    Args:
        limits (`Sequence[float]`, *optional*, defaults to `(0.3, 0.05)`): False-positive rates up to which the overlap
            of regions is averaged, each in (0, 1].

    Raises:
        ValueError: If a limit is out of range.

    Example:
    ```python
    >>> mask = np.zeros((4, 4), dtype=bool)
    >>> mask[:2, :2] = True
    >>> metrics = PixelMetrics()
    >>> metrics.update(mask, mask * 0.5 + 0.25)
    >>> metrics.compute()["pixel_auroc"], metrics.compute()["aupro_0.3"]
    (1.0, 1.0)

    ```
    """

    def __init__(self, limits: Sequence[float] = (0.3, 0.05)):
        for limit in limits:
            if not 0 < limit <= 1:
                raise ValueError(
                    f"`limits` must be false-positive rates in (0, 1], got {limit}. The usual one is 0.3."
                )
        self.limits = tuple(limits)
        self.num_maps = 0
        self._sketch = ScoreSketch()

    def update(self, masks: np.ndarray | Sequence[np.ndarray], maps: np.ndarray | Sequence[np.ndarray]) -> None:
        """Adds pictures.

        Args:
            masks (`np.ndarray` of shape `(height, width)` or `(batch_size, height, width)`, or a sequence): Anomalous
                where not zero; good pictures have empty masks.
            maps (the same shapes): Finite scores on any scale, higher meaning more anomalous.

        Raises:
            ValueError: If shapes differ **or** a score is NaN or infinite.
        """
        masks, maps = _listed(masks, "masks"), _listed(maps, "maps")
        if len(masks) != len(maps):
            raise ValueError(f"`maps` must be as many as `masks`, got {len(maps)} and {len(masks)}. Give pairs.")
        for mask, anomaly_map in zip(masks, maps, strict=True):
            self._add(np.asarray(mask) != 0, np.asarray(anomaly_map, dtype=np.float32))

    def merge(self, other: "PixelMetrics") -> None:
        """Adds the pictures of another object, such as that of another process.

        Raises:
            ValueError: If it has other limits.
        """
        if self.limits != other.limits:
            raise ValueError(f"`other` must have the limits {self.limits}, got {other.limits}. Make both alike.")
        self.num_maps += other.num_maps
        self._sketch.merge(other._sketch)

    def compute(self) -> dict[str, float]:
        """The metrics of all pictures so far.

        Returns:
            `dict[str, float]`: `pixel_auroc`, `pixel_average_precision`, `pixel_f1_max`, `pixel_f1_threshold` and, for
            each limit, `aupro_<limit>`.

        Raises:
            ValueError: If there are no normal or no anomalous pixels.
        """
        table = self._sketch.table()
        normal, anomalous, overlap = table.weights
        if not anomalous.any() or not normal.any():
            missing = "anomalous" if normal.any() else "normal" if anomalous.any() else "any"
            raise ValueError(
                f"Pixel metrics are undefined: the masks of {self.num_maps} pictures hold no {missing} pixels. "
                "Evaluate a split that has both."
            )
        f1, threshold = best_f1(table.scores, normal, anomalous)
        return {
            "pixel_auroc": area_under_roc(normal, anomalous),
            "pixel_average_precision": area_under_precision(normal, anomalous),
            "pixel_f1_max": f1,
            "pixel_f1_threshold": threshold,
            **{f"aupro_{limit:g}": area_under_overlap(normal, overlap, limit) for limit in self.limits},
        }

    def _add(self, mask: np.ndarray, scores: np.ndarray) -> None:
        if mask.shape != scores.shape or mask.ndim != 2:
            raise ValueError(
                f"`masks` and `maps` must be pictures of one size, got {mask.shape} and {scores.shape}. "
                "Resize the mask (nearest) or the map (bilinear) first."
            )
        if not np.isfinite(scores).all():
            raise ValueError(
                "`maps` must hold finite scores, got NaN or infinity. The model or its dtype is at fault."
            )
        weights = np.zeros(0)
        if mask.any():
            labels, stats = connected_components(mask)
            weights = 1.0 / stats[labels[mask], 4]
        self._sketch.add(scores[~mask], scores[mask], weights)
        self.num_maps += 1


def _listed(pictures: np.ndarray | Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    if isinstance(pictures, np.ndarray):
        if pictures.ndim not in (2, 3):
            raise ValueError(
                f"`{name}` must have the shape (height, width) or (batch_size, height, width), got {pictures.shape}. "
                "Drop the channel axis."
            )
        return [pictures] if pictures.ndim == 2 else list(pictures)
    return list(pictures)


VERDICTS = ("normal", "anomalous", "uncertain", "error")


def auroc(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float:
    """Area under the receiver operating characteristic: how often an anomalous sample scores above a normal one.

    Args:
        labels (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.
        scores (`np.ndarray` of shape `(num_samples,)`): Finite, higher meaning more anomalous.

    Returns:
        `float`: In [0, 1]; 0.5 for scores that say nothing.

    Raises:
        ValueError: If there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> auroc([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    0.75

    ```
    """
    return area_under_roc(*_table("AUROC", labels, scores).weights[:2])


def average_precision(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float:
    """Mean over the anomalous samples of the precision at their score, in (0, 1]; arguments and errors as [`auroc`].

    Example:
    ```python
    >>> average_precision([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    0.8333333333333333

    ```
    """
    return area_under_precision(*_table("Average precision", labels, scores).weights[:2])


def f1_max(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Largest F1 that any threshold reaches; arguments and errors as [`auroc`].

    Returns:
        `tuple(float, float)`: F1, and the threshold: samples that score at least as much are called anomalous.

    Example:
    ```python
    >>> f1_max([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    (0.8, 0.5)

    ```
    """
    table = _table("F1-max", labels, scores)
    return best_f1(table.scores, *table.weights[:2])


def oracle_accuracy(
    labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray, balanced: bool = False
) -> tuple[float, float]:
    """Accuracy at the best threshold, chosen with the labels: what no threshold on these scores can exceed.

    Args:
        labels, scores: See [`auroc`].
        balanced (`bool`, defaults to `False`): Whether balanced accuracy is meant.

    Returns:
        `tuple(float, float)`: Accuracy and threshold (infinite where calling everything normal is best).

    Raises:
        ValueError: If there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> oracle_accuracy([0, 0, 0, 1, 1], [0.1, 0.2, 0.6, 0.5, 0.9], balanced=True)
    (0.8333333333333333, 0.5)

    ```
    """
    table = _table("Oracle accuracy", labels, scores)
    normal, anomalous, _ = table.weights
    missed = np.append(np.cumsum(anomalous) - anomalous, anomalous.sum())  # the last: nothing is called anomalous
    passed = np.append(np.cumsum(normal) - normal, normal.sum())
    hits = anomalous.sum() - missed
    if balanced:
        right = (hits / anomalous.sum() + passed / normal.sum()) / 2
    else:
        right = (hits + passed) / (normal.sum() + anomalous.sum())
    best = len(right) - 1 - int(np.argmax(right[::-1]))
    return float(right[best]), float(table.scores[best]) if best < len(table.scores) else float("inf")


def accuracy(
    labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray, balanced: bool = False
) -> float:
    """Share of predictions that are right.

    Args:
        labels, predictions (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.
        balanced (`bool`, defaults to `False`): Whether the mean of the shares of the two classes is meant, which is
            blind to how common each is and 0.5 for predictions that say nothing.

    Returns:
        `float`: In [0, 1].

    Raises:
        ValueError: If there are no samples, for balanced accuracy if there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> accuracy([0, 0, 0, 0, 1], [0, 0, 0, 0, 0]), accuracy([0, 0, 0, 0, 1], [0, 0, 0, 0, 0], balanced=True)
    (0.8, 0.5)

    ```
    """
    labels, predictions = _binary(labels, "labels"), _binary(predictions, "predictions")
    _same_length(labels, predictions, "predictions")
    right = labels == predictions
    if balanced:
        _both_classes("Balanced accuracy", labels)
        return float((right[labels].mean() + right[~labels].mean()) / 2)
    _some_samples(labels)
    return float(right.mean())


def paper_accuracy(labels: Sequence[int] | np.ndarray, answers: Sequence[str]) -> float:
    """Accuracy as the paper's code counts it: `Yes` in the answer to an anomalous picture, `No` in that to a good one.

    An answer that holds both words is right for either class, one that holds neither is wrong for both; capital and
    small letters differ (https://github.com/CASIA-IVA-Lab/AnomalyGPT, `test_mvtec.py`).

    Args:
        labels (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.
        answers (`Sequence[str]`): In English.

    Raises:
        ValueError: If there are no samples, or lengths differ.

    Example:
    ```python
    >>> paper_accuracy([1, 0, 0], ["Yes, at the top.", "No.", "There is none."])
    0.6666666666666666

    ```
    """
    labels = _binary(labels, "labels")
    _same_length(labels, answers, "answers")
    _some_samples(labels)
    right = [("Yes" if label else "No") in answer for label, answer in zip(labels, answers, strict=True)]
    return float(np.mean(right))


def verdict_metrics(labels: Sequence[int] | np.ndarray, verdicts: Sequence[str]) -> dict[str, float]:
    """What verdicts are worth, with `uncertain` neither hidden nor counted as right.

    Args:
        labels (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.
        verdicts (`Sequence[str]`): `"normal"`, `"anomalous"` or `"uncertain"`; `"error"` is left out and counted.

    Returns:
        `dict[str, float]`:
        - `false_alarm_rate`: normal pictures called anomalous, of all normal ones;
        - `miss_rate`: anomalous pictures called normal, of all anomalous ones;
        - `uncertain_rate`: of all pictures; `uncertain_rate_normal`, `uncertain_rate_anomalous`: of each class;
        - `balanced_accuracy`: mean over the classes of the share called rightly, `uncertain` counting as wrong;
        - `balanced_accuracy_decided`, `accuracy_decided`: over the pictures that were decided (absent if one class has
          none);
        - `accuracy_verdict`: share called rightly, `uncertain` counting as wrong;
        - `num_errors`: pictures without a verdict.

    Raises:
        ValueError: If there is one class only, a verdict is unknown, or lengths differ.

    Example:
    ```python
    >>> found = verdict_metrics([0, 0, 1, 1], ["normal", "anomalous", "anomalous", "uncertain"])
    >>> found["false_alarm_rate"], found["miss_rate"], found["balanced_accuracy"], found["balanced_accuracy_decided"]
    (0.5, 0.0, 0.5, 0.75)

    ```
    """
    labels = _binary(labels, "labels")
    _same_length(labels, verdicts, "verdicts")
    verdicts = np.asarray(verdicts, dtype=object)
    unknown = sorted({str(verdict) for verdict in verdicts} - set(VERDICTS))
    if unknown:
        raise ValueError(f"`verdicts` must be among {', '.join(VERDICTS)}, got {unknown[0]!r}. Translate others.")
    failed = verdicts == "error"
    labels, verdicts = labels[~failed], verdicts[~failed]
    _both_classes("The rate of false alarms or misses", labels)
    right = verdicts == np.where(labels, "anomalous", "normal")
    decided = verdicts != "uncertain"
    rates = {
        "false_alarm_rate": (verdicts == "anomalous")[~labels].mean(),
        "miss_rate": (verdicts == "normal")[labels].mean(),
        "uncertain_rate": (~decided).mean(),
        "uncertain_rate_normal": (~decided)[~labels].mean(),
        "uncertain_rate_anomalous": (~decided)[labels].mean(),
        "accuracy_verdict": right.mean(),
        "balanced_accuracy": (right[labels].mean() + right[~labels].mean()) / 2,
        "num_errors": failed.sum(),
    }
    if decided[labels].any() and decided[~labels].any():
        rates["accuracy_decided"] = right[decided].mean()
        rates["balanced_accuracy_decided"] = (right[decided & labels].mean() + right[decided & ~labels].mean()) / 2
    return {name: float(value) for name, value in rates.items()}


_OPTIONAL = ("verdicts", "log_odds", "answers", "ratios", "evidence")


class ImageMetrics:
    """Metrics of whole pictures; each picture is one row of a few bytes, so nothing is approximated.

    Example:
    ```python
    >>> metrics = ImageMetrics()
    >>> metrics.update([0, 1], [0.2, 0.7], verdicts=["normal", "anomalous"], log_odds=[-3.0, 1.5])
    >>> metrics.update([0, 1], [0.4, 0.3], verdicts=["anomalous", "anomalous"], log_odds=[0.5, 2.0])
    >>> found = metrics.compute()
    >>> found["image_auroc"], found["balanced_accuracy"], found["accuracy_log_odds"], found["num_pictures"]
    (0.75, 0.75, 0.75, 4.0)

    ```
    """

    def __init__(self) -> None:
        self._columns: dict[str, list] = {name: [] for name in ("labels", "scores", *_OPTIONAL)}

    def update(
        self,
        labels: Sequence[int] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        verdicts: Sequence[str] | None = None,
        log_odds: Sequence[float] | np.ndarray | None = None,
        answers: Sequence[str] | None = None,
        ratios: Sequence[float] | np.ndarray | None = None,
        evidence: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        """Adds pictures.

        Args:
            labels (`np.ndarray` of shape `(batch_size,)`): 0 normal, 1 anomalous.
            scores (`np.ndarray` of shape `(batch_size,)`): Finite, higher meaning more anomalous.
            verdicts (`Sequence[str]`, *optional*): See [`verdict_metrics`].
            log_odds (`np.ndarray` of shape `(batch_size,)`, *optional*): Natural logarithm of P(yes) / P(no); above 0
                means anomalous.
            answers (`Sequence[str]`, *optional*): In English.
            ratios (`np.ndarray` of shape `(batch_size,)`, *optional*): Scores over the threshold of the references;
                from 1 on the map alone says anomalous.
            evidence (`np.ndarray` of shape `(batch_size,)`, *optional*): What the verdict rests on; from 0 on the
                picture is more likely anomalous.

        Raises:
            ValueError: If lengths differ, a label is not 0 or 1, a number is not finite, or one call brings something
                optional and another does not.
        """
        labels, scores = _binary(labels, "labels"), _finite(scores, "scores")
        _same_length(labels, scores, "scores")
        values_of = (verdicts, log_odds, answers, ratios, evidence)
        given = dict(zip(_OPTIONAL, values_of, strict=True))
        for name, values in given.items():
            if values is not None:
                _same_length(labels, values, name)
            if self._columns["labels"] and len(labels) and bool(self._columns[name]) != (values is not None):
                raise ValueError(f"`{name}` must be given in every call or in none, got both.")
            if values is not None and name not in ("verdicts", "answers"):
                given[name] = _finite(values, name).tolist()
        self._columns["labels"] += labels.astype(int).tolist()
        self._columns["scores"] += scores.tolist()
        for name, values in given.items():
            self._columns[name] += [] if values is None else list(values)

    def merge(self, other: "ImageMetrics") -> None:
        """Adds the pictures of another object, such as that of another process."""
        if other._columns["labels"]:
            self.update(**{name: values for name, values in other._columns.items() if values})

    def compute(self) -> dict[str, float]:
        """The metrics of all pictures so far.

        Returns:
            `dict[str, float]`: `num_pictures`, `num_normal`, `num_anomalous`, `image_auroc`,
            `image_average_precision`, `image_f1_max`, `image_f1_threshold`, `oracle_accuracy`, `oracle_threshold`,
            `oracle_balanced_accuracy`, `oracle_balanced_threshold`; with verdicts what [`verdict_metrics`] gives; with
            log-odds `accuracy_log_odds`, `balanced_accuracy_log_odds`, `auroc_log_odds`; with answers
            `accuracy_paper`; with ratios `balanced_accuracy_map`; with evidence `balanced_accuracy_forced`.

        Raises:
            ValueError: If there is one class only.
        """
        labels, scores = np.array(self._columns["labels"], dtype=int), np.array(self._columns["scores"])
        _both_classes("AUROC", labels == 1)
        metrics = {
            "num_pictures": float(len(labels)),
            "num_normal": float((labels == 0).sum()),
            "num_anomalous": float((labels == 1).sum()),
            "image_auroc": auroc(labels, scores),
            "image_average_precision": average_precision(labels, scores),
        }
        metrics["image_f1_max"], metrics["image_f1_threshold"] = f1_max(labels, scores)
        metrics["oracle_accuracy"], metrics["oracle_threshold"] = oracle_accuracy(labels, scores)
        balanced = oracle_accuracy(labels, scores, balanced=True)
        metrics["oracle_balanced_accuracy"], metrics["oracle_balanced_threshold"] = balanced
        if self._columns["verdicts"]:
            metrics |= verdict_metrics(labels, self._columns["verdicts"])
        if self._columns["log_odds"]:
            odds = np.array(self._columns["log_odds"])
            metrics["accuracy_log_odds"] = accuracy(labels, odds > 0)
            metrics["balanced_accuracy_log_odds"] = accuracy(labels, odds > 0, balanced=True)
            metrics["auroc_log_odds"] = auroc(labels, odds)
        if self._columns["answers"]:
            metrics["accuracy_paper"] = paper_accuracy(labels, self._columns["answers"])
        for name, column, threshold in (("map", "ratios", 1), ("forced", "evidence", 0)):
            if self._columns[column]:
                alarms = np.array(self._columns[column]) >= threshold
                metrics[f"balanced_accuracy_{name}"] = accuracy(labels, alarms, balanced=True)
        return metrics


def _some_samples(labels: np.ndarray) -> None:
    if not len(labels):
        raise ValueError("Accuracy is undefined: there are no samples. Evaluate a split that is not empty.")


def _table(metric: str, labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> ScoreTable:
    labels, scores = _binary(labels, "labels"), _finite(scores, "scores")
    _same_length(labels, scores, "scores")
    _both_classes(metric, labels)
    return ScoreTable.of(scores[~labels], scores[labels])
