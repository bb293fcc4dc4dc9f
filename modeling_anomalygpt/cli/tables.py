"""Tables for the terminal."""

import unicodedata
from collections.abc import Sequence

_GAP = "  "


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int = 1000,
    numbers: Sequence[int] = (),
    stretch: Sequence[int] = (),
) -> list[str]:
    r"""Lines of a table: header, a rule, and one line a row, without spaces at the end.

    A column without any entry is left out. `numbers` are columns aligned to the right. To fit `width` columns of a
    terminal those in `stretch` are cut, the most willing first; the first column of all loses its beginning (paths),
    others their end.

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
    kept = [column for column in range(len(header)) if not rows or any(row[column] for row in cells[1:])]
    widths = {column: max(text_width(row[column]) for row in cells) for column in kept}
    for column in [column for column in stretch if column in widths]:
        excess = max(0, sum(widths.values()) + len(_GAP) * (len(widths) - 1) - width)
        shortest = min(widths[column], max(12, text_width(cells[0][column])))
        widths[column] = max(shortest, widths[column] - excess)
    lines = [_GAP.join(_fit(row[c], widths[c], c in numbers, c == 0) for c in kept).rstrip() for row in cells]
    return [lines[0], _GAP.join("-" * widths[column] for column in kept), *lines[1:]]


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
