"""`anomalygpt chat`: a dialogue about one picture in the terminal."""

import argparse
import contextlib
import sys
import warnings
from typing import Any

from .options import (
    add_inspection_options,
    add_model_options,
    add_reference_options,
    find_references,
    inspection_options,
    load_inspector,
    uses_colour,
)

_LEAVE = frozenset({"exit", "quit", "退出"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt chat`."""
    parser.add_argument("image", metavar="IMAGE", help="the picture to talk about")
    add_reference_options(parser)
    add_inspection_options(parser)
    add_model_options(parser, tile=True)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt chat`; returns the exit code."""
    from ..images import load_picture, several_pictures
    from ..report.page import report_words

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how deep it is, the references say
        load_picture(args.image)  # a wrong path is refused before the model is loaded
    if found := several_pictures(args.image):
        raise ValueError(
            f"`IMAGE` must be one picture, {args.image!r} has {found}. Name a page, as in scan.tif#page=2."
        )
    inspector = load_inspector(args, find_references(args))
    result = inspector.inspect(args.image, inspection_options(args))
    inspector = getattr(inspector, "inspector", inspector)  # of `--part auto`
    words = report_words(args.language)
    print(summary(result, args.language))
    print(result.answer)
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  its import alone gives input() history and arrow keys
        print(f"\n{words['chat_hint']}")
    prompt = f"\n{words['chat_you']}: " if interactive else ""
    while True:
        question = _question(prompt)
        if question is None or question.lower() in _LEAVE:
            return 0
        if question:
            _answer(inspector, result, question, interactive)


def summary(result: Any, language: str) -> str:
    """The verdict of an [`InspectionResult`] in a line: `"Anomalous: top left · map score 0.81 · log-odds +3.20"`."""
    from ..report.page import plain_reasons, report_words
    from ..report.report import regions_in_words

    words = report_words(language)
    places = regions_in_words(result.regions, language, limit=3)
    parts = [words.get(result.verdict, result.verdict) + (f": {places}" if places else "")]
    if result.pred_score is not None:
        parts.append(f"{words['score'].lower()} {result.pred_score:.3f}")
    if result.log_odds is not None:
        parts.append(f"{words['log_odds'].lower()} {result.log_odds:+.2f}")
    return " · ".join(parts + (plain_reasons(result) if result.verdict == "uncertain" else []))


def _question(prompt: str) -> str | None:
    """The next line, or nothing at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        if prompt:
            print()
        return None


def _answer(inspector: Any, result: Any, question: str, interactive: bool) -> None:
    """Prints an answer as it comes; a question that cannot be answered does not end the dialogue."""
    bold = ("\033[1m", "\033[0m") if interactive and uses_colour() else ("", "")
    print(bold[0], end="")
    try:
        for piece in inspector.ask(result, question, stream=True):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not interactive:
            raise
        print(" ...", end="")
    except (ValueError, RuntimeError) as error:
        from ..errors import describe_error

        print(f"anomalygpt chat: {describe_error(error)}", file=sys.stderr, end="")
    print(bold[1])
