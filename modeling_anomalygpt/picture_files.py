"""Which picture files are meant by paths, folders and patterns, and a short distinct name for each of them.

Knows file names; opens no picture.
"""

import glob
import os
import pathlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

PICTURE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
PICTURE_SUFFIXES += (".tga", ".tif", ".tiff", ".webp")
"""What counts as a picture inside a folder. A file that is named itself is taken whatever its suffix."""


class NoPictureError(ValueError):
    """No picture file is meant by what was given; the message is one line that names it and says what to do."""


def find_pictures(places: Iterable[str | os.PathLike], without: str | os.PathLike | None = None) -> list[str]:
    """Picture files meant by paths, folders (with all folders below) and patterns.

    Hidden files and folders are passed over inside folders. Numbers in names are sorted as numbers. A file that is
    meant twice comes once. Patterns may be quoted: `*`, `?`, `[...]`, and `**` for any folders.

    Args:
        places (`Iterable[str | os.PathLike]`): What the user named, in order.
        without (`str` or `os.PathLike`, *optional*): A folder to pass over, such as the one results are written to.

    Returns:
        `list[str]`: Paths, spelled as the user began them; at least one for each place.

    Raises:
        NoPictureError: If a place does not exist, a pattern matches nothing, or a folder holds no picture.
    """
    barred = None if without is None else os.path.realpath(without)
    found: dict[str, str] = {}
    for place in map(os.fspath, places):
        files = [file for file in _files(place) if barred is None or not _inside(file, barred)]
        if not files:
            raise NoPictureError(_reason(place))
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def distinct_names(files: Sequence[str | os.PathLike]) -> list[str]:
    """A short name for each file, none twice, also where upper and lower case are the same.

    It is the file's stem; for stems that occur more than once, as many folders as needed are put before it, then the
    suffix behind it, then a number.

    Args:
        files (`Sequence[str | os.PathLike]`): Different paths.

    Returns:
        `list[str]`: Names without folder and suffix.

    Example:
    ```python
    >>> distinct_names(["test/good/000.png", "test/scratch/000.png", "a/1.png", "a/1.jpg", "last.png"])
    ['good-000', 'scratch-000', 'a-1_png', 'a-1_jpg', 'last']

    ```
    """
    paths = [pathlib.Path(file) for file in files]
    names = [path.stem for path in paths]
    for attempt in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        twice = _repeated(names)
        names = [_folded(path, attempt) if name in twice else name for name, path in zip(names, paths, strict=True)]
    twice = _repeated(names)
    names = [f"{name}_{path.suffix[1:]}" if name in twice else name for name, path in zip(names, paths, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index].casefold() in taken:
            number += 1
            names[index] = f"{name}_{number}"
        taken.add(names[index].casefold())
    return names


def _files(place: str) -> list[str]:
    if os.path.isdir(place):
        return _pictures_below(place)
    if os.path.lexists(place):
        return [place]
    if glob.has_magic(place):
        matches = sorted(glob.glob(os.path.expanduser(place), recursive=True), key=_natural)
        # A pattern that ends with a suffix names its files itself; `folder/*` also meets texts and other folders.
        bare = not os.path.splitext(place)[1]
        files = [m for m in matches if os.path.isfile(m) and (not bare or _is_picture(m))]
        return files or [file for match in matches if os.path.isdir(match) for file in _pictures_below(match)]
    return []


def _pictures_below(folder: str) -> list[str]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=_natural)
        files += [os.path.join(parent, name) for name in sorted(names, key=_natural) if _is_picture(name)]
    return files


def _is_picture(name: str) -> bool:
    name = os.path.basename(name)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _repeated(names: Sequence[str]) -> set[str]:
    counts = Counter(name.casefold() for name in names)
    return {name for name in names if counts[name.casefold()] > 1}


def _inside(file: str, folder: str) -> bool:
    return os.path.realpath(file).startswith(folder + os.sep)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts "part 9" before "part 10"."""
    runs = [run for run in re.split(r"(\d+)", name) if run]
    return [(0, int(run), "") if run.isdecimal() else (1, 0, run.casefold()) for run in runs]


def _folded(path: pathlib.Path, depth: int) -> str:
    """The stem with the `depth - 1` folders above it, as one name."""
    folders = [part.strip("/\\:.") for part in path.parent.parts[max(0, len(path.parts) - depth) :]]
    return "-".join([folder for folder in folders if folder] + [path.stem])


def _reason(place: str) -> str:
    if os.path.isdir(place):
        return f"No picture in the folder {place!r}. Name files ending with .png, .jpg, .tif, .bmp, .webp or the like."
    if glob.has_magic(place):
        return f"No picture matches {place!r}. Check the pattern; `**` stands for any folders."
    return f"There is no file or folder {place!r}. Check the path."


__all__ = ["PICTURE_SUFFIXES", "NoPictureError", "distinct_names", "find_pictures"]
