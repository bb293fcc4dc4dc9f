"""Shapes, colours and places from which the defect renderers are composed.

Coverage is `float32` in 0 to 1 or `uint8` in 0 to 255, of shape `(height, width)`; positions are in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .noise import to_uint8


def anchor(
    object_mask: np.ndarray | None, shape: tuple[int, int], rng: np.random.Generator, margin: int
) -> tuple[int, int]:
    """A random pixel (row, column) on the object, where possible `margin` pixels inside of it."""
    height, width = shape
    margin = min(margin, (min(height, width) - 1) // 3)
    if object_mask is None:
        return int(rng.integers(margin, height - margin)), int(rng.integers(margin, width - margin))
    solid = object_mask.astype(np.uint8)
    if margin > 1:
        framed = cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inside = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
        depth = min(float(margin), 0.6 * float(inside.max()))
        solid = (inside > depth).astype(np.uint8)
    places = cv2.findNonZero(solid)
    if places is None:
        places = cv2.findNonZero(object_mask.astype(np.uint8))
    if places is None:
        raise ValueError("`object_mask` must hold at least one object pixel, got an empty mask. Pass None instead.")
    column, row = places.reshape(-1, 2)[rng.integers(len(places))]
    return int(row), int(column)


def confine(alpha: np.ndarray, object_mask: np.ndarray | None) -> np.ndarray:
    """A coverage cut off at the object's outline."""
    return alpha if object_mask is None else alpha * object_mask


def blob(
    shape: tuple[int, int],
    centre: tuple[int, int],
    radius: float,
    rng: np.random.Generator,
    roughness: float = 0.25,
    stretch: float = 0.5,
) -> np.ndarray:
    """Irregular filled outline as `uint8` coverage 0 to 255."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    orders = np.arange(1, 8)
    strength = rng.normal(0, 1, 7) * roughness / orders**0.7
    waves = np.cos(angles[:, None] * orders + rng.uniform(0, 2 * np.pi, 7)) @ strength
    profile = radius * np.clip(1 + waves, 0.35, 1.9)
    ratio = np.exp(rng.uniform(-stretch, stretch))
    x, y = profile * np.cos(angles) * ratio, profile * np.sin(angles) / ratio
    turn = rng.uniform(0, np.pi)
    points = np.stack(
        [centre[1] + x * np.cos(turn) - y * np.sin(turn), centre[0] + x * np.sin(turn) + y * np.cos(turn)]
    )
    alpha = np.zeros(shape, np.uint8)
    cv2.fillPoly(alpha, [np.rint(points.T * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return alpha


def drawn_radius(rng: np.random.Generator, shape: tuple[int, int], smallest: float, largest: float) -> float:
    """Radius in pixels of a disc whose share of the picture is log-uniform in `smallest` to `largest`."""
    share = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    return float(np.sqrt(share * shape[0] * shape[1] / np.pi))


def window_of(alpha: np.ndarray, margin: int = 2) -> tuple[slice, slice]:
    """Rows and columns of the box around a coverage, `margin` pixels wider."""
    left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
    return (
        slice(max(top - margin, 0), min(top + height + margin, alpha.shape[0])),
        slice(max(left - margin, 0), min(left + width + margin, alpha.shape[1])),
    )


def paint_over(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Lays a colour (of any shape that broadcasts) over a copy of the picture by coverage 0 to 1."""
    out = image.copy()
    window = window_of(alpha)
    patch = image[window].astype(np.float32)
    colour = np.asarray(colour, np.float32)
    if colour.ndim == 3:
        colour = colour[window]
    out[window] = to_uint8(patch + alpha[window][..., None] * (colour - patch))
    return out


def local_colour(image: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Mean colour under a coverage, float64 (3,)."""
    return np.array(cv2.mean(image, (alpha > 0.3).astype(np.uint8))[:3])


def tinted(base: Sequence[float], rng: np.random.Generator, amount: float = 10) -> np.ndarray:
    """A colour near the given one, float64 (3,)."""
    return np.clip(np.asarray(base) + rng.normal(0, amount * 0.25, 3) + rng.normal(0, amount), 5, 250)


def contrasting_colour(colour: np.ndarray, amount: float, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """A colour `amount` grey levels brighter or darker, whichever has room; and whether it is darker."""
    level = colour.mean()
    darker = bool(rng.random() < np.clip((level - 20) / 215, 0.1, 0.9))
    if darker and level < amount + 5:
        darker = False
    elif not darker and level > 250 - amount:
        darker = True
    return np.clip(colour + (-amount if darker else amount), 0, 255), darker


def spread(alpha: np.ndarray, pixels: int) -> np.ndarray:
    """Widens a mask by `pixels`."""
    if pixels < 1:
        return alpha
    return cv2.dilate(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1)))


def wandering_line(
    start: np.ndarray,
    heading: float,
    length: float,
    bend: float,
    rng: np.random.Generator,
    steps: int = 24,
    jitter: float = 0.0,
) -> np.ndarray:
    """Points `(steps + 1, 2)` (x, y) of a wandering line."""
    turns = np.cumsum(rng.normal(0, bend / np.sqrt(steps), steps)) + rng.normal(0, jitter, steps)
    angles = heading + turns
    moves = np.stack([np.cos(angles), np.sin(angles)], 1) * (length / steps)
    return np.concatenate([start[None], start + np.cumsum(moves, 0)])


def add_line(alpha: np.ndarray, points: np.ndarray, thickness: float) -> None:
    """Draws a line (x, y) into a `uint8` coverage; below one pixel of thickness it becomes fainter."""
    level = 255
    if thickness < 1:
        level, thickness = int(255 * max(thickness, 0.45)), 1
    cv2.polylines(alpha, [np.rint(points * 16).astype(np.int32)], False, level, round(thickness), cv2.LINE_AA, 4)


def mottled(alpha: np.ndarray, rng: np.random.Generator, cell: float, amount: float) -> np.ndarray:
    """Breaks an even coverage up with smooth noise."""
    window = window_of(alpha > 0)
    height, width = alpha[window].shape
    cells = (max(int(width / cell), 2), max(int(height / cell), 2))
    noise = cv2.resize(
        rng.standard_normal(cells[::-1], dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    out = alpha.copy()
    out[window] = np.clip(alpha[window] * (1 + amount * noise), 0, 1)
    return out
