"""What `anomalygpt inspect` and `anomalygpt chat` share: the options of model and references, and loading them.

Imports nothing heavy before a model is loaded.
"""

import argparse
import math
import os
import pathlib
import sys
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

_GAP = "  "


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int = 120,
    numbers: Sequence[int] = (),
    stretch: Sequence[int] = (),
) -> list[str]:
    r"""Lines of a table.

    Args:
        header (`Sequence[str]`): Names of the columns.
        rows (`Sequence[Sequence[str]]`): Cells.
        width (`int`, *optional*, defaults to 120): Columns of the terminal; the table is at most so wide, unless the
            columns that may not be cut are wider.
        numbers (`Sequence[int]`, *optional*): Columns aligned to the right.
        stretch (`Sequence[int]`, *optional*): Columns that may be cut, the most willing first. The first one of all
            columns loses its beginning (paths), others their end.

    Returns:
        `list[str]`: Header, a rule, and one line a row, without spaces at the end.

    Example:
    ```python
    >>> print("\n".join(format_table(["part", "score"], [["nut", "0.91"], ["bolt", "0.1"]], numbers=[1])))
    part  score
    ----  -----
    nut    0.91
    bolt    0.1

    ```
    """
    cells = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(text_width(row[column]) for row in cells) for column in range(len(header))]
    for column in stretch:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        widths[column] = max(
            min(widths[column], max(12, text_width(cells[0][column]))), widths[column] - max(0, excess)
        )
    lines = [
        _GAP.join(_fit(cell, widths[c], c in numbers, c == 0) for c, cell in enumerate(row)).rstrip() for row in cells
    ]
    return [lines[0], _GAP.join("-" * width for width in widths), *lines[1:]]


def text_width(text: str) -> int:
    """Columns that a text takes on a terminal: East Asian letters two, combining marks none."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def printable(text: str) -> str:
    """In one line and without control characters, which could steer the terminal (file names may hold them)."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(text).split()))


def _fit(text: str, width: int, to_the_right: bool, keep_end: bool) -> str:
    if text_width(text) > width:
        while text and text_width(text) > width - 3:
            text = text[1:] if keep_end else text[:-1]
        text = f"...{text}" if keep_end else f"{text}..."
    padding = " " * (width - text_width(text))
    return padding + text if to_the_right else text + padding


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--references` to `--dtype`.

    Args:
        parser (`argparse.ArgumentParser`): Of a subcommand.
    """
    about = parser.add_argument_group("what is inspected")
    about.add_argument(
        "--references",
        nargs="+",
        default=[],
        metavar="PATH",
        help="good pictures of the same part: files, folders, quoted patterns, or one .safetensors memory bank",
    )
    about.add_argument("--category", metavar="NAME", help='what the pictures show, in any words, such as "bolt"')
    about.add_argument("--description", metavar="TEXT", help="a sentence that says how a good one looks")
    about.add_argument("--language", choices=("en", "zh"), default="en", help="of answers and report (default: en)")
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint folder or Hub id (default: the embedded one)")
    model.add_argument(
        "--tile", type=tile_side, metavar="PIXELS", help="split larger pictures into tiles of this side"
    )
    model.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    model.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="default: auto"
    )


def load_inspector(args: argparse.Namespace, references: list[str]) -> Any:
    """The inspector, with its references.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_model_arguments`].
        references (`list[str]`): Picture files, or one memory bank.

    Returns:
        [`AnomalyInspector`]

    Raises:
        ValueError, OSError, RuntimeError: If model or references cannot be used; one line each.
    """
    if not os.environ.get("ANOMALYGPT_DEBUG"):
        warnings.simplefilter("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from ..errors import quiet_client
    from ..inspector import AnomalyInspector

    quiet_client()

    dtype = None if args.dtype == "auto" else args.dtype
    inspector = AnomalyInspector.from_pretrained(args.model, device=args.device, dtype=dtype, tile=args.tile)
    category = args.category or "object"
    if is_memory_bank(references):
        inspector.load_references(references[0], category=category, description=args.description)
    elif references:
        inspector.set_references(references, category=category, description=args.description)
    return inspector


def find_references(args: argparse.Namespace) -> list[str]:
    """The files meant by `--references`.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_model_arguments`].

    Returns:
        `list[str]`: Picture files, or one memory bank; empty when none were given.

    Raises:
        NoPictureError: If one of them is missing.
    """
    from ..images import NoPictureError, find_pictures

    if is_memory_bank(args.references):
        if not os.path.isfile(args.references[0]):
            raise NoPictureError(f"There is no memory bank {args.references[0]!r}. Check --references.")
        return list(args.references)
    return find_pictures(args.references) if args.references else []


def is_memory_bank(references: list[str]) -> bool:
    """Whether the references are one file that `AnomalyInspector.save_references` wrote."""
    return len(references) == 1 and pathlib.Path(references[0]).suffix == ".safetensors"


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def tile_side(text: str) -> int:
    """A side of tiles in pixels, for argparse."""
    if not text.isdecimal() or int(text) < 32:
        raise argparse.ArgumentTypeError(f"must be at least 32 pixels, got {text!r}; try 448")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def rate(text: str) -> float:
    """A part between 0 and 1, for argparse."""
    value = positive(text)
    if not value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text!r}; 0.02 means 2 %")
    return value


def uses_colour(stream: Any = None) -> bool:
    """Whether a terminal that shows colours reads the stream (https://no-color.org)."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


__all__ = [
    "add_model_arguments",
    "count",
    "find_references",
    "format_table",
    "is_memory_bank",
    "load_inspector",
    "positive",
    "printable",
    "rate",
    "text_width",
    "tile_side",
    "uses_colour",
]
