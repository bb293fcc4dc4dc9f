"""The part of a picture that counts: a mask, drawn once on a good picture; for all other pictures in proportion.

Knows masks and grids of patches; knows no model, no threshold and no verdict.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .images import load_mask

# A patch's distance from the ground: the mean over so many of the nearest patches at the pictures' edges.
_NEAREST = 5
# Least share of the distances' variance that part and ground explain, and most of the edge that may be part. Chosen
# on good training pictures of ten sets: parts on a mat .84 to .91 and none of the edge (cubes before a robot .73 and
# .02), surfaces that fill the picture .69 to .80 and up to .15.
_LEAST_EXPLAINED, _MOST_OF_EDGE = 0.8, 0.05


def load_roi(roi: Any, size: tuple[int, int]) -> np.ndarray:
    """Opens a region of interest.

    Args:
        roi (path, `PIL.Image.Image` or `np.ndarray`): A mask: what counts is not black. Of a mask with soft edges
            (more than 32 greys, or saved as JPEG) that is what is brighter than half of its brightest value. Or the
            `.json` file of labelme whose shapes count, see [`load_mask`].
        size (`tuple[int, int]`): `(height, width)` of the good picture on which it was drawn.

    Returns:
        `np.ndarray` of shape `(height, width)`: Boolean.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it cannot be read, is of another size **or** marks nothing.
    """
    values = load_mask(roi)
    inside = values > values.max() / 2
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


def foreground(vectors: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor | None:
    """Which patches show the part: those unlike what lies at the edges of the pictures, by Otsu's threshold.

    Args:
        vectors (`torch.Tensor` of shape `(num_images, height * width, dim)`): Unit-length patch vectors of good
            pictures.
        grid (`tuple[int, int]`): `(height, width)` in patches.

    Returns:
        `torch.BoolTensor` of shape `(num_images, height, width)`, *optional*: `None` where part and ground cannot be
        told apart.

    Example:
    ```python
    >>> ground, part = torch.eye(2)
    >>> vectors = ground.repeat(1, 25, 1)
    >>> vectors[0, 12] = part
    >>> foreground(vectors, (5, 5))[0].nonzero().tolist()
    [[2, 2]]

    ```
    """
    edge = torch.ones(grid, dtype=torch.bool, device=vectors.device)
    edge[1:-1, 1:-1] = False
    ground = vectors[:, edge.flatten()].flatten(0, 1)
    # One more than counted: a patch at the edge finds itself.
    nearest = torch.stack([(one @ ground.T).topk(min(_NEAREST + 1, len(ground))).values for one in vectors])
    distances = 1 - nearest[..., 1:].mean(-1)
    ordered = np.sort(distances.flatten().float().cpu().numpy().astype(np.float64))  # not every GPU has float64
    below = np.arange(1, len(ordered))
    low, total = ordered.cumsum()[:-1], ordered.sum()
    means = (total - low) / (len(ordered) - below) - low / below
    explained = below * (len(ordered) - below) / len(ordered) ** 2 * means**2  # Otsu 1979
    best = int(explained.argmax())
    found = (distances > float(ordered[best])).unflatten(1, grid)
    sharp = explained[best] >= _LEAST_EXPLAINED * max(ordered.var(), 1e-12)
    return found if sharp and found[:, edge].float().mean() <= _MOST_OF_EDGE else None


__all__ = ["fitted", "foreground", "load_roi", "mean_inside", "patches_inside"]
