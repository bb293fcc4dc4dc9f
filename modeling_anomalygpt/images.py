"""Finding and opening pictures and masks: every file, mode and orientation becomes one kind, every failure one line.

Knows Pillow and NumPy; knows no geometry, no normalisation and no model.
"""

import contextlib
import glob
import importlib
import io
import json
import os
import pathlib
import re
import stat
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

PICTURE_SUFFIXES = (
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc",
    ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
"""What counts as a picture inside a folder. A file that is named itself is taken whatever its suffix."""

_UNREAD_SUFFIXES = (
    ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".hdr", ".jxl", ".nef", ".orf", ".pdf", ".psd", ".raf", ".raw",
    ".rw2", ".svg", ".xcf",
)  # fmt: skip
_ANIMATED_SUFFIXES, _ANIMATED_FORMATS = (".apng", ".avif", ".gif", ".png", ".webp"), ("AVIF", "GIF", "PNG", "WEBP")
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_PAGE = re.compile(r"(?s)(.+)#page=(\d{1,6})\Z")
_MAX_PAGES = 1000
_NAME_BYTES = 120


class NoPictureError(ValueError):
    """No picture file is meant by what was given; the message is one line that names it and says what to do."""


class FoundPictures(list[str]):
    """Paths of pictures, and what was passed over on the way.

    Attributes:
        passed_over (`dict[str, str]`): Paths of what looks like a picture or a folder but cannot be read, with the
            reason. Nobody has looked at them: a gate must not open where there are any.
    """

    def __init__(self, files: Iterable[str] = (), passed_over: dict[str, str] | None = None) -> None:
        super().__init__(files)
        self.passed_over = {} if passed_over is None else passed_over

    @property
    def remark(self) -> str:
        """One line that counts and names what was passed over; empty where nothing was."""
        if not self.passed_over:
            return ""
        named = [f"{path!r} ({reason})" for path, reason in list(self.passed_over.items())[:3]]
        more = len(self.passed_over) - len(named)
        return f"Passed over: {len(self.passed_over)}, not inspected: {', '.join(named)}" + (
            f" and {more} more." if more else "."
        )


def find_pictures(places: Iterable[str | os.PathLike], without: str | os.PathLike | None = None) -> FoundPictures:
    """Picture files meant by paths, folders (with all folders below, linked ones too) and patterns.

    Inside folders hidden files and folders are left out, and so are folders with results of our own. Numbers in names
    are sorted as numbers. A file that is meant twice comes once. Each page of a TIFF file is a picture, named
    `scan.tif#page=2`. Patterns may be quoted: `*`, `?`, `[...]`, and `**` for any folders.

    Args:
        places (`Iterable[str | os.PathLike]`): What the user named, in order.
        without (`str` or `os.PathLike`, *optional*): A folder to leave out, such as the one results are written to;
            places below it are meant.

    Returns:
        `FoundPictures`: A list of paths, spelled as the user began them, at least one for each place; its
            `passed_over` says what could not be taken.

    Raises:
        NoPictureError: If a place does not exist, a pattern matches nothing, or a folder holds no picture.
    """
    barred = None if without is None else os.path.realpath(without) + os.sep
    passed_over: dict[str, str] = {}
    found: dict[str, str] = {}
    for place in map(os.fspath, places):
        files = _files(place, passed_over)
        # What lies in it and was named itself is meant, were it only for results above the pictures.
        if barred is not None and not os.path.realpath(place).startswith(barred):
            every, files = files, [file for file in files if not os.path.realpath(file).startswith(barred)]
            if every and not files:
                raise NoPictureError(
                    f"All pictures in {place!r} lie in the folder for results, {os.fspath(without)!r}. Choose another."
                )
        if not files:
            raise NoPictureError(_reason(place, FoundPictures((), passed_over).remark))
        for page in (page for file in files for page in picture_pages(file, passed_over)):
            found.setdefault(os.path.realpath(page), page)
    return FoundPictures(found.values(), passed_over)


def split_page(path: str | os.PathLike) -> tuple[str, int]:
    """The file and the page that a path means.

    Args:
        path (`str` or `os.PathLike`): A file, or one of its pages as `find_pictures` names it.

    Returns:
        `tuple[str, int]`: The path of the file and the page, counted from 1; 1 where the path names none.

    Example:
    ```python
    >>> split_page("scan.tif#page=2"), split_page("part.png")
    (('scan.tif', 2), ('part.png', 1))

    ```
    """
    text = os.fsdecode(path)
    match = None if os.path.lexists(text) else _PAGE.match(text)
    return (match[1], max(int(match[2]), 1)) if match else (text, 1)


def distinct_names(files: Sequence[str | os.PathLike]) -> list[str]:
    """A short name for each file, none twice, also where upper and lower case are the same.

    It is the file's stem, with the page behind it; for stems that occur more than once, as many folders as needed are
    put before it, then the suffix behind it, then a number. No name has more than 130 bytes.

    Args:
        files (`Sequence[str | os.PathLike]`): Different paths.

    Returns:
        `list[str]`: Names without folder and suffix.

    Example:
    ```python
    >>> distinct_names(["test/good/000.png", "test/scratch/000.png", "a/1.png", "a/1.jpg", "last.tif#page=2"])
    ['good-000', 'scratch-000', 'a-1_png', 'a-1_jpg', 'last-page-2']

    ```
    """
    split = [_PAGE.match(os.fsdecode(file)) for file in files]
    paths = [pathlib.Path(match[1] if match else file) for match, file in zip(split, files, strict=True)]
    pages = [f"-page-{match[2]}" if match else "" for match in split]
    names = [path.stem + page for path, page in zip(paths, pages, strict=True)]
    for depth in range(1, max((len(path.parts) for path in paths), default=1) + 1):
        repeated = _repeated(names)
        names = [_folded(paths[i], depth) + pages[i] if name in repeated else name for i, name in enumerate(names)]
    repeated = _repeated(names)
    names = [f"{name}_{paths[i].suffix[1:]}" if name in repeated else name for i, name in enumerate(names)]
    # File systems limit names by bytes: 255 with the ending of whoever writes the file.
    names = [os.fsencode(name)[:_NAME_BYTES].decode(errors="ignore") or "picture" for name in names]
    taken: set[str] = set()
    for index, name in enumerate(names):
        number = 1
        while names[index].casefold() in taken:
            number += 1
            names[index] = f"{name}_{number}"
        taken.add(names[index].casefold())
    return names


def _files(place: str, passed_over: dict[str, str]) -> list[str]:
    if os.path.isdir(place):
        return _pictures_below(place, passed_over)
    if os.path.lexists(place) or os.path.isfile(split_page(place)[0]):
        return [place]
    if glob.has_magic(place):
        matches = sorted(glob.glob(os.path.expanduser(place), recursive=True), key=natural_key)
        # A pattern that ends with a suffix names its files itself; `folder/*` also meets texts and other folders.
        bare = not os.path.splitext(place)[1]
        files = [m for m in matches if not os.path.isdir(m) and _taken(m, passed_over, any_suffix=not bare)]
        folders = [] if files else [match for match in matches if os.path.isdir(match)]
        return files + [file for folder in folders for file in _pictures_below(folder, passed_over)]
    return []


def _pictures_below(folder: str, passed_over: dict[str, str]) -> list[str]:
    def cannot_list(error: OSError) -> None:
        passed_over[str(error.filename)] = f"a folder that cannot be listed: {error.strerror}"

    files, seen = [], set()
    for parent, folders, names in os.walk(folder, onerror=cannot_list, followlinks=True):
        here = os.path.realpath(parent)
        own_results = (
            parent != folder and "results.jsonl" in names and ("overlays" in folders or "report.html" in names)
        )
        if here in seen or own_results:  # a link that leads back, or what an earlier run wrote
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural_key)
        paths = [os.path.join(parent, name) for name in sorted(names, key=natural_key)]
        files += [path for path in paths if _taken(path, passed_over)]
    return files


def _taken(path: str, passed_over: dict[str, str], any_suffix: bool = False) -> bool:
    """Whether a file inside a folder is a picture to read; notes it where it looks like one and is none."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    if not any_suffix and (name.startswith(".") or suffix not in (*PICTURE_SUFFIXES, *_UNREAD_SUFFIXES)):
        return False
    if suffix in _UNREAD_SUFFIXES and not any_suffix:
        passed_over[path] = f"{suffix} is not read"
    elif not os.path.exists(path):
        passed_over[path] = "a link that leads nowhere"
    elif not os.path.isfile(path):
        passed_over[path] = "no regular file"
    return path not in passed_over


def picture_pages(file: str, passed_over: dict[str, str] | None = None) -> list[str]:
    """The pages of a TIFF file, previews and transparency masks left out; any other file as it is.

    Args:
        file (`str`): A file.
        passed_over (`dict[str, str]`, *optional*): Takes note of pages that are too many to be read, and of the
            further frames of an animation.

    Returns:
        `list[str]`: Paths such as `scan.tif#page=2`; the file itself where it has one page or is damaged.
    """
    if passed_over is not None and file.lower().endswith(_ANIMATED_SUFFIXES) and os.path.isfile(file):
        with contextlib.suppress(Exception), Image.open(file) as image:
            if getattr(image, "is_animated", False):
                passed_over[file] = "frames after the first are not read"
    if not file.lower().endswith((".tif", ".tiff")) or not os.path.isfile(file):
        return [file]
    pages = _page_numbers(file)
    if passed_over is not None and pages[-1:] > [_MAX_PAGES]:
        passed_over[file] = f"pages after {_MAX_PAGES} are not read"
    return [f"{file}#page={page}" for page in pages if page <= _MAX_PAGES] if len(pages) > 1 else [file]


def _page_numbers(tiff: Any) -> list[int]:
    """Numbers of the pages of a TIFF file, of one page more than are read at most; as far as it is not damaged."""
    pages = []
    with contextlib.suppress(Exception), warnings.catch_warnings():  # a damaged file is refused when it is opened
        warnings.simplefilter("ignore")
        with Image.open(tiff) as image:
            for page in range(_MAX_PAGES + 1):
                image.seek(page)  # ends with an EOFError
                if not image.tag_v2.get(254, 0) & 5:  # NewSubfileType: 1 a smaller copy, 4 a transparency mask
                    pages.append(page + 1)
    return pages


def several_pictures(file: str | bytes) -> str | None:
    """What a file, or the content of one, holds: `"3 pages"`, `"several frames"`; `None`: one picture."""

    def opened() -> Any:
        return io.BytesIO(file) if isinstance(file, bytes) else file

    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(opened()) as image:
            kind, moves = image.format, getattr(image, "is_animated", False)
        if kind == "TIFF":
            pages = len(_page_numbers(opened()))
            return f"{pages} pages" if pages > 1 else None
        if moves and kind in _ANIMATED_FORMATS:  # not the second picture, a preview, in the JPEG files of telephones
            return "several frames"
    return None


def _repeated(names: Sequence[str]) -> set[str]:
    counts = Counter(name.casefold() for name in names)
    return {name for name in names if counts[name.casefold()] > 1}


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names as numbers.

    Returns:
        `list[tuple[int, int, str]]`: To be compared with other keys.

    Example:
    ```python
    >>> sorted(["part 10", "part 9"], key=natural_key)
    ['part 9', 'part 10']

    ```
    """
    runs = [run for run in re.split(r"(\d+)", name) if run]
    return [(0, int(run), "") if run.isdecimal() and len(run) < 400 else (1, 0, run.casefold()) for run in runs]


def _folded(path: pathlib.Path, depth: int) -> str:
    """The stem with the `depth - 1` folders above it, as one name."""
    folders = [part.strip("/\\:.") for part in path.parent.parts[max(0, len(path.parts) - depth) :]]
    return "-".join([folder for folder in folders if folder] + [path.stem])


def _reason(place: str, remark: str) -> str:
    if os.path.isdir(place):
        hint = remark or "Name files ending with .png, .jpg, .tif, .bmp, .webp or the like."
        return f"No picture in the folder {place!r}. {hint}"
    if glob.has_magic(place):
        hint = " In a name with brackets write [[] for each [." if "[" in place else ""
        pattern = f"Check the pattern, and quote it; `**` stands for any folders.{hint}"
        return f"No picture matches {place!r}. {remark or pattern}"
    return f"There is no file or folder {place!r}. Check the path."


MAX_PIXELS = 178_956_970
"""Largest picture that is opened: the size at which Pillow itself suspects a decompression bomb and refuses."""

MIN_SIDE = 2
"""Shortest side that is accepted: a picture of one row or one column shows nothing to inspect."""

GROUND = (128, 128, 128)
"""Colour on which cut-outs are shown, those whose transparency varies."""

MASK_THRESHOLD = 0.3
"""A pixel whose mask is above this is anomalous, as in the published training; matters for soft masks only."""

BIT_DEPTHS = (1, 8, 10, 12, 14, 16)
"""Depths that `bit_depth` tells apart; 1 stands for fractions from 0 to 1."""

_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+://|data:)")
_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")

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


def load_picture(picture: Any, bits: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a picture as 8-bit RGB, turned as its EXIF orientation says; the result shares no memory with it.

    Any mode of Pillow is accepted. Values deeper than 8 bits map linearly to 0-255, from 0 to white: `2**bits - 1`,
    or without `bits` 65535 (integers of 16 bits) or the smallest of 1, 255 and 65535 that holds them (others).
    Cut-outs, whose transparency varies, are blended on `GROUND`; transparency that is the same everywhere is dropped
    (as the original system does). Of an animation the first frame is taken.

    Args:
        picture (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): A local file (a
            page of it as `find_pictures` names it), the content of one, an open picture, or an array `(H, W)`,
            `(H, W, C)` or `(C, H, W)` with 1, 3 or 4 channels in RGB order: bool, integers 0-255 or 0-65535, or
            floats 0-1 or 0-255.
        bits (`int`, *optional*): Bits that deep values really use, from `bit_depth`; pictures of 8 bits ignore it.
        max_pixels (`int`, *optional*, defaults to 178956970): Largest accepted `height * width` of a file.

    Returns:
        `PIL.Image.Image`: Mode `"RGB"`. Warns where deep values come out nearly black.

    Raises:
        FileNotFoundError: If the file is missing.
        PictureError: If it is an address, a folder, no regular file, empty, truncated, no picture, too large, or one
            pixel wide or high; or an array of another shape or range.

    Example:
    ```python
    >>> import numpy as np
    >>> load_picture(np.full((4, 6), 4095, dtype=np.uint16), bits=12).getpixel((0, 0))
    (255, 255, 255)

    ```
    """
    name = _name(picture)
    image, deep = _open(picture, name, max_pixels)
    try:
        turned = _turn(image, _to_rgb(image if deep is None else _eight_bits(deep, bits, name)))
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
    brightest = 0 if deep is None else _colours(deep).max()
    if brightest > 0 and max(high for _, high in turned.getextrema()) <= 16:
        warnings.warn(
            f"{name} is nearly black: its brightest value is {brightest:g}. Say how many bits the camera has.",
            UserWarning,
            stacklevel=2,
        )
    return turned


def picture_size(picture: str | os.PathLike) -> tuple[int, int]:
    """Read the size of a picture as it is shown, EXIF orientation applied; of most formats only the header is read.

    Args:
        picture (`str` or `os.PathLike`): A local file, or a page of one.

    Returns:
        `tuple[int, int]`: `(height, width)` in pixels.

    Raises:
        FileNotFoundError: If the file is missing.
        PictureError: If it is no picture.
    """
    name = _name(picture)
    with _readable(name, MAX_PIXELS), _decoded(*_path(picture, name), name, MAX_PIXELS) as image:
        width, height = image.size
        if image.format == "TIFF":  # Pillow versions differ in the size they give before the pixels are read
            image.load()
            width, height = _turn(image, image).size
        # Asking a PNG that has no EXIF in its header decodes all of it: 20 ms for a megapixel.
        elif image.format != "PNG" or "exif" in image.info or "Raw profile type exif" in image.info:
            width, height = (height, width) if image.getexif().get(0x0112, 1) >= 5 else (width, height)
    return height, width


def stored_size(picture: str | os.PathLike) -> tuple[int, int]:
    """`(height, width)` as stored in the file, read from its header alone; raises as [`picture_size`] does."""
    name = _name(picture)
    with _readable(name, MAX_PIXELS), _decoded(*_path(picture, name), name, MAX_PIXELS) as image:
        return image.height, image.width


def opens_plainly(picture: str | os.PathLike) -> bool:
    """Whether any program shows a file as `load_picture` does; only the header is read.

    Args:
        picture (`str` or `os.PathLike`): A local file, or a page of one.

    Returns:
        `bool`: False for deep values, transparency, palettes, HEIC and pages that are named.
    """
    name = _name(picture)
    path, page = _path(picture, name)
    if split_page(picture)[0] != os.fsdecode(picture) or path.suffix.lower() in _HEIF_SUFFIXES:
        return False
    with _readable(name, MAX_PIXELS), _decoded(path, page, name, MAX_PIXELS) as image:
        return image.mode in ("1", "L", "RGB") and not _is_deep(image) and "transparency" not in image.info


def bit_depth(pictures: Iterable[Any], max_pixels: int = MAX_PIXELS) -> int | None:
    """How many bits the deep values of pictures really use, to be found once and kept.

    Cameras of 10, 12 or 14 bits write files of 16, and each picture alone does not tell which; good ones together do.

    Args:
        pictures (`Iterable`): Pictures as `load_picture` takes them, such as the references.
        max_pixels (`int`, *optional*, defaults to 178956970): As for `load_picture`.

    Returns:
        `int`, *optional*: The smallest of `BIT_DEPTHS` that holds all values deeper than 8 bits, to be handed to
            `load_picture`; `None` where no picture has any.

    Example:
    ```python
    >>> import numpy as np
    >>> bit_depth([np.full((4, 4), 900, np.uint16), np.full((4, 4), 3000, np.uint16)])
    12

    ```
    """
    depths = []
    for picture in pictures:
        name = _name(picture)
        if isinstance(picture, (str, os.PathLike)) and opens_plainly(picture):
            continue
        deep = _open(picture, name, max_pixels)[1]
        if deep is not None:
            highest = _checked_range(_colours(deep), name)
            depths.append(next(bits for bits in BIT_DEPTHS if highest <= 2**bits - 1))
    return max(depths, default=None)


def load_mask(mask: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Open a mask as values between 0 (normal) and 1 (anomalous).

    Masks of few different values mark what is anomalous by a class or a grey of any height: all but 0 (or, where
    nothing is 0, but the lowest value) is anomalous; in lossy files all above half the highest value. Masks of many
    values are soft: they are divided by the smallest of 1, 255, 1023, 4095, 16383 and 65535 that holds them. Colours
    count by their brightest channel, palettes by their colours, or by their numbers where colours do not differ.

    Args:
        mask (`str`, `os.PathLike`, `bytes`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`): A local file, its
            content, an open picture or an array `(H, W)`, `(H, W, 1)`, `(1, H, W)` or in colour; or a `.json` file of
            labelme, whose shapes are anomalous.
        max_pixels (`int`, *optional*, defaults to 178956970): Largest accepted `height * width` of a file.

    Returns:
        `np.ndarray` of shape `(H, W)`: float32 between 0 and 1.

    Raises:
        FileNotFoundError: If the file is missing.
        PictureError: If it cannot be read, or has another shape or range.

    Example:
    ```python
    >>> import numpy as np
    >>> load_mask(np.array([[0, 2], [255, 0]], dtype=np.uint8)).tolist()
    [[0.0, 1.0], [1.0, 0.0]]

    ```
    """
    name = _name(mask)
    if isinstance(mask, (str, os.PathLike)) and os.fsdecode(mask).lower().endswith(".json"):
        return _labelme_mask(_path(mask, name)[0], name, max_pixels)
    if not isinstance(mask, (str, os.PathLike, bytes, Image.Image)):
        return _coverage(_array(mask, name), name)
    image, deep = _open(mask, name, max_pixels)
    turned = _turn(image, image)
    if image.mode in ("P", "PA"):
        values = _palette_mask(turned)
    elif deep is not None and deep.ndim == 2:
        values = np.asarray(turned)
    else:
        values = np.asarray(turned if image.mode in ("1", "L") else turned.convert("RGBA"))
    return _coverage(values, name, lossy=image.format in _LOSSY_FORMATS)


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
    if isinstance(picture, bytes):
        return f"the picture of {len(picture)} bytes"
    if isinstance(picture, (str, os.PathLike)):
        text = os.fspath(picture)
        text = text if isinstance(text, str) else text.decode(errors="replace")
        return repr(text if len(text) <= 200 else text[:80] + "..." + text[-80:])
    if isinstance(picture, Image.Image):
        return repr(str(picture.filename)) if getattr(picture, "filename", "") else "the PIL picture"
    return f"the {type(picture).__name__}"


def _open(picture: Any, name: str, max_pixels: int) -> tuple[Image.Image, np.ndarray | None]:
    """Decode a file, its content, an open picture or an array; values deeper than 8 bits come beside it."""
    if not isinstance(picture, (str, os.PathLike, bytes, Image.Image)):
        return _array_image(_array(picture, name))
    page = 1
    if isinstance(picture, (str, os.PathLike)):
        picture, page = _path(picture, name)
    with _readable(name, max_pixels), contextlib.ExitStack() as closing:
        image = closing.enter_context(_decoded(picture, page, name, max_pixels))
        read_before = image is picture and not getattr(image, "tile", ())
        deep_colour = image.mode in ("RGB", "RGBA") and _is_deep(image)
        image.load()
        with contextlib.suppress(Exception):
            image.getexif()  # some formats read it from the file, which is closed now
        deep = _deep_colour(picture, page) if deep_colour else _deep_grey(image)
        if deep_colour and read_before and deep is not None:
            same = np.array_equal(_colours(deep) >> 8, np.asarray(image)[..., :3])
            deep = deep if same else None  # someone has drawn on it since, or the file is another one now
    if min(image.size) < 1:
        raise PictureError(f"`picture` must have pixels, {name} is {image.width} x {image.height}.")
    return image, deep


@contextlib.contextmanager
def _readable(name: str, max_pixels: int) -> Iterator[None]:
    """All of Pillow's errors become one line."""
    try:
        yield
    except (PictureError, FileNotFoundError):
        raise
    except PermissionError as error:
        raise PictureError(f"`picture` must be readable, {name} is not: permission denied.") from error
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


@contextlib.contextmanager
def _decoded(picture: Any, page: int, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """A picture with its header read, at the page asked for."""
    with warnings.catch_warnings(), contextlib.ExitStack() as closing:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = picture
        if not isinstance(picture, Image.Image):
            _register_heif(picture, name)
            image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
            closing.enter_context(image)
        if image.format == "EPS":  # Pillow would start Ghostscript to draw it
            raise PictureError(f"`picture` must be pixels, {name} is a PostScript program. Save it as PNG.")
        if page > 1:
            try:
                image.seek(page - 1)
            except EOFError:
                raise PictureError(f"`picture` must be a page that exists, {name} is none.") from None
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError
        yield image


def _register_heif(picture: pathlib.Path | bytes, name: str) -> None:
    """Makes Pillow read HEIC where this is such a file."""
    if isinstance(picture, bytes):
        is_heif = picture[4:8] == b"ftyp" and picture[8:11] in (b"hei", b"hev", b"mif", b"msf")
    else:
        is_heif = picture.suffix.lower() in _HEIF_SUFFIXES
    if is_heif:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise PictureError(
                f"Reading HEIC needs pillow-heif, got {name}. pip install pillow-heif, or save it as JPEG or PNG."
            ) from None


def _path(picture: str | os.PathLike, name: str) -> tuple[pathlib.Path, int]:
    """The file and its page, after the checks that need no decoding."""
    text = os.fsdecode(picture)
    if _URL.match(text):
        raise PictureError(f"`picture` must be a local file, got the address {name}. Download it before.")
    if not text.strip() or "\0" in text:
        raise PictureError(f"`picture` must be the path of a file, got {name}.")
    try:
        file, page = split_page(pathlib.Path(text).expanduser())
        path = pathlib.Path(file)
        if path.is_dir():
            raise PictureError(f"`picture` must be a file, {name} is a folder. Give the pictures in it.")
        if not path.exists():
            raise FileNotFoundError(f"`picture` must be an existing file, {name} does not exist.")
        if not stat.S_ISREG(path.stat().st_mode):
            raise PictureError(f"`picture` must be a regular file, {name} is a pipe, a socket or a device.")
        if path.stat().st_size == 0:
            raise PictureError(f"`picture` must be a picture, the file {name} is empty (0 bytes).")
    except PermissionError as error:
        raise PictureError(f"`picture` must be readable, {name} is not: permission denied.") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise PictureError(f"`picture` must be a usable path, {name} is not: {error.strerror}.") from error
    return path, page


def _is_deep(image: Image.Image) -> bool:
    """Whether the file of a picture whose header is read has more than 8 bits a value."""
    deep_grey = image.mode in ("I", "F") or image.mode.startswith("I;16")
    tiles = getattr(image, "tile", ())
    if not tiles and getattr(image, "filename", ""):  # its pixels are read: only the file still tells
        with contextlib.suppress(Exception), Image.open(image.filename) as again:
            again.seek(image.tell())
            tiles = again.tile
    return deep_grey or any(";16" in str(tile[-1]) for tile in tiles)


def _deep_grey(image: Image.Image) -> np.ndarray | None:
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image)
    if values.dtype.kind == "u" or image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
        return values.astype(np.uint16)  # of another byte order; how some formats and versions of Pillow open 16 bits
    return values


def _deep_colour(picture: Any, page: int) -> np.ndarray | None:
    """Colours of 16 bits, of which Pillow keeps the upper 8 only; `None` where OpenCV is not installed."""
    try:  # a checkpoint's own code must do without it
        import cv2
    except ImportError:
        return None
    if isinstance(picture, Image.Image):
        page, picture = picture.tell() + 1, pathlib.Path(getattr(picture, "filename", "") or ".")
    if isinstance(picture, pathlib.Path):
        picture = picture.read_bytes() if picture.is_file() else b""
    flags, data = cv2.IMREAD_UNCHANGED, np.frombuffer(picture, np.uint8)
    if not len(data):
        return None
    if page > 1:
        pages = cv2.imdecodemulti(data, flags, range=(page - 1, page))[1]
        values = pages[0] if pages else None
    else:
        values = cv2.imdecode(data, flags)
    if values is None or values.ndim != 3 or values.dtype != np.uint16 or values.shape[-1] not in (3, 4):
        return None
    return values[..., [2, 1, 0, 3][: values.shape[-1]]]


def _colours(values: np.ndarray) -> np.ndarray:
    """Values without those of transparency, which always use the whole range."""
    return values[..., :3] if values.ndim == 3 else values


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    lowest, highest = image.getchannel("A").getextrema()
    if lowest == highest:  # not a cut-out; what lies below is the picture
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*GROUND, 255)), image).convert("RGB")


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
    return values[..., 0] if channels == 1 and values.ndim == 3 else values


def _array_image(values: np.ndarray) -> tuple[Image.Image, np.ndarray | None]:
    """A picture of 8 bits as one of Pillow, of more as it is; a copy, so that a buffer may be used again."""
    if values.dtype == bool:
        values = values * np.uint8(255)
    if values.dtype != np.uint8:
        return Image.new("L", (1, 1)), np.array(values)
    return Image.fromarray(np.array(values, order="C")), None


def _eight_bits(values: np.ndarray, bits: int | None, name: str) -> Image.Image:
    highest = _checked_range(values, name)
    if bits is not None and not 1 <= bits <= 16:
        raise PictureError(f"`bits` must be between 1 and 16, got {bits}. Take it from `bit_depth`.")
    white = 65535 if values.dtype == np.uint16 else next(limit for limit in (1, 255, 65535) if highest <= limit)
    white = 2**bits - 1 if bits else white
    if values.dtype == np.uint16 and white == 65535:
        values = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    else:
        scaled = (values / np.float32(white)).astype(np.float32)
        values = np.round(np.minimum(scaled, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))


def _checked_range(values: np.ndarray, name: str) -> float:
    """The highest value, where all are numbers that a picture can have."""
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0 or high > 65535:
        raise PictureError(
            f"`picture` must have finite values in 0..255 or 0..65535, or floats in 0..1, "
            f"got {low} to {high} in {name}. Scale it before."
        )
    return float(high)


def _coverage(values: np.ndarray, name: str, lossy: bool = False) -> np.ndarray:
    """The values of a mask as `load_mask` understands them."""
    if values.ndim == 3:
        colour, alpha = values[..., :3].max(axis=-1), values[..., 3] if values.shape[-1] == 4 else None
        if alpha is not None and alpha.min() < alpha.max():  # drawn on a transparent ground
            colour = np.where(alpha > 0, colour, 0)
            colour = colour if colour.any() else alpha
        values = colour
    if values.dtype == bool:
        return values.astype(np.float32)
    highest = _checked_range(values, name)
    if lossy:
        return (values > max(highest / 2, 1)).astype(np.float32)
    levels = np.flatnonzero(np.bincount(values.ravel())) if values.dtype == np.uint8 else np.unique(values)
    if len(levels) <= 32 and (highest > 1 or values.dtype.kind != "f") and not (levels % 1).any():
        return (values != (levels[0] if len(levels) > 1 else 0)).astype(np.float32)
    white = next(2**bits - 1 for bits in BIT_DEPTHS if highest <= 2**bits - 1)
    return (values / np.float32(white)).astype(np.float32)


def _palette_mask(image: Image.Image) -> np.ndarray:
    """The brightness of a mask's colours, or their numbers where no colour is black or all of them are."""
    numbers = np.asarray(image)
    numbers = numbers[..., 0] if numbers.ndim == 3 else numbers
    brightness = np.asarray(image.convert("RGBA").convert("RGB")).max(axis=-1)
    lowest, highest = brightness.min(), brightness.max()
    return numbers if lowest == highest == 0 or (lowest > 0 and (numbers == 0).any()) else brightness


def _labelme_mask(path: pathlib.Path, name: str, max_pixels: int) -> np.ndarray:
    """Draws the shapes of a labelme file."""
    try:
        with _readable(name, max_pixels):
            data = path.read_bytes()
        content = json.loads(data)
        size = int(content["imageWidth"]), int(content["imageHeight"])
        shapes = [
            (shape.get("shape_type") or "polygon", np.array(shape["points"], np.float64).reshape(-1, 2))
            for shape in content["shapes"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PictureError(
            f"`mask` must be a file of labelme with imageWidth, imageHeight and shapes, {name} is none: {_line(error)}"
        ) from error
    if min(size) < 1 or size[0] * size[1] > max_pixels:
        raise PictureError(f"`mask` must have 1 to {max_pixels} pixels, {name} has {size[0]} x {size[1]}.")
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
    for kind, points in shapes:
        if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e6:
            raise PictureError(f"Points of shapes must lie in the picture, {name} has others.")
        corners = [tuple(point) for point in points.tolist()]
        if kind == "polygon" and len(corners) > 2:
            draw.polygon(corners, fill=1)
        elif kind == "rectangle" and len(corners) == 2:
            draw.rectangle([tuple(points.min(0)), tuple(points.max(0))], fill=1)
        elif kind == "circle" and len(corners) == 2:
            radius = float(np.hypot(*(points[1] - points[0])))
            draw.ellipse([tuple(points[0] - radius), tuple(points[0] + radius)], fill=1)
        elif kind in ("line", "linestrip") and len(corners) > 1:
            draw.line(corners, fill=1, width=3)
        else:
            raise PictureError(f"Shapes must be polygons, rectangles, circles or lines, got {kind!r} in {name}.")
    return np.asarray(canvas, np.float32)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
