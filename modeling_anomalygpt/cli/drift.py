"""`anomalygpt drift`: whether the line still looks as it did when it was set up.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import pathlib

from .options import check_folder_of, whole
from .tables import format_table, printable

PAGE = "drift.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt drift`."""
    parser.add_argument("shift", metavar="SHIFT", help="folder that `anomalygpt watch` or `inspect` wrote")
    parser.add_argument("--since", metavar="TIME", help="only pictures since then: 06:00, 2026-03-29T06:00")
    window = "so many first pictures are compared with so many latest (default: 100)"
    parser.add_argument("--window", type=whole(30), default=100, metavar="N", help=window)
    against = "compare with the first pictures of these results instead, such as those of the first day"
    parser.add_argument("--against", metavar="SHIFT", help=against)
    parser.add_argument("--language", choices=("en", "zh"), default="en", help="of the page (default: en)")
    parser.add_argument("--output", metavar="FILE", help=f"the page with the charts (default: SHIFT/{PAGE})")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt drift`; returns the exit code."""
    from ..files import write_atomically
    from ..line.drift import FEWEST, charts, drift_of, in_words
    from ..report.drift_chart import drift_page

    if args.output:
        check_folder_of("--output", args.output)
    drift, courses = drift_of(args.shift, args.window, args.since, args.against)
    found = drift.comparisons()
    rows = [
        [
            printable(one.part or "-"), one.quantity, f"{one.first:.3f}", f"{one.last:.3f}", f"{one.shift:+.2f}",
            f"{one.stability:.2f}", f"{one.limit:.2f}", "DRIFT" if one.drifted else "",
        ]
        for one in found
    ]  # fmt: skip
    header = ["part", "quantity", "first", "latest", "shift (sd)", "stability", "limit", ""]
    if found:
        print("\n".join(format_table(header, rows, numbers=range(2, 7))))
        print("".join(f"\n{printable(in_words(one))}" for one in found if one.drifted) or "\nNo drift.")
    else:
        first, later = drift.num_pictures()
        need = f"{FEWEST if args.against else args.window} first pictures of a part and {FEWEST} later ones"
        print(f"Too early to tell: {first} first and {later} later pictures so far; {need} are needed.")
    if not courses:
        return 0
    output = pathlib.Path(args.output or pathlib.Path(args.shift) / PAGE)
    write_atomically(output, drift_page(charts(drift, courses, args.language), args.shift, args.language))
    print(f"Charts: {output}")
    return 0
