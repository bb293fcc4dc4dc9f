"""`anomalygpt results`: counts by hour, the worst pictures, and what a person says of them.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import shutil
import tempfile
import warnings
from typing import Any

from .options import add_model_options, add_parts_folder, check_folder_of, load_model
from .tables import format_table, printable

LISTED = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt results`."""
    parser.add_argument("shift", metavar="SHIFT", help="folder that `anomalygpt watch` or `inspect` wrote")
    choice = parser.add_argument_group("which pictures")
    choice.add_argument("--since", metavar="TIME", help="06:00, 2026-03-29 or 2026-03-29T06:00")
    choice.add_argument("--until", metavar="TIME", help="the same; an hour alone is the first one after --since")
    verdicts = ("normal", "anomalous", "uncertain", "unknown", "error")
    choice.add_argument("--verdict", choices=verdicts, metavar="VERDICT", help=f"one of {', '.join(verdicts)}")
    parser.add_argument("--csv", metavar="FILE", help="write these rows and what was said, worst first")
    parser.add_argument(
        "--report", metavar="FILE", help="write these rows as a page with their pictures, for a browser"
    )
    said = parser.add_argument_group("what a person says")
    saying = said.add_mutually_exclusive_group()
    saying.add_argument("--confirm", metavar="PICTURE", help="its verdict is right")
    saying.add_argument("--correct", nargs=2, metavar=("PICTURE", "VERDICT"), help="it is really normal, or anomalous")
    saying.add_argument("--undo", action="store_true", help="take back what was said last, and what was learned of it")
    add_parts_folder(said)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt results`; returns the exit code."""
    from ..line.database import ResultsDatabase

    if args.correct and args.correct[1] not in ("normal", "anomalous"):
        raise ValueError(
            f"`--correct` must be given normal or anomalous, got {args.correct[1]!r}. Choose one of them."
        )
    says = args.confirm or args.correct or args.undo
    for name in ("since", "until", "verdict", "csv", "report") if says else ():
        if getattr(args, name):
            raise ValueError(
                f"`--{name}` must stand without --confirm, --correct and --undo, which show nothing. Give it after."
            )
    for name in ("csv", "report"):
        if getattr(args, name):
            check_folder_of(f"--{name}", getattr(args, name))
    database = ResultsDatabase(args.shift)
    try:
        if says:
            return _say(args, database)
        return _show(args, database)
    finally:
        database.close()


def _show(args: argparse.Namespace, database: Any) -> int:
    from ..line.database import VERDICTS, Wanted, moment

    last = database.last_time()
    since = args.since and moment(args.since, last)
    wanted = Wanted(since, args.until and moment(args.until, last, since), args.verdict)
    counts = database.counts(wanted)
    kinds = [kind for kind in VERDICTS if any(kind in row for row in counts.values())]
    rows = [[hour, *(str(row.get(kind, 0)) for kind in kinds)] for hour, row in counts.items()]
    total = {kind: sum(row.get(kind, 0) for row in counts.values()) for kind in kinds}
    rows.append(["all", *(str(total[kind]) for kind in kinds)])
    if counts:
        print("\n".join(format_table(["hour", *kinds], rows, numbers=range(1, len(kinds) + 1))))
    shown = [row for row in database.worst(wanted, LISTED) if args.verdict or row[2].verdict != "normal" or row[1]]
    if shown:
        print(f"\n{chr(10).join(_lines(shown))}")
    confirmed, corrected = database.said(wanted)
    number = sum(total.values())
    said = f"; {confirmed} confirmed, {corrected} corrected" if confirmed + corrected else ""
    print(f"\n{number} {'picture' if number == 1 else 'pictures'}{said}" if number else "No picture fits.")
    if args.csv:  # empty rather than that of yesterday, which would be taken for this one
        from ..report.report import write_csv

        rows = database.worst(wanted)
        write_csv([result for _, _, result in rows], args.csv, said=[said for _, said, _ in rows])
        print(f"{args.csv}: {number} rows")
    if args.report:
        _write_report(database.worst(wanted), args.report)
        print(f"{args.report}: {number} pictures")
    return 0


def _write_report(rows: list[tuple[int, str | None, Any]], file: str) -> None:
    """Writes the page that `anomalygpt inspect` writes; of pictures that are gone, the numbers alone."""
    from ..files import write_atomically
    from ..line.corrections import part_of
    from ..report.page import report_words
    from ..report.report import InspectionReport

    language = rows[0][2].language if rows else "en"
    parts = ", ".join(sorted({part_of(result) for _, _, result in rows} - {None}))
    setup = {report_words(language)["part"]: parts} if parts else {}
    with tempfile.TemporaryDirectory() as place:
        report = InspectionReport(place, 0.5, len(rows), language, setup)
        for number, said, result in rows:
            report.add(_as_said(result, said), str(number), _picture(result))
        write_atomically(file, report.write().read_bytes())


def _as_said(result: Any, said: str | None) -> Any:
    """The row with the verdict that a person gave it, which is its first reason then."""
    from ..report.page import report_words

    if said is None:
        return result
    words = report_words(result.language)
    text = words["said_confirmed"] if said == result.verdict else words["said_corrected"]
    reasons = [{"kind": "said", "text": text.format(verdict=words[result.verdict])}]
    evidence = result.evidence | {"reasons": reasons + result.evidence.get("reasons", [])}
    return dataclasses.replace(result, verdict=said, evidence=evidence)


def _picture(result: Any) -> Any:
    """The picture that was judged, if it still is there and can be read."""
    from ..images import bit_depth, load_picture
    from ..line.corrections import is_as_judged

    with warnings.catch_warnings(), contextlib.suppress(ValueError, OSError):
        warnings.simplefilter("ignore")  # how deep it is, was said when it was judged
        return load_picture(result.image, bit_depth([result.image])) if is_as_judged(result) else None


def _lines(rows: list[tuple[int, str | None, Any]]) -> list[str]:
    from ..report.page import common_folder, short_name
    from ..report.report import regions_in_words

    common = common_folder([result.image for _, _, result in rows if result.image])
    cells = [
        [
            (result.time or "-")[:19].replace("T", " "),
            short_name(result.image, common) if result.image else f"row {number}",
            result.verdict if said is None else f"{result.verdict}, said {said}",
            "-" if result.pred_score is None else f"{result.pred_score:.3f}",
            "" if result.log_odds is None else f"{result.log_odds:+.2f}",
            result.error or regions_in_words(result.regions, "en", limit=3) or "-",
        ]
        for number, said, result in rows
    ]
    width = shutil.get_terminal_size((120, 24)).columns
    header = ["time", "picture", "verdict", "score", "log-odds", "regions"]
    return format_table(header, cells, width, numbers=(3, 4), stretch=(5, 1))


def _say(args: argparse.Namespace, database: Any) -> int:
    from ..line.corrections import say, undo
    from ..line.parts import PartStore

    store = PartStore(args.parts_dir)
    if args.undo:
        line = undo(args.shift, store)
        learned = f"; the part {line['part']!r} is as before" if line["restored"] else ""
        print(f"Taken back: {printable(str(line.get('image')))} was said to be {line['said']}{learned}.")
        return 0
    number, result = database.find(args.confirm or args.correct[0])
    said = result.verdict if args.confirm else args.correct[1]

    def inspector_of(part: Any) -> Any:
        inspector = load_model(args, tile=part.facts.tile)
        part.check(inspector, args.model)
        return inspector

    learned = say(args.shift, number, result, said, store, inspector_of)
    name = printable(pathlib.Path(result.image).name)
    if said == result.verdict:
        print(f"{name}: {said} is confirmed.")
    elif learned is None:
        print(f"{name}: {said} instead of {result.verdict}. Nothing learns it: it was judged without a stored part.")
    else:
        by = f"{learned.name!r} has learned it (version {learned.version})"
        print(f"{name}: {said} instead of {result.verdict}; {by}.")
    return 0
