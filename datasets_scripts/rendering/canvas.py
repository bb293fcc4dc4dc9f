"""A canvas that draws shapes given in part units as colour and height at once, with smooth edges."""

from __future__ import annotations

import abc
import json
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from .noise import View, noise_field, to_uint8

Colour = Sequence[float]
Drawing = Callable[["Canvas"], object]
BLACK = (0.0, 0.0, 0.0)
FAMILIES = json.loads(pathlib.Path(__file__).with_name("families.json").read_text(encoding="utf-8"))
"""Names, colours and sentences of all families, in English and Chinese."""

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


class Canvas:
    """Draws polygons, discs, strokes and text of a part into a picture and a height map.

    Args:
        view ([`View`]): Map from part units to pixels.
        image (`np.ndarray`, *optional*): `uint8` background of shape `(size, size, 3)`, drawn upon in place. Without
            it only silhouettes are drawn: every shape, prints too, marks `height` with 255.

    Attributes:
        image (`np.ndarray` or `None`): The colours.
        height (`np.ndarray`): `uint8` level of the topmost shape, 0 where no shape lies.
    """

    def __init__(self, view: View, image: np.ndarray | None = None):
        self.view = view
        self.image = image
        self.height = np.zeros((view.size, view.size), np.uint8)

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        return np.rint(self.view.to_pixels(points) * (1 << _SHIFT)).astype(np.int32)

    def _mark(self, fill: Callable[[np.ndarray, object, int], object], colour: Colour, height: int | None) -> None:
        if self.image is None:
            fill(self.height, 255, cv2.LINE_8)
            return
        fill(self.image, tuple(map(float, colour)), cv2.LINE_AA)
        if height is not None:
            fill(self.height, int(height), cv2.LINE_8)

    def polygon(self, points: np.ndarray, colour: Colour = BLACK, height: int | None = None) -> None:
        """Fills a polygon `(N, 2)`; with `height=None` it is a print that leaves the height as it is."""
        fixed = [self._fixed(points)]
        self._mark(lambda onto, ink, line: cv2.fillPoly(onto, fixed, ink, line, _SHIFT), colour, height)

    def stroke(self, points: np.ndarray, width: float, colour: Colour, height: int | None = None) -> None:
        """Draws an open line through points `(N, 2)`, `width` part units wide (at least one pixel)."""
        fixed, wide = [self._fixed(points)], max(1, round(width * self.view.scale))
        self._mark(lambda onto, ink, line: cv2.polylines(onto, fixed, False, ink, wide, line, _SHIFT), colour, height)

    def disc(self, centre: Sequence[float], radius: float, colour: Colour = BLACK, height: int | None = None) -> None:
        """Fills a circle."""
        at = tuple(map(int, self._fixed(np.array([centre]))[0]))
        fixed = max(1, round(radius * self.view.scale * (1 << _SHIFT)))
        self._mark(lambda onto, ink, line: cv2.circle(onto, at, fixed, ink, -1, line, _SHIFT), colour, height)

    def text(
        self,
        words: str,
        centre: Sequence[float],
        letter: float,
        colour: Colour,
        angle: float = 0.0,
        font: int = 0,
        weight: int = 2,
        layout: str | None = None,
    ) -> None:
        """Prints one line of text around `centre`, capitals `letter` part units high, turned by `angle` radians.

        With `layout`, a text of the same length, every character stands where the layout has its own.
        """
        stencil = text_stencil(words, font, weight, layout)
        height, width = stencil.shape
        factor = letter / 22.0
        cosine, sine, (x, y) = np.cos(angle) * factor, np.sin(angle) * factor, centre
        left, top = x - cosine * width / 2 + sine * height / 2, y - sine * width / 2 - cosine * height / 2
        onto = np.array([[cosine, -sine, left], [sine, cosine, top], [0, 0, 1]])
        matrix = self.view.matrix @ onto
        shrink = self.view.scale * factor
        if shrink < 0.6:  # keep thin strokes when the letters become small
            stencil = cv2.GaussianBlur(stencil, (0, 0), 0.35 / shrink)
        inked = cv2.warpAffine(stencil, matrix, (self.view.size, self.view.size), flags=cv2.INTER_LINEAR)
        if self.image is None:
            self.height[inked > 60] = 255
            return
        left, top, across, down = cv2.boundingRect(inked)
        if not across:
            return
        window = np.s_[top : top + down, left : left + across]
        alpha = np.minimum(inked[window].astype(np.float32)[..., None] * (1.2 / 255), 1)
        patch = self.image[window]
        self.image[window] = to_uint8(patch + alpha * (np.asarray(colour, np.float32) - patch))


@lru_cache(maxsize=512)
def text_stencil(words: str, font: int = 0, weight: int = 2, layout: str | None = None) -> np.ndarray:
    """White line of text on black, capitals 22 pixels high; do not write into the shared result."""
    faces = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX)
    face = faces[font % len(faces)]
    (width, height), base = cv2.getTextSize(layout or words, face, 1.0, weight)
    stencil = np.zeros((height + base + 8, width + 8), np.uint8)
    pieces = [(0, words)]
    if layout is not None:  # letter by letter, so that a wrong one does not move the others
        starts = [cv2.getTextSize(layout[:end], face, 1.0, weight)[0][0] if end else 0 for end in range(len(words))]
        pieces = [(left, letter) for left, letter in zip(starts, words, strict=True) if letter != " "]
    for left, piece in pieces:
        cv2.putText(stencil, piece, (4 + left, height + 4), face, 1.0, 255, weight, cv2.LINE_AA)
    stencil.setflags(write=False)
    return stencil


def silhouette(view: View, *drawings: Drawing | None) -> np.ndarray:
    """What the drawings cover together, `uint8` 0 or 255; `None` draws nothing."""
    canvas = Canvas(view)
    for draw in drawings:
        if draw is not None:
            draw(canvas)
    return canvas.height


def changed_silhouette(view: View, before: Drawing | None, after: Drawing | None) -> np.ndarray:
    """Where an altered element differs from the designed one, `bool`, thin gaps closed."""
    return closed(cv2.bitwise_xor(silhouette(view, before), silhouette(view, after)), max(1, round(view.size / 112)))


def closed(mask: np.ndarray, reach: int) -> np.ndarray:
    """Closes the gaps of a mask up to twice `reach` pixels wide; `bool`."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0


def grown(mask: np.ndarray, side: int) -> np.ndarray:
    """Widens a mask by a square of `side` pixels; `bool`."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


@dataclass(frozen=True)
class Backdrop:
    """What an object lies on: a colour with a faint texture (conveyor belt, table, paper, tray)."""

    colour: tuple[float, float, float]
    grain: float
    cells: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Backdrop:
        """Draws a dark, medium or bright backdrop."""
        level = rng.choice([rng.uniform(18, 55), rng.uniform(75, 150), rng.uniform(185, 240)])
        colour = np.clip(level + rng.normal(0, 0.03, 3) * level, 8, 245)
        return cls(tuple(map(float, colour)), float(rng.uniform(0.5, 5)), float(rng.choice([6, 30, 110])))

    def paint(self, view: View) -> np.ndarray:
        """The `uint8` picture `(size, size, 3)` of the empty backdrop."""
        field = noise_field(view.texture, view.size, self.cells, 2) * np.float32(self.grain)
        return to_uint8(field[..., None] + np.asarray(self.colour, np.float32))


@dataclass
class Scene:
    """A drawn part before the camera.

    Args:
        image (`np.ndarray`): `float32` colours `(size, size, 3)` in 0 to 255.
        object_mask (`np.ndarray` or `None`): `bool` silhouette of the part; `None` when it fills the picture.
        change (`np.ndarray` or `None`): `bool` mask of a structural defect that was asked for.
        words (`tuple[str, str]` or `None`): The structural defect in English and Chinese.
    """

    image: np.ndarray
    object_mask: np.ndarray | None = None
    change: np.ndarray | None = None
    words: tuple[str, str] | None = None


class Design(abc.ABC):
    """One product of a family: its traits, how it is drawn and what it is called.

    Each family is a subclass: `__init__` draws the traits from a generator and calls `describe`, `draw` paints a
    piece. What can be listed (colours, words) stands in `families.json` under the name of the family.

    Attributes:
        description (`str`): What the product is and how it should look.
        description_zh (`str`): The same in Chinese.
        structural (`tuple[str, ...]`): Structural defects that `draw` knows.
    """

    family: str

    @property
    def data(self) -> dict:
        """What `families.json` says of the family."""
        return FAMILIES[self.family]

    def describe(self, structural: Sequence[str] = (), **fields: object) -> None:
        """Sets the descriptions, filled in with `fields`, and the structural defects."""
        self.description, self.description_zh = self.words("description", **fields)
        self.structural = tuple(structural)

    def words(self, key: str, **fields: object) -> tuple[str, str]:
        """Words of the family in English and Chinese, filled in with `fields`."""
        return tuple(words.format(**fields) for words in self.data[key])

    @abc.abstractmethod
    def draw(self, view: View, defect: str | None, choice: np.random.Generator) -> Scene:
        """Draws a piece.

        Args:
            view ([`View`]): How the camera sees it, and the piece's own texture.
            defect (`str`, *optional*): One of `structural`.
            choice (`np.random.Generator`): Decides on the place and kind of the defect.

        Returns:
            [`Scene`]: The drawn part.
        """


def any_of(options: Sequence, rng: np.random.Generator) -> Any:
    """One of the options, each as likely."""
    return options[rng.integers(len(options))]
