"""Large pictures in tiles: where the tiles lie, and how their maps become one map without seams.

Knows boxes and arrays; knows no model and no picture file.
"""

from collections.abc import Sequence

import numpy as np

Box = tuple[int, int, int, int]


def tile_boxes(height: int, width: int, tile: int, overlap: int | None = None) -> list[Box]:
    """Boxes of equal size that cover a picture, evenly spread, neighbours overlapping at least by `overlap`.

    All tiles have the same size, so one scale holds for all of them. A side shorter than `tile` is covered by one tile
    of that side.

    Args:
        height (`int`): Rows of the picture.
        width (`int`): Columns of the picture.
        tile (`int`): Side of a tile in pixels.
        overlap (`int`, *optional*, defaults to a quarter of `tile`): Least number of pixels that neighbours share.

    Returns:
        `list[tuple[int, int, int, int]]`: `(x0, y0, x1, y1)`, ends exclusive, row by row.

    Raises:
        ValueError: If a size is not positive, or `overlap` is not smaller than `tile`.

    Example:
    ```python
    >>> tile_boxes(100, 220, tile=100, overlap=20)
    [(0, 0, 100, 100), (60, 0, 160, 100), (120, 0, 220, 100)]

    ```
    """
    overlap = tile // 4 if overlap is None else overlap
    if min(height, width) < 1:
        raise ValueError(f"`height` and `width` must be positive, got {height} and {width}. Give the picture's size.")
    if tile < 1:
        raise ValueError(f"`tile` must be a positive number of pixels, got {tile}. Try 448.")
    if not 0 <= overlap < tile:
        raise ValueError(f"`overlap` must be from 0 to less than `tile` = {tile}, got {overlap}. Try {tile // 4}.")
    return [
        (x, y, x + min(tile, width), y + min(tile, height))
        for y in _starts(height, tile, overlap)
        for x in _starts(width, tile, overlap)
    ]


def merge_tile_maps(maps: Sequence[np.ndarray], boxes: Sequence[Box], size: Sequence[int]) -> np.ndarray:
    """One map of the whole picture from the maps of its tiles.

    Each tile counts most at its middle and fades to its edges; the weights at every pixel sum to one. So a tile's edge
    leaves no step, a value that all tiles agree on is kept, and nothing exceeds the highest tile.

    Args:
        maps (`list[np.ndarray]`): Each tile's map `(y1 - y0, x1 - x0)`, in the picture's pixels.
        boxes (`list[tuple[int, int, int, int]]`): `(x0, y0, x1, y1)` of each tile, as `tile_boxes` gives them.
        size (`tuple[int, int]`): `(height, width)` of the picture.

    Returns:
        `np.ndarray` of shape `(height, width)`: float32.

    Raises:
        ValueError: If maps and boxes do not fit each other, or the boxes leave a pixel uncovered.
    """
    if len(maps) != len(boxes):
        raise ValueError(f"`maps` must hold one map for each of the {len(boxes)} boxes, got {len(maps)}.")
    total = np.zeros(tuple(size), dtype=np.float32)
    weights = np.zeros_like(total)
    for one, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        if np.shape(one) != (y1 - y0, x1 - x0):
            raise ValueError(
                f"`maps` must have the sizes of their boxes, got {np.shape(one)} for the box {(x0, y0, x1, y1)}. "
                "Bring each map to its tile's pixels before merging."
            )
        window = _fade(y1 - y0)[:, None] * _fade(x1 - x0)[None, :]
        total[y0:y1, x0:x1] += np.asarray(one, dtype=np.float32) * window
        weights[y0:y1, x0:x1] += window
    if not weights.all():
        raise ValueError(f"`boxes` must cover the whole picture of {tuple(size)}. Take those of `tile_boxes`.")
    return total / weights


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if side <= tile:
        return [0]
    count = -(-(side - overlap) // (tile - overlap))
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def _fade(side: int) -> np.ndarray:
    """Weights that rise linearly from the edges to the middle; never zero."""
    position = np.arange(side, dtype=np.float32) + 0.5
    return np.minimum(position, side - position)


__all__ = ["Box", "merge_tile_maps", "tile_boxes"]
