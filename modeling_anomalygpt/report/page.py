"""Results as one HTML page that needs nothing else: summary, setup, and data for the script that shows the pictures.

Layout, style and script are `page.html`, `page.css` and `page.js`; the words are `words_en.json` and `words_zh.json`.
Every text from outside is escaped by the template or arrives as JSON and is set as text by the script, so no file name
and no answer can act as markup.
"""

import base64
import functools
import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from ..prompts import check_language, default_question
from ..regions import Region, position_words
from ..results import InspectionResult
from ..wording import plain_number
from .overlays import colour_table, scale_labels, scale_maximum

HISTOGRAM_BINS = 24
KINDS = ("anomalous", "uncertain", "unknown", "normal", "error")
MAX_FOLDERS = 40
_FOLDER = pathlib.Path(__file__).parent
# Sentences with numbers that say how far to trust a verdict: behind a click. The first is about the good pictures,
# the same for every picture, and stands once, beside them.
_ABOUT_REFERENCES = "few_references"
_STATISTICS = ("map_above", "map_below", "language_yes", "language_no")
_DENIALS, _CONFIRMATIONS = ("no", "不", "没", "否"), ("yes", "是", "有")


@functools.cache
def report_words(language: str = "en") -> dict[str, str]:
    """All words of the report and of the dialogue in the terminal, English (`"en"`) or Chinese (`"zh"`)."""
    check_language(language)
    return json.loads((_FOLDER / f"words_{language}.json").read_text(encoding="utf-8"))


def render_page(
    results: Sequence[InspectionResult],
    entries: Sequence[Mapping[str, Any]],
    language: str,
    setup: Mapping[str, str],
    versions: Mapping[str, str],
    references: Sequence[tuple[str, str]],
    num_references: int,
) -> str:
    """The page.

    Args:
        results (`Sequence[InspectionResult]`): In the order given.
        entries (`Sequence[Mapping]`): For each result `picture` and `map` (data addresses or `None`), `file` (address
            of the overlay or `None`), `size` (width, height), `threshold` (score from which a pixel belongs to a
            region), `lines` (outlines of the regions shown, as points of SVG polygons) and `pairs` (for regions,
            addresses of a detail and of the good patch most like it, or `None`).
        language (`str`): `"en"` or `"zh"`.
        setup, versions (`Mapping[str, str]`): Label to value.
        references (`Sequence[tuple[str, str]]`): Path and data address of the good pictures shown.
        num_references (`int`): How many good pictures were given, where no result says it.

    Returns:
        `str`: HTML.
    """
    words = report_words(language)
    common = common_folder([result.image for result in results if result.image])
    rows = [
        _row(result, entry, words, language)
        | {"index": index, "name": _clean(short_name(result.image, common) if result.image else f"#{index + 1}")}
        for index, (result, entry) in enumerate(zip(results, entries, strict=True))
    ]
    category = next((result.category for result in results if result.category != "object"), "")
    seconds = sum(result.seconds for result in results)
    thresholds = sorted({entry["threshold"] for entry in entries}) or [0.5]
    calibrated = any(map(_is_calibrated, results))
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    reasons = (reason for result in results for reason in result.evidence.get("reasons", []))
    return _template().render(
        language=language,
        digest=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        script=script,
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        words=words,
        rows=rows,
        title=words["title"] + (f" · {category}" if category else ""),
        made=time.strftime("%Y-%m-%d %H:%M"),
        duration=f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min",
        tiles=_tiles(results, rows, words),
        histogram=_histogram(results, thresholds[-1], words),
        setup=({words["folder"]: common} if len(common) > 1 else {}) | setup,
        versions=versions,
        calibrated=calibrated,
        stops=_colour_stops(),
        scale=_joined_scales(thresholds),
        references=[(os.path.basename(path), address) for path, address in references],
        num_references=_num_references(results) or num_references,
        notes=list(dict.fromkeys(one["text"] for one in reasons if one.get("kind") == _ABOUT_REFERENCES)),
        folders=_folders(results, common),
    )


def _num_references(results: Sequence[InspectionResult]) -> int:
    counts = [result.evidence.get("num_references") for result in results]
    return max((count for count in counts if isinstance(count, int)), default=0)


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all of the files, with the separator at its end; empty where there is none.

    Example:
    ```python
    >>> common_folder(["line/good/1.png", "line/good/2.png", "line/goods/1.png"])
    'line/'

    ```
    """
    folders = os.path.commonprefix([path.split(os.sep)[:-1] for path in paths])
    return os.sep.join([*folders, ""]) if folders else ""


def short_name(path: str, common: str) -> str:
    """A path without the folder that all have in common (see [`common_folder`])."""
    return path[len(common) :] if common and path.startswith(common) else path


def plain_reasons(result: InspectionResult) -> list[str]:
    """The reasons of a verdict that need no statistics, as sentences."""
    behind_a_click = (_ABOUT_REFERENCES, *_STATISTICS)
    return [one["text"] for one in result.evidence.get("reasons", []) if one.get("kind") not in behind_a_click]


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: _clean(value) if type(value) is str else value,
    )
    environment.filters["breakable"] = lambda text: markupsafe.Markup("/<wbr>").join(_clean(text).split("/"))
    return environment.get_template("page.html")


def _row(
    result: InspectionResult, entry: Mapping[str, Any], words: Mapping[str, str], language: str
) -> dict[str, Any]:
    """What the script shows of one picture; texts are in the page's language already."""
    regions = [
        {"place": position_words(region, language), "box": list(region.box), **_sizes(region, language)}
        | {"peak": f"{region.peak_score:.3f}", "mean": f"{region.mean_score:.3f}", "line": line}
        for region, line in zip(result.regions, entry["lines"], strict=False)
    ]
    plain, statistics = _evidence(result, entry["threshold"], words)
    return {
        "path": _clean(result.image or ""),
        "verdict": result.verdict,
        "score": _finite(result.pred_score),
        "odds": _finite(result.log_odds),
        "probability": _percent(result.evidence.get("yes_probability")),
        "answer": _clean(result.answer),
        "error": _clean(result.error or ""),
        "area": sum(region.area_pixels for region in result.regions),
        "regions": regions,
        "more": len(result.regions) - len(regions),
        "calibrated": _is_calibrated(result),
        "evidence": plain,
        "statistics": statistics,
        "differs": _contradiction(result, entry["threshold"], words),
        "pairs": [{"region": number, "details": pair} for number, pair in enumerate(entry["pairs"], 1) if pair],
    } | {key: entry[key] for key in ("picture", "map", "file", "size")}


def _is_calibrated(result: InspectionResult) -> bool:
    """Whether the score is a ratio to what good pictures reach."""
    return "threshold" in result.evidence


def _contradiction(result: InspectionResult, threshold: float, words: Mapping[str, str]) -> str:
    """Where the map or the first word of the answer speaks against the verdict, in words; else nothing."""
    if result.verdict not in ("normal", "anomalous"):
        return ""
    anomalous, answer = result.verdict == "anomalous", result.answer.strip().lower()
    if result.question not in ("", default_question(result.language)):
        answer = ""  # its yes may well mean "it is good"
    said = [words["differs_answer_no"]] if anomalous and answer.startswith(_DENIALS) else []
    said += [words["differs_answer_yes"]] if not anomalous and answer.startswith(_CONFIRMATIONS) else []
    if result.pred_score is not None:
        reached = result.pred_score >= (1.0 if _is_calibrated(result) else threshold)
        if reached != anomalous:
            said.append(words["differs_anomalous" if anomalous else "differs_normal"])
    return (" " if words["title"].isascii() else "").join(said)


def _sizes(region: Region, language: str) -> dict[str, str]:
    if region.width_mm is None or region.height_mm is None or region.area_mm2 is None:
        unit = "像素" if language == "zh" else "px"
        return {"extent": f"{region.width} × {region.height} {unit}", "area": f"{region.area_pixels:,} {unit}"}
    width, height, area = (plain_number(value, 3) for value in (region.width_mm, region.height_mm, region.area_mm2))
    return {"extent": f"{width} × {height} mm", "area": f"{area} mm²"}


def _evidence(result: InspectionResult, threshold: float, words: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Sentences for everybody, and those with numbers that stand behind a click."""
    evidence = result.evidence
    plain = [_clean(text.rstrip(".。")) for text in plain_reasons(result)]
    reasons = evidence.get("reasons", [])
    statistics = [_clean(one["text"].rstrip(".。")) for one in reasons if one.get("kind") in _STATISTICS]
    kind, count = evidence.get("localization"), evidence.get("num_references", 0)
    if kind == "few_shot":
        plain.append(words["few_shot_one"] if count == 1 else words["few_shot"].format(n=count))
    elif kind == "mean":
        plain.append(words["mean_of_both"].format(n=count))
    elif kind == "text_guided":
        plain.append(words["text_guided"])
    if peak := evidence.get("peak"):
        use_ratio = _is_calibrated(result) and result.pred_score is not None
        score = f"{result.pred_score if use_ratio else peak['score']:.3f}"
        statistics.append(words["peak_at"].format(score=score, x=peak["x"], y=peak["y"]))
    if result.verdict != "error":
        statistics.append(words["regions_from"].format(threshold=f"{threshold:.2f}"))
    if evidence.get("resumed"):
        plain.append(words["resumed"])
    return plain, statistics


def _tiles(
    results: Sequence[InspectionResult], rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]
) -> list[tuple[str, str, int, str]]:
    """Kind, label, count and note of each button above."""
    counts = {kind: sum(result.verdict == kind for result in results) for kind in KINDS}
    inspected = len(results) - counts["error"]
    seconds = sum(result.seconds for result in results) / max(1, inspected)
    tiles = [("all", words["pictures"], len(results), f"{seconds:.2f} {words['seconds_each']}")]
    for kind in ("anomalous", "uncertain", "unknown", "normal"):
        if kind in ("anomalous", "normal") or counts[kind]:
            share = f"{100 * counts[kind] / inspected:.1f} % {words['of_inspected']}" if inspected else ""
            tiles.append((kind, words[kind], counts[kind], share))
    tiles.append(("differs", words["differs"], sum(bool(row["differs"]) for row in rows), words["differs_help"]))
    return tiles + ([("error", words["error"], counts["error"], "")] if counts["error"] else [])


def _histogram(results: Sequence[InspectionResult], threshold: float, words: Mapping[str, str]) -> dict[str, Any]:
    """Bars of the pictures' scores, one verdict upon the other, over the range of the colour scale."""
    calibrated = any(map(_is_calibrated, results))
    shown = [one for one in results if one.pred_score is not None and math.isfinite(one.pred_score)]
    most = 2.0 if max((result.pred_score for result in shown), default=0.0) <= 2 else 3.0
    mark_at, end = (1.0, most) if calibrated else (threshold, min(1.0, scale_maximum(threshold)))
    bins = {kind: [0] * HISTOGRAM_BINS for kind in ("normal", "unknown", "uncertain", "anomalous")}
    for result in shown:
        if result.verdict in bins:
            place = min(HISTOGRAM_BINS - 1, max(0, int(result.pred_score / end * HISTOGRAM_BINS)))
            bins[result.verdict][place] += 1
    highest = max(1, *(sum(stack) for stack in zip(*bins.values(), strict=True)))
    width, height = 480, 120
    step, bars = width / HISTOGRAM_BINS, []
    for place in range(HISTOGRAM_BINS):
        base = float(height)
        for kind, counts in bins.items():
            tall = counts[place] / highest * (height - 14)
            base -= tall
            if tall:
                bars.append((kind, *(f"{value:.1f}" for value in (place * step + 1, base, step - 2, tall))))
    mark = mark_at / end * width
    at_end = mark >= 0.9 * width
    labels = [("0", "start", "0"), (f"{mark:.1f}", "end" if at_end else "middle", f"{mark_at:.2f}")]
    labels += [] if at_end else [(f"{width}", "end", f"{end:.2f}+" if end != 1 else "1")]
    return {
        "width": width,
        "height": height,
        "bars": bars,
        "highest": highest,
        "mark": f"{mark:.1f}",
        "labels": labels,
        "kinds": [kind for kind, counts in bins.items() if any(counts)],
        "help": words["ratios_help" if calibrated else "scores_help"],
    }


def _folders(results: Sequence[InspectionResult], common: str) -> list[tuple[str, int, int, str, str]]:
    """Name, count, anomalous ones, rate and mean score of each folder, where there are several; the worst first."""
    folders: dict[str, list[InspectionResult]] = {}
    for result in results:
        folders.setdefault(os.path.dirname(result.image or ""), []).append(result)
    if not 1 < len(folders) <= MAX_FOLDERS:
        return []
    lines = []
    for folder, group in folders.items():
        inspected = [result for result in group if result.verdict != "error"]
        anomalous = sum(result.verdict == "anomalous" for result in inspected)
        scores = [result.pred_score for result in inspected if result.pred_score is not None]
        rate = anomalous / len(inspected) if inspected else 0.0
        mean = f"{sum(scores) / len(scores):.3f}" if scores else "–"
        name = short_name(folder, common) if folder + os.sep != common else os.path.basename(folder)
        lines.append((-rate, len(lines), (name, len(group), anomalous, f"{100 * rate:.0f} %", mean)))
    return [line for _, _, line in sorted(lines)]


def _colour_stops() -> str:
    """The colour scale as the stops of a CSS gradient."""
    return ", ".join(
        f"rgba({r},{g},{b},{a / 255:.2f}) {100 * level / 255:.0f}%"
        for level, (r, g, b, a) in enumerate(colour_table().tolist())
        if level % 15 == 0
    )


def _joined_scales(thresholds: Sequence[float]) -> list[str]:
    """What stands below the colour scale; a range where the pictures' thresholds differ."""
    both = zip(scale_labels(thresholds[0]), scale_labels(thresholds[-1]), strict=True)
    return [low if low == high else f"{low}–{high}" for low, high in both]


def _clean(text: str) -> str:
    """Without what UTF-8 cannot hold and without control characters (both occur in file names)."""
    text = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def _percent(value: float | None) -> str:
    """A probability in words that never claims certainty."""
    if value is None or not math.isfinite(value):
        return ""
    if 0.001 <= value <= 0.999:
        return f"{100 * value:.1f} %"
    return "> 99.9 %" if value > 0.5 else "< 0.1 %"
