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
    add_inspection_options,
    add_model_options,
    add_reference_options,
    check_folder_of,
    check_model,
    count,
    find_references,
    inspection_options,
    load_inspector,
    named_pictures,
    only_writer,
    rate,
    uses_colour,
)
from .tables import format_table, printable

DEFAULT_OUTPUT = "anomalygpt_results"
TERMINAL_ROWS = 60
MAX_ERROR_LINES = 5
COLOURS = {
    "anomalous": "\033[31m",
    "normal": "\033[32m",
    "uncertain": "\033[35m",
    "unknown": "\033[35m",
    "error": "\033[33m",
}
_RESULTS = "results.jsonl"
_FILES = (_RESULTS, "results.csv", "report.html", "pictures.jsonl", "feedback.jsonl", "overlays", "maps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt inspect`."""
    parser.add_argument("query", nargs="+", metavar="QUERY", help="what to inspect: files, folders, quoted patterns")
    add_reference_options(parser)
    inspection = add_inspection_options(parser)
    inspection.add_argument("--no-language", action="store_true", help="let the map decide; no answer")
    add_model_options(parser, tile=True)
    limits = parser.add_argument_group("limits")
    limits.add_argument("--calibrate", nargs="+", default=[], metavar="PATH", help="more good pictures set the limits")
    limits.add_argument("--max-false-alarm", type=rate, metavar="RATE", help="for --calibrate (default: 0.02)")
    limits.add_argument("--save-references", metavar="FILE", help="write references and limits, for --references")
    output = parser.add_argument_group("output")
    where = f"folder to write (default: {DEFAULT_OUTPUT}, or the next free number of it)"
    output.add_argument("--output", metavar="DIR", help=where)
    output.add_argument("--save-maps", action="store_true", help="also write each map as maps/NAME.npy")
    output.add_argument("--batch-size", type=count, default=1, metavar="N", help="pictures at a time (default: 1)")
    output.add_argument("--resume", action="store_true", help="keep finished results of an interrupted run")
    output.add_argument("--fail-on-anomaly", action="store_true", help="exit with 1 unless all are normal")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt inspect`; returns the exit code."""
    from ..images import find_pictures

    folder = choose_folder(args.output, args.resume)
    queries = find_pictures(args.query, without=folder)
    references = find_references(args)
    normals = named_pictures(args, "--calibrate", args.calibrate)
    if (normals or args.save_references) and not references:
        raise ValueError("`--references` must be given with --calibrate and --save-references. One picture will do.")
    if args.max_false_alarm and not normals:
        raise ValueError("`--max-false-alarm` must be given with --calibrate, whose good pictures set the limits.")
    if args.part == "auto" and args.batch_size > 1:
        raise ValueError("`--batch-size` must be 1 with --part auto, which looks at one picture after the other.")
    if args.save_references:
        _check_bank(pathlib.Path(args.save_references))
    check_model(args.model)
    check_writable(folder)
    good = {os.path.realpath(path) for path in references}
    if own := [query for query in queries if os.path.realpath(query) in good]:
        names = ", ".join(map(printable, own[:3])) + (" ..." if own[3:] else "")
        print(
            f"anomalygpt inspect: {len(own)} of {len(queries)} pictures are references themselves ({names}): compared "
            "with themselves they are normal, which says nothing of them.",
            file=sys.stderr,
        )
    with only_writer(folder, ".inspect.lock"):
        return _inspect(args, folder, queries, references, normals)


def _check_bank(path: pathlib.Path) -> None:
    """Refuses a file that could not be written, or not be given as `--references` later."""
    if path.suffix != ".safetensors":
        raise ValueError(f"`--save-references` must end in .safetensors, got {str(path)!r}. Name it bolt.safetensors.")
    check_folder_of("--save-references", path)


def _inspect(
    args: argparse.Namespace, folder: pathlib.Path, queries: list[str], references: list[str], normals: list[str]
) -> int:
    from ..images import distinct_names

    inspector = load_inspector(args, references, folder)
    if args.model is None and not references and not args.part:
        print(
            "anomalygpt inspect: the embedded checkpoint compares with good pictures; without --references there is "
            "no verdict. Give one to four good ones.",
            file=sys.stderr,
        )
    if normals:
        calibrate(inspector, normals, args.max_false_alarm or 0.02)
    if args.save_references:
        inspector.save_references(args.save_references)
    if not args.resume:
        with only_writer(folder, f".{_RESULTS}.lock"):  # of whoever writes the results, a program in Python too
            _put_aside(folder)
    report = _report(args, getattr(inspector, "inspector", inspector), folder, references, len(queries))
    results = inspector.inspect_many(
        queries,
        batch_size=args.batch_size,
        progress=sys.stderr.isatty() and len(queries) > 1,
        results_file=folder / _RESULTS,
        resume=args.resume,
        options=inspection_options(args),
    )
    try:
        for name, result in zip(distinct_names(queries), results, strict=True):
            report.add(result, name)
        page = report.write()
    except KeyboardInterrupt:
        print(f"\nanomalygpt inspect: interrupted. {_how_to_resume(report, queries, folder)}", file=sys.stderr)
        return 130
    except (OSError, RuntimeError, MemoryError) as error:
        from ..errors import describe_error

        raise RuntimeError(
            f"{describe_error(error).rstrip('.')}. {_how_to_resume(report, queries, folder)}"
        ) from error
    _print_results(report.results, args.language)
    print(f"\nReport: {page}")
    if report.num_without_map:
        print(
            f"anomalygpt inspect: {report.num_without_map} of them were judged before, and no map was kept; without "
            "--resume all are judged anew.",
            file=sys.stderr,
        )
    if queries.passed_over:
        print(f"anomalygpt inspect: {queries.remark}", file=sys.stderr)
    return _exit_code(report.results, args.fail_on_anomaly, len(queries.passed_over))


def choose_folder(output: str | None, resume: bool) -> pathlib.Path:
    """The folder to write: the one named; else one that holds no results yet, or the newest one to go on with."""
    if output is not None:
        return pathlib.Path(output)
    folder, number = pathlib.Path(DEFAULT_OUTPUT), 1
    while (folder / _RESULTS).exists():
        number += 1
        following = pathlib.Path(f"{DEFAULT_OUTPUT}_{number}")
        if resume and not (following / _RESULTS).exists():
            break
        folder = following
    return folder


def result_lines(results: Sequence[Any], language: str, width: int) -> list[str]:
    """The table of [`InspectionResult`]s for a terminal of that width: header, rule, rows."""
    from ..report.page import common_folder, plain_reasons, short_name
    from ..report.report import regions_in_words

    def undecided(result: Any) -> str:  # why ("another part?"), not a yes or no
        return " ".join(plain_reasons(result)) if result.verdict == "uncertain" else ""

    common = common_folder([result.image for result in results])
    rows = [
        [
            short_name(result.image, common),
            result.verdict,
            "-" if result.pred_score is None else f"{result.pred_score:.3f}",
            "" if result.log_odds is None else f"{result.log_odds:+.2f}",
            regions_in_words(result.regions, language, limit=3) or "-",
            result.error or undecided(result) or result.answer or "-",
        ]
        for result in results
    ]
    header = ["picture", "verdict", "score", "log-odds", "regions", "answer"]
    return format_table(header, rows, width, numbers=(2, 3), stretch=(5, 4, 0))


def check_writable(folder: pathlib.Path) -> None:
    """Makes the folder; refuses one that cannot be written in a line that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        line = f"Cannot write to the output folder {str(folder)!r}: {reason}. Choose another --output."
        raise OSError(line) from error


def _put_aside(folder: pathlib.Path) -> None:
    """Moves what an earlier run left into `previous/`, which holds the run before; nothing old stands beside new."""
    previous, leaving = folder / "previous", folder / "previous.partial"  # the latter: a run was killed in between
    if not ((folder / _RESULTS).exists() or leaving.exists()):
        return
    leaving.mkdir(exist_ok=True)
    for name in reversed(_FILES):  # the results last
        if (folder / name).exists():
            os.replace(folder / name, leaving / name)
    for path in previous.iterdir() if previous.exists() else ():
        if path.name not in _FILES:  # the user's own
            os.replace(path, leaving / path.name)
    shutil.rmtree(previous, ignore_errors=True)
    os.replace(leaving, previous)


def calibrate(inspector: Any, normals: list[str], max_false_alarm: float) -> None:
    """Sets the limits and says what they promise: of `anomalous` alone, and of all that a gate stops."""
    learned = inspector.calibrate(normals, max_false_alarm, progress=sys.stderr.isatty())
    supported, number = learned["supported_false_alarm_rate"], learned["num_normals"]
    more = "" if learned["enough"] else f"; {learned['needed']} would support {max_false_alarm:.1%}"
    print(
        f"Limits: {number} good pictures support that at most {supported:.1%} of good parts are called anomalous, "
        f"at {learned['confidence']:.0%} confidence{more}."
    )
    stopped = learned["num_stopped"]
    print(
        f"--fail-on-anomaly stops uncertain parts as well: {stopped} of these {number} good pictures "
        f"({stopped / number:.1%})."
    )


def _report(args: argparse.Namespace, inspector: Any, folder: pathlib.Path, references: list[str], total: int) -> Any:
    import platform

    import torch
    import transformers

    from modeling_anomalygpt import __version__

    from ..prompts import default_question
    from ..report.page import report_words
    from ..report.report import InspectionReport

    words = report_words(args.language)
    setup = {
        words["category"]: args.category or args.part or "",
        words["description"]: args.description or "",
        words["question"]: "" if args.no_language else args.question or default_question(args.language),
        words["model"]: args.model or words["embedded"],
        words["scale"]: words["scale_value"].format(mm=f"{args.mm_per_pixel:g}") if args.mm_per_pixel else "",
        words["tile"]: str(args.tile or ""),
        words["pose"]: " ".join(f"--{name}" for name in ("align", "rotations", "presence") if getattr(args, name)),
    }
    versions = {"anomalygpt": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    return InspectionReport(
        folder,
        inspector.region_threshold,
        num_pictures=total,
        language=args.language,
        setup={label: value for label, value in setup.items() if value},
        versions=versions | {"Python": platform.python_version()},
        references=references,
        save_maps=args.save_maps,
        resume=args.resume,
        bits=inspector.bits,
    )


def _print_results(results: Sequence[Any], language: str) -> None:
    """The table and one line of counts; a terminal gets the normal ones left out where there are too many."""
    shown = list(results)
    if len(shown) > TERMINAL_ROWS and sys.stdout.isatty():
        shown = [result for result in results if result.verdict != "normal"][:TERMINAL_ROWS]
    colours = uses_colour()
    for index, line in enumerate(result_lines(shown, language, shutil.get_terminal_size((120, 24)).columns)):
        colour = COLOURS.get(shown[index - 2].verdict, "") if colours and index > 1 else ""
        print(f"{colour}{line}\033[0m" if colour else line)
    if len(shown) < len(results):
        print(f"... and {len(results) - len(shown)} more in results.csv")
    counts = {kind: sum(result.verdict == kind for result in results) for kind in COLOURS}
    seconds = sum(result.seconds for result in results)
    called = {"unknown": "without a verdict", "error": "unreadable"}
    parts = [
        f"{number} {called.get(kind, kind)}"
        for kind, number in counts.items()
        if number or kind in ("anomalous", "normal")
    ]
    noun = "picture" if len(results) == 1 else "pictures"
    print(f"\n{len(results)} {noun}: {', '.join(parts)}; {seconds:.1f} s ({seconds / len(results):.2f} s each)")


def _how_to_resume(report: Any, queries: Sequence[str], folder: pathlib.Path) -> str:
    return (
        f"{len(report.results)} of {len(queries)} pictures are finished in {folder / _RESULTS}. "
        "Run the same command with --resume to go on."
    )


def _exit_code(results: Sequence[Any], fail_on_anomaly: bool, num_passed_over: int) -> int:
    unread = [result for result in results if result.verdict == "error"]
    for result in unread[:MAX_ERROR_LINES]:
        print(f"anomalygpt inspect: cannot inspect {printable(result.image)}: {result.error}", file=sys.stderr)
    if len(unread) > MAX_ERROR_LINES:
        more = len(unread) - MAX_ERROR_LINES
        print(f"anomalygpt inspect: and {more} more that cannot be inspected; results.csv says why.", file=sys.stderr)
    if fail_on_anomaly and any(result.verdict in ("anomalous", "uncertain", "unknown") for result in results):
        return 1
    # A gate must not open for pictures that nobody has seen.
    return 2 if len(unread) == len(results) or (fail_on_anomaly and (unread or num_passed_over)) else 0
