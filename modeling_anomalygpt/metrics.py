"""How well scores and verdicts tell good pictures from anomalous ones; NumPy only.

Each metric is a plain function of two arrays; [`ImageMetrics`] and [`PixelMetrics`] collect a whole evaluation.
A metric that needs both classes says so instead of giving NaN.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .metric_inputs import binary, both_classes, finite, same_length
from .pixel_metrics import PixelMetrics
from .score_curves import area_under_precision, area_under_roc, best_f1
from .score_table import ScoreTable

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
    """Mean over the anomalous samples of the precision at their score.

    Args:
        labels, scores: See [`auroc`].

    Returns:
        `float`: In (0, 1]; the share of anomalous samples for scores that say nothing.

    Raises:
        ValueError: If there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> average_precision([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    0.8333333333333333

    ```
    """
    return area_under_precision(*_table("Average precision", labels, scores).weights[:2])


def f1_max(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Largest F1 that any threshold reaches.

    Args:
        labels, scores: See [`auroc`].

    Returns:
        `tuple(float, float)`: F1, and the threshold: samples that score at least as much are called anomalous.

    Raises:
        ValueError: If there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> f1_max([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    (0.8, 0.5)

    ```
    """
    table = _table("F1-max", labels, scores)
    return best_f1(table.scores, *table.weights[:2])


def accuracy(labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray) -> float:
    """Share of predictions that are right.

    Args:
        labels, predictions (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.

    Returns:
        `float`: In [0, 1].

    Raises:
        ValueError: If there are no samples, or arrays do not fit.
    """
    labels, predictions = binary(labels, "labels"), binary(predictions, "predictions")
    same_length(labels, predictions, "predictions")
    if not len(labels):
        raise ValueError("Accuracy is undefined: there are no samples. Evaluate a split that is not empty.")
    return float((labels == predictions).mean())


def balanced_accuracy(labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray) -> float:
    """Mean of the shares of normal and of anomalous samples that are called so; blind to how common each is.

    Args:
        labels, predictions (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.

    Returns:
        `float`: In [0, 1]; 0.5 for predictions that say nothing.

    Raises:
        ValueError: If there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> balanced_accuracy([0, 0, 0, 0, 1], [0, 0, 0, 0, 0])
    0.5

    ```
    """
    labels, predictions = binary(labels, "labels"), binary(predictions, "predictions")
    same_length(labels, predictions, "predictions")
    both_classes("Balanced accuracy", labels)
    return float(((labels == predictions)[labels].mean() + (labels == predictions)[~labels].mean()) / 2)


def oracle_accuracy(labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Accuracy at the best threshold, chosen with the labels: what no threshold on these scores can exceed.

    Args:
        labels, scores: See [`auroc`].

    Returns:
        `tuple(float, float)`: Accuracy and threshold (infinite where calling everything normal is best).

    Raises:
        ValueError: If there is one class only, or arrays do not fit.
    """
    return _best_threshold(_table("Oracle accuracy", labels, scores), balanced=False)


def oracle_balanced_accuracy(
    labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray
) -> tuple[float, float]:
    """Balanced accuracy at the best threshold, chosen with the labels: what no threshold on these scores can exceed.

    Args:
        labels, scores: See [`auroc`].

    Returns:
        `tuple(float, float)`: Balanced accuracy and threshold (infinite where calling everything normal is best).

    Raises:
        ValueError: If there is one class only, or arrays do not fit.

    Example:
    ```python
    >>> oracle_balanced_accuracy([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    (0.75, 0.9)

    ```
    """
    return _best_threshold(_table("Oracle balanced accuracy", labels, scores), balanced=True)


def paper_accuracy(labels: Sequence[int] | np.ndarray, answers: Sequence[str]) -> float:
    """Accuracy as the paper's code counts it: `Yes` in the answer to an anomalous picture, `No` in that to a good one.

    An answer that holds both words is right for either class, one that holds neither is wrong for both; capital and
    small letters differ (https://github.com/CASIA-IVA-Lab/AnomalyGPT, `test_mvtec.py`).

    Args:
        labels (`np.ndarray` of shape `(num_samples,)`): 0 normal, 1 anomalous.
        answers (`Sequence[str]`): In English.

    Returns:
        `float`: In [0, 1].

    Raises:
        ValueError: If there are no samples, or lengths differ.

    Example:
    ```python
    >>> paper_accuracy([1, 0, 0], ["Yes, at the top.", "No.", "There is none."])
    0.6666666666666666

    ```
    """
    labels = binary(labels, "labels")
    same_length(labels, answers, "answers")
    if not len(labels):
        raise ValueError("Accuracy is undefined: there are no samples. Evaluate a split that is not empty.")
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
    labels = binary(labels, "labels")
    same_length(labels, verdicts, "verdicts")
    verdicts = np.asarray(verdicts, dtype=object)
    unknown = sorted({str(verdict) for verdict in verdicts} - set(VERDICTS))
    if unknown:
        raise ValueError(f"`verdicts` must be among {', '.join(VERDICTS)}, got {unknown[0]!r}.")
    failed = verdicts == "error"
    labels, verdicts = labels[~failed], verdicts[~failed]
    both_classes("The rate of false alarms or misses", labels)
    right = verdicts == np.where(labels, "anomalous", "normal")
    decided = verdicts != "uncertain"
    found = {
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
        found["accuracy_decided"] = right[decided].mean()
        found["balanced_accuracy_decided"] = (right[decided & labels].mean() + right[decided & ~labels].mean()) / 2
    return {name: float(value) for name, value in found.items()}


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
        self._labels: list[int] = []
        self._scores: list[float] = []
        self._verdicts: list[str | None] = []
        self._log_odds: list[float | None] = []
        self._answers: list[str | None] = []

    def update(
        self,
        labels: Sequence[int] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        verdicts: Sequence[str] | None = None,
        log_odds: Sequence[float] | np.ndarray | None = None,
        answers: Sequence[str] | None = None,
    ) -> None:
        """Adds pictures.

        Args:
            labels (`np.ndarray` of shape `(batch_size,)`):
                0 normal, 1 anomalous.
            scores (`np.ndarray` of shape `(batch_size,)`):
                Finite, higher meaning more anomalous.
            verdicts (`Sequence[str]`, *optional*):
                See [`verdict_metrics`].
            log_odds (`np.ndarray` of shape `(batch_size,)`, *optional*):
                Natural logarithm of P(yes) / P(no); above 0 means anomalous.
            answers (`Sequence[str]`, *optional*):
                In English.

        Raises:
            ValueError: If lengths differ, a label is not 0 or 1, a number is not finite, or one call brings verdicts,
                log-odds or answers and another does not.
        """
        labels, scores = binary(labels, "labels"), finite(scores, "scores")
        same_length(labels, scores, "scores")
        optional = (("verdicts", verdicts), ("log_odds", log_odds), ("answers", answers))
        for name, values in optional:
            if values is not None:
                same_length(labels, values, name)
            known = getattr(self, f"_{name}")
            if known and len(labels) and (known[0] is None) != (values is None):
                raise ValueError(f"`{name}` must be given in every call or in none, got both.")
        if log_odds is not None:
            log_odds = finite(log_odds, "log_odds").tolist()
        self._labels += labels.astype(int).tolist()
        self._scores += scores.tolist()
        for name, values in (("verdicts", verdicts), ("log_odds", log_odds), ("answers", answers)):
            getattr(self, f"_{name}").extend([None] * len(labels) if values is None else values)

    def merge(self, other: "ImageMetrics") -> None:
        """Adds the pictures of another object, such as that of another process.

        Args:
            other (`ImageMetrics`): Unchanged.
        """
        if not other._labels:
            return
        optional = {
            name: None if values[0] is None else values
            for name in ("verdicts", "log_odds", "answers")
            for values in [getattr(other, f"_{name}")]
        }
        self.update(other._labels, other._scores, **optional)

    def state(self) -> dict[str, np.ndarray]:
        """What has been collected, as arrays: for `np.savez`, or for another process.

        Returns:
            `dict[str, np.ndarray]`: One array for each argument of [`ImageMetrics.update`] that was given.
        """
        state = {"labels": np.array(self._labels, dtype=np.int64), "scores": np.array(self._scores, dtype=np.float64)}
        for name in ("verdicts", "log_odds", "answers"):
            values = getattr(self, f"_{name}")
            if values and values[0] is not None:
                state[name] = np.array(values)
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> "ImageMetrics":
        """The object of which [`ImageMetrics.state`] was taken; more pictures can be added.

        Args:
            state (`Mapping[str, np.ndarray]`): Such as what `np.load` gives.

        Returns:
            `ImageMetrics`

        Raises:
            ValueError: If `labels` or `scores` are missing, or arrays do not fit.
        """
        for name in ("labels", "scores"):
            if name not in state:
                raise ValueError(f"`state` must be what `ImageMetrics.state` gives, got none of {name}.")
        metrics = cls()
        optional = {name: state[name].tolist() for name in ("verdicts", "log_odds", "answers") if name in state}
        metrics.update(state["labels"], state["scores"], **optional)
        return metrics

    def compute(self) -> dict[str, float]:
        """The metrics of all pictures so far.

        Returns:
            `dict[str, float]`: `num_pictures`, `num_normal`, `num_anomalous`, `image_auroc`,
            `image_average_precision`, `image_f1_max`, `image_f1_threshold`, `oracle_accuracy`, `oracle_threshold`,
            `oracle_balanced_accuracy`, `oracle_balanced_threshold`; with verdicts what [`verdict_metrics`] gives; with
            log-odds `accuracy_log_odds`, `balanced_accuracy_log_odds`, `auroc_log_odds`; with answers
            `accuracy_paper`.

        Raises:
            ValueError: If there is one class only.
        """
        labels, scores = np.array(self._labels, dtype=int), np.array(self._scores)
        both_classes("AUROC", labels == 1)
        f1, f1_threshold = f1_max(labels, scores)
        oracle, threshold = oracle_accuracy(labels, scores)
        balanced, balanced_threshold = oracle_balanced_accuracy(labels, scores)
        found = {
            "num_pictures": float(len(labels)),
            "num_normal": float((labels == 0).sum()),
            "num_anomalous": float((labels == 1).sum()),
            "image_auroc": auroc(labels, scores),
            "image_average_precision": average_precision(labels, scores),
            "image_f1_max": f1,
            "image_f1_threshold": f1_threshold,
            "oracle_accuracy": oracle,
            "oracle_threshold": threshold,
            "oracle_balanced_accuracy": balanced,
            "oracle_balanced_threshold": balanced_threshold,
        }
        if self._verdicts[0] is not None:
            found |= verdict_metrics(labels, self._verdicts)
        if self._log_odds[0] is not None:
            odds = np.array(self._log_odds)
            found["accuracy_log_odds"] = accuracy(labels, odds > 0)
            found["balanced_accuracy_log_odds"] = balanced_accuracy(labels, odds > 0)
            found["auroc_log_odds"] = auroc(labels, odds)
        if self._answers[0] is not None:
            found["accuracy_paper"] = paper_accuracy(labels, self._answers)
        return found


def _best_threshold(table: ScoreTable, balanced: bool) -> tuple[float, float]:
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


def _table(metric: str, labels: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> ScoreTable:
    labels, scores = binary(labels, "labels"), finite(scores, "scores")
    same_length(labels, scores, "scores")
    both_classes(metric, labels)
    return ScoreTable.of(scores[~labels], scores[labels])


__all__ = [
    "VERDICTS",
    "ImageMetrics",
    "PixelMetrics",
    "accuracy",
    "auroc",
    "average_precision",
    "balanced_accuracy",
    "f1_max",
    "oracle_accuracy",
    "oracle_balanced_accuracy",
    "paper_accuracy",
    "verdict_metrics",
]
