"""From a map or a mask to its connected regions: box, area, position in a 3 x 3 grid, scores, outline, millimetres.

Knows NumPy arrays and pixel coordinates; knows no model, no file and no threshold rule (the threshold is an argument).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .prompts import position_name


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


try:  # faster, and draws outlines; a checkpoint's own code must do without it
    import cv2
except ImportError:
    cv2 = None

DEFECT_KINDS = (
    "missing", "extra", "misplaced", "broken", "deformed", "surface", "colour", "contamination", "print",
)  # fmt: skip
"""Kinds of defects that a region can be told to look like, in the order of the head that tells them."""
DEFAULT_MIN_AREA_SHARE = 2e-4
"""Share of the picture below which a region counts as noise: 10 of the 50,176 pixels at 224 x 224."""


@dataclass(frozen=True)
class Region:
    """One connected region (8 neighbours) of a picture.

    Pixel `(x, y)` is column `x`, row `y`; pixel centres lie on whole numbers.

    Attributes:
        box (`tuple[int, int, int, int]`): `(x0, y0, x1, y1)`, the end exclusive: `x1 - x0` is the width in pixels.
        centroid (`tuple[float, float]`): Mean `(x, y)` of the region's pixels.
        area_pixels (`int`): Number of pixels.
        position (`str`): English name of the cell of the 3 x 3 grid, such as `"top left"`: that of the
            centroid; where the region has no pixel there (a ring, a hook), the one that holds most of its pixels.
        row (`int`), column (`int`): That cell, 0 to 2 from the top and from the left.
        peak_score (`float`), mean_score (`float`): Largest and mean value of the map inside; 1.0 where there is only a
            mask.
        outline (`tuple[tuple[int, int], ...]`): Corners `(x, y)` of the outer border, holes left out; empty where
            OpenCV is not installed.
        width_mm (`float`, *optional*), height_mm (`float`, *optional*), area_mm2 (`float`, *optional*): Size of the
            box and area, where the scale is known.
        nearest_good (`dict`, *optional*): The good patch most like the region's middle: `reference`, the number of the
            picture from 0, and `box`, `[x0, y0, x1, y1]` as parts of its width and height.
        kind (`str`, *optional*): What kind of defect it looks like, one of `DEFECT_KINDS`; `None` where that cannot be
            told.
    """

    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    area_pixels: int
    position: str
    row: int
    column: int
    peak_score: float = 1.0
    mean_score: float = 1.0
    outline: tuple[tuple[int, int], ...] = ()
    width_mm: float | None = None
    height_mm: float | None = None
    area_mm2: float | None = None
    nearest_good: dict[str, Any] | None = None
    kind: str | None = None

    @property
    def width(self) -> int:
        """Width of the box in pixels."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> int:
        """Height of the box in pixels."""
        return self.box[3] - self.box[1]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers, strings and lists, ready for `json.dumps`."""
        fields = asdict(self)
        fields["box"] = list(self.box)
        fields["centroid"] = list(self.centroid)
        fields["outline"] = [list(point) for point in self.outline]
        return fields


def find_regions(
    anomaly_map: np.ndarray,
    threshold: float = 0.5,
    mask: np.ndarray | None = None,
    min_area: int | None = None,
    mm_per_pixel: float | None = None,
    extent: float = 1.0,
    connection: float = 1.0,
) -> list[Region]:
    """Connected regions of a map where it reaches the threshold, the most anomalous first.

    Args:
        anomaly_map (`np.ndarray` of shape `(height, width)`): Scores in [0, 1].
        threshold (`float`, *optional*, defaults to 0.5): Pixels with a score of at least this belong to a region.
        mask (`np.ndarray` of shape `(height, width)`, *optional*): Where to look: pixels outside (zero) never belong
            to a region.
        min_area (`int`, *optional*): Smaller regions are dropped. Defaults to `DEFAULT_MIN_AREA_SHARE` of the picture,
            at least one pixel.
        mm_per_pixel (`float`, *optional*): Edge length of a pixel in millimetres; gives the sizes in millimetres.
        extent (`float`, *optional*, defaults to 1.0): A region that reaches the threshold extends down to this part of
            it.
        connection (`float`, *optional*, defaults to 1.0): Several places above that part, one of which reaches the
            threshold, are one region where the map stays above this part of the threshold between them, so that a
            defect whose map dips is one region and not several; it then extends as far down as connects them. No more
            than `extent` counts.

    Returns:
        `list[Region]`: Sorted by peak score, then area (both falling), then from top to bottom and left to right.

    Raises:
        ValueError: If the map is not a picture of finite numbers in [0, 1], or another argument is out of range.

    Example:
    ```python
    >>> anomaly_map = np.zeros((6, 6), dtype=np.float32)
    >>> anomaly_map[0, 4:6] = 0.9
    >>> anomaly_map[4:6, 0:2] = 0.7
    >>> [(region.position, region.area_pixels) for region in find_regions(anomaly_map)]
    [('top right', 2), ('bottom left', 4)]

    ```
    """
    anomaly_map = _checked_map(anomaly_map)
    if not 0 <= threshold <= 1:
        raise ValueError(f"`threshold` must be in [0, 1], got {threshold}. Maps are on that scale.")
    for name, value in (("extent", extent), ("connection", connection)):
        if not 0 < value <= 1:
            raise ValueError(f"`{name}` must be above 0 and at most 1, got {value}. 1 keeps to the threshold.")
    levels = [part * threshold for part in np.linspace(extent, min(connection, extent), 5).tolist()]
    inside = anomaly_map >= levels[-1]
    if mask is not None:
        inside &= _checked_mask(mask, anomaly_map.shape)
    parts = []
    for part, left, top in _connected_parts(inside):
        height, width = part.shape
        window = np.where(part, anomaly_map[top : top + height, left : left + width], -1)
        if window.max() >= threshold:
            parts.append((_as_high_as_connected(window, levels), left, top))
    return _regions(parts, anomaly_map.shape, anomaly_map, min_area, mm_per_pixel)


def regions_of_mask(
    mask: np.ndarray,
    min_area: int | None = None,
    mm_per_pixel: float | None = None,
) -> list[Region]:
    """Connected regions of a mask, the largest first.

    A mask with any pixel set never gives an empty list: where every region is smaller than `min_area`, the first of
    them is kept, so that what is said about the picture cannot contradict the mask.

    Args:
        mask (`np.ndarray` of shape `(height, width)`): Boolean or integer; anything but zero is inside.
        min_area (`int`, *optional*): As in [`find_regions`].
        mm_per_pixel (`float`, *optional*): As in [`find_regions`].

    Returns:
        `list[Region]`: Sorted as in [`find_regions`].

    Example:
    ```python
    >>> mask = np.zeros((9, 9), dtype=bool)
    >>> mask[4, 3:6] = True
    >>> regions_of_mask(mask, mm_per_pixel=0.5)[0].width_mm
    1.5

    ```
    """
    inside = _checked_mask(mask)
    parts = _connected_parts(inside)
    regions = _regions(parts, inside.shape, None, min_area, mm_per_pixel)
    return regions or _regions(parts, inside.shape, None, 1, mm_per_pixel)[:1]


def core(region: Region, anomaly_map: np.ndarray) -> np.ndarray:
    """Where a region's map reaches six tenths of its highest value in the region's box: least of all good.

    Args:
        region ([`Region`]): Of the map.
        anomaly_map (`np.ndarray` of shape `(height, width)`): The map.

    Returns:
        `np.ndarray` of shape `(height, width)`: Boolean.
    """
    x0, y0, x1, y1 = region.box
    inside = np.zeros(anomaly_map.shape, bool)
    window = anomaly_map[y0:y1, x0:x1]
    inside[y0:y1, x0:x1] = window >= 0.6 * window.max()
    return inside


def position_words(region: Region, language: str = "en") -> str:
    """The region's position in the 3 x 3 grid in words.

    Returns:
        `str`: Such as `"top left"`.
    """
    return position_name(region.row, region.column, language)


def _labelled(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As [`connected_components`], by OpenCV where it is installed."""
    if cv2 is None:
        return connected_components(inside)
    return cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)[1:3]


def _connected_parts(inside: np.ndarray) -> list[tuple[np.ndarray, int, int]]:
    """The connected parts of a mask: each as a mask in its box, with the box's left and top."""
    labels, stats = _labelled(inside)
    return [
        (labels[top : top + height, left : left + width] == index, int(left), int(top))
        for index, (left, top, width, height, _) in enumerate(stats[1:], 1)
    ]


def _as_high_as_connected(window: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """What lies above the highest of some levels at which all that lies above the first one is connected."""
    highest = window >= levels[0]
    for level in levels:
        labels = _labelled(window >= level)[0]
        if np.ptp(labels[highest]) == 0:
            break
    return labels == labels[highest][0]


def _regions(
    parts: list[tuple[np.ndarray, int, int]],
    size: tuple[int, int],
    scores: np.ndarray | None,
    min_area: int | None,
    mm_per_pixel: float | None,
) -> list[Region]:
    if mm_per_pixel is not None and not (np.isfinite(mm_per_pixel) and mm_per_pixel > 0):
        raise ValueError(f"`mm_per_pixel` must be positive, got {mm_per_pixel}. Leave it out when it is unknown.")
    if min_area is None:
        min_area = max(1, round(DEFAULT_MIN_AREA_SHARE * size[0] * size[1]))
    elif min_area < 1:
        raise ValueError(f"`min_area` must be at least 1 pixel, got {min_area}. Use 1 to keep every region.")
    regions = [
        _region(part, left, top, size, scores, mm_per_pixel)
        for part, left, top in parts
        if np.count_nonzero(part) >= min_area
    ]
    return sorted(regions, key=lambda region: (-region.peak_score, -region.area_pixels, region.box[1], region.box[0]))


def _region(
    part: np.ndarray,
    left: int,
    top: int,
    size: tuple[int, int],
    scores: np.ndarray | None,
    mm_per_pixel: float | None,
) -> Region:
    """The region of the pixels that are set in a window of the picture whose corner is given."""
    ys, xs = np.nonzero(part)
    ys, xs = ys + top, xs + left
    x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    row, column = _grid_cell(ys, xs, size)
    values = None if scores is None else scores[ys, xs]
    millimetres = {}
    if mm_per_pixel is not None:
        millimetres = {
            "width_mm": float((x1 - x0) * mm_per_pixel),
            "height_mm": float((y1 - y0) * mm_per_pixel),
            "area_mm2": float(len(xs) * mm_per_pixel**2),
        }
    return Region(
        box=(x0, y0, x1, y1),
        centroid=(float(xs.mean()), float(ys.mean())),
        area_pixels=len(xs),
        position=position_name(row, column),
        row=row,
        column=column,
        peak_score=1.0 if values is None else float(values.max()),
        mean_score=1.0 if values is None else float(values.mean(dtype=np.float64)),
        outline=_outline(part, left, top),
        **millimetres,
    )


def _outline(part: np.ndarray, x0: int, y0: int) -> tuple[tuple[int, int], ...]:
    if cv2 is None:
        return ()
    contours, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x0, y0))
    return tuple((int(x), int(y)) for x, y in contours[0].reshape(-1, 2))


def _grid_cell(ys: np.ndarray, xs: np.ndarray, size: tuple[int, ...]) -> tuple[int, int]:
    """The cell of the centroid or, where the region has no pixel there (a ring, a hook), that with most of it."""
    rows = (6 * ys + 3) // (2 * size[0])
    columns = (6 * xs + 3) // (2 * size[1])
    row = min(2, int(3 * (ys.mean() + 0.5) / size[0]))
    column = min(2, int(3 * (xs.mean() + 0.5) / size[1]))
    if not np.any((rows == row) & (columns == column)):
        row, column = divmod(int(np.bincount(3 * rows + columns).argmax()), 3)
    return row, column


def _checked_map(anomaly_map: np.ndarray) -> np.ndarray:
    anomaly_map = np.asarray(anomaly_map)
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise ValueError(f"`anomaly_map` must have shape (height, width), got {anomaly_map.shape}. Pass one map.")
    anomaly_map = anomaly_map.astype(np.float32, copy=False)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"`anomaly_map` must be finite and in [0, 1], got values from {low} to {high}. Scale it.")
    return anomaly_map


def _checked_mask(mask: np.ndarray, size: tuple[int, ...] | None = None) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"`mask` must have shape (height, width), got {mask.shape}. Pass one mask.")
    if size is not None and mask.shape != size:
        raise ValueError(f"`mask` must have the map's size {tuple(size)}, got {mask.shape}. Resize it.")
    return mask != 0
