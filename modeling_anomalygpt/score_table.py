"""Weighted distributions of scores in bounded memory, from which every threshold metric follows.

A metric that looks at all thresholds needs to know, for each score, how many normal and how many anomalous samples lie
above it; not which ones. A table of distinct scores with their counts holds just that, and small tables are exact.
Beyond `EXACT_ENTRIES` distinct scores neighbours are joined so that no rank moves by more than a small part of itself,
whatever the distribution: crowded at 0 or 1, of very different ranges, or fed in any order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

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
        scores (`np.ndarray` of shape `(num_entries,)`):
            Rising, each once.
        weights (`np.ndarray` of shape `(3, num_entries)`):
            float64: number of normal samples, number of anomalous samples, and the anomalous ones weighted (for
            overlaps of regions: one over the area of the sample's region).
    """

    scores: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(
        cls, normal: np.ndarray, anomalous: np.ndarray, anomalous_weights: np.ndarray | None = None
    ) -> "ScoreTable":
        """Exact table of samples.

        Args:
            normal (`np.ndarray` of shape `(num_normal,)`): Scores of normal samples; sorted in place.
            anomalous (`np.ndarray` of shape `(num_anomalous,)`): Scores of anomalous samples, of the same dtype.
            anomalous_weights (`np.ndarray` of shape `(num_anomalous,)`, *optional*): Their weights; default 1.

        Returns:
            `ScoreTable`

        Example:
        ```python
        >>> table = ScoreTable.of(np.array([0.5, 0.1, 0.1]), np.array([0.5]))
        >>> table.scores.tolist(), table.weights.tolist()
        ([0.1, 0.5], [[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])

        ```
        """
        normal.sort()  # values alone sort several times faster than values that carry a label
        order = np.argsort(anomalous, kind="stable")
        own = np.ones(len(anomalous)) if anomalous_weights is None else anomalous_weights[order]
        anomalous = anomalous[order]
        return cls._grouped((normal, None, _runs(normal)), (anomalous, own, _runs(anomalous)))

    @classmethod
    def shortened_of(cls, normal: np.ndarray, anomalous: np.ndarray, anomalous_weights: np.ndarray) -> "ScoreTable":
        """Table of many samples, exact up to `EXACT_ENTRIES` distinct scores; beyond, it is shortened as it is made.

        Normal and anomalous samples are grouped each by themselves: a group holds at most 1.5 steps of the samples of
        its own kind down to it (and of all weights), or one sample. The rest is as [`ScoreTable.shortened`] says.
        Grouping sorted samples is several times faster than shortening a table that has an entry for each.

        Args:
            normal, anomalous, anomalous_weights: See [`ScoreTable.of`].
        """
        normal.sort()
        order = np.argsort(anomalous, kind="stable")
        anomalous, own = anomalous[order], anomalous_weights[order]
        runs, runs_anomalous = _runs(normal), _runs(anomalous)
        if len(runs) + len(runs_anomalous) > EXACT_ENTRIES:
            runs, runs_anomalous = _groups(normal), _groups(anomalous, own)
        return cls._grouped((normal, None, runs), (anomalous, own, runs_anomalous))

    @classmethod
    def _grouped(cls, *kinds: tuple[np.ndarray, np.ndarray | None, np.ndarray]) -> "ScoreTable":
        """Table of sorted samples of both kinds with their weights, from where each group of them begins."""
        tables = []
        for row, (rising, own, starts) in enumerate(kinds):
            if not len(rising):
                continue
            weights, ends = np.zeros((3, len(starts))), np.append(starts[1:], len(rising))
            weights[row] = ends - starts
            if own is not None:
                weights[2] = np.add.reduceat(own, starts)
            tables.append(cls(rising[(starts + ends) // 2], weights))
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
        starts = _runs(scores)
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
        self._normal: list[np.ndarray] = []
        self._anomalous: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._waiting = 0
        self._levels: list[list[ScoreTable]] = []

    def add(self, normal: np.ndarray, anomalous: np.ndarray, anomalous_weights: np.ndarray) -> None:
        """Adds samples; see [`ScoreTable.of`]. The arrays must not be changed afterwards."""
        self._normal.append(normal)
        self._anomalous.append(anomalous)
        self._weights.append(anomalous_weights)
        self._waiting += len(normal) + len(anomalous)
        if self._waiting >= BUFFERED_SAMPLES:
            table = ScoreTable.shortened_of(*self._samples())
            self._normal, self._anomalous, self._weights, self._waiting = [], [], [], 0
            self._push(table, level=0)

    def merge(self, other: "ScoreSketch") -> None:
        """Adds all samples of another sketch."""
        for level, tables in enumerate(other._levels):
            for table in tables:
                self._push(table, level)
        for samples in zip(other._normal, other._anomalous, other._weights, strict=True):
            self.add(*samples)

    def table(self) -> ScoreTable:
        """The table of all samples so far; adding may go on afterwards."""
        tables = [table for level in self._levels for table in level]
        return ScoreTable.merged([*tables, self._collected()])

    def state(self) -> dict[str, np.ndarray]:
        """Everything as arrays: samples that wait, and all tables one after another with their levels and lengths."""
        normal, anomalous, anomalous_weights = self._samples()
        tables = [(level, table) for level, tables in enumerate(self._levels) for table in tables]
        scores = [np.zeros(0), *(table.scores for _, table in tables)]
        weights = [np.zeros((3, 0)), *(table.weights for _, table in tables)]
        return {
            "normal": normal,
            "anomalous": anomalous,
            "anomalous_weights": anomalous_weights,
            "levels": np.array([level for level, _ in tables], dtype=np.int64),
            "lengths": np.array([len(table.scores) for _, table in tables], dtype=np.int64),
            "scores": np.concatenate(scores),
            "weights": np.concatenate(weights, axis=1),
        }

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> "ScoreSketch":
        """The sketch of which [`ScoreSketch.state`] was taken; float32 scores become float64, which is exact."""
        sketch, start = cls(), 0
        for level, length in zip(state["levels"].tolist(), state["lengths"].tolist(), strict=True):
            part = slice(start, start + length)
            sketch._push(ScoreTable(state["scores"][part], state["weights"][:, part]), level)
            start += length
        if len(state["normal"]) or len(state["anomalous"]):
            sketch.add(state["normal"], state["anomalous"], state["anomalous_weights"])
        return sketch

    def _collected(self) -> ScoreTable:
        if not self._waiting:
            return ScoreTable.merged([])
        return ScoreTable.of(*self._samples())

    def _samples(self) -> list[np.ndarray]:
        if not self._waiting:
            return [np.zeros(0) for _ in range(3)]
        return [np.concatenate(part) for part in (self._normal, self._anomalous, self._weights)]

    def _push(self, table: ScoreTable, level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(table)
        if len(self._levels[level]) == _FAN_IN:
            merged = ScoreTable.merged(self._levels[level]).shortened()
            self._levels[level] = []
            self._push(merged, level + 1)


def _runs(rising: np.ndarray) -> np.ndarray:
    """Where each distinct value of a sorted array begins."""
    begins = np.ones(len(rising), dtype=bool)
    np.not_equal(rising[1:], rising[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def _groups(rising: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Where the groups of a sorted array begin; see [`ScoreTable.shortened_of`]."""
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


__all__ = ["BUFFERED_SAMPLES", "EXACT_ENTRIES", "ScoreSketch", "ScoreTable"]
