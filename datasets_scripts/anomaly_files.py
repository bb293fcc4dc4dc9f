"""Picture files on disk, and the record that says what one picture is: the ground all builders of files stand on.

Knows folders, file names and masks. Does not know which data set they belong to, nor the `datasets` library.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

__all__ = [
    "PICTURE_SUFFIXES",
    "AnomalyRecord",
    "content_digest",
    "files_fingerprint",
    "list_folders",
    "list_pictures",
    "picture_size",
    "read_mask",
    "resolve_inside",
]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_LISTED_SUFFIXES = (*PICTURE_SUFFIXES, ".mat", ".csv", ".json", ".jsonl")
_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


@dataclass(frozen=True)
class AnomalyRecord:
    """
    One picture of an anomaly data set, as files; nothing is read yet.

    Args:
        image (`str`):
            Path of the picture.
        label (`int`, *optional*):
            0 normal, 1 anomalous, `None` where nobody said.
        category (`str`):
            What the picture shows, e.g. `bottle`.
        defect_type (`str`, *optional*):
            Kind of defect; `good` for normal pictures, `None` where nobody said.
        image_id (`str`):
            Name of the picture inside its data set: its path relative to the root, with `/`.
        split (`str`):
            `train`, `validation` or `test`.
        masks (`tuple[str, ...]`):
            Paths of the mask files, to be merged into one; empty where there is no mask.
    """

    image: str
    label: int | None
    category: str
    defect_type: str | None
    image_id: str
    split: str
    masks: tuple[str, ...] = ()


def list_pictures(folder: str | os.PathLike) -> list[Path]:
    """
    List the picture files directly inside a folder, by name; hidden files are left out.

    Args:
        folder (`str` or `os.PathLike`): The folder; one that does not exist holds nothing.

    Returns:
        `list[Path]`: Files whose suffix is one of `PICTURE_SUFFIXES`, in any case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def list_folders(folder: str | os.PathLike) -> list[Path]:
    """
    List the folders directly inside a folder, by name; hidden ones are left out.

    Args:
        folder (`str` or `os.PathLike`): The folder; one that does not exist holds nothing.

    Returns:
        `list[Path]`: The folders.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def resolve_inside(root: str | os.PathLike, relative: str, where: str) -> Path:
    r"""
    Join a path written in a metadata file to its root, and refuse any that would leave it.

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


def picture_size(path: str | os.PathLike) -> tuple[int, int]:
    """
    Read the size of a picture as it is shown, EXIF orientation applied; of most formats only the header is read.

    Args:
        path (`str` or `os.PathLike`): A picture file.

    Returns:
        `tuple[int, int]`: `(height, width)` in pixels.

    Raises:
        ValueError: If the file is no picture Pillow can open.
    """
    try:
        with Image.open(path) as picture:
            if picture.format == "TIFF":  # Pillow versions differ in the size they give before the pixels are read
                width, height = ImageOps.exif_transpose(picture).size
                return height, width
            width, height = picture.size
            # Asking a PNG that has no EXIF in its header decodes all of it: 20 ms for a megapixel.
            has_exif = picture.format != "PNG" or "exif" in picture.info or "Raw profile type exif" in picture.info
            turned = has_exif and picture.getexif().get(ExifTags.Base.Orientation) in _TRANSPOSED
    except OSError as error:
        raise ValueError(
            f"Pictures must be readable, got {str(path)!r} ({type(error).__name__}). "
            "The file is damaged or no picture: copy it again or take it out."
        ) from error
    return (width, height) if turned else (height, width)


def read_mask(paths: Sequence[str | os.PathLike]) -> np.ndarray:
    """
    Read mask files and merge them: a pixel is anomalous where any of the files says so.

    Every value but zero counts (VisA writes 1, 2, ... for kinds of defects, MVTec 255); in lossy files
    (JPEG, WebP) values above 127, for their noise.

    Args:
        paths (`Sequence[str | os.PathLike]`): One or more mask files of the same size.

    Returns:
        `np.ndarray` of shape `(height, width)`, bool: True on the anomaly.

    Raises:
        ValueError: If the files differ in size or cannot be read.
    """
    merged = None
    for path in paths:
        try:
            with Image.open(path) as file:
                lossy = file.format in _LOSSY_FORMATS
                pixels = np.asarray(file.convert("RGB") if file.mode in ("P", "RGBA", "CMYK", "PA", "LA") else file)
        except OSError as error:
            raise ValueError(
                f"Masks must be readable pictures, got {str(path)!r} ({type(error).__name__}). "
                "The file is damaged or no picture: copy it again or take it out."
            ) from error
        mask = pixels > 127 if lossy else pixels != 0
        mask = mask.any(axis=-1) if mask.ndim == 3 else mask
        if merged is not None and merged.shape != mask.shape:
            raise ValueError(
                f"Masks of one picture must have one size, got {merged.shape} and {mask.shape} ({str(path)!r}). "
                "Draw all of them on the picture's own grid."
            )
        merged = mask if merged is None else merged | mask
    if merged is None:
        raise ValueError("`paths` must name at least one mask file, got none. Leave the mask out instead.")
    return merged


def content_digest(path: str | os.PathLike) -> str:
    """
    Hash the bytes of a file.

    Args:
        path (`str` or `os.PathLike`): A file.

    Returns:
        `str`: 128 bits, hexadecimal; equal for equal files.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_fingerprint(data_dir: str | os.PathLike | None, sources: Iterable[str | os.PathLike] = ()) -> str:
    """
    Sum up a folder and the code that reads it, so that a cache made from them is left when either changes.

    Of the data the names, sizes and modification times count (pictures, `.mat`, `.csv`, `.json`, `.jsonl`); of the
    sources the contents.

    Args:
        data_dir (`str` or `os.PathLike`, *optional*): Folder of the data set; `None` for one without files.
        sources (`Iterable[str | os.PathLike]`): Code files.

    Returns:
        `str`: 64 bits, hexadecimal.
    """
    lines = []
    seen = set()
    for folder, folders, files in os.walk(data_dir, followlinks=True) if data_dir is not None else ():
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith(".") or not name.lower().endswith(_LISTED_SUFFIXES):
                continue
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                state = os.stat(path)
                lines.append(f"{os.path.relpath(path, data_dir)}\0{state.st_size}\0{state.st_mtime_ns}")
    digest = hashlib.blake2b("\n".join(sorted(lines)).encode("utf-8", "surrogateescape"), digest_size=8)
    for source in sources:
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()
