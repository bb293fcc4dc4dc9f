"""How well maps find the anomalous pixels: AUROC, average precision, F1, overlap of regions; any number of maps.

Knows maps and masks of the same size; what size that is, is the protocol's choice.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .connected_components import connected_components
from .score_curves import area_under_overlap, area_under_precision, area_under_roc, best_f1
from .score_table import ScoreSketch


class PixelMetrics:
    """Metrics of anomaly maps, pooled over all pixels of all pictures.

    Memory does not grow with the number of pictures; see [`ScoreSketch`] for what that costs (nothing up to two
    million pixels, below 1e-4 always). Scores are compared as float32.

    Args:
        limits (`Sequence[float]`, *optional*, defaults to `(0.3, 0.05)`):
            False-positive rates up to which the overlap of regions is averaged, each in (0, 1].

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
            masks (`np.ndarray` of shape `(height, width)` or `(batch_size, height, width)`, or a sequence):
                Anomalous where not zero; good pictures have empty masks.
            maps (the same shapes):
                Finite scores on any scale, higher meaning more anomalous.

        Raises:
            ValueError: If shapes differ **or** a score is NaN or infinite.
        """
        masks, maps = _listed(masks, "masks"), _listed(maps, "maps")
        if len(masks) != len(maps):
            raise ValueError(f"`maps` must be as many as `masks`, got {len(maps)} and {len(masks)}. Give pairs.")
        for mask, anomaly_map in zip(masks, maps, strict=True):
            self._add(np.asarray(mask), np.asarray(anomaly_map))

    def merge(self, other: "PixelMetrics") -> None:
        """Adds the pictures of another object, such as that of another process.

        Args:
            other (`PixelMetrics`): Unchanged.

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

    def state(self) -> dict[str, np.ndarray]:
        """What has been collected, as arrays: for `np.savez`, or for another process.

        Returns:
            `dict[str, np.ndarray]`: For [`PixelMetrics.from_state`].
        """
        counted = {"limits": np.array(self.limits, dtype=np.float64), "num_maps": np.array(self.num_maps)}
        return counted | self._sketch.state()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray]) -> "PixelMetrics":
        """The object of which [`PixelMetrics.state`] was taken; more pictures can be added.

        Args:
            state (`Mapping[str, np.ndarray]`): Such as what `np.load` gives.

        Returns:
            `PixelMetrics`

        Raises:
            ValueError: If an array is missing.
        """
        metrics = cls(())
        missing = sorted(set(metrics.state()) - set(state))
        if missing:
            raise ValueError(f"`state` must be what `PixelMetrics.state` gives, got none of {', '.join(missing)}.")
        metrics = cls(state["limits"].tolist())
        metrics.num_maps = int(state["num_maps"])
        metrics._sketch = ScoreSketch.from_state({name: state[name] for name in metrics._sketch.state()})
        return metrics

    def _add(self, mask: np.ndarray, anomaly_map: np.ndarray) -> None:
        if mask.shape != anomaly_map.shape or mask.ndim != 2:
            raise ValueError(
                f"`masks` and `maps` must be pictures of one size, got {mask.shape} and {anomaly_map.shape}. "
                "Resize the mask (nearest) or the map (bilinear) first."
            )
        scores = anomaly_map.astype(np.float32, copy=False)
        if not np.isfinite(scores).all():
            raise ValueError(
                "`maps` must hold finite scores, got NaN or infinity. The model or its dtype is at fault."
            )
        inside = mask != 0
        if not inside.any():
            self._sketch.add(scores.flatten(), np.zeros(0, np.float32), np.zeros(0))
        else:
            labels, stats = connected_components(inside)
            weights = 1.0 / stats[labels[inside], 4]
            self._sketch.add(scores[~inside], scores[inside], weights)
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


__all__ = ["PixelMetrics"]
