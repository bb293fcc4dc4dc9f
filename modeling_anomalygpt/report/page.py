"""Results as one HTML page that needs nothing else: summary, setup, and data for the script that shows the pictures.

Knows results and HTML; reads and writes no file. Every text from outside passes through `html.escape` or arrives in
the page as JSON and is set as text by the script, so no file name and no answer can act as markup.
"""

import base64
import hashlib
import html
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..regions import Region, position_words
from ..results import InspectionResult
from .overlays import colour_table, scale_labels, scale_maximum
from .script import SCRIPT
from .style import STYLE
from .words import report_words

HISTOGRAM_BINS = 24
KINDS = ("anomalous", "uncertain", "normal", "error")
MAX_FOLDERS = 40


def render_page(
    results: Sequence[InspectionResult],
    entries: Sequence[Mapping[str, Any]],
    region_threshold: float,
    language: str = "en",
    setup: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    references: Sequence[tuple[str, str]] = (),
    num_references: int = 0,
) -> str:
    """The page.

    Args:
        results (`Sequence[InspectionResult]`): In the order given.
        entries (`Sequence[Mapping]`): For each result `picture`, `map`, `blended` (data addresses or `None`), `file`
            (address of the overlay or `None`), `size` (width, height), `lines` (outlines of the regions shown, as
            points of SVG polygons) and `pairs` (for regions, addresses of a detail and of the good patch most like it,
            or `None`).
        region_threshold (`float`): Middle of the colour scale.
        language (`str`, *optional*, defaults to `"en"`): `"en"` or `"zh"`.
        setup, versions (`Mapping[str, str]`, *optional*): Label to value.
        references (`Sequence[tuple[str, str]]`, *optional*): Path and data address of the good pictures shown.
        num_references (`int`, *optional*): How many good pictures there were.

    Returns:
        `str`: HTML.
    """
    words = report_words(language)
    common = common_folder([result.image for result in results if result.image])
    rows = [
        _row(index, result, entry, region_threshold, words, language)
        | {"name": _clean(short_name(result.image, common) if result.image else f"#{index + 1}")}
        for index, (result, entry) in enumerate(zip(results, entries, strict=True))
    ]
    category = next((result.category for result in results if result.category != "object"), "")
    setup = ({words["folder"]: common} if len(common) > 1 else {}) | dict(setup or {})
    title = words["title"] + (f" · {category}" if category else "")
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode("utf-8")).digest()).decode("ascii")
    body = [
        _header(title, results, words),
        _tiles(results, rows, words),
        f'<div class="columns">{_histogram(results, region_threshold, words)}',
        _setup(setup, versions or {}, region_threshold, any(map(_calibrated, results)), words),
        f"{_references(references, num_references, results, words)}{_folders(results, words)}</div>",
        f"<noscript><p class=note>{_text(words['no_script'])}</p></noscript>",
        '<div id="controls"></div><div id="results"></div><nav id="pages"></nav><dialog id="large"></dialog>',
        f"<footer>{_text(words['footer'])}</footer>",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="{"zh-CN" if language == "zh" else "en"}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing is fetched from anywhere, and only this one script may run.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n"
        f'<meta name="generator" content="anomalygpt">\n<title>{_text(title)}</title>\n<style>{STYLE}</style>\n'
        f"</head>\n<body>\n{chr(10).join(body)}\n"
        f'<script type="application/json" id="data">{_json({"words": words, "rows": rows})}</script>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def common_folder(paths: Sequence[str]) -> str:
    """The deepest folder that holds all of the files, with the separator at its end; empty where there is none.

    Args:
        paths (`Sequence[str]`): Paths of files.

    Returns:
        `str`: So that `path[len(common):]` is what differs.

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


def _row(
    index: int,
    result: InspectionResult,
    entry: Mapping[str, Any],
    region_threshold: float,
    words: Mapping[str, str],
    language: str,
) -> dict[str, Any]:
    """What the script shows of one picture; texts are in the page's language already."""
    regions = [
        {"place": position_words(region, language), "box": list(region.box), **_sizes(region, language)}
        | {"peak": _number(region.peak_score), "mean": _number(region.mean_score), "line": line}
        for region, line in zip(result.regions, entry["lines"], strict=False)
    ]
    score = result.pred_score
    limit = _score_limit(result, region_threshold)
    differs = ""
    if score is not None and result.verdict == "normal" and score >= limit:
        differs = words["differs_normal"]
    elif score is not None and result.verdict == "anomalous" and score < limit:
        differs = words["differs_anomalous"]
    return {
        "index": index,
        "path": _clean(result.image or ""),
        "verdict": result.verdict,
        "score": _finite(score),
        "odds": _finite(result.log_odds),
        "probability": _percent(result.evidence.get("yes_probability")),
        "answer": _clean(result.answer),
        "error": _clean(result.error or ""),
        "area": sum(region.area_pixels for region in result.regions),
        "regions": regions,
        "more": len(result.regions) - len(regions),
        "calibrated": _calibrated(result),
        "evidence": _evidence(result, words),
        "differs": differs,
        "pairs": [{"region": number, "details": pair} for number, pair in enumerate(entry["pairs"], 1) if pair],
    } | {key: entry[key] for key in ("picture", "map", "blended", "file", "size")}


def _score_limit(result: InspectionResult, region_threshold: float) -> float:
    """Where a score begins to speak for an anomaly: 1.0 where it is a ratio to what good pictures reach."""
    return 1.0 if _calibrated(result) else region_threshold


def _calibrated(result: InspectionResult) -> bool:
    """Whether the score is a ratio to what good pictures reach."""
    return "threshold" in result.evidence


def _sizes(region: Region, language: str) -> dict[str, str]:
    if region.width_mm is None or region.height_mm is None or region.area_mm2 is None:
        unit = "像素" if language == "zh" else "px"
        return {"extent": f"{region.width} × {region.height} {unit}", "area": f"{region.area_pixels:,} {unit}"}
    return {"extent": f"{region.width_mm:.3g} × {region.height_mm:.3g} mm", "area": f"{region.area_mm2:.3g} mm²"}


def _evidence(result: InspectionResult, words: Mapping[str, str]) -> list[str]:
    evidence = result.evidence
    sentences = [
        reason["text"].rstrip(".。") for reason in evidence.get("reasons", []) if not _is_of_references(reason)
    ]
    kind, count = evidence.get("localization"), evidence.get("num_references", 0)
    if kind == "few_shot":
        sentences.append(words["few_shot_one"] if count == 1 else words["few_shot"].format(n=count))
    elif kind == "mean":
        sentences.append(words["mean_of_both"].format(n=count))
    elif kind == "text_guided":
        sentences.append(words["text_guided"])
    if peak := evidence.get("peak"):
        score = result.pred_score if _calibrated(result) and result.pred_score is not None else peak["score"]
        sentences.append(words["peak_at"].format(score=_number(score), x=peak["x"], y=peak["y"]))
    if evidence.get("resumed"):
        sentences.append(words["resumed"])
    return sentences


def _is_of_references(reason: Mapping[str, str]) -> bool:
    """Whether a reason is about the good pictures, the same for every picture: said once, beside them."""
    return reason.get("kind") == "few_normals"


def _header(title: str, results: Sequence[InspectionResult], words: Mapping[str, str]) -> str:
    seconds = sum(result.seconds for result in results)
    duration = f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
    made = time.strftime("%Y-%m-%d %H:%M")
    return (
        f"<header><h1>{_text(title)}</h1><p>{_text(words['time'])} {made} · {_text(words['duration'])} {duration}</p>"
        f"<div class=buttons><button id=theme type=button>{_text(words['theme'])}</button>"
        f"<button id=print type=button>{_text(words['print'])}</button></div></header>"
    )


def _tiles(results: Sequence[InspectionResult], rows: Sequence[Mapping[str, Any]], words: Mapping[str, str]) -> str:
    counts = {kind: sum(result.verdict == kind for result in results) for kind in KINDS}
    inspected = len(results) - counts["error"]
    seconds = sum(result.seconds for result in results) / max(1, inspected)
    tiles = [("all", words["pictures"], len(results), f"{seconds:.2f} {words['seconds_each']}")]
    for kind in ("anomalous", "uncertain", "normal"):
        if kind == "uncertain" and not counts[kind]:
            continue
        share = f"{100 * counts[kind] / inspected:.1f} % {words['of_inspected']}" if inspected else ""
        tiles.append((kind, words[kind], counts[kind], share))
    tiles.append(("differs", words["differs"], sum(bool(row["differs"]) for row in rows), words["differs_help"]))
    if counts["error"]:
        tiles.append(("error", words["error"], counts["error"], ""))
    cells = "".join(
        f'<button type=button class="tile {kind}" data-filter="{kind}"><span>{_text(label)}</span>'
        f"<strong>{count:,}</strong><small>{_text(note)}</small></button>"
        for kind, label, count, note in tiles
    )
    return f"<section class=tiles>{cells}</section>"


def _histogram(results: Sequence[InspectionResult], region_threshold: float, words: Mapping[str, str]) -> str:
    """Bars of the pictures' scores, one verdict upon the other, over the range of the colour scale."""
    calibrated = any(map(_calibrated, results))
    mark_at = 1.0 if calibrated else region_threshold
    scores = [result.pred_score for result in results if result.verdict in KINDS and result.pred_score is not None]
    ratios = 2.0 if max(scores, default=0.0) <= 2 else 3.0
    limit = ratios if calibrated else min(1.0, scale_maximum(region_threshold))
    bins = {kind: [0] * HISTOGRAM_BINS for kind in ("normal", "uncertain", "anomalous")}
    for result in results:
        if result.verdict in bins and result.pred_score is not None and math.isfinite(result.pred_score):
            place = min(HISTOGRAM_BINS - 1, max(0, int(result.pred_score / limit * HISTOGRAM_BINS)))
            bins[result.verdict][place] += 1
    highest = max(1, *(sum(stack) for stack in zip(*bins.values(), strict=True)))
    width, height = 480, 120
    step = width / HISTOGRAM_BINS
    bars = []
    for place in range(HISTOGRAM_BINS):
        base = float(height)
        for kind, counts in bins.items():
            if counts[place]:
                tall = counts[place] / highest * (height - 14)
                base -= tall
                x = place * step + 1
                box = f'x="{x:.1f}" y="{base:.1f}" width="{step - 2:.1f}" height="{tall:.1f}"'
                bars.append(f"<rect class={kind} {box}/>")
    mark = mark_at / limit * width
    labels = "".join(
        f'<text x="{x:.1f}" y="{height + 15}" text-anchor="{anchor}">{label}</text>'
        for x, anchor, label in (
            (0, "start", "0"),
            (mark, "middle" if mark < 0.9 * width else "end", f"{mark_at:.2f}"),
            *([(width, "end", f"{limit:.2f}+" if limit != 1 else "1")] if mark < 0.9 * width else []),
        )
    )
    keys = " ".join(f"<i class={kind}></i>{_text(words[kind])}" for kind, counts in bins.items() if any(counts))
    help_text = words["ratios_help"] if calibrated else words["scores_help"]
    return (
        f"<section class=panel><h2>{_text(words['scores'])}</h2>"
        f'<svg class=histogram viewBox="-4 -14 {width + 8} {height + 34}" role="img">{"".join(bars)}'
        f'<text x="0" y="-3">{highest}</text><path d="M0 {height}H{width}"/>'
        f'<path class=mark d="M{mark:.1f} 0V{height}"/>{labels}</svg>'
        f"<p class=key>{keys}</p><p class=help>{_text(help_text)}</p></section>"
    )


def _folders(results: Sequence[InspectionResult], words: Mapping[str, str]) -> str:
    """Counts for each folder, where there are several; the worst first."""
    folders: dict[str, list[InspectionResult]] = {}
    for result in results:
        folders.setdefault(os.path.dirname(result.image or ""), []).append(result)
    if not 1 < len(folders) <= MAX_FOLDERS:
        return ""
    common = common_folder([result.image for result in results if result.image])
    lines = []
    for folder, group in folders.items():
        seen = [result for result in group if result.verdict != "error"]
        anomalous = sum(result.verdict == "anomalous" for result in seen)
        scores = [result.pred_score for result in seen if result.pred_score is not None]
        rate = anomalous / len(seen) if seen else 0.0
        mean = f"{sum(scores) / len(scores):.3f}" if scores else "–"
        name = short_name(folder, common) if folder + os.sep != common else os.path.basename(folder)
        cell = _text(name).replace("/", "/<wbr>")
        lines.append(
            (-rate, len(lines), f"<tr><td>{cell}<td>{len(group)}<td>{anomalous}<td>{100 * rate:.0f} %<td>{mean}")
        )
    heads = (words["folder"], words["pictures"], words["anomalous"], words["rate"], words["mean_score"])
    return (
        f"<section class=panel><h2>{_text(words['folders'])}</h2><div class=scroll><table class=folders>"
        "<thead><tr>"
        + "".join(f"<th>{_text(head)}" for head in heads)
        + f"</thead><tbody>{''.join(line for _, _, line in sorted(lines))}</tbody></table></div></section>"
    )


def _setup(
    setup: Mapping[str, str],
    versions: Mapping[str, str],
    region_threshold: float,
    calibrated: bool,
    words: Mapping[str, str],
) -> str:
    """How it was inspected: settings, versions and the colour scale."""
    facts = "".join(f"<dt>{_text(label)}<dd>{_text(value)}" for label, value in setup.items())
    used = " · ".join(_text(f"{name} {version}") for name, version in versions.items())
    facts += f"<dt>{_text(words['versions'])}<dd>{used}" if used else ""
    stops = ", ".join(
        f"rgba({r},{g},{b},{a / 255:.2f}) {100 * level / 255:.0f}%"
        for level, (r, g, b, a) in enumerate(colour_table().tolist())
        if level % 15 == 0
    )
    legend = (
        f'<div class=legend><div style="background-image:linear-gradient(90deg, {stops})"></div>'
        f"<p>{''.join(f'<span>{label}</span>' for label in scale_labels(region_threshold))}</p>"
        f"<small>{_text(words['legend_limit' if calibrated else 'legend'])}</small></div>"
    )
    return f"<section class=panel><h2>{_text(words['setup'])}</h2><dl>{facts}</dl>{legend}</section>"


def _references(
    references: Sequence[tuple[str, str]],
    num_references: int,
    results: Sequence[InspectionResult],
    words: Mapping[str, str],
) -> str:
    """The good pictures, and what so many of them can promise."""
    shown = "".join(
        f'<figure><img src="{_text(address)}" alt=""><figcaption>{_text(os.path.basename(path))}</figcaption></figure>'
        for path, address in references
    )
    more = num_references - len(references)
    shown += f"<p>{_text(words['more'].format(n=more))}</p>" if more > 0 and references else ""
    shown = shown or f"<p>{_text(words['no_references'] if not num_references else str(num_references))}</p>"
    count = f" ({num_references})" if num_references else ""
    title = f"<h2>{_text(words['references'])}{count}</h2>"
    reasons = (reason for result in results for reason in result.evidence.get("reasons", []))
    notes = dict.fromkeys(reason["text"] for reason in reasons if _is_of_references(reason))
    said = "".join(f"<p class=help>{_text(note)}</p>" for note in notes)
    return f"<section class=panel>{title}<div class=references>{shown}</div>{said}</section>"


def _text(text: str) -> str:
    return html.escape(_clean(text), quote=True)


def _clean(text: str) -> str:
    """Without what UTF-8 cannot hold and without control characters (both occur in file names)."""
    text = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)


def _json(data: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def _number(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float | None) -> str:
    """A probability in words that never claims certainty."""
    if value is None or not math.isfinite(value):
        return ""
    if 0.001 <= value <= 0.999:
        return f"{100 * value:.1f} %"
    return "> 99.9 %" if value > 0.5 else "< 0.1 %"


__all__ = ["render_page"]
