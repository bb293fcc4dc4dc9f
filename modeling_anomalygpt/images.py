"""Opening pictures and masks: every file, mode and orientation becomes one kind, every failure one line.

Knows PIL and NumPy; knows no geometry, no normalisation and no model.
"""

import contextlib
import glob
import os
import pathlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

PICTURE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
PICTURE_SUFFIXES += (".tga", ".tif", ".tiff", ".webp")
"""What counts as a picture inside a folder. A file that is named itself is taken whatever its suffix."""


class NoPictureError(ValueError):
    """No picture file is meant by what was given; the message is one line that names it and says what to do."""


def find_pictures(places: Iterable[str | os.PathLike], without: str | os.PathLike | None = None) -> list[str]:
    """Picture files meant by paths, folders (with all folders below) and patterns.

    Hidden files and folders, and folders with results of ours, are passed over inside folders. Numbers in names are
    sorted as numbers. A file that is meant twice comes once. Patterns may be quoted: `*`, `?`, `[...]`, and `**` for
    any folders.

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
    suffix behind it, then a number. Long names are cut, so that a suffix still fits the 255 bytes of a file system.

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
    names = [_cut(name) for name in names]
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
    for parent, inner, names in os.walk(folder):
        folders = [name for name in inner if not name.startswith(".")]
        inner[:] = sorted((name for name in folders if not _holds_results(os.path.join(parent, name))), key=_natural)
        files += [os.path.join(parent, name) for name in sorted(names, key=_natural) if _is_picture(name)]
    return files


def _is_picture(name: str) -> bool:
    name = os.path.basename(name)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES


def _cut(name: str) -> str:
    """At most 200 bytes: letters of Chinese have three, emoji four."""
    encoded = name.encode("utf-8", "surrogateescape")
    return name if len(encoded) <= 200 else encoded[:200].decode("utf-8", "ignore")


def _holds_results(folder: str) -> bool:
    """Whether `anomalygpt inspect` has written here: its overlays are no pictures to inspect or to compare with."""
    return os.path.isfile(os.path.join(folder, "results.jsonl")) and os.path.isdir(os.path.join(folder, "overlays"))


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
        hint = " In a name with brackets write [[] for each [." if "[" in place else ""
        return f"No picture matches {place!r}. Check the pattern, and quote it; `**` stands for any folders.{hint}"
    return f"There is no file or folder {place!r}. Check the path."


MAX_PIXELS = 178_956_970
"""Largest picture that is opened: the size at which Pillow itself suspects a decompression bomb and refuses."""

MIN_SIDE = 2
"""Shortest side that is accepted: a picture of one row or one column shows nothing to inspect."""

_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+://|data:)")

# EXIF tag 274: how the stored rows and columns have to be turned to be seen as photographed.
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(ValueError):
    """A picture that cannot be used; the message is one line that names it and says what to do."""


def load_picture(picture: Any, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as 8-bit RGB, turned as its EXIF orientation says.

    Any mode of Pillow is accepted. Transparency is dropped, not blended (as the original system does); 16-bit grey
    values 0-65535 map linearly to 0-255, so the brightness of two pictures stays comparable; of several frames the
    first is taken.

    Args:
        picture (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): A local file, an open
            picture, or an array `(H, W)`, `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels in RGB order: bool,
            integers 0-255 or 0-65535, or floats 0-1 or 0-255.
        max_pixels (`int`, *optional*, defaults to 178956970): Largest accepted `height * width` of a file.

    Returns:
        `PIL.Image.Image`: Mode `"RGB"`.

    Raises:
        FileNotFoundError: If the file is missing.
        PictureError: If it is an address, a folder, empty, truncated, no picture, too large, or one pixel wide or
            high; or an array of another shape or range.

    Example:
    ```python
    >>> import numpy as np
    >>> load_picture(np.full((4, 6), 65535, dtype=np.uint16)).getpixel((0, 0))
    (255, 255, 255)

    ```
    """
    name = _name(picture)
    image = _open(picture, name, max_pixels)
    try:
        turned = _turn(image, _to_rgb(image, name))
    except PictureError:
        raise
    except Exception as error:
        raise PictureError(f"Cannot turn {name} (mode {image.mode}) into RGB: {_line(error)}") from error
    turned.info = {}  # the orientation has been used; whoever opens the result again must not find it
    if min(turned.size) < MIN_SIDE:
        raise PictureError(
            f"`picture` must be at least {MIN_SIDE} x {MIN_SIDE} pixels, got {turned.width} x {turned.height} "
            f"for {name}. Give the full photograph."
        )
    return turned


def load_mask(mask: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Open a mask as values between 0 (normal) and 1 (anomalous).

    The range of a mask is the smallest of 1, 255 and 65535 that holds its values, so masks of 0/1, 0/255 and 0/65535
    are all understood. Of a coloured or palette mask the brightest channel counts.

    Args:
        mask (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): A local file, an open picture
            or an array `(H, W)`, `(H, W, 1)`, `(1, H, W)` or in colour.
        max_pixels (`int`, *optional*, defaults to 178956970): Largest accepted `height * width` of a file.

    Returns:
        `np.ndarray` of shape `(H, W)`: float32 between 0 and 1.

    Raises:
        FileNotFoundError: If the file is missing.
        PictureError: If it cannot be read, or has another shape or range.

    Example:
    ```python
    >>> import numpy as np
    >>> load_mask(np.array([[0, 255], [255, 0]], dtype=np.uint8)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]

    ```
    """
    name = _name(mask)
    if isinstance(mask, (str, os.PathLike, Image.Image)):
        image = _open(mask, name, max_pixels)
        if image.mode not in ("1", "L", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGBA").convert("RGB") if image.mode in ("P", "PA", "LA") else image.convert("RGB")
        values = np.asarray(_turn(image, image))
    else:
        values = _array(mask, name)
    values = values if values.ndim == 2 else values[..., :3].max(axis=-1)
    return _unit_range(values, name)


def flatten_pictures(pictures: Any) -> list[Any]:
    """One flat list from one picture, a nested list, or an array of more than three dimensions.

    Args:
        pictures (picture or nested list of pictures): `None` and empty lists hold no picture.

    Returns:
        `list`: The pictures in order, unopened; a `None` within a list stays.

    Example:
    ```python
    >>> flatten_pictures([["a.png"], ["b.png", "c.png"], []])
    ['a.png', 'b.png', 'c.png']

    ```
    """
    if isinstance(pictures, (list, tuple)):
        return [one for part in pictures for one in ([None] if part is None else flatten_pictures(part))]
    if getattr(pictures, "ndim", 0) > 3:
        return [one for part in pictures for one in flatten_pictures(part)]
    return [] if pictures is None else [pictures]


def _name(picture: Any) -> str:
    if isinstance(picture, (str, os.PathLike)):
        text = os.fspath(picture)
        text = text if isinstance(text, str) else text.decode(errors="replace")
        return repr(text if len(text) <= 200 else text[:80] + "..." + text[-80:])
    if isinstance(picture, Image.Image):
        return repr(str(picture.filename)) if getattr(picture, "filename", "") else "the PIL picture"
    return f"the {type(picture).__name__}"


def _open(picture: Any, name: str, max_pixels: int) -> Image.Image:
    """Decode a file, an open picture or an array; all of Pillow's errors become one line."""
    if not isinstance(picture, (str, os.PathLike, Image.Image)):
        return _array_image(_array(picture, name), name)
    if isinstance(picture, (str, os.PathLike)):
        picture = _path(picture, name)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as closing:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = picture
            if not isinstance(picture, Image.Image):
                image = closing.enter_context(Image.open(picture))
            if image.width * image.height > max_pixels:
                raise Image.DecompressionBombError
            image.load()
            with contextlib.suppress(Exception):
                image.getexif()  # some formats read it from the file, which is closed now
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"`picture` must have at most {max_pixels} pixels, {name} has more. Cut or shrink it before."
        ) from error
    except UnidentifiedImageError as error:
        raise PictureError(f"`picture` must be a picture, {name} is none that Pillow can read.") from error
    except MemoryError as error:
        raise PictureError(f"Not enough memory to decode {name}. Cut or shrink it before.") from error
    except Exception as error:  # damaged files raise OSError, SyntaxError, EOFError, struct.error, zlib.error ...
        raise PictureError(f"`picture` must be an intact file, {name} is damaged: {_line(error)}") from error
    if min(image.size) < 1:
        raise PictureError(f"`picture` must have pixels, {name} is {image.width} x {image.height}.")
    return image


def _path(picture: str | os.PathLike, name: str) -> pathlib.Path:
    text = os.fsdecode(picture)
    if _URL.match(text):
        raise PictureError(f"`picture` must be a local file, got the address {name}. Download it before.")
    if not text.strip() or "\0" in text:
        raise PictureError(f"`picture` must be the path of a file, got {name}.")
    path = pathlib.Path(text).expanduser()
    try:
        if path.is_dir():
            raise PictureError(f"`picture` must be a file, {name} is a folder. Give the pictures in it.")
        if not path.exists():
            raise FileNotFoundError(f"`picture` must be an existing file, {name} does not exist.")
        if path.is_file() and path.stat().st_size == 0:
            raise PictureError(f"`picture` must be a picture, the file {name} is empty (0 bytes).")
    except PermissionError as error:
        raise PictureError(f"`picture` must be readable, {name} is not: permission denied.") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise PictureError(f"`picture` must be a usable path, {name} is not: {error.strerror}.") from error
    return path


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "I" and np.asarray(image).min() >= 0 and np.asarray(image).max() <= 65535:
        return _array_image(np.asarray(image).astype(np.uint16), name)  # how some versions of Pillow open 16 bits
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _array_image(np.asarray(image), name)
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").convert("RGB")
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert("RGB")


def _turn(source: Image.Image, image: Image.Image) -> Image.Image:
    """Turn `image` as the EXIF data of `source` say; unreadable EXIF data count as none."""
    try:
        orientation = source.getexif().get(0x0112, 1)
    except Exception:
        return image
    return image.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else image


def _array(values: Any, name: str) -> np.ndarray:
    """An array `(H, W)` or `(H, W, C)` from anything array-like; a tensor's channels come first."""
    is_tensor = hasattr(values, "detach")
    if is_tensor:
        values = values.detach().cpu()
        values = (values.float() if str(values.dtype) in ("torch.bfloat16", "torch.float16") else values).numpy()
    if not isinstance(values, (np.ndarray, np.generic)):
        raise PictureError(f"`picture` must be a path, a PIL picture or an array, got {name}.")
    values = np.asarray(values)
    if values.ndim == 3:
        first, last = values.shape[0] in (1, 3, 4), values.shape[-1] in (1, 3, 4)
        if first and (is_tensor or not last):
            values = np.moveaxis(values, 0, -1)
    channels = values.shape[-1] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in values.shape or values.dtype.kind not in "buif":
        raise PictureError(
            f"`picture` must be an array of shape (H, W), (H, W, C) or (C, H, W) of numbers with 1, 3 or 4 channels, "
            f"got shape {values.shape} and type {values.dtype}."
        )
    return values


def _array_image(values: np.ndarray, name: str) -> Image.Image:
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    values = values[..., :3] if values.ndim == 3 else np.repeat(values[..., None], 3, axis=-1)
    if values.dtype == np.uint16:
        values = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    elif values.dtype != np.uint8:
        values = np.round(_unit_range(values, name) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))


def _unit_range(values: np.ndarray, name: str) -> np.ndarray:
    """Values between 0 and 1: divided by the smallest of 1, 255 and 65535 that holds them."""
    if values.dtype == bool:
        return values.astype(np.float32)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise PictureError(
            f"`picture` must have finite values in 0..255 or 0..65535, or floats in 0..1, "
            f"got {low} to {high} in {name}. Scale it before."
        )
    limit = next(limit for limit in (1, 255, 65535) if high <= limit)
    return (values / np.float32(limit)).astype(np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "PICTURE_SUFFIXES",
    "NoPictureError",
    "PictureError",
    "distinct_names",
    "find_pictures",
    "flatten_pictures",
    "load_mask",
    "load_picture",
]
