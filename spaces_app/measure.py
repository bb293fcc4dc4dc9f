"""Millimetres a pixel from two points on something of known length."""

import math

from PIL import Image, ImageDraw

LONGEST_SIDE = 1600


def add_point(points: list[tuple[int, int]], point: tuple[int, int]) -> list[tuple[int, int]]:
    """The points after one more click; a third one begins anew.

    Example:
    ```python
    >>> add_point([(0, 0), (3, 4)], (9, 9))
    [(9, 9)]

    ```
    """
    return [point] if len(points) >= 2 else [*points, point]


def millimetres_per_pixel(points: list[tuple[int, int]], length_mm: float | None, factor: float = 1.0) -> float | None:
    r"""
    The scale.

    Args:
        points (`list[tuple[int, int]]`):
            `(x, y)` of the clicks, in pixels of the picture shown.
        length_mm (`float`, *optional*):
            Known distance between them.
        factor (`float`, defaults to 1.0):
            Width of the picture shown over the width of the original.

    Returns:
        `float`, *optional*: Millimetres a pixel of the original; `None` while a point or the length is missing.

    Example:
    ```python
    >>> millimetres_per_pixel([(0, 0), (30, 40)], 10.0), millimetres_per_pixel([(0, 0), (30, 40)], 10.0, factor=0.5)
    (0.2, 0.1)

    ```
    """
    if len(points) < 2 or not length_mm or not math.isfinite(length_mm) or length_mm <= 0:
        return None
    pixels = math.dist(*points[:2]) / factor
    return length_mm / pixels if pixels > 0 else None


def draw_points(picture: Image.Image, points: list[tuple[int, int]]) -> Image.Image:
    """The picture with the clicked points and the line between them."""
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    radius = max(4, round(max(drawn.size) / 90))
    if len(points) == 2:
        for colour, width in (((20, 20, 20), max(5, radius)), ((255, 255, 255), max(2, radius // 3))):
            pen.line([*points[0], *points[1]], fill=colour, width=width)
    for x, y in points:
        pen.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255), outline=(20, 20, 20), width=2
        )
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(208, 24, 38))
    return drawn


def reduced(picture: Image.Image) -> tuple[Image.Image, float]:
    """The picture as shown for clicking, and its width over the original's."""
    factor = min(1.0, LONGEST_SIDE / max(picture.size))
    if factor == 1.0:
        return picture, 1.0
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BOX), size[0] / picture.width


__all__ = ["add_point", "draw_points", "millimetres_per_pixel", "reduced"]
