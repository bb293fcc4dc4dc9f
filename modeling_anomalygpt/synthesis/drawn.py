"""Synthetic anomalies from a function that draws a defect, such as a scratch: any renderer becomes a synthesis method.

Knows the signature of renderers, not the renderers: they are passed in.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from .anomaly import SyntheticAnomaly, check_inputs, unchanged
from .nsa import nsa_settings, object_mask

# Parts of a defect that are nearer than this share of the short side are one region: the lines of a branching crack.
_JOINED = 0.02


def drawn_defect(
    image: np.ndarray,
    source: np.ndarray,
    rng: np.random.Generator,
    category: str | None = None,
    *,
    renderer: Callable[[np.ndarray, np.ndarray | None, np.random.Generator], Any],
) -> SyntheticAnomaly:
    """Draws a defect on the picture. Bind the renderer: `functools.partial(drawn_defect, renderer=scratch)`.

    For categories with a known background the defect keeps to the object.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture to change, sides of 32 pixels or more.
        source (`np.ndarray` of shape `(any, any, 3)`, `uint8`): not looked at.
        rng (`np.random.Generator`): decides everything that is drawn.
        category (`str`, *optional*): chooses the background from `NSA_SETTINGS`; unknown names have none.
        renderer (`Callable`): a function `(image, object_mask, rng)` whose result has `image` (`uint8`), `mask`
            (`bool`) and `defect_type`; `object_mask` is `bool`, or `None` where the object fills the picture.

    Returns:
        [`SyntheticAnomaly`]: unchanged if the renderer drew nothing.

    Raises:
        TypeError: if `rng` is not a Generator.
        ValueError: if a picture is not `uint8` RGB of at least 32 pixels.

    Example:
        >>> from types import SimpleNamespace
        >>> def black_square(image, object_mask, rng):
        ...     mask = np.zeros(image.shape[:2], bool)
        ...     mask[5:9, 5:9] = True
        ...     return SimpleNamespace(image=np.where(mask[..., None], 0, image), mask=mask, defect_type="square")
        >>> picture = np.full((64, 64, 3), 200, np.uint8)
        >>> made = drawn_defect(picture, picture, np.random.default_rng(0), renderer=black_square)
        >>> made.defect_type, int(made.mask.sum()), len(made.regions)
        ('square', 16, 1)
    """
    check_inputs(image, source, rng)
    background = nsa_settings(category).background
    solid = None if background is None else object_mask(image, background) > 0
    if solid is not None and not solid.any():
        solid = None
    drawn = renderer(image, solid, rng)
    mask = np.asarray(drawn.mask, bool)
    if not mask.any():
        return unchanged(image)
    result = np.array(drawn.image, np.uint8)
    return SyntheticAnomaly(result, mask.copy(), mask.astype(np.float32), _near_parts(mask), drawn.defect_type)


def _near_parts(mask: np.ndarray) -> list[np.ndarray]:
    """Parts of a mask; those close to each other count as one. Together they are the mask."""
    side = 2 * round(_JOINED * min(mask.shape) / 2) + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    count, parts = cv2.connectedComponents(grown, connectivity=8)
    return [mask & (parts == part) for part in range(1, count)]
