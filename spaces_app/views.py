"""What the page shows of a result: words, cards as HTML, pictures, the scale, the examples.

Every text from outside passes through `html.escape` here.
"""

import functools
import json
import math
import pathlib
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from modeling_anomalygpt.line.parts import Part
from modeling_anomalygpt.prompts import check_language
from modeling_anomalygpt.regions import Region, position_words
from modeling_anomalygpt.report.overlays import blend, colour_levels
from modeling_anomalygpt.results import InspectionResult

HERE = pathlib.Path(__file__).parent
# Installed as a wheel, the pictures lie inside the package; in the repository and in a Space, beside it.
EXAMPLES_FOLDER = next((path for path in (HERE / "examples", HERE.parent / "examples") if path.is_dir()), HERE)
EXAMPLES = {
    "capsules": ("part_2_missing_part", "part_6_crack", "part_1_good"),
    "zipper": ("part_5_bent_part", "part_6_thread", "part_1_good"),
}
LONGEST_SIDE = 1200
"""Longest side in pixels of the pictures on the page."""

LONGEST_SIDE_SCALE = 1600
"""The same of the picture in which a known length is clicked."""

MAX_LISTED_REGIONS = 12
UNSEEN_FRAMES = "unseen_frames"
"""The kind of reason of a result whose file holds more than what was inspected of it."""

_CROP_SIDE = 420
_PALETTE = (
    "#e5322d", "#f08c00", "#2f7ee6", "#12a187", "#9c4dd8", "#d6336c", "#74a60a", "#0b95b8", "#8c6d46", "#5b6ee1",
)  # fmt: skip
_SHOWN_APART = {
    "reasons", "peak", "localization", "num_references", "region_threshold", "yes_probability", "threshold",
    "decision_score", "decision_threshold", "num_stopped",
}  # fmt: skip

# Words


@functools.cache
def words_of(language: str) -> dict[str, Any]:
    """All words of the page in `"en"` or `"zh"`, by the same keys; words in braces are filled in."""
    check_language(language)
    return json.loads((HERE / f"words_{language}.json").read_text(encoding="utf-8"))


def example_pictures() -> list[tuple[str, list[str], str, str]]:
    """Picture, good pictures, category and kind of defect of each example whose files are there."""
    examples = []
    for product, names in EXAMPLES.items():
        good = sorted(map(str, (EXAMPLES_FOLDER / product / "good").glob("*.jpg")))
        pictures = [EXAMPLES_FOLDER / product / "query" / f"{name}.jpg" for name in names]
        examples += [(str(one), good, product, one.stem.split("_", 2)[2]) for one in pictures if one.exists() and good]
    return examples


# Cards


def welcome_card(language: str) -> str:
    """What stands in place of a verdict before the first inspection."""
    words = words_of(language)
    steps = "".join(f"<li>{escape(words[key])}</li>" for key in ("step_picture", "step_references", "step_inspect"))
    return _card("idle", words["welcome"], f"<ol class='ag-steps'>{steps}</ol>")


def error_card(reason: str, language: str, title: str = "not_inspected") -> str:
    """Why there is no result."""
    return _card("error", words_of(language)[title], f"<p>{escape(reason)}</p>")


def busy_card(language: str) -> str:
    """Shown while the model works."""
    return _card("busy", words_of(language)["inspecting"], "<div class='ag-run'><i></i></div>")


def verdict_card(result: InspectionResult, language: str) -> str:
    """The verdict, the answer, the score against its limit, and why; without a verdict, what to do for one."""
    words = words_of(language)
    title = words.get(f"verdict_{result.verdict}", result.verdict)
    if result.verdict == "unknown":
        return _card("unknown", title, f"<p>{escape(why_unknown(result, language))}</p>")
    reasons = result.evidence.get("reasons")
    if not reasons:
        reasons = [_compared(result.evidence, words)]
        if (probability := result.evidence.get("yes_probability")) is not None:
            reasons.append(words["reason_probability"].format(percent=f"{100 * probability:.1f}"))
    body = f"<p>{escape(result.answer)}</p>" if result.answer else ""
    if result.pred_score is not None:
        limit = score_limit(result)
        width = 100 * max(0.0, min(1.0, result.pred_score / (2 * limit)))
        label = escape(words["meter"].format(score=_number(result.pred_score), limit=_number(limit)))
        body += (
            f"<div class='ag-meter'><div><i style='width:{width:.1f}%'></i><s></s></div><small>{label}</small></div>"
        )
    texts = [reason.get("text", "") if isinstance(reason, dict) else reason for reason in reasons]
    items = "".join(f"<li>{escape(str(text))}</li>" for text in texts)
    return _card(result.verdict, title, f"{body}<ul class='ag-reasons'>{items}</ul>")


def why_unknown(result: InspectionResult, language: str) -> str:
    """What a result without a verdict lacks: good pictures, or a kind of map that is compared with them."""
    reasons = (one for one in result.evidence.get("reasons", ()) if isinstance(one, dict))
    kinds = {one.get("kind"): one.get("text") for one in reasons}
    return kinds.get("not_compared") or words_of(language)["unknown"]


def score_limit(result: InspectionResult) -> float:
    """The score from which a picture is suspicious: 1 where scores are ratios to the references' limit."""
    calibrated = result.evidence.get("threshold") is not None
    return 1.0 if calibrated else float(result.evidence.get("region_threshold") or 0.5)


def evidence_table(result: InspectionResult, language: str) -> str:
    """Everything the verdict stands on, name and value; names without a word in the page's language as they are."""
    words, evidence = words_of(language), result.evidence
    rows = [(words["score"], _number(result.pred_score)), (words["limit"], _number(score_limit(result)))]
    if result.log_odds is not None:
        rows.append((words["log_odds"], f"{result.log_odds:+.2f}"))
    if (probability := evidence.get("yes_probability")) is not None:
        rows.append((words["probability"], f"{100 * probability:.1f} %"))
    rows.append((words["compared"], _compared(evidence, words)))
    if peak := evidence.get("peak"):
        rows.append((words["peak"], f"x {peak['x']}, y {peak['y']}"))
    rows += [
        (words.get(f"evidence_{key}", key.replace("_", " ")), _number(value))
        for key, value in evidence.items()
        if key not in _SHOWN_APART and isinstance(value, (str, int, float)) and not isinstance(value, bool)
    ]
    rows.append((words["seconds"], f"{result.seconds:.2f} s"))
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    return f"<table class='ag-facts'>{cells}</table>"


def regions_table(result: InspectionResult, language: str) -> str:
    """The regions, numbered as on the overlay."""
    words = words_of(language)
    if not result.regions:
        return note(words["no_regions"])
    unit = ("size_px", "area_px") if result.regions[0].area_mm2 is None else ("size_mm", "area_mm2")
    head = "".join(f"<th>{escape(words[key])}</th>" for key in ("region", "where", *unit, "peak_score"))
    rows = ""
    for index, region in enumerate(result.regions[:MAX_LISTED_REGIONS]):
        cells = [index + 1, position_words(region, language), *region_size(region), f"{region.peak_score:.2f}"]
        rows += f"<tr data-region={index}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
    more = len(result.regions) - MAX_LISTED_REGIONS
    table = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    below = note(words["more_regions"].format(count=more)) if more > 0 else ""
    return f"<div class='ag-scroll'><table class='ag-table'>{table}</table></div>{below}"


def region_size(region: Region) -> tuple[str, str]:
    """Width by height, and area; in millimetres where the scale is known, else in pixels."""
    if region.area_mm2 is None:
        return f"{region.width} × {region.height}", f"{region.area_pixels:,}".replace(",", " ")
    return f"{region.width_mm:.2f} × {region.height_mm:.2f}", f"{region.area_mm2:.2f}"


def region_card(region: Region, number: int, language: str) -> str:
    """One region, after a click on it."""
    words, (size, area) = words_of(language), region_size(region)
    units = ("px", "px") if region.area_mm2 is None else ("mm", "mm²")
    values = (f"{size} {units[0]}", f"{area} {units[1]}", f"{region.peak_score:.3f}", f"{region.mean_score:.3f}")
    cells = "".join(
        f"<span><b>{escape(value)}</b><small>{escape(words[key])}</small></span>"
        for key, value in zip(("size", "area", "peak_score", "mean_score"), values, strict=True)
    )
    title = words["region_title"].format(number=number, where=position_words(region, language))
    return f"<div class='ag-region'><h4>{escape(title)}</h4><div class='ag-numbers'>{cells}</div></div>"


def batch_summary(results: Sequence[InspectionResult], language: str) -> str:
    """Counts of a finished batch in one line."""
    words = words_of(language)
    counts = dict.fromkeys(("anomalous", "normal", "uncertain", "unknown", "error"), 0)
    for result in results:
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
    text = words["batch_done"].format(total=len(results), **counts)
    for kind in ("uncertain", "unknown", "error"):
        text += words[f"batch_{kind}"].format(count=counts[kind]) if counts[kind] else ""
    if count := sum(reason["kind"] == UNSEEN_FRAMES for one in results for reason in one.evidence.get("reasons", [])):
        text += words["batch_unseen_frames"].format(count=count)
    return text + ("。" if language == "zh" else ".")


def part_note(part: Part, language: str) -> str:
    """What is known of a stored part, in one line."""
    words, references = words_of(language), part.references
    count = references.num_pictures
    facts = {"category": references.category, "version": part.version, "count": count}
    text = words["part_facts"].format(**facts)
    if references.calibration is not None:
        text += words["part_calibrated"].format(
            percent=f"{100 * references.calibration.supported_false_alarm_rate:.1f}"
        )
    if references.roi is not None:
        text += words["part_region"].format(percent=f"{100 * references.roi.mean():.0f}")
    if references.views is not None:
        text += words["part_aligned"]
    return note(text + ("。" if language == "zh" else "."))


def note(text: str) -> str:
    """A quiet line."""
    return f"<p class='ag-none'>{escape(text)}</p>"


def _card(kind: str, title: str, body: str) -> str:
    return (
        f"<section class='ag-card ag-{escape(kind)}' role='status'><header><i class='ag-dot'></i>"
        f"<h3>{escape(title)}</h3></header>{body}</section>"
    )


def _compared(evidence: dict[str, Any], words: dict[str, Any]) -> str:
    count = evidence.get("num_references", 0)
    if evidence.get("localization") == "text_guided":
        return words["compared_words"]
    return words["compared_one" if count == 1 else "compared_many"].format(count=count)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# Pictures


def reduced(image: Image.Image, longest: int = LONGEST_SIDE) -> tuple[Image.Image, float]:
    """The image with at most so many pixels a side, and its width over the original's."""
    factor = min(1.0, longest / max(image.size))
    if factor == 1.0:
        return image, 1.0
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.BOX), size[0] / image.width


def comparison(image: Image.Image, anomaly_map: np.ndarray, threshold: float) -> tuple[Image.Image, Image.Image]:
    """The two sides of the slider: the image, and the same with the map over it; `threshold` is the middle colour."""
    small, _ = reduced(image)
    levels = colour_levels(
        np.asarray(Image.fromarray(anomaly_map).resize(small.size, Image.Resampling.BILINEAR)), threshold
    )
    return small, Image.fromarray(blend(np.asarray(small), levels))


def annotations(
    regions: Sequence[Region], size: tuple[int, int], factor: float, language: str
) -> tuple[list[tuple[np.ndarray, str]], dict[str, str]]:
    """A mask `(height, width)` and a label for each region, and the colour of each label, for the clickable overlay.

    Args:
        regions (`list[Region]`): In pixels of the original picture.
        size (`tuple[int, int]`): Width and height of the picture shown.
        factor (`float`): Its width over the original's.
        language (`str`): Of the labels.
    """
    masks, colours = [], {}
    for number, region in enumerate(regions[:MAX_LISTED_REGIONS], start=1):
        x0, y0, x1, y1 = region.box
        corners = region.outline if len(region.outline) > 2 else ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        mask = Image.new("1", size)
        ImageDraw.Draw(mask).polygon([(x * factor, y * factor) for x, y in corners], fill=1, outline=1)
        label = f"{number} · {position_words(region, language)}"
        masks.append((np.asarray(mask), label))
        colours[label] = _PALETTE[(number - 1) % len(_PALETTE)]
    return masks, colours


def region_crop(image: Image.Image, region: Region) -> Image.Image:
    """The region with some of its surroundings, its outline drawn, enlarged where it is small."""
    return _crop(image, region.box, region.outline or ())


def nearest_good_crop(region: Region, size: tuple[int, int], good: Image.Image) -> Image.Image | None:
    """The place of a good picture that `region.nearest_good` names, at the scale of the region's crop.

    `size` is the inspected picture's, width and height. `None` where the place lies outside of the good picture.
    """
    x0, y0, x1, y1 = region.nearest_good["box"]
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        return None
    scale = max(good.size) / max(size)
    x, y = (x0 + x1) / 2 * good.width, (y0 + y1) / 2 * good.height
    width, height = region.width * scale / 2, region.height * scale / 2
    return _crop(good, (round(x - width), round(y - height), round(x + width), round(y + height)), ())


def _crop(image: Image.Image, box: tuple[int, ...], outline: Sequence) -> Image.Image:
    side = min(max(2 * max(box[2] - box[0], box[3] - box[1]), max(image.size) // 6, 24), *image.size)
    left = min(max(0, (box[0] + box[2] - side) // 2), image.width - side)
    top = min(max(0, (box[1] + box[3] - side) // 2), image.height - side)
    factor = _CROP_SIDE / side
    crop = image.crop((left, top, left + side, top + side)).resize(
        (_CROP_SIDE, _CROP_SIDE), Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX
    )
    if len(outline) > 2:
        points = [((x + 0.5 - left) * factor, (y + 0.5 - top) * factor) for x, y in outline]
        pen = ImageDraw.Draw(crop)
        for colour, width in (((20, 20, 20), 5), ((255, 255, 255), 2)):
            pen.line([*points, points[0]], fill=colour, width=width, joint="curve")
    return crop


# Scale


def millimetres_per_pixel(points: list[tuple[int, int]], length_mm: float | None, factor: float = 1.0) -> float | None:
    """The scale from two clicked points on something of known length; `None` while one of them is missing.

    Args:
        points (`list[tuple[int, int]]`): `(x, y)` of the clicks, in pixels of the picture shown.
        length_mm (`float`, *optional*): Known distance between them.
        factor (`float`, defaults to 1.0): Width of the picture shown over the width of the original.
    """
    if len(points) < 2 or not length_mm or not math.isfinite(length_mm) or length_mm <= 0:
        return None
    pixels = math.dist(*points[:2]) / factor
    return length_mm / pixels if pixels > 0 else None


def scale_note(points: list[tuple[int, int]], length: float | None, scale: float | None, language: str) -> str:
    """What to do next for the scale, or what it is."""
    words = words_of(language)
    if len(points) < 2:
        return note(words["scale_first"])
    if scale is None:
        return note(words["scale_zero" if points[0] == points[1] else "scale_length"])
    return note(words["scale_set"].format(mm=f"{scale:.4g}", pixels=f"{length / scale:.0f}"))


def draw_points(image: Image.Image, points: list[tuple[int, int]]) -> Image.Image:
    """The image with the clicked points and the line between them."""
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    radius = max(4, round(max(drawn.size) / 90))
    if len(points) == 2:
        for colour, width in (((20, 20, 20), max(5, radius)), ((255, 255, 255), max(2, radius // 3))):
            pen.line([*points[0], *points[1]], fill=colour, width=width)
    for x, y in points:
        disc = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(disc, fill=(255, 255, 255), outline=(20, 20, 20), width=2)
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(208, 24, 38))
    return drawn
