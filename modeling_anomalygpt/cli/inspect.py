"""`anomalygpt inspect`: pictures in, a table on the terminal and a folder with results, overlays and a report out.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from .options import (
    add_model_arguments,
    count,
    find_references,
    format_table,
    load_inspector,
    positive,
    printable,
    rate,
    uses_colour,
)

EPILOG = """examples:
  anomalygpt inspect photo.png
      judges one picture from the words for normal and anomalous alone
  anomalygpt inspect photo.png --references good_1.png good_2.png --category bolt
      compares with good pictures of the same part: much surer; one to four are enough to start
  anomalygpt inspect line_3/ "extra/*.jpg" --references good/ --output monday --save-maps
      folders are searched with all folders below; quoted patterns work on any system
  anomalygpt inspect line_3/ --references good/ --output monday --resume
      goes on where an interrupted run stopped
  anomalygpt inspect line_3/ --references good/ --mm-per-pixel 0.05
      gives the sizes of regions in millimetres
  anomalygpt inspect line_3/ --references good/ --calibrate more_good/ --save-references bolt.safetensors
      sets the limits by more good pictures (149 support 2 % false alarms) and keeps both for the next time
  anomalygpt inspect new.png --references bolt.safetensors --fail-on-anomaly && ship
      in scripts: exit code 1 when an anomaly is found or cannot be ruled out

the score is the ratio to what good pictures reach: 1.0 is the limit. `uncertain` means that the evidence is too close
to the limit, or that the picture is unlike the references; the report says which.

files in the output folder:
  results.jsonl   one line a picture, written as soon as it is known
  results.csv     the same for spreadsheets
  report.html     pictures beside maps, worst first; one file to hand on
  overlays/       the map over each picture, with outlines and a legend
  maps/           with --save-maps: float16 arrays in the pictures' own pixels

exit codes: 0 done; 1 anomalous or uncertain (with --fail-on-anomaly); 2 wrong usage, unreadable model or pictures
(with --fail-on-anomaly also when one picture could not be read); 130 interrupted."""

DEFAULT_OUTPUT = "anomalygpt_results"
TERMINAL_ROWS = 60
MAX_ERROR_LINES = 5
_COLOURS = {"anomalous": "\033[31m", "normal": "\033[32m", "uncertain": "\033[35m", "error": "\033[33m"}


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt inspect`."""
    parser.add_argument(
        "query", nargs="+", metavar="QUERY", help="pictures to inspect: files, folders, quoted patterns"
    )
    add_model_arguments(parser)
    parser.add_argument("--question", metavar="TEXT", help="what is asked (default: whether there is any anomaly)")
    parser.add_argument("--no-language", action="store_true", help="let the map decide; no language model, no answer")
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--calibrate", nargs="+", default=[], metavar="PATH", help="more good pictures, which set the limits"
    )
    limits.add_argument(
        "--max-false-alarm", type=rate, default=0.02, metavar="RATE", help="for --calibrate (default: 0.02)"
    )
    limits.add_argument("--save-references", metavar="FILE", help="write references and limits, for --references")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", metavar="DIR", help=f"folder to write (default: {DEFAULT_OUTPUT}, or the next free number of it)"
    )
    output.add_argument("--save-maps", action="store_true", help="also write each map as maps/NAME.npy")
    output.add_argument("--mm-per-pixel", type=positive, metavar="MM", help="scale, for sizes in millimetres")
    output.add_argument("--batch-size", type=count, default=1, metavar="N", help="pictures at a time (default: 1)")
    output.add_argument("--resume", action="store_true", help="keep finished results of an interrupted run")
    output.add_argument("--fail-on-anomaly", action="store_true", help="exit with 1 unless all are normal")


def run_inspect(args: argparse.Namespace) -> int:
    """Runs `anomalygpt inspect`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_inspect_arguments`].

    Returns:
        `int`: The exit code.
    """
    from ..images import distinct_names, find_pictures

    folder = choose_folder(args.output, args.resume)
    queries = find_pictures(args.query, without=folder)
    references = find_references(args)
    normals = find_pictures(args.calibrate) if args.calibrate else []
    if (normals or args.save_references) and not references:
        raise ValueError("`--references` must be given with --calibrate and --save-references. One picture will do.")
    prepare_folder(folder, args.resume)
    inspector = load_inspector(args, references)
    if args.model is None and not references:
        print(
            "anomalygpt inspect: the embedded checkpoint compares with good pictures; without --references it calls "
            "most photographs normal. Give one to four good ones.",
            file=sys.stderr,
        )
    if normals:
        _calibrate(inspector, normals, args.max_false_alarm)
    if args.save_references:
        inspector.save_references(args.save_references)
    report = _report(args, inspector, folder, references, len(queries))
    results = inspector.inspect_many(
        queries,
        batch_size=args.batch_size,
        progress=sys.stderr.isatty() and len(queries) > 1,
        results_file=folder / "results.jsonl",
        resume=args.resume,
        question=args.question,
        language=args.language,
        category=args.category,
        description=args.description,
        use_language=not args.no_language,
        mm_per_pixel=args.mm_per_pixel,
    )
    try:
        for name, result in zip(distinct_names(queries), results, strict=True):
            report.add(result, name)
    except KeyboardInterrupt:
        print(f"\nanomalygpt inspect: interrupted. {_how_to_resume(report, queries, folder)}", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, MemoryError) as error:
        from ..errors import describe_error

        raise RuntimeError(f"{describe_error(error)} {_how_to_resume(report, queries, folder)}") from error
    page = report.write()
    _print_results(report.results, args.language)
    print(f"\nReport: {page}")
    return _exit_code(report.results, args.fail_on_anomaly)


def _calibrate(inspector: Any, normals: list[str], max_false_alarm: float) -> None:
    learned = inspector.calibrate(normals, max_false_alarm, progress=sys.stderr.isatty())
    supported = learned["supported_false_alarm_rate"]
    support = f"{learned['num_normals']} good pictures support {supported:.1%} false alarms"
    more = "" if learned["enough"] else f"; {learned['needed']} would support {max_false_alarm:.1%}"
    print(f"Limits: {support} at {learned['confidence']:.0%} confidence{more}.")


def choose_folder(output: str | None, resume: bool) -> pathlib.Path:
    """The folder to write: the one named, or by default one that holds no results yet.

    Args:
        output (`str`, *optional*): As the user named it.
        resume (`bool`): Whether to go on with the newest default folder.

    Returns:
        `pathlib.Path`: Not made yet.
    """
    if output is not None:
        return pathlib.Path(output)
    folder, number = pathlib.Path(DEFAULT_OUTPUT), 1
    while (folder / "results.jsonl").exists():
        number += 1
        following = pathlib.Path(f"{DEFAULT_OUTPUT}_{number}")
        if resume and not (following / "results.jsonl").exists():
            break
        folder = following
    return folder


def prepare_folder(folder: pathlib.Path, resume: bool) -> None:
    """Makes the folder, finds out whether it can be written, and puts results of an earlier run aside.

    Args:
        folder (`pathlib.Path`): The output folder.
        resume (`bool`): Whether earlier results stay where they are.

    Raises:
        OSError: If it cannot be written; one line that names it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        earlier = folder / "results.jsonl"
        if earlier.exists() and not resume:
            os.replace(earlier, folder / "results.previous.jsonl")
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            f"Cannot write to the output folder {str(folder)!r}: {reason}. Choose another --output."
        ) from error


def _report(args: argparse.Namespace, inspector: Any, folder: pathlib.Path, references: list[str], total: int) -> Any:
    import platform

    import torch
    import transformers

    from modeling_anomalygpt import __version__

    from ..prompts import default_question
    from ..report.report import InspectionReport
    from ..report.words import report_words

    words = report_words(args.language)
    setup = {
        words["category"]: args.category or "",
        words["description"]: args.description or "",
        words["question"]: "" if args.no_language else args.question or default_question(args.language),
        words["model"]: args.model or words["embedded"],
        words["scale"]: words["scale_value"].format(mm=f"{args.mm_per_pixel:g}") if args.mm_per_pixel else "",
        words["tile"]: str(args.tile or ""),
    }
    versions = {
        "anomalygpt": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }
    return InspectionReport(
        folder,
        inspector.region_threshold,
        num_pictures=total,
        language=args.language,
        setup={label: value for label, value in setup.items() if value},
        versions=versions,
        references=references,
        save_maps=args.save_maps,
    )


def _print_results(results: Sequence[Any], language: str) -> None:
    """The table and one line of counts; a terminal gets the normal ones left out where there are too many."""
    shown = list(results)
    if len(shown) > TERMINAL_ROWS and sys.stdout.isatty():
        shown = [result for result in results if result.verdict != "normal"][:TERMINAL_ROWS]
    colours = uses_colour()
    for index, line in enumerate(result_lines(shown, language, shutil.get_terminal_size((120, 24)).columns)):
        colour = _COLOURS[shown[index - 2].verdict] if colours and index > 1 else ""
        print(f"{colour}{line}\033[0m" if colour else line)
    if len(shown) < len(results):
        print(f"... and {len(results) - len(shown)} more in results.csv")
    counts = {kind: sum(result.verdict == kind for result in results) for kind in _COLOURS}
    seconds = sum(result.seconds for result in results)
    parts = [f"{counts['anomalous']} anomalous", f"{counts['normal']} normal"]
    parts += [f"{counts['uncertain']} uncertain"] if counts["uncertain"] else []
    parts += [f"{counts['error']} unreadable"] if counts["error"] else []
    noun = "picture" if len(results) == 1 else "pictures"
    print(f"\n{len(results)} {noun}: {', '.join(parts)}; {seconds:.1f} s ({seconds / len(results):.2f} s each)")


def result_lines(results: Sequence[Any], language: str, width: int) -> list[str]:
    """The lines of the table of results.

    Args:
        results (`Sequence[InspectionResult]`): One row each.
        language (`str`): Of the positions.
        width (`int`): Columns of the terminal.

    Returns:
        `list[str]`: Header, rule, rows.
    """
    from ..report.page import common_folder, short_name
    from ..report.report import regions_in_words

    common = common_folder([result.image for result in results])
    rows = [
        [
            short_name(result.image, common),
            result.verdict,
            "-" if result.pred_score is None else f"{result.pred_score:.3f}",
            "-" if result.log_odds is None else f"{result.log_odds:+.2f}",
            regions_in_words(result.regions, language, limit=3) or "-",
            result.error or result.answer or "-",
        ]
        for result in results
    ]
    header = ["picture", "verdict", "score", "log-odds", "regions", "answer"]
    return format_table(header, rows, width, numbers=(2, 3), stretch=(5, 4, 0))


def _how_to_resume(report: Any, queries: Sequence[str], folder: pathlib.Path) -> str:
    return (
        f"{len(report.results)} of {len(queries)} pictures are finished in {folder / 'results.jsonl'}. "
        "Run the same command with --resume to go on."
    )


def _exit_code(results: Sequence[Any], fail_on_anomaly: bool) -> int:
    unread = [result for result in results if result.verdict == "error"]
    for result in unread[:MAX_ERROR_LINES]:
        print(f"anomalygpt inspect: cannot inspect {printable(result.image)}: {result.error}", file=sys.stderr)
    if len(unread) > MAX_ERROR_LINES:
        more = len(unread) - MAX_ERROR_LINES
        print(f"anomalygpt inspect: and {more} more that cannot be inspected; results.csv says why.", file=sys.stderr)
    if fail_on_anomaly and any(result.verdict in ("anomalous", "uncertain") for result in results):
        return 1
    # A gate must not open for pictures that nobody has seen.
    return 2 if len(unread) == len(results) or (unread and fail_on_anomaly) else 0


__all__ = ["EPILOG", "add_inspect_arguments", "choose_folder", "prepare_folder", "result_lines", "run_inspect"]
