"""Checks of a data set's files before anything is made of them, with messages that say what to do.

Knows records, folders and sizes. Does not know which data set is checked, nor the `datasets` library.
"""

import difflib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .anomaly_files import AnomalyRecord, content_digest, picture_size

__all__ = [
    "check_category",
    "check_data_dir",
    "check_files_exist",
    "check_masks",
    "check_pictures",
    "closest",
    "find_duplicates",
    "warn_about_duplicates",
]

_SHOWN = 8  # files named in one message


def closest(name: str, options: Iterable[str]) -> str:
    """
    Name the option nearest to a misspelt one.

    Args:
        name (`str`): What was written.
        options (`Iterable[str]`): What could have been meant.

    Returns:
        `str`: ` Did you mean 'x'?` with a leading space, or nothing when no option is near.

    Example:
    ```python
    >>> closest("bottel", ["bottle", "cable"])
    " Did you mean 'bottle'?"
    >>> closest("xyz", ["bottle", "cable"])
    ''

    ```
    """
    folded = {option.casefold(): option for option in options}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean {folded[found[0]]!r}?" if found else ""


def check_data_dir(data_dir: str | os.PathLike | None, layout: str) -> Path:
    """
    Check that `data_dir` is a folder.

    Args:
        data_dir (`str`, `os.PathLike` or `None`): What the user passed.
        layout (`str`): The layout expected inside; used in the message.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If nothing was passed.
        FileNotFoundError: If the folder does not exist.
        NotADirectoryError: If it is a file.
    """
    expected = f"Expected layout: {layout}."
    if data_dir is None or str(data_dir) == "":
        raise ValueError(f"`data_dir` must be the folder that holds the data set, got {data_dir!r}. {expected}")
    path = Path(data_dir).expanduser()
    if not path.exists():
        near = closest(path.name, (entry.name for entry in path.parent.iterdir())) if path.parent.is_dir() else ""
        raise FileNotFoundError(f"`data_dir` must be a folder that exists, got {str(path)!r}.{near} {expected}")
    if not path.is_dir():
        raise NotADirectoryError(f"`data_dir` must be a folder, got the file {str(path)!r}. {expected}")
    return path


def check_category(category: str, available: Sequence[str], hint: str = "") -> None:
    """
    Check that a category is one of those there are.

    Args:
        category (`str`): What the user passed.
        available (`Sequence[str]`): The categories.
        hint (`str`): What else can be done, appended to the message.

    Raises:
        ValueError: If it is not; the message names the closest one.

    Example:
    ```python
    >>> check_category("bottel", ["bottle", "cable"])
    Traceback (most recent call last):
    ...
    ValueError: `category` must be one of bottle, cable, got 'bottel'. Did you mean 'bottle'?

    ```
    """
    if category not in available:
        names = ", ".join(available) or "(there is none)"
        hint = f" {hint}" if hint else ""
        raise ValueError(f"`category` must be one of {names}, got {category!r}.{closest(category, available)}{hint}")


def check_files_exist(paths: Sequence[str | os.PathLike], named_in: str) -> None:
    """
    Check that files named by a list are there.

    Args:
        paths (`Sequence[str | os.PathLike]`): The files.
        named_in (`str`): What names them; used in the message.

    Raises:
        FileNotFoundError: If any is missing; the message gives the number and the first ones.
    """
    missing = [str(path) for path in paths if not os.path.isfile(path)]
    if missing:
        raise FileNotFoundError(
            f"Files named in {named_in} must exist, got {len(missing)} of {len(paths)} missing: {some_of(missing)}. "
            "Unpack the whole archive, or correct the names (upper and lower case count)."
        )


def check_pictures(records: Sequence[AnomalyRecord]) -> None:
    """
    Check that every picture can be opened; only the headers are read.

    Args:
        records (`Sequence[AnomalyRecord]`): The pictures.

    Raises:
        ValueError: If one cannot.
    """
    for record in records:
        picture_size(record.image)


def check_masks(records: Sequence[AnomalyRecord], mask_size: Callable[[str], tuple[int, int]] = picture_size) -> None:
    """
    Check that every mask has the size of its picture.

    Args:
        records (`Sequence[AnomalyRecord]`): The pictures; those without masks are passed over.
        mask_size (`Callable[[str], tuple[int, int]]`): Path of a mask file to its `(height, width)`.

    Raises:
        ValueError: If one differs. Sizes in the message are (height, width).
    """
    for record in records:
        if not record.masks:
            continue
        expected = picture_size(record.image)
        for path in record.masks:
            size = mask_size(path)
            if size != expected:
                turned = " It fits the picture turned by its EXIF orientation." if size == expected[::-1] else ""
                raise ValueError(
                    f"`mask` must have the size of its picture, got {size} for a picture of {expected} "
                    f"(height, width): {path!r} for {record.image!r}.{turned} Masks must match pixel for pixel."
                )


def find_duplicates(records: Sequence[AnomalyRecord]) -> list[tuple[AnomalyRecord, ...]]:
    """
    Find pictures that stand in more than one split, by the bytes of their files.

    Only files of equal length are read. The same picture saved in another format is not noticed.

    Args:
        records (`Sequence[AnomalyRecord]`): The pictures of all splits.

    Returns:
        `list[tuple[AnomalyRecord, ...]]`: Groups of equal pictures, each with at least two splits.
    """
    by_length = defaultdict(list)
    for record in records:
        by_length[os.path.getsize(record.image)].append(record)
    groups = []
    for same_length in by_length.values():
        if len({record.split for record in same_length}) < 2:
            continue
        by_content = defaultdict(list)
        for record in same_length:
            by_content[content_digest(record.image)].append(record)
        groups += [tuple(group) for group in by_content.values() if len({record.split for record in group}) > 1]
    return groups


def warn_about_duplicates(records: Sequence[AnomalyRecord]) -> None:
    """
    Warn, with the list, when the same picture stands in more than one split.

    Args:
        records (`Sequence[AnomalyRecord]`): The pictures of all splits.
    """
    groups = find_duplicates(records)
    if groups:
        listed = "\n".join("  " + " = ".join(record.image_id for record in group) for group in groups)
        warnings.warn(
            f"{len(groups)} pictures stand in more than one split, so results on them say nothing:\n{listed}",
            UserWarning,
            stacklevel=2,
        )


def some_of(names: Sequence[str]) -> str:
    """Join the first names, and count the rest."""
    rest = len(names) - _SHOWN
    return ", ".join(repr(name) for name in names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
