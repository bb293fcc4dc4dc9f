"""Verdict, evidence and regions as HTML. Every text from outside passes through `html.escape` here."""

from html import escape
from typing import Any

from modeling_anomalygpt.regions import Region, position_words
from modeling_anomalygpt.results import InspectionResult

from .words import words_of

_SHOWN_APART = {
    "reasons",
    "peak",
    "localization",
    "num_references",
    "region_threshold",
    "yes_probability",
    "threshold",
}
MAX_LISTED_REGIONS = 12


def welcome_card(language: str) -> str:
    """What stands in place of a verdict before the first inspection."""
    words = words_of(language)
    steps = "".join(f"<li>{escape(words[key])}</li>" for key in ("step_picture", "step_references", "step_inspect"))
    return _card("idle", words["welcome"], f"<ol class='ag-steps'>{steps}</ol>")


def error_card(reason: str, language: str) -> str:
    """Why there is no result."""
    return _card("error", words_of(language)["not_inspected"], f"<p>{escape(reason)}</p>")


def busy_card(language: str) -> str:
    """Shown while the model works."""
    return _card("busy", words_of(language)["inspecting"], "<div class='ag-run'><i></i></div>")


def verdict_card(result: InspectionResult, language: str) -> str:
    """The verdict, the answer, the score against its limit, and on what it stands."""
    words = words_of(language)
    title = words.get(f"verdict_{result.verdict}", result.verdict)
    body = f"<p>{escape(result.answer)}</p>" if result.answer else ""
    body += _meter(result, words)
    reasons = result.evidence.get("reasons") or _own_reasons(result, words)
    items = "".join(f"<li>{escape(reason_text(reason))}</li>" for reason in reasons)
    body += f"<ul class='ag-reasons'>{items}</ul>" if items else ""
    return _card(result.verdict, title, body)


def reason_text(reason: Any) -> str:
    """A reason's sentence, whether it comes with its kind or alone."""
    return str(reason.get("text", "")) if isinstance(reason, dict) else str(reason)


def score_limit(result: InspectionResult) -> float:
    """The score from which a picture is suspicious: 1 where scores are ratios to the references' limit."""
    calibrated = result.evidence.get("threshold") is not None
    return 1.0 if calibrated else float(result.evidence.get("region_threshold") or 0.5)


def evidence_table(result: InspectionResult, language: str) -> str:
    """Everything the verdict stands on, name and value; names without a word of their own are shown as they are."""
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
        return f"<p class='ag-none'>{escape(words['no_regions'])}</p>"
    with_mm = result.regions[0].area_mm2 is not None
    heads = [words["region"], words["where"], words["size_mm" if with_mm else "size_px"]]
    heads += [words["area_mm2" if with_mm else "area_px"], words["peak_score"]]
    rows = []
    for number, region in enumerate(result.regions[:MAX_LISTED_REGIONS], start=1):
        size, area = region_size(region)
        cells = [number, position_words(region, language), size, area, f"{region.peak_score:.2f}"]
        rows.append(
            f"<tr data-region={number - 1}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"
        )
    more = len(result.regions) - MAX_LISTED_REGIONS
    note = f"<p class='ag-none'>{escape(words['more_regions'].format(count=more))}</p>" if more > 0 else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<div class='ag-scroll'><table class='ag-table'>{table}</table></div>{note}"


def region_size(region: Region) -> tuple[str, str]:
    """Width by height, and area; in millimetres where the scale is known, else in pixels."""
    if region.area_mm2 is None:
        return f"{region.width} × {region.height}", f"{region.area_pixels:,}".replace(",", " ")
    return f"{region.width_mm:.2f} × {region.height_mm:.2f}", f"{region.area_mm2:.2f}"


def region_card(region: Region, number: int, language: str) -> str:
    """One region, after a click on it."""
    words = words_of(language)
    size, area = region_size(region)
    unit = ("mm", "mm²") if region.area_mm2 is not None else ("px", "px")
    facts = [
        (words["size"], f"{size} {unit[0]}"),
        (words["area"], f"{area} {unit[1]}"),
        (words["peak_score"], f"{region.peak_score:.3f}"),
        (words["mean_score"], f"{region.mean_score:.3f}"),
    ]
    cells = "".join(f"<span><b>{escape(value)}</b><small>{escape(name)}</small></span>" for name, value in facts)
    title = words["region_title"].format(number=number, where=position_words(region, language))
    return f"<div class='ag-region'><h4>{escape(title)}</h4><div class='ag-numbers'>{cells}</div></div>"


def _card(kind: str, title: str, body: str) -> str:
    return (
        f"<section class='ag-card ag-{escape(kind)}' role='status'><header><i class='ag-dot'></i>"
        f"<h3>{escape(title)}</h3></header>{body}</section>"
    )


def _meter(result: InspectionResult, words: dict[str, str]) -> str:
    if result.pred_score is None:
        return ""
    limit = score_limit(result)
    share = max(0.0, min(1.0, result.pred_score / (2 * limit)))
    label = escape(words["meter"].format(score=_number(result.pred_score), limit=_number(limit)))
    return (
        f"<div class='ag-meter'><div><i style='width:{100 * share:.1f}%'></i><s></s></div><small>{label}</small></div>"
    )


def _own_reasons(result: InspectionResult, words: dict[str, str]) -> list[str]:
    """Where the inspector gives no reasons in words: what was compared, and how sure the language model is."""
    reasons = [_compared(result.evidence, words)]
    if (probability := result.evidence.get("yes_probability")) is not None:
        reasons.append(words["reason_probability"].format(percent=f"{100 * probability:.1f}"))
    return reasons


def _compared(evidence: dict[str, Any], words: dict[str, str]) -> str:
    count = evidence.get("num_references", 0)
    if evidence.get("localization") == "text_guided":
        return words["compared_words"]
    return words["compared_one" if count == 1 else "compared_many"].format(count=count)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


__all__ = [
    "busy_card",
    "error_card",
    "evidence_table",
    "reason_text",
    "region_card",
    "region_size",
    "regions_table",
    "score_limit",
    "verdict_card",
    "welcome_card",
]
