"""Connected components of a mask by NumPy alone, for places where OpenCV is not installed.

A checkpoint travels with its code; there it must find regions with what transformers itself needs.
"""

import numpy as np


def connected_components(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels the connected parts (8 neighbours) of a mask, by its horizontal runs.

    Args:
        inside (`np.ndarray` of shape `(height, width)`): Boolean.

    Returns:
        `tuple(np.ndarray, np.ndarray)`: Labels `(height, width)` int32, 0 outside, parts from 1 in the order of their
        first pixel; and, for each label, `(x0, y0, width, height, area)` int64, label 0 being zeros.

    Example:
    ```python
    >>> labels, stats = connected_components(np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]], dtype=bool))
    >>> labels.tolist()
    [[1, 0, 1], [0, 1, 0], [0, 0, 0], [2, 2, 0]]
    >>> stats.tolist()
    [[0, 0, 0, 0, 0], [0, 0, 3, 2, 3], [0, 3, 2, 1, 2]]

    ```
    """
    height, width = inside.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = inside
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    roots = _joined_runs(rows, starts, ends, width + 2)
    _, part = np.unique(roots, return_inverse=True)

    lengths = ends - starts
    offsets = np.repeat(lengths.cumsum() - lengths, lengths)
    columns = np.arange(lengths.sum()) - offsets + np.repeat(starts, lengths)
    labels = np.zeros(inside.shape, dtype=np.int32)
    labels[np.repeat(rows, lengths), columns] = np.repeat(part + 1, lengths)

    count = int(part.max()) + 1 if len(part) else 0
    low = np.full((count, 2), max(height, width), dtype=np.int64)
    high = np.zeros((count, 2), dtype=np.int64)
    np.minimum.at(low, part, np.stack([starts, rows], axis=1))
    np.maximum.at(high, part, np.stack([ends, rows + 1], axis=1))
    stats = np.zeros((count + 1, 5), dtype=np.int64)
    stats[1:, :2], stats[1:, 2:4] = low, high - low
    stats[1:, 4] = np.bincount(part, weights=lengths, minlength=count)
    return labels, stats


def _joined_runs(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, stride: int) -> list[int]:
    """For each run the first run that it is connected with; runs touch when their ends meet at least diagonally."""
    below = (rows + 1) * stride
    first = np.searchsorted(rows * stride + ends, below + starts, side="left")
    last = np.searchsorted(rows * stride + starts, below + ends, side="right")
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for run in np.nonzero(last > first)[0].tolist():
        for other in range(first[run], last[run]):
            one, two = root(run), root(other)
            parent[max(one, two)] = min(one, two)
    return [root(run) for run in range(len(rows))]


__all__ = ["connected_components"]
