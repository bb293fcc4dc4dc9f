"""Files of anomaly data sets: the record that says what one picture is, listings, masks, and checks of them all.

Knows folders, names, masks and messages that say what to do. Does not know which data set is read, nor the `datasets`
library.
"""

import csv
import difflib
import hashlib
import io
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling_anomalygpt.images import (
    MASK_THRESHOLD,
    PICTURE_SUFFIXES,
    load_mask,
    picture_pages,
    picture_size,
    split_page,
)

_LISTED_SUFFIXES = (*PICTURE_SUFFIXES, ".mat", ".csv", ".json", ".jsonl")
_SHOWN = 8  # files named in one message


@dataclass(frozen=True)
class AnomalyRecord:
    """One picture of an anomaly data set, as files; nothing is read yet.

    Args:
        image (`str`): Path of the picture.
        label (`int`, *optional*): 0 normal, 1 anomalous, `None` where nobody said.
        category (`str`): What the picture shows, e.g. `bottle`.
        defect_type (`str`, *optional*): Kind of defect; `good` for normal pictures, `None` where nobody said.
        image_id (`str`): Name of the picture inside its data set: its path relative to the root, with `/`.
        split (`str`): `train`, `validation` or `test`.
        masks (`tuple[str, ...]`): Paths of the mask files, to be merged into one; empty where there is no mask.
    """

    image: str
    label: int | None
    category: str
    defect_type: str | None
    image_id: str
    split: str
    masks: tuple[str, ...] = ()


# Listings


def list_pictures(folder: str | os.PathLike) -> list[Path]:
    """The pictures directly inside a folder, by name, each page of a TIFF file by itself; no hidden ones."""
    files = [path for path in _visible(folder) if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    return [Path(page) for path in files for page in picture_pages(str(path))]


def list_masks(folder: str | os.PathLike) -> list[Path]:
    """The masks directly inside a folder: pictures, then files of labelme."""
    return list_pictures(folder) + [path for path in _visible(folder) if path.suffix == ".json" and path.is_file()]


def list_folders(folder: str | os.PathLike) -> list[Path]:
    """The folders directly inside a folder, by name; hidden ones are left out."""
    return [path for path in _visible(folder) if path.is_dir() and not path.name.startswith("__")]


def _visible(folder: str | os.PathLike) -> list[Path]:
    folder = Path(folder)
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def resolve_inside(root: str | os.PathLike, relative: str, where: str) -> Path:
    r"""Join a path written in a metadata file to its root, and refuse any that would leave it.

    Args:
        root (`str` or `os.PathLike`): Folder that holds the data set.
        relative (`str`): Path as written, with `/` or `\`.
        where (`str`): File and line that name the path; used in the message.

    Returns:
        `Path`: `root / relative`; it need not exist.

    Raises:
        ValueError: If the path is empty, absolute, or contains `..`.

    Example:
    ```python
    >>> resolve_inside("/data", "images/1.png", "metadata.csv, line 2").as_posix()
    '/data/images/1.png'
    >>> resolve_inside("/data", "../secret.png", "metadata.csv, line 2")
    Traceback (most recent call last):
    ...
    ValueError: Paths in metadata must stay inside the data folder, got '../secret.png' (metadata.csv, line 2). ...

    ```
    """
    parts = relative.replace("\\", "/").split("/")
    absolute = not parts[0] or parts[0].endswith(":")
    if absolute or ".." in parts:
        raise ValueError(
            f"Paths in metadata must stay inside the data folder, got {relative!r} ({where}). "
            "Write them relative to the folder, without `..`."
        )
    return Path(root).joinpath(*parts)


# Contents


def read_mask(paths: Sequence[str | os.PathLike]) -> np.ndarray:
    """Read mask files and merge them: a pixel is anomalous where any of the files says so.

    Args:
        paths (`Sequence[str | os.PathLike]`): One or more mask files of the same size, as `load_mask` understands
            them.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: True on the anomaly.

    Raises:
        ValueError: If the files differ in size or cannot be read.
    """
    if not paths:
        raise ValueError("`paths` must name at least one mask file, got none. Leave the mask out instead.")
    merged = load_mask(paths[0]) > MASK_THRESHOLD
    for path in paths[1:]:
        mask = load_mask(path) > MASK_THRESHOLD
        if merged.shape != mask.shape:
            raise ValueError(
                f"Masks of one picture must have one size, got {merged.shape} and {mask.shape} ({str(path)!r}). "
                "Draw all of them on the picture's own grid."
            )
        merged |= mask
    return merged


def read_table(path: Path, columns: Sequence[str] = ()) -> list[tuple[int, dict[str, str]]]:
    """Read a csv file with a header as Excel and others write it: comma, semicolon or tab, UTF-8, UTF-16 or ANSI.

    Args:
        path (`Path`): The file.
        columns (`Sequence[str]`): Columns that it must have.

    Returns:
        `list[tuple[int, dict[str, str]]]`: The number of its last line and the cells of each row, without empty ones.

    Raises:
        ValueError: If a column is missing, a row has more cells than the header, or the file is no table of text.
    """
    data = path.read_bytes()
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "" if utf16 else data.decode("cp1252", errors="replace")
    if "\0" in text or (utf16 and not text):
        raise ValueError(f"{str(path)!r} must be a table of text. Save it as CSV UTF-8.")
    lines = io.StringIO(text, newline="")
    first = lines.readline()
    if first.lower().startswith("sep="):  # written by Excel for itself
        text, first = text[len(first) :], lines.readline()
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    rows = []
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in columns if name not in header]
        if missing:
            raise ValueError(
                f"{str(path)!r} must have the columns {', '.join(columns)}, got {', '.join(header)}. "
                f"Missing: {', '.join(missing)}."
            )
        for row in reader:
            if None in row:
                where = f"{path.name}, line {reader.line_num}"
                raise ValueError(f"Rows must have as many cells as the header, got more ({where}). Quote the commas.")
            cells = {key.strip(): value.strip() for key, value in row.items() if value and value.strip()}
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} must be a table, got: {error}. Save it as CSV UTF-8.") from error
    return rows


def content_digest(path: str | os.PathLike) -> str:
    """Hash of the bytes of a file, or of one page of it with its number: 128 bits, hexadecimal."""
    file, page = split_page(path)
    digest = hashlib.blake2b(str(page).encode(), digest_size=16)
    with open(file, "rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_fingerprint(data_dir: str | os.PathLike | None, sources: Iterable[str | os.PathLike] = ()) -> str:
    """Sum up a folder and the code that reads it, so that a cache made from them is left when either changes.

    Of the data the names, sizes and modification times count (pictures, `.mat`, `.csv`, `.json`, `.jsonl`); of the
    sources the contents.

    Args:
        data_dir (`str` or `os.PathLike`, *optional*): Folder of the data set; `None` for one without files.
        sources (`Iterable[str | os.PathLike]`): Code files.

    Returns:
        `str`: 64 bits, hexadecimal.
    """
    lines, seen = [], set()
    for folder, folders, files in os.walk(data_dir, followlinks=True) if data_dir is not None else ():
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(folder, name)
            if not name.startswith(".") and name.lower().endswith(_LISTED_SUFFIXES) and os.path.isfile(path):
                state = os.stat(path)
                lines.append(f"{os.path.relpath(path, data_dir)}\0{state.st_size}\0{state.st_mtime_ns}")
    digest = hashlib.blake2b("\n".join(sorted(lines)).encode("utf-8", "surrogateescape"), digest_size=8)
    for source in sources:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()


# Checks


def closest(name: str, options: Iterable[str]) -> str:
    """A hint ` Did you mean 'x'?` with the option nearest to a misspelt one, or nothing when none is near."""
    folded = {option.casefold(): option for option in options}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean {folded[found[0]]!r}?" if found else ""


def check_data_dir(data_dir: str | os.PathLike | None, layout: str) -> Path:
    """Check that `data_dir` is a folder; what is raised names the closest one and the layout expected inside.

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


def check_category(category: str | None, available: Sequence[str], hint: str = "") -> None:
    """Check that a category, where one is given, is one of those there are; a ValueError names the closest.

    Example:
    ```python
    >>> check_category("bottel", ["bottle", "cable"])
    Traceback (most recent call last):
    ...
    ValueError: `category` must be one of bottle, cable, got 'bottel'. Did you mean 'bottle'?

    ```
    """
    if category is not None and category not in available:
        names = ", ".join(available) or "(there is none)"
        hint = f" {hint}" if hint else ""
        raise ValueError(f"`category` must be one of {names}, got {category!r}.{closest(category, available)}{hint}")


def check_files_exist(paths: Sequence[str | os.PathLike], named_in: str) -> None:
    """Raises a FileNotFoundError that counts and names the missing ones of the files that `named_in` names."""
    missing = [str(path) for path in paths if not os.path.isfile(split_page(path)[0])]
    if missing:
        ansi = any(not name.isascii() for name in missing)
        raise FileNotFoundError(
            f"Files named in {named_in} must exist, got {len(missing)} of {len(paths)} missing: {some_of(missing)}. "
            "Unpack the whole archive, or correct the names (upper and lower case count)."
            + (" If letters are wrong, save the table as CSV UTF-8." if ansi else "")
        )


def some_of(names: Sequence[str]) -> str:
    """Joins the first names and counts the rest."""
    rest = len(names) - _SHOWN
    return ", ".join(map(repr, names[:_SHOWN])) + (f" and {rest} more" if rest > 0 else "")


def check_masks(records: Sequence[AnomalyRecord], mask_size: Callable[[str], tuple[int, int]]) -> None:
    """Check that every picture can be opened and that every mask has its size `(height, width)`, by `mask_size`.

    Of most files only the headers are read. Raises a ValueError that names the first that is wrong.
    """
    for record in records:
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
    """Groups of pictures that stand in more than one split, by the bytes of their files.

    Only files of equal length are read. The same picture saved in another format is not noticed.
    """

    def over_splits(records: Iterable[AnomalyRecord], key: Callable[[str], object]) -> list[list[AnomalyRecord]]:
        groups = defaultdict(list)
        for record in records:
            groups[key(record.image)].append(record)
        return [group for group in groups.values() if len({record.split for record in group}) > 1]

    same_length = over_splits(records, lambda path: os.path.getsize(split_page(path)[0]))
    return [tuple(group) for records in same_length for group in over_splits(records, content_digest)]


def warn_about_duplicates(records: Sequence[AnomalyRecord]) -> None:
    """Warns, with the list, when the same picture stands in more than one split."""
    groups = find_duplicates(records)
    if groups:
        listed = "\n".join("  " + " = ".join(record.image_id for record in group) for group in groups)
        warnings.warn(
            f"{len(groups)} pictures stand in more than one split, so results on them say nothing:\n{listed}",
            UserWarning,
            stacklevel=2,
        )
