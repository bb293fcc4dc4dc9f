"""Defects drawn onto a picture of a part: rendered or a real photograph.

Every renderer is a pure function `(image, object_mask, rng) -> Defect`: it changes a copy of the picture, stays on the
object, and says where (`mask`), what (`defect_type`) and in words. Structural defects (a missing, misplaced or bent
part, a misprint) need the part's design and are drawn by the families themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from .canvas import FAMILIES, any_of
from .noise import to_uint8
from .outlines import ray
from .shapes import (
    add_line,
    anchor,
    blob,
    confine,
    contrasting_colour,
    drawn_radius,
    local_colour,
    mottled,
    paint_over,
    spread,
    wandering_line,
    window_of,
)

STRUCTURAL_DEFECTS = ("print_error", "missing_part", "misplaced_part", "bent_part")
_DATA = FAMILIES["defects"]


class Defect(NamedTuple):
    """A picture with a defect.

    Args:
        image (`np.ndarray`): `uint8` RGB picture `(height, width, 3)`.
        mask (`np.ndarray`): `bool` mask `(height, width)` of the pixels that belong to the defect.
        defect_type (`str`): One of [`SURFACE_DEFECTS`].
        words (`tuple[str, str]`): What it is, in English and Chinese.
    """

    image: np.ndarray
    mask: np.ndarray
    defect_type: str
    words: tuple[str, str]


def _words(name: str, many: bool = False, **fields: str) -> tuple[str, str]:
    return tuple(words.format(**fields) for words in _DATA[name][many])


def _sized(image: np.ndarray, mask: np.ndarray, name: str) -> Defect:
    """A defect whose words say how large it is."""
    share = mask.mean()
    size, size_zh = ("small ", "小") if share < 0.006 else ("large ", "大") if share > 0.03 else ("", "")
    return Defect(image, mask, name, _words(name, size=size, size_zh=size_zh))


def _covered(cover: np.ndarray, object_mask: np.ndarray | None) -> np.ndarray:
    """A drawn `uint8` cover as shares, on the object only."""
    return confine(cover.astype(np.float32) / 255, object_mask)


def _line_mask(alpha: np.ndarray, width: float, unit: float, object_mask: np.ndarray | None) -> np.ndarray:
    """Pixels of a thin line, a little widened."""
    return confine(spread((alpha > 0.2).astype(np.uint8), 1 if width < 2 * unit else 0), object_mask) > 0


def scratch(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """One to three fine, nearly straight lines, brighter or darker, with a lit edge."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    row, column = anchor(object_mask, shape, rng, round(8 * unit))
    heading = rng.uniform(0, 2 * np.pi)
    count = int(rng.choice([1, 1, 2, 3]))
    length = rng.uniform(28, 120) * unit
    width = rng.uniform(0.8, 2.4) * unit
    cover, edge = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for _ in range(count):
        middle = np.array([column, row]) + rng.normal(0, 5 * unit, 2) * (count > 1)
        start, lean = middle - ray(heading) * length / 2, heading + rng.normal(0, 0.06)
        line = wandering_line(start, lean, length * rng.uniform(0.6, 1), rng.uniform(0.05, 0.7), rng)
        add_line(cover, line, width)
        side = np.array([-np.sin(heading), np.cos(heading)]) * max(width * 0.8, 1)
        add_line(edge, line + side, width * 0.6)
    alpha, rim = _covered(cover, object_mask), _covered(edge, object_mask)
    local = local_colour(image, alpha)
    amount = rng.uniform(30, 100)
    colour, darker = contrasting_colour(local, amount, rng)
    out = paint_over(image, alpha, colour * 0.85 + colour.mean() * 0.15)
    opposite = np.clip(local + (0.6 * amount if darker else -0.6 * amount), 0, 255)
    out = paint_over(out, rim * np.float32(rng.uniform(0.2, 0.7)) * (1 - alpha), opposite)
    tone, tone_zh = ("dark", "深色") if darker else ("bright", "浅色")
    long, long_zh = ("long ", "长") if length > 75 * unit else ("", "")
    words = _words("scratch", count > 1, tone=tone, tone_zh=tone_zh, long=long, long_zh=long_zh)
    return Defect(out, _line_mask(alpha, width, unit, object_mask), "scratch", words)


def dent(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """A pressed spot: dark on the side of the light, bright on the other, the pattern drawn together."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    radius = drawn_radius(rng, shape, 0.003, 0.04)
    centre = anchor(object_mask, shape, rng, round(radius * 0.8))
    press = cv2.GaussianBlur(blob(shape, centre, radius, rng, 0.15, 0.35), (0, 0), radius * 0.3)
    press = press.astype(np.float32) / 255
    window = window_of(press > 0.02, round(3 * unit))
    depth = press[window]
    dx, dy = (cv2.Sobel(depth, cv2.CV_32F, *axis, ksize=3) for axis in ((1, 0), (0, 1)))
    steepest = max(float(np.abs(dx).max()), float(np.abs(dy).max()), 1e-6)
    azimuth = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(azimuth) * dx + np.sin(azimuth) * dy) / steepest
    rows, columns = np.indices(depth.shape, dtype=np.float32)
    pull = np.float32(rng.uniform(0.1, 0.5) * radius / steepest)
    patch = np.ascontiguousarray(image[window])
    moved = cv2.remap(patch, columns + pull * dx, rows + pull * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    strength = rng.uniform(40, 100) * (0.55 + float(patch.mean()) / 300)
    light = (strength * np.tanh(1.4 * slope) - 0.2 * strength * depth)[..., None].astype(np.float32)
    inside = np.ones_like(depth) if object_mask is None else object_mask[window].astype(np.float32)
    soft = np.clip((depth - 0.02) / 0.08, 0, 1) * inside
    out, mask = image.copy(), np.zeros(shape, bool)
    out[window] = to_uint8(patch + soft[..., None] * (moved.astype(np.float32) + light - patch))
    mask[window] = (depth > 0.18) & (inside > 0)
    return _sized(out, mask, "dent")


def crack(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """A jagged dark line with branches."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    row, column = anchor(object_mask, shape, rng, round(8 * unit))
    cover = np.zeros(shape, np.uint8)
    length = rng.uniform(35, 120) * unit
    heading = rng.uniform(0, 2 * np.pi)
    width = rng.uniform(1.0, 2.8) * unit
    start = np.array([column, row], float) - ray(heading) * length * 0.4
    trunk = wandering_line(start, heading, length, 0.5, rng, 22, 0.55)
    for part, share in zip(np.array_split(np.arange(len(trunk) - 1), 4), (1.0, 1.2, 0.9, 0.6), strict=True):
        add_line(cover, trunk[part[0] : part[-1] + 2], width * share)
    branches = int(rng.integers(0, 4))
    for _ in range(branches):
        at = int(rng.integers(4, len(trunk) - 3))
        aside = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
        branch = wandering_line(trunk[at], aside, length * rng.uniform(0.15, 0.4), 0.4, rng, 10, 0.5)
        add_line(cover, branch, width * 0.6)
    alpha = _covered(cover, object_mask)
    local = local_colour(image, alpha)
    dark = local * rng.uniform(0.05, 0.5)
    out = paint_over(image, alpha, local + 70 if local.mean() < 45 else dark)
    shifted = np.roll(alpha, (1, 1), (0, 1)) * np.float32(rng.uniform(0.1, 0.5)) * (1 - alpha)
    out = paint_over(out, confine(shifted, object_mask), np.clip(local * 1.25 + 20, 0, 255))
    return Defect(out, _line_mask(alpha, width, unit, object_mask), "crack", _words("crack", branches > 0))


def hole(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """A hole through the material: dark (bright in a dark part) with a lit far edge."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    radius = drawn_radius(rng, shape, 0.002, 0.035)
    centre = anchor(object_mask, shape, rng, round(radius * 0.9))
    alpha = _covered(blob(shape, centre, radius, rng, rng.choice([0.08, 0.35]), 0.4), object_mask)
    local = local_colour(image, alpha)
    dark = local.mean() > 55
    deep = local * rng.uniform(0.05, 0.35) if dark else np.clip(local + rng.uniform(60, 130), 0, 255)
    dx, dy = ray(rng.uniform(0, 2 * np.pi)) * max(1.0, 0.16 * radius)
    inner = cv2.warpAffine(alpha, np.array([[1, 0, dx], [0, 1, dy]]), shape[::-1]) * alpha
    wall = np.clip(local * (1.3 if dark else 0.5) + (15 if dark else 0), 0, 255)
    out = paint_over(image, alpha * np.float32(0.95), wall * 0.5 + deep * 0.5)
    out = paint_over(out, cv2.GaussianBlur(inner, (0, 0), 0.6 * unit) * alpha, deep)
    return _sized(out, alpha > 0.4, "hole")


def stain(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """A spot of liquid, oil or rust that tints the surface, often with a darker rim."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    radius = drawn_radius(rng, shape, 0.003, 0.06)
    centre = anchor(object_mask, shape, rng, round(radius * 0.6))
    cover = blob(shape, centre, radius, rng, 0.3, 0.5)
    for _ in range(int(rng.integers(0, 4))):  # drops beside it
        angle, away = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.2, 1.8)
        place = (round(centre[1] + away * np.cos(angle)), round(centre[0] + away * np.sin(angle)))
        cv2.circle(cover, place, max(1, round(radius * rng.uniform(0.08, 0.25))), 255, -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(cover, (0, 0), max(0.6 * unit, radius * rng.uniform(0.03, 0.18)))
    coverage = _covered(soft, object_mask)
    liquid, words = any_of(_DATA["liquids"], rng)
    opacity = rng.uniform(0.35, 0.95)
    alpha = mottled(coverage, rng, 5 * unit, 0.15) * np.float32(opacity)
    if rng.random() < 0.5:
        rim = coverage - cv2.GaussianBlur(coverage, (0, 0), max(1.0, radius * 0.15))
        alpha = np.clip(alpha + np.maximum(rim, 0) * 0.8, 0, 1)
    local = local_colour(image, coverage)
    if local.mean() < 60:  # multiplying would not show on a dark part
        out = paint_over(image, alpha, local + np.array(liquid) * 140)
    else:
        out = paint_over(image, alpha, image.astype(np.float32) * np.array(liquid, np.float32))
    return Defect(out, coverage > 0.35, "stain", tuple(words))


def contamination(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """Foreign matter lying on the part: chips, crumbs, dust, drops of glue, each with a shadow."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    count = int(rng.choice([1, 1, 2, 4, 7]))
    total = drawn_radius(rng, shape, 0.003, 0.025)
    centre = anchor(object_mask, shape, rng, round(total * 0.8))
    cover, colours = np.zeros(shape, np.uint8), np.zeros((*shape, 3), np.uint8)
    base = np.array(any_of(_DATA["particles"], rng), float)
    local = local_colour(image, blob(shape, centre, total, rng).astype(np.float32))
    if np.abs(base - local).max() < 60:
        base = np.where(local > 128, base * 0.35, 255 - (255 - base) * 0.5)
    for _ in range(count):
        place = np.array(centre) + (rng.normal(0, total * 1.0, 2) if count > 1 else 0)
        radius = total / np.sqrt(count) * rng.uniform(0.7, 1.2)
        grain = blob(shape, (int(place[0]), int(place[1])), max(radius, 1.6 * unit), rng, 0.3, 0.4)
        colours[grain > 0] = np.clip(base * rng.uniform(0.8, 1.15), 0, 255)
        cover = np.maximum(cover, grain)
    alpha = _covered(cover, object_mask)
    shift = int(np.ceil(1.4 * unit))
    shadow = np.roll(cover, (shift, int(rng.choice([-shift, shift]))), (0, 1)).astype(np.float32) / 255
    shadow = confine(cv2.GaussianBlur(shadow, (0, 0), 1.2 * unit), object_mask)
    out = paint_over(image, shadow * np.float32(0.5) * (1 - alpha), np.zeros(3))
    body = cv2.GaussianBlur(alpha, (0, 0), max(1.0, 0.35 * total / np.sqrt(count)))
    light = cv2.Sobel(body, cv2.CV_32F, 1, 0) + cv2.Sobel(body, cv2.CV_32F, 0, 1)
    out = paint_over(out, alpha, colours.astype(np.float32) * (1 + np.clip(0.6 * light, -0.5, 0.6))[..., None])
    return Defect(out, alpha > 0.4, "contamination", _words("contamination", count > 2))


def colour_change(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """A region that is paler, darker, burnt or of another hue, its texture kept."""
    shape = image.shape[:2]
    radius = drawn_radius(rng, shape, 0.006, 0.08)
    centre = anchor(object_mask, shape, rng, round(radius * 0.5))
    cover = blob(shape, centre, radius, rng, 0.25, 0.6)
    coverage = _covered(cv2.GaussianBlur(cover, (0, 0), max(0.8, radius * rng.uniform(0.08, 0.3))), object_mask)
    level = local_colour(image, coverage).mean()
    kinds = ("tint", "pale", "dark", "burnt")
    kinds = ("tint", "pale") if level < 60 else ("tint", "burnt", "dark") if level > 200 else kinds
    kind = any_of(kinds, rng)
    patch, force = image.astype(np.float32), rng.uniform(0.35, 1)
    if kind == "tint":
        push = rng.normal(0, 1, 3)
        push = (push - push.mean()) / np.abs(push - push.mean()).max()
        target = patch + (push * (25 + 50 * force)).astype(np.float32)
        target -= 20 if level > 200 else 0
    elif kind == "pale":
        target = patch + (255 - patch) * np.float32(0.2 + 0.35 * force)
    elif kind == "dark":
        target = patch * np.float32(0.8 - 0.4 * force)
    else:
        target = patch * (np.array([0.75, 0.6, 0.45], np.float32) * np.float32(1.15 - 0.45 * force))
    out = paint_over(image, mottled(coverage, rng, max(radius * 0.4, 2), 0.12), target)
    return Defect(out, coverage > 0.35, "colour_change", tuple(_DATA["colours"][kind]))


def thread(image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Defect:
    """A loose thread, hair or fibre lying in loops on the part."""
    shape, unit = image.shape[:2], min(image.shape[:2]) / 224
    row, column = anchor(object_mask, shape, rng, round(8 * unit))
    cover = np.zeros(shape, np.uint8)
    length = rng.uniform(45, 170) * unit
    heading, steps = rng.uniform(0, 2 * np.pi), 30
    angles = heading + np.cumsum(rng.normal(0, 0.14) + np.cumsum(rng.normal(0, 0.07, steps)))
    points = np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * (length / steps), 0)
    points += np.array([column, row]) - points[steps // 2]
    width = rng.uniform(1.0, 2.6) * unit
    add_line(cover, points, width)
    alpha = _covered(cover, object_mask)
    colour, darker = contrasting_colour(local_colour(image, alpha), rng.uniform(45, 110), rng)
    colour = np.clip(colour + rng.normal(0, 22, 3), 0, 255)
    shade = _covered(np.roll(cover, (round(1 + unit), round(1 + unit)), (0, 1)), object_mask)
    out = paint_over(image, cv2.GaussianBlur(shade, (0, 0), unit) * np.float32(0.45) * (1 - alpha), np.zeros(3))
    out = paint_over(out, alpha, colour)
    tone, tone_zh = ("dark", "深色") if darker else ("light", "浅色")
    mask = _line_mask(alpha, width, unit, object_mask)
    return Defect(out, mask, "thread", _words("thread", tone=tone, tone_zh=tone_zh))


SURFACE_DEFECTS: dict[str, Callable[[np.ndarray, np.ndarray | None, np.random.Generator], Defect]] = {
    draw.__name__: draw for draw in (scratch, dent, crack, hole, stain, colour_change, contamination, thread)
}
"""The defects that can be drawn onto any picture, by name."""

DEFECTS = tuple(SURFACE_DEFECTS) + STRUCTURAL_DEFECTS
"""All defect types."""


def apply_defect(
    image: np.ndarray,
    name: str,
    rng: np.random.Generator,
    object_mask: np.ndarray | None = None,
    smallest: float = 0.0015,
    faintest: float = 9.0,
    tries: int = 8,
) -> Defect:
    """Draws a surface defect that is neither too small nor too faint to be seen.

    Args:
        image (`np.ndarray`): `uint8` RGB picture of shape `(height, width, 3)`, rendered or photographed.
        name (`str`): One of [`SURFACE_DEFECTS`].
        rng (`np.random.Generator`): Source of all draws.
        object_mask (`np.ndarray`, *optional*): `bool` mask of the object; without it the whole picture.
        smallest (`float`, *optional*, defaults to 0.0015): Least share of the picture the mask covers.
        faintest (`float`, *optional*, defaults to 9): Least mean difference under the mask, in grey levels of the
            channel that changed most.
        tries (`int`, *optional*, defaults to 8): Draws after which the best one so far is taken.

    Returns:
        [`Defect`]: The picture, the mask and the words.

    Raises:
        ValueError: On an unknown name, or a picture or mask of another shape or type.
    """
    if name not in SURFACE_DEFECTS:
        raise ValueError(f"`name` must be one of {', '.join(SURFACE_DEFECTS)}, got {name!r}. Choose one of them.")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"`image` must be uint8 of shape (height, width, 3), got {image.dtype} {image.shape}. Convert it to RGB."
        )
    if object_mask is not None:
        if object_mask.shape != image.shape[:2]:
            raise ValueError(
                f"`object_mask` must be of shape {image.shape[:2]}, got {object_mask.shape}. Resize it to the picture."
            )
        object_mask = object_mask.astype(bool)
    best, best_score = None, -1.0
    for _ in range(tries):
        drawn = SURFACE_DEFECTS[name](image, object_mask, rng)
        share = float(drawn.mask.mean())
        contrast = 0.0
        if share > 0:
            window = window_of(drawn.mask, 0)
            change = cv2.absdiff(drawn.image[window], image[window]).max(2)
            contrast = float(change[drawn.mask[window]].mean())
        score = min(share / smallest, 1) * min(contrast / faintest, 1)
        if score > best_score:
            best, best_score = drawn, score
        if score >= 1:
            break
    return best
