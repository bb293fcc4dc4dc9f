"""Synthetic anomalies that are pasted or drawn: CutPaste, CutPaste-scar, Perlin-shaped textures, drawn defects.

Arguments and errors that all methods share: see `synthesizer`.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from .anomaly import SyntheticAnomaly, changed_pixels, check_inputs, separate_regions, unchanged
from .nsa import nsa_settings, object_mask

_ATTEMPTS = 10
# A pasted shape of which less can be seen is drawn again.
_MIN_VISIBLE = 0.25


def cut_paste(image: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> SyntheticAnomaly:
    """Pastes a rectangle of the picture at another place of the same picture, colours slightly changed.

    CutPaste of Li et al. (https://arxiv.org/abs/2104.04015, section 2.2): area 2 to 15 % of the picture, aspect ratio
    0.3 to 3.3, colour jitter 0.1. The target is the part of the rectangle that can be seen.

    Returns:
        [`SyntheticAnomaly`]: of type `"pasted_patch"`; unchanged if after ten attempts nothing can be seen.
    """
    check_inputs(image, source, rng)
    height, width = image.shape[:2]

    def draw() -> tuple[np.ndarray, np.ndarray]:
        area = rng.uniform(0.02, 0.15) * height * width
        aspect = rng.uniform(0.3, 1) if rng.integers(2) else rng.uniform(1, 3.3)
        patch_height = int(np.clip(round((area * aspect) ** 0.5), 1, height - 1))
        patch_width = int(np.clip(round(area / patch_height), 1, width - 1))
        patch = _crop(image, patch_height, patch_width, rng)
        return _jittered(patch, rng), np.ones((patch_height, patch_width), np.uint8)

    return _paste_until_visible(image, draw, "pasted_patch", rng)


def cut_paste_scar(image: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> SyntheticAnomaly:
    """Pastes a thin, rotated strip of the picture at another place of the same picture.

    CutPaste-scar of Li et al. (https://arxiv.org/abs/2104.04015, section 2.3): 2 to 16 pixels wide and 10 to 25 long
    in a picture of 256 pixels, rotated by -45 to 45 degrees; other sizes in proportion to the short side.

    Returns:
        [`SyntheticAnomaly`]: of type `"scar"`; unchanged if after ten attempts nothing can be seen.
    """
    check_inputs(image, source, rng)
    unit = min(image.shape[:2]) / 256

    def draw() -> tuple[np.ndarray, np.ndarray]:
        strip_width = max(round(rng.uniform(2, 16) * unit), 1)
        strip_length = max(round(rng.uniform(10, 25) * unit), 2)
        angle = rng.uniform(-45, 45)
        strip = _jittered(_crop(image, strip_length, strip_width, rng), rng)
        # Rotate about the middle, into a canvas that holds every angle.
        side = int(np.ceil(np.hypot(strip_length, strip_width))) + 2
        turn = cv2.getRotationMatrix2D(((strip_width - 1) / 2, (strip_length - 1) / 2), angle, 1.0)
        turn[:, 2] += (side - strip_width) / 2, (side - strip_length) / 2
        shape = cv2.warpAffine(np.ones(strip.shape[:2], np.uint8), turn, (side, side), flags=cv2.INTER_NEAREST)
        return cv2.warpAffine(strip, turn, (side, side), borderMode=cv2.BORDER_REPLICATE), shape

    return _paste_until_visible(image, draw, "scar", rng)


def perlin_texture(
    image: np.ndarray,
    source: np.ndarray,
    rng: np.random.Generator,
    category: str | None = None,
    *,
    max_regions: int | None = 5,
) -> SyntheticAnomaly:
    """Covers blobs of Perlin noise with a distorted foreign texture, partly transparent.

    After DRAEM (https://arxiv.org/abs/2108.07610, section 3.3): noise of 1 to 32 cells a side, rotated, thresholded at
    0.5; the texture gets three of eight colour changes; opacity 0.2 to 1. For categories with a known background the
    blobs keep to the object.

    Args:
        source (`np.ndarray` of shape `(any, any, 3)`, `uint8`): the texture; its tiles are shuffled in half of the
            draws.
        category (`str`, *optional*): chooses the background from `NSA_SETTINGS`; unknown names have none.
        max_regions (`int`, *optional*, defaults to 5): keeps so many blobs, drawn at random; fine noise has dozens.
            `None` keeps all, as published.

    Returns:
        [`SyntheticAnomaly`]: of type `"foreign_texture"`; unchanged if after ten attempts nothing can be seen.

    Raises:
        ValueError: if `max_regions` is below 1.
    """
    foreign = check_inputs(image, source, rng)
    if max_regions is not None and max_regions < 1:
        raise ValueError(f"`max_regions` must be at least 1 or None, got {max_regions}. Use None to keep every blob.")
    size = image.shape[:2]
    allowed = object_mask(image, nsa_settings(category).background) > 0
    min_area = max(16, size[0] * size[1] // 2000)
    for _ in range(_ATTEMPTS):
        shape = perlin_mask(size, rng) & allowed
        texture = _distorted(foreign, rng)
        opacity = np.float32(1 - rng.uniform(0, 0.8))
        blended = cv2.addWeighted(texture, float(opacity), image, float(1 - opacity), 0)
        result = np.where(shape[..., None], blended, image)
        regions = separate_regions(changed_pixels(image, result, shape), min_area)
        if max_regions is not None and len(regions) > max_regions:
            regions = [regions[kept] for kept in sorted(rng.choice(len(regions), size=max_regions, replace=False))]
        if regions:
            mask = np.logical_or.reduce(regions)
            # Blobs that are no target must not stay in the picture.
            result = np.where(mask[..., None], result, image)
            return SyntheticAnomaly(result, mask, mask.astype(np.float32), regions, "foreign_texture")
    return unchanged(image)


def perlin_mask(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Thresholded, rotated Perlin noise.

    Args:
        size (`tuple[int, int]`): height and width in pixels.
        rng (`np.random.Generator`): draws the cells a side (1, 2, 4, ... 32 for each axis), gradients and angle.

    Returns:
        `np.ndarray` of shape `(height, width)`, `bool`: where the noise, scaled to about [-1, 1], is above 0.5.
    """
    cells = 2 ** rng.integers(0, 6, size=2)
    angle = rng.uniform(0, 2 * np.pi, size=cells + 1)
    fade_rows, slope_rows = _perlin_weights(size[0], int(cells[0]))
    fade_columns, slope_columns = _perlin_weights(size[1], int(cells[1]))
    # Sum over the four corners of a cell of weight times gradient . offset, as two products of matrices.
    noise = slope_rows @ np.sin(angle) @ fade_columns.T + fade_rows @ np.cos(angle) @ slope_columns.T
    height, width = size
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-90, 90), 1.0)
    return cv2.warpAffine(2**0.5 * noise, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101) > 0.5


def _perlin_weights(length: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight of every grid line at every pixel of one axis, and weight times signed distance in cells."""
    position = np.arange(length) * cells / length
    distance = position[:, None] - np.arange(cells + 1)
    near = np.clip(1 - np.abs(distance), 0, 1)
    fade = near**3 * (near * (6 * near - 15) + 10)
    return fade, fade * distance


def _paste_until_visible(image, draw, defect_type: str, rng: np.random.Generator) -> SyntheticAnomaly:
    """Pastes what `draw` returns (patch and its shape) at random places until enough of it can be seen."""
    for _ in range(_ATTEMPTS):
        patch, shape = draw()
        height, width = shape.shape
        top = int(rng.integers(0, image.shape[0] - height + 1))
        left = int(rng.integers(0, image.shape[1] - width + 1))
        box = slice(top, top + height), slice(left, left + width)
        placed = np.zeros(image.shape[:2], bool)
        placed[box] = shape > 0
        result = image.copy()
        result[box][shape > 0] = patch[shape > 0]
        mask = changed_pixels(image, result, placed)
        if mask.sum() >= max(_MIN_VISIBLE * placed.sum(), 4):
            return SyntheticAnomaly(result, mask, mask.astype(np.float32), [mask], defect_type)
    return unchanged(image)


def _crop(image: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    top = int(rng.integers(0, image.shape[0] - height + 1))
    left = int(rng.integers(0, image.shape[1] - width + 1))
    return image[top : top + height, left : left + width]


def _jittered(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast and saturation by up to a tenth each."""
    brightness, contrast, saturation = rng.uniform(0.9, 1.1, size=3)
    values = patch.astype(np.float32) * brightness
    values = (values - values.mean()) * contrast + values.mean()
    grey = values.mean(axis=2, keepdims=True)
    return np.clip((values - grey) * saturation + grey, 0, 255).astype(np.uint8)


def _distorted(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flips, shuffles tiles in half of the draws, then three different colour changes in random order."""
    texture = texture[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
    if rng.integers(2):
        texture = _shuffled_tiles(texture, rng)
    for change in rng.choice(len(_COLOUR_CHANGES), size=3, replace=False):
        texture = _COLOUR_CHANGES[change](texture, rng)
    return np.ascontiguousarray(texture)


def _shuffled_tiles(texture: np.ndarray, rng: np.random.Generator, count: int = 4) -> np.ndarray:
    height, width = texture.shape[0] // count, texture.shape[1] // count
    result = texture.copy()
    for target, origin in enumerate(rng.permutation(count * count)):
        row, column = np.array(divmod(target, count)) * (height, width)
        from_row, from_column = np.array(divmod(int(origin), count)) * (height, width)
        tile = texture[from_row : from_row + height, from_column : from_column + width]
        result[row : row + height, column : column + width] = tile
    return result


def _lookup(values: np.ndarray, texture: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)[texture]


_GREY_LEVELS = np.arange(256.0)
_COLOUR_CHANGES = (
    lambda texture, rng: _lookup(255 * (_GREY_LEVELS / 255) ** rng.uniform(0.5, 2.0), texture),  # gamma
    lambda texture, rng: _lookup(_GREY_LEVELS * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30), texture),  # brightness
    lambda texture, rng: _lookup(255 - _GREY_LEVELS, texture),  # inversion
    lambda texture, rng: _lookup(_GREY_LEVELS - _GREY_LEVELS % 2 ** rng.integers(4, 8), texture),  # posterization
    lambda texture, rng: _lookup(  # solarization
        np.where(rng.uniform(32, 128) > _GREY_LEVELS, _GREY_LEVELS, 255 - _GREY_LEVELS), texture
    ),
    lambda texture, rng: texture[..., rng.permutation(3)],  # channels exchanged
    lambda texture, rng: cv2.GaussianBlur(texture, (0, 0), rng.uniform(0.5, 2.0)),
    lambda texture, rng: np.stack([cv2.equalizeHist(np.ascontiguousarray(texture[..., c])) for c in range(3)], -1),
)


# Parts of a drawn defect that are nearer than this share of the short side are one region: the lines of a crack.
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
        category (`str`, *optional*): chooses the background from `NSA_SETTINGS`; unknown names have none.
        renderer (`Callable`): a function `(image, object_mask, rng)` whose result has `image` (`uint8`), `mask`
            (`bool`) and `defect_type`; `object_mask` is `bool`, or `None` where the object fills the picture.

    Returns:
        [`SyntheticAnomaly`]: unchanged if the renderer drew nothing.
    """
    check_inputs(image, source, rng)
    solid = object_mask(image, nsa_settings(category).background) > 0
    drawn = renderer(image, None if solid.all() or not solid.any() else solid, rng)
    mask = np.array(drawn.mask, bool)
    if not mask.any():
        return unchanged(image)
    side = 2 * round(_JOINED * min(mask.shape) / 2) + 1
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    count, parts = cv2.connectedComponents(grown, connectivity=8)
    regions = [mask & (parts == part) for part in range(1, count)]
    return SyntheticAnomaly(np.array(drawn.image, np.uint8), mask, mask.astype(np.float32), regions, drawn.defect_type)
