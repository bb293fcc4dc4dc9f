"""Anomaly maps as colours: on a fixed scale, over the photograph, with outlines, numbers and a legend.

Knows arrays, PIL and regions; knows no model, no file and no report.
"""

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..regions import Region

MAX_SIDE = 2048
"""Longest side of an overlay in pixels: larger photographs are reduced, so that thousands of them fit a disk."""

MIN_SIDE = 320
"""Longest side below which the photograph is enlarged, so that outlines and numbers can be read."""

# Shares of the colour scale (0 to 1; the threshold lies at 0.5) and of the opacity there: below the first number the
# photograph shows untouched, from the second on the colour has its full opacity.
_FADE_IN = (0.15, 0.75)
_OPACITY = 0.62
# Yellow, orange, red, dark red: lightness falls evenly with the score, so the order also shows without colour vision
# and in a grey print (after the sequential schemes of https://colorbrewer2.org).
_COLOUR_STOPS = ((0.0, (255, 237, 130)), (0.35, (254, 190, 62)), (0.6, (243, 104, 33)), (0.8, (208, 24, 38)))
_COLOUR_STOPS += ((1.0, (124, 0, 50)),)
_LEGEND_COLOURS = {"paper": (255, 255, 255), "ink": (32, 36, 42), "tick": (90, 96, 105)}


def scale_maximum(region_threshold: float) -> float:
    """The score at the upper end of the colour scale: twice the region threshold, which must be in (0, 1]."""
    if not 0 < region_threshold <= 1:
        raise ValueError(f"`region_threshold` must be in (0, 1], got {region_threshold}. Maps are on that scale.")
    return 2.0 * float(region_threshold)


def scale_labels(region_threshold: float) -> tuple[str, str, str]:
    """What stands below the colour scale, such as `("0", "0.30", "0.60+")`; no plus where no score can be higher."""
    end = scale_maximum(region_threshold)
    return "0", f"{region_threshold:.2f}", f"{end:.2f}" + ("+" if end < 1 else "")


def colour_levels(anomaly_map: np.ndarray, region_threshold: float) -> np.ndarray:
    """Scores in [0, 1] as levels of the fixed colour scale.

    Returns:
        `np.ndarray` of shape `(height, width)`: uint8; 0 for score 0, 255 for twice the threshold and above.

    Example:
    ```python
    >>> colour_levels(np.array([[0.0, 0.25, 0.5, 0.9]]), region_threshold=0.25).tolist()
    [[0, 128, 255, 255]]

    ```
    """
    anomaly_map = np.asarray(anomaly_map, dtype=np.float32)
    if anomaly_map.ndim != 2:
        raise ValueError(f"`anomaly_map` must have shape (height, width), got {anomaly_map.shape}. Pass one map.")
    shares = np.nan_to_num(anomaly_map) / scale_maximum(region_threshold)
    return np.floor(np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)


def colour_table() -> np.ndarray:
    """Red, green, blue and opacity of each level, uint8 `(256, 4)`; low levels are transparent."""
    shares = np.arange(256) / 255
    positions, stops = zip(*_COLOUR_STOPS, strict=True)
    colours = [np.interp(shares, positions, channel) for channel in zip(*stops, strict=True)]
    fade = np.clip((shares - _FADE_IN[0]) / (_FADE_IN[1] - _FADE_IN[0]), 0, 1)
    opacity = 255 * _OPACITY * fade * fade * (3 - 2 * fade)  # smoothstep: no visible edge where the colour begins
    return np.round(np.column_stack([*colours, opacity])).astype(np.uint8)


def map_layer(anomaly_map: np.ndarray, region_threshold: float, max_side: int = 192) -> Image.Image:
    """The map alone as a small, partly transparent picture (mode `"P"`) to lay over the photograph."""
    levels = colour_levels(anomaly_map, region_threshold)
    height, width = levels.shape
    factor = min(1.0, max_side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size != (width, height):
        levels = cv2.resize(levels, size, interpolation=cv2.INTER_AREA)
    table = colour_table()
    levels = np.where(table[levels, 3] == 0, 0, levels & 0xFC)  # no visible difference, a fraction of the file
    layer = Image.fromarray(levels).convert("P")
    layer.putpalette(table[:, :3].tobytes())
    layer.info["transparency"] = table[:, 3].tobytes()
    return layer


def blend(picture: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Colours of the levels `(height, width)` over a picture `(height, width, 3)`, both uint8."""
    table, blended = colour_table().astype(np.float32), picture.copy()
    seen = table[levels, 3] > 0  # of most pictures a small part
    colours = table[levels[seen]]
    opacity = colours[:, 3:] / 255
    blended[seen] = np.round(picture[seen] * (1 - opacity) + colours[:, :3] * opacity).astype(np.uint8)
    return blended


def draw_overlay(
    picture: Image.Image,
    anomaly_map: np.ndarray,
    regions: Sequence[Region],
    region_threshold: float,
    legend: bool = True,
    max_side: int = MAX_SIDE,
) -> Image.Image:
    """The photograph with the map over it, the regions outlined and numbered, and a legend below.

    Args:
        picture (`PIL.Image.Image`): Mode `"RGB"`; reduced where it is longer than `max_side`.
        anomaly_map (`np.ndarray` of shape `(height, width)`): Scores in [0, 1] in the picture's pixels.
        regions (`Sequence[Region]`): In the picture's pixels; numbered from 1.
        region_threshold (`float`): See [`colour_levels`].
        legend (`bool`, *optional*, defaults to `True`): Whether a strip with the colour scale is added below.

    Raises:
        ValueError: If the map has another size than the picture.
    """
    levels = colour_levels(anomaly_map, region_threshold)
    width, height = picture.size
    if levels.shape != (height, width):
        raise ValueError(
            f"`anomaly_map` must have the picture's size {(height, width)}, got {levels.shape}. "
            "Bring it to the picture's pixels; `post_process_anomaly_map` does."
        )
    factor = min(1.0, max_side / max(width, height)) * max(1, MIN_SIDE // max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
        levels = cv2.resize(levels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    canvas = blend(np.asarray(picture.convert("RGB")), levels)
    line = max(1, round(max(size) / 500))
    for region in regions:
        points = np.float32(region.outline or corners(region)) * factor
        for colour, thickness in (((20, 20, 20), 3 * line), ((255, 255, 255), line)):
            cv2.polylines(canvas, [np.round(points).astype(np.int32)], True, colour, thickness, cv2.LINE_AA)
    drawn = Image.fromarray(canvas)
    _draw_numbers(drawn, regions, factor)
    return _with_legend(drawn, region_threshold) if legend else drawn


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The file of a picture; `options` are those of Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def corners(region: Region) -> list[tuple[int, int]]:
    """The corners of a region's box, for one without an outline."""
    x0, y0, x1, y1 = region.box
    return [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)]


def _draw_numbers(drawn: Image.Image, regions: Sequence[Region], factor: float) -> None:
    """A numbered disc at each region's upper left corner, kept inside the picture."""
    pen = ImageDraw.Draw(drawn)
    radius = max(9, round(max(drawn.size) / 60))
    font = ImageFont.load_default(1.25 * radius)
    for number, region in enumerate(regions, start=1):
        x, y = (
            min(max(round(region.box[axis] * factor) - radius // 2, radius + 1), max(radius + 1, side - radius - 2))
            for axis, side in enumerate(drawn.size)
        )
        disc = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(disc, fill=(20, 20, 20), outline=(255, 255, 255), width=2)
        pen.text((x, y), str(number), fill=(255, 255, 255), font=font, anchor="mm")


def _with_legend(drawn: Image.Image, region_threshold: float) -> Image.Image:
    """The picture on top of a strip with the colour scale, over white, and its three numbers.

    Beside a picture that is narrower than they are, there is white too.
    """
    text = max(11, round(max(drawn.size) / 55))
    margin, bar, width = text, max(8, round(0.9 * text)), max(drawn.width, 11 * text)
    strip = np.full((round(3.4 * text) + bar, width, 3), _LEGEND_COLOURS["paper"], dtype=np.uint8)
    left, right = margin, min(width - margin, margin + 26 * text)
    top = round(1.7 * text)
    ramp = np.linspace(0, 255, right - left).round().astype(np.uint8)
    strip[top : top + bar, left:right] = blend(strip[top : top + bar, left:right], np.repeat(ramp[None], bar, axis=0))
    sheet = Image.new("RGB", (width, drawn.height + strip.shape[0]), _LEGEND_COLOURS["paper"])
    sheet.paste(drawn)
    sheet.paste(Image.fromarray(strip), (0, drawn.height))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left, drawn.height + top, right - 1, drawn.height + top + bar), outline=_LEGEND_COLOURS["tick"])
    middle, below = (left + right) // 2, drawn.height + top + bar
    pen.line((middle, below - bar, middle, below + text // 4), fill=_LEGEND_COLOURS["ink"], width=max(1, text // 10))
    font = ImageFont.load_default(text)
    places = ((left, "la"), (middle, "ma"), (right, "ra"))
    for (x, anchor), label in zip(places, scale_labels(region_threshold), strict=True):
        pen.text((x, below + text // 3), label, fill=_LEGEND_COLOURS["ink"], font=font, anchor=anchor)
    title = "anomaly score (regions from the middle mark on)"
    if pen.textlength(title, font=font) > width - 2 * margin:
        title = "anomaly score"
    pen.text((left, drawn.height + text // 3), title, fill=_LEGEND_COLOURS["ink"], font=font, anchor="la")
    return sheet
