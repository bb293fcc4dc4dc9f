"""Pictures of a result: what the overlay, the slider, the clicked region and the chat show."""

import numpy as np
from PIL import Image, ImageDraw

from modeling_anomalygpt.regions import Region, position_words
from modeling_anomalygpt.report.overlays import blend, colour_levels, draw_overlay

from .cards import MAX_LISTED_REGIONS
from .session import Session

LONGEST_SIDE = 1200
"""Longest side of pictures on the page."""

CROP_SIDE = 420
PALETTE = (
    "#e5322d",
    "#f08c00",
    "#2f7ee6",
    "#12a187",
    "#9c4dd8",
    "#d6336c",
    "#74a60a",
    "#0b95b8",
    "#8c6d46",
    "#5b6ee1",
)
"""Colours of the regions, one after the other."""


def annotations(session: Session, language: str) -> tuple[Image.Image, list[tuple[np.ndarray, str]]]:
    """The value of the overlay: picture, and a mask with its label for each region."""
    picture, factor = _reduced(session.picture)
    shown = [
        (_mask(region, factor, picture.size), region_label(region, number, language))
        for number, region in enumerate(session.result.regions[:MAX_LISTED_REGIONS], start=1)
    ]
    return picture, shown


def region_label(region: Region, number: int, language: str) -> str:
    """The region's number and place; its button below the overlay."""
    return f"{number} · {position_words(region, language)}"


def colours(session: Session, language: str) -> dict[str, str]:
    """The colour of each label."""
    regions = session.result.regions[:MAX_LISTED_REGIONS]
    return {
        region_label(region, number, language): PALETTE[(number - 1) % len(PALETTE)]
        for number, region in enumerate(regions, start=1)
    }


def comparison(session: Session) -> tuple[Image.Image, Image.Image]:
    """The value of the slider: picture, and the same with the map over it."""
    picture, _ = _reduced(session.picture)
    anomaly_map = session.result.anomaly_map
    if anomaly_map is None:
        return picture, picture
    small = Image.fromarray(anomaly_map).resize(picture.size, Image.Resampling.BILINEAR)
    levels = colour_levels(np.asarray(small), map_threshold(session))
    return picture, Image.fromarray(blend(np.asarray(picture), levels))


def overlay(session: Session) -> Image.Image:
    """The picture with map, outlines, numbers and legend."""
    result = session.result
    return draw_overlay(
        session.picture, result.anomaly_map, result.regions, map_threshold(session), max_side=LONGEST_SIDE
    )


def map_threshold(session: Session) -> float:
    """Map value in the middle of the colour scale."""
    return float(session.result.evidence.get("region_threshold") or session.inspector.region_threshold)


def region_crop(session: Session, region: Region) -> Image.Image:
    """The region with some of its surroundings, its outline drawn, enlarged where it is small."""
    outline = region.outline or ()
    return _crop(session.picture, region.box, outline)


def nearest_good_crop(session: Session, region: Region) -> Image.Image | None:
    """The most similar place of the good pictures at the scale of the region's crop, where the result names one."""
    nearest = getattr(region, "nearest_good", None)
    if not nearest or not 0 <= nearest["reference"] < len(session.references):
        return None
    from .uploads import RefusedError, open_picture

    try:
        picture = open_picture(session.references[nearest["reference"]])
    except RefusedError:
        return None
    x0, y0, x1, y1 = nearest["box"]
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        return None
    scale = max(picture.size) / max(session.picture.size)
    x, y = (x0 + x1) / 2 * picture.width, (y0 + y1) / 2 * picture.height
    width, height = region.width * scale / 2, region.height * scale / 2
    return _crop(picture, (round(x - width), round(y - height), round(x + width), round(y + height)), ())


def _reduced(picture: Image.Image) -> tuple[Image.Image, float]:
    factor = min(1.0, LONGEST_SIDE / max(picture.size))
    if factor == 1.0:
        return picture, 1.0
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.BOX), factor


def _mask(region: Region, factor: float, size: tuple[int, int]) -> np.ndarray:
    x0, y0, x1, y1 = region.box
    corners = region.outline if len(region.outline) > 2 else ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    mask = Image.new("1", size)
    ImageDraw.Draw(mask).polygon([(x * factor, y * factor) for x, y in corners], fill=1, outline=1)
    return np.asarray(mask)


def _crop(picture: Image.Image, box: tuple[int, ...], outline: tuple) -> Image.Image:
    side = min(max(2 * max(box[2] - box[0], box[3] - box[1]), max(picture.size) // 6, 24), *picture.size)
    left = min(max(0, (box[0] + box[2] - side) // 2), picture.width - side)
    top = min(max(0, (box[1] + box[3] - side) // 2), picture.height - side)
    crop = picture.crop((left, top, left + side, top + side))
    factor = CROP_SIDE / side
    crop = crop.resize((CROP_SIDE, CROP_SIDE), Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
    if len(outline) > 2:
        points = [((x + 0.5 - left) * factor, (y + 0.5 - top) * factor) for x, y in outline]
        pen = ImageDraw.Draw(crop)
        for colour, width in (((20, 20, 20), 5), ((255, 255, 255), 2)):
            pen.line([*points, points[0]], fill=colour, width=width, joint="curve")
    return crop


__all__ = [
    "annotations",
    "colours",
    "comparison",
    "map_threshold",
    "nearest_good_crop",
    "overlay",
    "region_crop",
    "region_label",
]
