"""Uploaded pictures and texts: opened within limits, every refusal one sentence in the visitor's language."""

import os
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from PIL import Image

from modeling_anomalygpt.errors import describe_error
from modeling_anomalygpt.images import PictureError, load_picture

from .engine import BusyError
from .limits import MAX_CATEGORY, MAX_DESCRIPTION, MAX_PIXELS, MAX_QUESTION
from .words import words_of


class RefusedError(ValueError):
    """Something that cannot be done for the visitor; the message is one sentence in the visitor's language."""


def open_picture(path: str, language: str = "en") -> Image.Image:
    """Opens an uploaded picture.

    Args:
        path (`str`): Of the uploaded file.
        language (`str`, *optional*, defaults to `"en"`): Of a refusal.

    Returns:
        `PIL.Image.Image`: Mode `"RGB"`, turned as photographed.

    Raises:
        RefusedError: If it is no picture, damaged or too large; names the file, never its folder.
    """
    words, name = words_of(language), shown_name(path)
    try:
        return load_picture(path, max_pixels=MAX_PIXELS)
    except FileNotFoundError as error:
        raise RefusedError(words["file_gone"].format(name=name)) from error
    except (PictureError, OSError) as error:
        reason = str(error).replace(str(path), name)
        raise RefusedError(words["bad_picture"].format(name=name, reason=reason)) from error


def shown_name(path: str | os.PathLike, longest: int = 60) -> str:
    """A file's name without its folder and without control characters, shortened in the middle."""
    name = "".join(letter for letter in pathlib.Path(path).name if unicodedata.category(letter)[0] != "C")
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 + 1 :]}"


def clean_text(text: str | None, longest: int) -> str:
    """A visitor's text on one line, without control characters, cut to its limit."""
    letters = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in str(text or ""))
    return re.sub(r"\s+", " ", letters).strip()[:longest]


def clean_category(text: str | None) -> str:
    """The category as the model gets it; `"object"` where none is given."""
    return clean_text(text, MAX_CATEGORY) or "object"


def clean_description(text: str | None) -> str | None:
    """The description, or `None`."""
    return clean_text(text, MAX_DESCRIPTION) or None


def clean_question(text: str | None) -> str:
    """A question on one line."""
    return clean_text(text, MAX_QUESTION)


def gallery_files(gallery: Sequence | None) -> list[str]:
    """Paths of a gallery's pictures, or of a list of files."""
    return [item[0] if isinstance(item, (tuple, list)) else str(item) for item in gallery or ()]


def reason_in_words(error: BaseException, language: str) -> str:
    """Why something failed, in one sentence for the visitor, without folders of the server."""
    words = words_of(language)
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, BusyError):
        return words["busy"]
    text = re.sub(r"(/[^\s'\"]+)+/", "", describe_error(error))
    return words["failed"].format(reason=text)


__all__ = [
    "RefusedError",
    "clean_category",
    "clean_description",
    "clean_question",
    "clean_text",
    "gallery_files",
    "open_picture",
    "reason_in_words",
    "shown_name",
]
