"""Materials of parts: numbers, and the textures drawn from them for one instance."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter1d

CELL = 256
"""Side in pixels of one of the six cells of a texture (see `meshes.surface`)."""

CELLS = {"+x": (0, 0), "+y": (1, 0), "+z": (2, 0), "-x": (0, 1), "-y": (1, 1), "-z": (2, 1)}
"""Column and row of each cell."""


@dataclass(frozen=True)
class Mark:
    """Something printed on a part.

    Args:
        shape (`str`): `"text"`, `"bars"` (a bar code), `"disc"`, `"ring"`, `"field"` (a filled rectangle) or `"line"`.
        x (`float`): Middle along the cell's first axis in millimetres.
        y (`float`): Middle along the cell's second axis.
        size (`float`): Height in millimetres (diameter of discs and rings).
        text (`str`): What is written.
        colour (`tuple[float, float, float]`): Linear colour.
        degrees (`float`): Turn, counterclockwise.
        width (`float`): Width in millimetres of bars, fields and lines.
        cell (`str`): Cell of the texture.
    """

    shape: str
    x: float
    y: float
    size: float
    text: str = ""
    colour: tuple[float, float, float] = (0.02, 0.02, 0.02)
    degrees: float = 0.0
    width: float = 0.0
    cell: str = "+z"


@dataclass(frozen=True)
class Material:
    """A surface.

    Args:
        colour (`tuple[float, float, float]`): Linear colour; of metals the reflectance.
        metallic (`float`): 1 for metals, 0 for others.
        roughness (`float`): Roughness in (0, 1].
        pattern (`str`): `"plain"`, `"brushed"`, `"turned"`, `"cast"`, `"grain"`, `"wood"`, `"card"`, `"speckled"`.
        relief (`float`): Height of the pattern in millimetres.
        specular (`float`): Strength of the reflection of what is no metal.
        clear (`bool`): A clear film that light passes; colour tints it.
        marks (sequence of [`Mark`]): What is printed on it.
    """

    colour: tuple[float, float, float]
    metallic: float = 0.0
    roughness: float = 0.4
    pattern: str = "plain"
    relief: float = 0.0
    specular: float = 0.5
    clear: bool = False
    marks: Sequence[Mark] = ()

    def with_marks(self, *marks: Mark) -> Material:
        """The same surface, printed on."""
        return replace(self, marks=marks)


def metal(name: str, finish: str = "plain") -> Material:
    """A metal with a finish: steel, zinc, brass, copper, aluminium, gold, black (oxide), bronze."""
    colour, roughness = {
        "steel": ((0.56, 0.55, 0.53), 0.28),
        "zinc": ((0.60, 0.62, 0.64), 0.33),
        "brass": ((0.66, 0.50, 0.25), 0.25),
        "copper": ((0.74, 0.38, 0.24), 0.28),
        "aluminium": ((0.74, 0.75, 0.76), 0.35),
        "gold": ((0.80, 0.60, 0.28), 0.22),
        "black": ((0.10, 0.10, 0.11), 0.40),
        "bronze": ((0.52, 0.35, 0.18), 0.35),
        "iron": ((0.30, 0.29, 0.28), 0.50),
    }[name]
    relief = {"plain": 0.0, "brushed": 0.006, "turned": 0.008, "cast": 0.05}[finish]
    return Material(colour, 1.0, roughness + (0.15 if finish == "cast" else 0.0), finish, relief)


def plastic(colour: Sequence[float], roughness: float = 0.35, pattern: str = "plain") -> Material:
    """Moulded plastic or paint."""
    return Material(tuple(colour), 0.0, roughness, pattern, 0.01 if pattern == "grain" else 0.0)


RUBBER = Material((0.025, 0.025, 0.027), 0.0, 0.65, "grain", 0.015, 0.3)
WOOD = Material((0.52, 0.34, 0.18), 0.0, 0.6, "wood", 0.01, 0.25)
CARD = Material((0.46, 0.33, 0.21), 0.0, 0.85, "card", 0.012, 0.1)
PAPER = Material((0.78, 0.77, 0.74), 0.0, 0.8, "card", 0.004, 0.2)
GLASS = Material((0.93, 0.95, 0.95), clear=True)
CERAMIC = Material((0.80, 0.79, 0.76), 0.0, 0.15, "plain", 0.0, 0.6)

PAINTS = {
    "red": (0.48, 0.03, 0.03), "blue": (0.03, 0.10, 0.42), "green": (0.03, 0.28, 0.10), "yellow": (0.75, 0.48, 0.03),
    "orange": (0.72, 0.21, 0.03), "black": (0.025, 0.025, 0.027), "white": (0.78, 0.78, 0.76),
    "grey": (0.28, 0.29, 0.30), "light blue": (0.22, 0.42, 0.66), "violet": (0.20, 0.08, 0.38),
    "brown": (0.20, 0.09, 0.04), "pink": (0.72, 0.30, 0.36), "beige": (0.62, 0.52, 0.38),
    "dark green": (0.02, 0.10, 0.05),
}  # fmt: skip
"""Paints and plastics by the name of their colour."""


def one_of(rng: np.random.Generator, *names: str) -> str:
    """One of these names, each as likely."""
    return str(rng.choice(names))


def paint(rng: np.random.Generator, *names: str) -> tuple[float, float, float]:
    """The colour of one of these paints."""
    return PAINTS[one_of(rng, *names)]


@dataclass
class Texture:
    """What the renderer reads at a texture place, and where a defect changed it.

    Args:
        albedo (`np.ndarray` of shape `(2 CELL, 3 CELL, 3)`): Colour.
        roughness (`np.ndarray` of shape `(2 CELL, 3 CELL)`): Roughness.
        height (`np.ndarray` of shape `(2 CELL, 3 CELL)`): Relief in millimetres.
        metallic (`np.ndarray` of shape `(2 CELL, 3 CELL)`): Share of metal.
        changed (`np.ndarray` of shape `(2 CELL, 3 CELL)`): 1 where a defect changed the surface.
        extent (`float`): Side of a cell in millimetres.
    """

    albedo: np.ndarray
    roughness: np.ndarray
    height: np.ndarray
    metallic: np.ndarray
    extent: float
    changed: np.ndarray = field(default_factory=lambda: np.zeros((2 * CELL, 3 * CELL), np.float32))

    @property
    def scale(self) -> float:
        """Pixels a millimetre."""
        return CELL / self.extent

    def slopes(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Slope of the relief along x, y, z of the part at texture places, `(N, 3)`."""
        right, down = np.minimum(column + 1, 3 * CELL - 1), np.minimum(row + 1, 2 * CELL - 1)
        here = self.height[row, column]
        along_u = (self.height[row, right] - here) * self.scale
        along_v = (self.height[down, column] - here) * self.scale
        axis = column // CELL
        result = np.zeros((len(row), 3), np.float32)
        result[np.arange(len(row)), np.array([1, 0, 0])[axis]] = along_u
        result[np.arange(len(row)), np.array([2, 2, 1])[axis]] = along_v
        return np.clip(result, -1.5, 1.5)

    def cell(self, name: str) -> tuple[slice, slice]:
        """Rows and columns of a cell."""
        column, row = CELLS[name]
        return slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL)


def mottle(rng: np.random.Generator, shape: tuple[int, int], size: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise of mean 0 and deviation about 1; spots of `size` pixels, `stretch` times as wide as high."""
    if size < 4:  # a grid nearly as fine as the pixels would beat with them
        noise = rng.normal(0, 1, shape).astype(np.float32)
        if stretch >= 8:
            noise = uniform_filter1d(noise, round(size * stretch), axis=1) * np.sqrt(size * stretch)
            return noise if size < 1.3 else gaussian_filter1d(noise, 0.4 * size, axis=0) * np.sqrt(1.4 * size)
        sigma = (0.4 * size, 0.4 * size * stretch)
        return gaussian_filter(noise, sigma) * np.float32(np.sqrt(4 * np.pi * sigma[0] * sigma[1]))
    rows, columns = max(2, round(shape[0] / size)), max(2, round(shape[1] / size / stretch))
    small = Image.fromarray(rng.normal(0, 1, (rows, columns)).astype(np.float32))
    return np.asarray(small.resize(shape[::-1], Image.BICUBIC), np.float32)


def texture(material: Material, extent: float, rng: np.random.Generator, wear: float) -> Texture:
    """Draw a material's texture for one instance.

    Args:
        material ([`Material`]): The surface.
        extent (`float`): Side of a cell in millimetres.
        rng (`np.random.Generator`): Source of what differs between instances.
        wear (`float`): 0 new, 1 much handled: faint marks, uneven gloss.
    """
    shape = (2 * CELL, 3 * CELL)
    tone = 1 + 0.02 * mottle(rng, shape, 60)
    gloss = 1 + (0.06 + 0.06 * wear) * mottle(rng, shape, 40)
    height = np.zeros(shape, np.float32)
    if material.pattern != "plain":
        grain, strength = _pattern(material.pattern, extent, rng)
        tone = tone * (1 + strength * grain)
        gloss = gloss * (1 + 0.5 * strength * grain)
        height = height + material.relief * grain
    albedo = np.clip(np.asarray(material.colour, np.float32) * tone[..., None], 0, 0.95)
    roughness = np.clip(material.roughness * gloss, 0.06, 1).astype(np.float32)
    made = Texture(albedo, roughness, height, np.full(shape, material.metallic, np.float32), extent)
    _wear_marks(made, rng, wear)
    for mark in material.marks:
        draw_mark(made, mark)
    return made


def plain_texture(material: Material, extent: float) -> Texture:
    """A material's texture without anything that varies."""
    shape = (2 * CELL, 3 * CELL)
    flat = [np.full(shape, value, np.float32) for value in (material.roughness, 0.0, material.metallic)]
    return Texture(np.broadcast_to(np.asarray(material.colour, np.float32), (*shape, 3)).copy(), *flat, extent)


def _pattern(name: str, extent: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A pattern of deviation about 1, and how strongly it shows in the colour."""
    shape = (2 * CELL, 3 * CELL)
    if name == "brushed":
        return 0.7 * mottle(rng, shape, 1, 60) + 0.5 * mottle(rng, shape, 1.6, 20), 0.05
    if name == "turned":
        return _rings(rng), 0.05
    if name == "wood":
        lines = mottle(rng, shape, 3, 40) + 1.2 * mottle(rng, shape, 9, 24)
        return 0.7 * np.sin(2.2 * lines) + 0.3 * mottle(rng, shape, 1, 10), 0.16
    if name == "card":
        return 0.6 * mottle(rng, shape, 1.5, 4) + 0.6 * mottle(rng, shape, 1, 1), 0.05
    if name == "speckled":
        return np.clip(mottle(rng, shape, 1.6) - 1.2, 0, 2) * 1.6, 0.5
    if name == "cast":
        return 0.7 * mottle(rng, shape, 3) + 0.4 * mottle(rng, shape, 1.5), 0.06
    return 0.8 * mottle(rng, shape, 1.2), 0.08


def _rings(rng: np.random.Generator) -> np.ndarray:
    """Tool marks of a lathe about z: circles seen from above, lines round the sides."""
    axis = np.arange(CELL) - CELL / 2 + 0.5
    radius = np.hypot(*np.meshgrid(axis, axis))
    line = rng.normal(0, 1, CELL)
    circles = np.interp(radius, np.arange(CELL), line)
    side = np.broadcast_to(line[:, None], (CELL, CELL))
    row = np.concatenate([side, side, circles], 1)
    return np.concatenate([row, row]).astype(np.float32)


def _wear_marks(made: Texture, rng: np.random.Generator, wear: float) -> None:
    """Faint hairlines and specks of dust, as good parts have them too."""
    image = Image.new("L", (3 * CELL, 2 * CELL))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.poisson(14 * wear)):
        x, y = rng.uniform(0, 3 * CELL), rng.uniform(0, 2 * CELL)
        angle, length = rng.uniform(0, np.pi), rng.uniform(6, 40)
        draw.line([x, y, x + length * np.cos(angle), y + length * np.sin(angle)], fill=int(rng.uniform(60, 160)))
    marks = np.asarray(image, np.float32) / 255
    made.roughness += 0.12 * marks
    made.albedo *= 1 - 0.06 * marks[..., None]
    dust = (rng.random((2 * CELL, 3 * CELL)) < 0.0006 * (0.3 + wear)).astype(np.float32)
    made.albedo += (0.3 - made.albedo) * (0.35 * dust)[..., None]


def _font(height: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(6, round(height * 1.35)))


@functools.lru_cache(maxsize=128)
def equally_wide(letter: str) -> str:
    """Other characters of a letter's case, or other digits, that are as wide (within 3 hundredths of the height)."""
    font, width = _font(100.0), _font(100.0).getlength(letter)
    of = (string.digits, string.ascii_uppercase, string.ascii_lowercase)
    own = next((group for group in of if letter in group), "")
    return "".join(c for c in own if c != letter and abs(font.getlength(c) - width) <= 3)


def character_field(mark: Mark, at: int) -> Mark:
    """The field that one character of a text takes in its line."""
    font = _font(100.0)
    width = font.getlength(mark.text[at])
    along = (font.getlength(mark.text[:at]) + width / 2 - font.getlength(mark.text) / 2) * mark.size / 100.0
    turn = np.radians(mark.degrees)
    x, y = mark.x + float(along * np.cos(turn)), mark.y + float(along * np.sin(turn))
    return replace(mark, shape="field", x=x, y=y, width=width * mark.size / 100.0, size=1.5 * mark.size)


@functools.lru_cache(maxsize=256)
def mark_cover(mark: Mark, extent: float) -> np.ndarray:
    """How far a mark covers its cell, `(CELL, CELL)` in [0, 1], drawn at three times the size."""
    fine = 3
    scale = CELL / extent * fine
    side = CELL * fine
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    x, y, size, width = side / 2, side / 2, mark.size * scale, mark.width * scale
    if mark.shape == "text":
        draw.text((x, y), mark.text, fill=255, font=_font(size), anchor="mm")
    elif mark.shape == "disc":
        draw.ellipse([x - size / 2, y - size / 2, x + size / 2, y + size / 2], fill=255)
    elif mark.shape == "ring":
        line = max(2, round(0.12 * size))
        draw.ellipse([x - size / 2, y - size / 2, x + size / 2, y + size / 2], outline=255, width=line)
    elif mark.shape == "bars":
        code = np.random.default_rng(sum(map(ord, mark.text)) + 7)
        at = x - width / 2
        while at < x + width / 2:
            bar, gap = code.integers(1, 4, 2) * width / 70
            draw.rectangle([at, y - size / 2, min(at + bar, x + width / 2), y + size / 2], fill=255)
            at += bar + gap
    else:
        draw.rectangle([x - width / 2, y - size / 2, x + width / 2, y + size / 2], fill=255)
    image = image.rotate(mark.degrees, Image.BICUBIC)
    shift = (round(mark.x * scale), -round(mark.y * scale))
    placed = Image.new("L", (side, side))
    placed.paste(image, shift)
    small = np.asarray(placed.resize((CELL, CELL), Image.BOX), np.float32) / 255
    flipped = small[::-1]  # the cell's second axis grows with its rows
    return flipped[:, ::-1] if mark.cell in ("+y", "-x") else flipped


def draw_mark(made: Texture, mark: Mark) -> None:
    """Print a mark onto a texture."""
    where, alpha = made.cell(mark.cell), mark_cover(mark, made.extent) * 0.92
    colour_over(made, mark, alpha)
    made.metallic[where] *= 1 - alpha
    made.roughness[where] += (0.5 - made.roughness[where]) * alpha


def colour_over(made: Texture, mark: Mark, alpha: np.ndarray) -> None:
    """Lay a mark's colour over its cell of a texture by a cover in [0, 1]."""
    where = made.cell(mark.cell)
    made.albedo[where] += (np.asarray(mark.colour, np.float32) - made.albedo[where]) * alpha[..., None]
