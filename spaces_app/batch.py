"""Many pictures with the session's references: rows as they are done, and the report's files to download."""

import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from modeling_anomalygpt import __version__
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.images import distinct_names
from modeling_anomalygpt.report.page import report_words
from modeling_anomalygpt.report.report import InspectionReport, regions_in_words
from modeling_anomalygpt.results import InspectionResult

from .engine import Engine, learn_and_inspect, learn_references
from .inspection import Settings, prepare, remember
from .limits import MAX_BATCH
from .session import Session
from .uploads import RefusedError, open_picture, reason_in_words, shown_name
from .words import words_of


@dataclass
class Batch:
    """A batch of one session: its report so far, and the name of each picture's files."""

    report: InspectionReport
    names: list[str]


def inspect_batch(
    engine: Engine, session: Session, files: Sequence[str], references: Sequence[str], settings: Settings
) -> Iterator[list[InspectionResult]]:
    r"""
    Inspects many pictures, one after the other; other visitors get their turn between two of them.

    Args:
        engine ([`Engine`]):
            The shared model.
        session ([`Session`]):
            Of the visitor; its `batch` replaces an earlier one.
        files, references (`list[str]`):
            Paths of uploaded pictures.
        settings ([`Settings`]):
            How.

    Yields:
        `list[InspectionResult]`: All results so far; a bad picture gives a row with its error.

    Raises:
        RefusedError: If there is no picture, or too many, or a reference cannot be used.
    """
    words = words_of(settings.language)
    if not files:
        raise RefusedError(words["no_batch"])
    if len(files) > MAX_BATCH:
        raise RefusedError(words["batch_too_long"].format(limit=MAX_BATCH, count=len(files)))
    learn = prepare(engine, session, references, settings)
    if session.batch is not None:
        shutil.rmtree(session.batch.report.folder, ignore_errors=True)
    if learn is not None:
        with engine.turn():
            inspector = learn_references(session.inspector, learn)
        remember(session, inspector, references, settings)
    report = _report(engine, session, len(files), references, settings)
    session.batch = Batch(report, distinct_names([shown_name(path) for path in files]))
    for path, name in zip(files, session.batch.names, strict=True):
        picture = None
        try:
            picture = open_picture(path, settings.language)
            with engine.turn():
                _, result = learn_and_inspect(session.inspector, None, picture, settings.options())
        except Exception as error:
            reason = reason_in_words(error, settings.language)
            result = InspectionResult(
                image=None, verdict="error", error=reason, category=settings.options()["category"]
            )
        result.image = shown_name(path)
        report.add(result, name, picture)
        yield report.results


def write_downloads(session: Session) -> list[str]:
    """Writes JSON, CSV and the report of the batch so far.

    Args:
        session ([`Session`]): After [`inspect_batch`].

    Returns:
        `list[str]`: Paths of `results.json`, `results.csv` and `report.html` in the session's folder.
    """
    report = session.batch.report
    page = report.write()
    rows = json.dumps([result.to_dict() for result in report.results], ensure_ascii=False, indent=1)
    write_atomically(report.folder / "results.json", rows)
    return [str(report.folder / "results.json"), str(report.folder / "results.csv"), str(page)]


def batch_rows(results: Sequence[InspectionResult], language: str) -> list[list[Any]]:
    """The rows of the table: picture, verdict, score, P(anomalous), places, answer."""
    words = words_of(language)
    rows = []
    for result in results:
        probability = result.evidence.get("yes_probability")
        rows.append(
            [
                result.image,
                words.get(f"verdict_{result.verdict}", result.verdict),
                None if result.pred_score is None else round(result.pred_score, 3),
                None if probability is None else round(100 * probability, 1),
                regions_in_words(result.regions, language, limit=3),
                result.error or result.answer,
            ]
        )
    return rows


def batch_heads(language: str) -> list[str]:
    """Heads of [`batch_rows`]."""
    words = words_of(language)
    return [words[key] for key in ("picture", "verdict", "score", "probability_percent", "where", "answer")]


def batch_overlay(session: Session, row: int) -> str | None:
    """Path of the overlay of one row of the batch, where there is one."""
    if session.batch is None or not 0 <= row < len(session.batch.names):
        return None
    path = session.batch.report.folder / "overlays" / f"{session.batch.names[row]}.png"
    return str(path) if path.exists() else None


def _report(
    engine: Engine, session: Session, count: int, references: Sequence[str], settings: Settings
) -> InspectionReport:
    words, options = report_words(settings.language), settings.options()
    folder = session.new_file("batch.d").with_suffix("")
    folder.mkdir()
    setup = {
        words["category"]: options["category"],
        words["description"]: options["description"] or "",
        words["model"]: engine.name or words["embedded"],
        words["scale"]: words["scale_value"].format(mm=f"{settings.mm_per_pixel:g}") if settings.mm_per_pixel else "",
    }
    versions = {
        "anomalygpt": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    return InspectionReport(
        folder,
        session.inspector.region_threshold,
        num_pictures=count,
        language=settings.language,
        setup={label: value for label, value in setup.items() if value},
        versions=versions,
        references=references,
    )


__all__ = ["Batch", "batch_heads", "batch_overlay", "batch_rows", "inspect_batch", "write_downloads"]
