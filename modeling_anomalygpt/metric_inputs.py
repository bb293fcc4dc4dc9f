"""What metrics of pictures accept: classes, finite numbers, as many of the one as of the other, both classes."""

from collections.abc import Sequence

import numpy as np


def binary(values: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    """Classes as booleans; `name` is what an error calls them."""
    values = np.asarray(values)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        wrong = f"the shape {values.shape}" if values.ndim != 1 else repr(values[~np.isin(values, (0, 1))][0].item())
        raise ValueError(f"`{name}` must be a list of 0 (normal) and 1 (anomalous), got {wrong}.")
    return values.astype(bool)


def finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """Numbers as float64; `name` is what an error calls them."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        wrong = f"the shape {values.shape}" if values.ndim != 1 else "NaN or infinity"
        raise ValueError(f"`{name}` must be a list of finite numbers, got {wrong}. Leave failed pictures out.")
    return values


def same_length(labels: np.ndarray, values: Sequence, name: str) -> None:
    """An error where there are more or fewer values than labels."""
    if len(values) != len(labels):
        raise ValueError(f"`{name}` must be as many as `labels`, got {len(values)} and {len(labels)}.")


def both_classes(metric: str, labels: np.ndarray) -> None:
    """An error where all pictures are of one class, which leaves `metric` undefined."""
    anomalous = int(labels.sum())
    if anomalous in (0, len(labels)):
        raise ValueError(
            f"{metric} is undefined: there are {len(labels) - anomalous} normal and {anomalous} anomalous pictures. "
            "Evaluate a split that has both."
        )


__all__ = ["binary", "both_classes", "finite", "same_length"]
