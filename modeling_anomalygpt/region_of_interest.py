"""The part of a picture that counts: a mask, drawn once on a good picture; for all other pictures in proportion.

Knows masks and grids of patches; knows no model, no threshold and no verdict.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .images import load_mask


def load_roi(roi: Any, size: tuple[int, int]) -> np.ndarray:
    """Opens a region of interest.

    Args:
        roi (path, `PIL.Image.Image` or `np.ndarray`): A mask (what counts is not black), or the `.json` file of
            labelme whose shapes count, see [`load_mask`].
        size (`tuple[int, int]`): `(height, width)` of the good picture on which it was drawn.

    Returns:
        `np.ndarray` of shape `(height, width)`: Boolean.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it cannot be read, is of another size **or** marks nothing.
    """
    inside = load_mask(roi) > 0.5
    if inside.shape != tuple(size):
        raise ValueError(
            f"`roi` must have the size of the first good picture, {size[1]} x {size[0]} pixels, got "
            f"{inside.shape[1]} x {inside.shape[0]}. Draw it on that picture."
        )
    if not inside.any():
        raise ValueError("`roi` must mark what counts, got an empty mask. Paint the part white on black.")
    return inside


def fitted(roi: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The region in a picture of another size `(height, width)`; every pixel that it touches, so it never vanishes."""
    if roi.shape == tuple(size):
        return roi
    share = Image.fromarray(roi.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BOX)
    return np.asarray(share) > 1e-6


def patches_inside(inside: torch.Tensor, grid: tuple[int, int], margin: int = 0) -> torch.Tensor:
    """Which patches touch the region, or have a neighbour within `margin` patches that does.

    Args:
        inside (`torch.BoolTensor` of shape `(batch_size, height, width)`): The region on the model's canvas.
        grid (`tuple[int, int]`): `(height, width)` in patches.
        margin (`int`, defaults to 0): In patches.

    Returns:
        `torch.BoolTensor` of shape `(batch_size, grid_height, grid_width)`

    Example:
    ```python
    >>> inside = torch.zeros(1, 4, 8, dtype=torch.bool)
    >>> inside[0, 0, 0] = True
    >>> patches_inside(inside, (2, 4)).int()[0].tolist()
    [[1, 0, 0, 0], [0, 0, 0, 0]]
    >>> patches_inside(inside, (2, 4), margin=1).int()[0].tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]

    ```
    """
    touched = functional.adaptive_max_pool2d(inside[:, None].float(), grid)
    return functional.max_pool2d(touched, 2 * margin + 1, stride=1, padding=margin)[:, 0] > 0


def mean_inside(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean of values `(batch_size, height, width)` over the region, on any grid: `(batch_size,)`."""
    weights = functional.adaptive_avg_pool2d(inside[:, None].to(values), values.shape[1:])[:, 0]
    return (values * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1e-6)


__all__ = ["fitted", "load_roi", "mean_inside", "patches_inside"]
