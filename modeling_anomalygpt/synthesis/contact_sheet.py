"""Contact sheets: many small pictures with captions and outlined defects on one page, to look at before training."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN = 6
_LINE = 16
_PAPER, _INK, _OUTLINE = (250, 250, 250), (40, 40, 40), (230, 30, 60)
_MAX_SIDE = 16_000


@dataclass(frozen=True, eq=False)
class SheetCell:
    """One picture of a contact sheet.

    Attributes:
        image (`np.ndarray` of shape `(height, width, 3)`, `uint8`): the picture.
        caption (`str`): printed below it, cut to its width.
        mask (`np.ndarray` of shape `(height, width)`, `bool`, *optional*): outlined, a little outside so that the
            defect itself stays visible.
    """

    image: np.ndarray
    caption: str
    mask: np.ndarray | None = None


def contact_sheet(rows: Sequence[tuple[str, Sequence[SheetCell]]], cell_size: int = 192) -> Image.Image:
    """Puts rows of pictures on one page.

    Args:
        rows (`Sequence[tuple[str, Sequence[SheetCell]]]`): title of each row, and its pictures; rows may differ in
            length.
        cell_size (`int`, *optional*, defaults to 192): width and height that each picture is fitted into, in pixels.

    Returns:
        `PIL.Image.Image`: mode `"RGB"`.

    Raises:
        ValueError: if there is no picture, or the page would be larger than 16,000 pixels.

    Example:
        >>> grey = SheetCell(np.full((40, 80, 3), 128, np.uint8), "grey")
        >>> contact_sheet([("first", [grey, grey]), ("second", [grey])], cell_size=64).size
        (146, 222)
    """
    columns = max((len(cells) for _, cells in rows), default=0)
    if columns == 0:
        raise ValueError("`rows` must hold at least one picture, got none. Pass for example [('scratch', [cell])].")
    step_across, step_down = cell_size + _MARGIN, cell_size + 2 * _LINE + 2 * _MARGIN
    width, height = columns * step_across + _MARGIN, len(rows) * step_down + _MARGIN
    if max(width, height) > _MAX_SIDE:
        raise ValueError(
            f"A sheet must be at most {_MAX_SIDE} pixels a side, got {width} x {height}. Ask for fewer pictures."
        )
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title_font, font = ImageFont.load_default(13), ImageFont.load_default(11)
    for number, (title, cells) in enumerate(rows):
        top = _MARGIN + number * step_down
        draw.text((_MARGIN, top), title, _INK, title_font)
        for position, cell in enumerate(cells):
            left = _MARGIN + position * step_across
            picture = _fitted(cell, cell_size)
            inset = (cell_size - picture.width) // 2, (cell_size - picture.height) // 2
            sheet.paste(picture, (left + inset[0], top + _LINE + inset[1]))
            caption = cell.caption
            while caption and font.getlength(caption) > cell_size:
                caption = caption[:-1]
            draw.text((left, top + _LINE + cell_size + 1), caption, _INK, font)
    return sheet


def _fitted(cell: SheetCell, size: int) -> Image.Image:
    height, width = cell.image.shape[:2]
    factor = size / max(height, width)
    shape = max(round(width * factor), 1), max(round(height * factor), 1)
    picture = cv2.resize(cell.image, shape, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    if cell.mask is not None and cell.mask.any():
        share = cv2.resize(cell.mask.astype(np.float32), shape, interpolation=cv2.INTER_AREA)
        around = cv2.dilate((share > 0).astype(np.uint8), np.ones((7, 7), np.uint8))
        outlines, _ = cv2.findContours(around, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, _OUTLINE, 1)
    return Image.fromarray(picture)
