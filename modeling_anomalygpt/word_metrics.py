"""How well answers say where anomalies are and how many: words against masks.

Knows answers as text and masks; runs no model. NumPy only.
"""

from collections.abc import Sequence

import numpy as np

from .answers import MANY, parse_count, parse_positions
from .regions import regions_of_mask


class WordMetrics:
    """Places and numbers in the answers to anomalous pictures, against the regions of their masks.

    Pictures without an anomaly do not count: whether one is seen at all is what [`ImageMetrics`] measures.

    Example:
    ```python
    >>> mask = np.zeros((90, 90), dtype=bool)
    >>> mask[5:20, 5:20] = True
    >>> metrics = WordMetrics()
    >>> metrics.update([mask, mask], ["Yes, there is an anomaly, at the top left.", "Two: top left and right."])
    >>> found = metrics.compute()
    >>> found["positions_exact"], found["positions_overlap"], found["count_exact"]
    (0.5, 0.75, 0.5)

    ```
    """

    def __init__(self) -> None:
        self._rows: list[tuple[bool, float, bool]] = []

    def __len__(self) -> int:
        """Pictures that count."""
        return len(self._rows)

    def update(self, masks: Sequence[np.ndarray], answers: Sequence[str]) -> None:
        """Adds pictures.

        Args:
            masks (`Sequence[np.ndarray]` of shape `(height, width)`):
                Anomalous where not zero; pictures with empty masks are passed over.
            answers (`Sequence[str]`):
                In English or Chinese.

        Raises:
            ValueError: If there are not as many answers as masks.
        """
        if len(masks) != len(answers):
            raise ValueError(f"`answers` must be as many as `masks`, got {len(answers)} and {len(masks)}. Give pairs.")
        for mask, answer in zip(masks, answers, strict=True):
            regions = regions_of_mask(np.asarray(mask) != 0)
            if not regions:
                continue
            places, told = {region.position for region in regions}, parse_positions(answer)
            overlap = len(places & told) / len(places | told)
            self._rows.append((places == told, overlap, parse_count(answer) == min(len(regions), MANY)))

    def merge(self, other: "WordMetrics") -> None:
        """Adds the pictures of another object, which is unchanged."""
        self._rows += other._rows

    def compute(self) -> dict[str, float]:
        """The metrics of all pictures so far.

        Returns:
            `dict[str, float]`: `positions_exact`, the share of answers that name exactly the cells of the 3 x 3 grid
            in which the mask's regions lie; `positions_overlap`, the mean intersection over union of these cells;
            `count_exact`, the share that says how many regions there are.

        Raises:
            ValueError: If no picture had an anomaly.
        """
        if not self._rows:
            raise ValueError("Places and counts are undefined: no mask held an anomaly. Evaluate pictures with masks.")
        exact, overlap, count = (float(np.mean(column)) for column in zip(*self._rows, strict=True))
        return {"positions_exact": exact, "positions_overlap": overlap, "count_exact": count}


__all__ = ["WordMetrics"]
