"""The results of a shift on a page of one's own: counts, the worst pictures, what a person says of them, drift."""

import pathlib
from collections.abc import Iterator
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from modeling_anomalygpt.images import bit_depth, load_picture
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.line.corrections import is_as_judged, say, undo
from modeling_anomalygpt.line.database import VERDICTS, ResultsDatabase, Wanted, moment
from modeling_anomalygpt.line.drift import charts, drift_of
from modeling_anomalygpt.line.parts import Part
from modeling_anomalygpt.report.drift_chart import draw
from modeling_anomalygpt.report.overlays import draw_overlay
from modeling_anomalygpt.report.page import report_words
from modeling_anomalygpt.report.report import regions_in_words
from modeling_anomalygpt.results import InspectionResult

from .engine import Engine, RefusedError, Session, shown_name
from .views import LONGEST_SIDE, note, reduced, words_of

LISTED = 200
"""Most rows in the list of the worst."""

HEADS = ("number", "time", "picture", "verdict", "score", "where")

Row = tuple[int, str | None, InspectionResult]


def read_shift(folder: pathlib.Path, since: str, verdict: str, language: str) -> tuple[str, list[Row]]:
    """Counts by hour as HTML, and the worst rows: number, what a person said, result.

    Args:
        folder (`pathlib.Path`): Of the results.
        since (`str`): A moment as a person writes it; empty for all.
        verdict (`str`): Only these; empty for all.
        language (`str`): Of the words.

    Raises:
        ValueError: If there are no results, **or** `since` is no moment.
    """
    database = ResultsDatabase(folder)
    try:
        wanted = Wanted(moment(since.strip(), database.last_time()) if since.strip() else None, None, verdict or None)
        counts, said = database.counts(wanted), database.said(wanted)
        return _counts(counts, said, language), database.worst(wanted, LISTED)
    finally:
        database.close()


def _counts(counts: dict[str, dict[str, int]], said: tuple[int, int], language: str) -> str:
    words = words_of(language)
    kinds = [kind for kind in VERDICTS if any(kind in row for row in counts.values())]
    total = {kind: sum(row.get(kind, 0) for row in counts.values()) for kind in kinds}
    lines = [*counts.items(), (words["shift_all"], total)]
    head = "".join(f"<th>{escape(text)}</th>" for text in (words["hour"], *(words[f"verdict_{one}"] for one in kinds)))
    body = "".join(
        f"<tr><th>{escape(hour)}</th>" + "".join(f"<td>{row.get(kind, 0)}</td>" for kind in kinds) + "</tr>"
        for hour, row in lines
    )
    summary = words["shift_summary"].format(total=sum(total.values()), confirmed=said[0], corrected=said[1])
    table = f"<table class='ag-table ag-counts'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class='ag-scroll'>{table}</div>{note(summary)}"


def listed(rows: list[Row], language: str) -> list[list[Any]]:
    """The rows of the list, in the order of `HEADS`."""
    words = words_of(language)

    def verdict(said: str | None, result: InspectionResult) -> str:
        text = words.get(f"verdict_{result.verdict}", result.verdict)
        if said is None:
            return text
        return f"{text} ✓" if said == result.verdict else f"{text} → {words[f'verdict_{said}']}"

    return [
        [
            str(number),
            (result.time or "-")[5:16].replace("T", " ") or "-",
            shown_name(result.image or "-"),
            verdict(said, result),
            "-" if result.pred_score is None else f"{result.pred_score:.3f}",
            result.error or regions_in_words(result.regions, language, limit=3),
        ]
        for number, said, result in rows
    ]


def row_picture(folder: pathlib.Path, result: InspectionResult) -> Image.Image | None:
    """The overlay that was kept, else the picture with its regions outlined; `None` where it is gone or another."""
    overlay = result.evidence.get("overlay")
    if isinstance(overlay, str):
        path = (folder / overlay).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return reduced(load_picture(path))[0]
    if not is_as_judged(result):
        return None
    picture = load_picture(result.image, bit_depth([result.image]))
    nothing = np.zeros((picture.height, picture.width), np.float32)
    return draw_overlay(picture, nothing, result.regions, 0.5, legend=False, max_side=LONGEST_SIDE)


def say_of(engine: Engine, session: Session, row: Row | None, said: str, language: str) -> Iterator[str | None]:
    """Confirms or corrects the verdict of a row.

    Yields: `str`: What came of it; before it `None`, now and then.

    Raises:
        RefusedError: If no row is chosen.
        ValueError: As of [`say`].
    """
    words = words_of(language)
    if row is None:
        raise RefusedError(words["choose_row"])
    number, _, result = row

    def inspector_of(part: Part) -> AnomalyInspector:
        inspector = engine.inspector(part.facts.tile)
        part.check(inspector, engine.name)
        return inspector

    def work() -> Part | None:
        return say(engine.results, number, result, said, engine.parts, inspector_of)

    learned = yield from engine.run(session.visitor, work)
    verdicts = {name: words[f"verdict_{one}"] for name, one in (("said", said), ("verdict", result.verdict))}
    key = "said_confirmed" if said == result.verdict else "said_noted" if learned is None else "said_learned"
    part = {} if learned is None else {"part": learned.name, "version": learned.version}
    yield words[key].format(name=shown_name(result.image or "-"), **verdicts, **part)


def take_back(engine: Engine, language: str) -> str:
    """Takes back what was said last; says what.

    Raises:
        ValueError: If there is nothing, **or** the part was changed since.
    """
    words, line = words_of(language), undo(engine.results, engine.parts)
    return words["taken_back"].format(name=shown_name(str(line.get("image"))), said=words[f"verdict_{line['said']}"])


def drift_of_shift(folder: pathlib.Path, language: str) -> str:
    """The charts of [`drift_of`] as HTML."""
    drift, courses = drift_of(folder)
    early = "" if drift.comparisons() else note(words_of(language)["drift_early"])
    return note(report_words(language)["drift_help"]) + early + draw(charts(drift, courses, language))
