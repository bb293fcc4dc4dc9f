"""Procedural pictures of industrial parts, without and with defects: products to photograph.

A *product* is one design of a family (a gear of 21 teeth in brass under a certain lamp); each photograph of it shows
another piece of it in another pose with its own texture, light and sensor noise. All is a pure function of the random
generators passed in. Nothing is downloaded.

```python
>>> import numpy as np
>>> product = render_product("gear", np.random.default_rng(0))
>>> good = product.photograph(np.random.default_rng(1))
>>> bad = product.photograph(np.random.default_rng(2), defect="missing_part")
>>> good.image.shape, good.label, bad.label, bool(bad.mask.any())
((224, 224, 3), 0, 1, True)

```
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .canvas import Design, Scene
from .defects import DEFECTS, STRUCTURAL_DEFECTS, SURFACE_DEFECTS, apply_defect
from .electronics import CircuitBoard, PrintedLabel
from .goods import Biscuit, Block, Kernel, Screw
from .mechanics import BottleTop, Cable, Gear, HexNut
from .medicine import Capsules, Pills
from .noise import Camera, Light, View, illuminate
from .surfaces import CeramicTile, Granular, Leather, MachinedMetal, WoodGrain
from .textiles import KnittedFabric, WireGrid, WovenFabric, Zipper

_SURFACES = (MachinedMetal, Leather, WoodGrain, CeramicTile, Granular, WovenFabric, KnittedFabric, WireGrid)
_OBJECTS = (
    Zipper, Gear, HexNut, BottleTop, Cable, Capsules, Pills, CircuitBoard, PrintedLabel, Screw, Biscuit, Kernel, Block,
)  # fmt: skip
_DESIGNS = {design.family: design for design in (*_SURFACES, *_OBJECTS)}

FAMILIES: tuple[str, ...] = tuple(_DESIGNS)
"""All families."""

HELD_BACK_FAMILIES: tuple[str, ...] = ("ceramic_tile", "zipper", "capsules")
"""One texture and two objects that no training picture shows."""

TRAINING_FAMILIES: tuple[str, ...] = tuple(name for name in FAMILIES if name not in HELD_BACK_FAMILIES)
"""The families to train on."""

SURFACE_FAMILIES: tuple[str, ...] = tuple(design.family for design in _SURFACES)
"""The families that fill the whole picture (their `object_mask` is `None`)."""

_UNSUITED = {
    "granular": ("dent", "crack", "scratch"),
    "woven_fabric": ("dent", "crack"),
    "knitted_fabric": ("dent", "crack", "scratch"),
    "wire_grid": ("dent", "crack", "hole", "scratch"),
    "circuit_board": ("dent", "hole"),
    "bottle_top": ("dent",),
    "zipper": ("dent", "crack"),
    "cable": ("dent",),
}
_SMALLEST_CHANGE = 0.001  # share of the picture that a structural defect covers at least
_FAINTEST_CHANGE = 9.0  # mean difference in grey levels under its mask, at least
_STRUCTURAL_SHARE = 0.4  # of the random defects of a family that has structural ones


@dataclass
class RenderedPart:
    """One rendered photograph and all that is known about it.

    Args:
        image (`np.ndarray`): `uint8` RGB picture of shape `(size, size, 3)`.
        mask (`np.ndarray`): `bool` mask `(size, size)` of the defect, all false on a good part.
        label (`int`): 0 normal, 1 anomalous.
        category (`str`): Name of the family.
        defect_type (`str`): One of [`DEFECTS`], or `"good"`.
        description (`str`): What the product is and how it should look.
        description_zh (`str`): The same in Chinese.
        object_mask (`np.ndarray` or `None`): `bool` silhouette of the part; `None` when it fills the picture.
        defect_words (`str`): The defect in words, empty on a good part.
        defect_words_zh (`str`): The same in Chinese.
    """

    image: np.ndarray
    mask: np.ndarray
    label: int
    category: str
    defect_type: str
    description: str
    description_zh: str
    object_mask: np.ndarray | None = None
    defect_words: str = ""
    defect_words_zh: str = ""


@dataclass(frozen=True)
class Product:
    """One product with its place under the camera; [`render_product`] makes them.

    Args:
        family (`str`): Name of the family.
        design ([`~canvas.Design`]): The design.
        size (`int`): Width and height of its photographs in pixels.
        light ([`~rendering.Light`]): The lamp, about which each photograph varies a little.
        camera ([`~rendering.Camera`]): The camera.
        pose (`tuple[float, float, float, float]`): Usual rotation (radians), scale, shift right and down (part units).
        play (`tuple[float, float, float]`): How far a photograph's rotation (radians), scale (relative) and shift
            (pixels of a 224 pixel picture) depart from the usual pose: the fixed camera of a production line up to
            parts thrown on a table.
    """

    family: str
    design: Design
    size: int
    light: Light
    camera: Camera
    pose: tuple[float, float, float, float]
    play: tuple[float, float, float]

    @property
    def defects(self) -> tuple[str, ...]:
        """The defect types this product can have, structural ones last."""
        unsuited = _UNSUITED.get(self.family, ())
        return tuple(name for name in SURFACE_DEFECTS if name not in unsuited) + self.design.structural

    def _view(self, rng: np.random.Generator, texture: np.random.Generator) -> View:
        """Draws the pose and light of one photograph."""
        turn, scale, right, down = self.pose
        angle = turn + rng.uniform(-1, 1) * self.play[0]
        factor = scale * (1 + rng.uniform(-1, 1) * self.play[1])
        shift = np.array([right, down]) * self.size / 2 + rng.uniform(-1, 1, 2) * self.play[2] * self.size / 224
        reach = factor * self.size / 2
        cosine, sine = np.cos(angle) * reach, np.sin(angle) * reach
        middle = (self.size - 1) / 2
        matrix = np.array([[cosine, -sine, middle + shift[0]], [sine, cosine, middle + shift[1]]])
        lamp = self.light
        light = replace(
            lamp,
            azimuth=lamp.azimuth + rng.normal(0, 0.06),
            tilt=float(np.clip(lamp.tilt + rng.normal(0, 0.03), 0.15, 1.25)),
            level=lamp.level * float(np.exp(rng.normal(0, 0.04))),
            warmth=lamp.warmth + rng.normal(0, 0.006),
        )
        return View(self.size, matrix, light, texture)

    def _draw(self, seed: int, piece: int, defect: str | None, choice: np.random.Generator) -> tuple[View, Scene]:
        """Draws a piece as the camera finds it, the same for the same seeds."""
        view = self._view(np.random.default_rng(seed), np.random.default_rng(piece))
        return view, self.design.draw(view, defect, choice)

    @staticmethod
    def _shows(scene: Scene, good: Scene) -> bool:
        """Whether a structural defect is large enough and differs enough from the good piece."""
        if scene.change is None or scene.change.mean() < _SMALLEST_CHANGE:
            return False
        return float(np.abs(scene.image[scene.change] - good.image[scene.change]).max(1).mean()) >= _FAINTEST_CHANGE

    def photograph(
        self, rng: np.random.Generator, defect: str | None = None, piece: int | None = None
    ) -> RenderedPart:
        """Takes a picture of one piece of the product.

        Args:
            rng (`np.random.Generator`): Source of pose, light, noise, defect and, without `piece`, texture.
            defect (`str`, *optional*): `None` for a good piece, `"random"`, or one of `defects`.
            piece (`int`, *optional*): Seed of the piece's own texture and tolerances: the same number shows the same
                piece again. Drawn from `rng` when absent.

        Returns:
            [`RenderedPart`]: The picture, the mask and the words.

        Raises:
            ValueError: If the product cannot have that defect.
        """
        seeds = rng.integers(0, 2**62, 4)
        piece = int(seeds[0]) if piece is None else piece
        choice, noise = np.random.default_rng(seeds[2]), np.random.default_rng(seeds[3])
        if defect == "random":
            pool = self.defects[: len(self.defects) - len(self.design.structural)]
            if self.design.structural and choice.random() < _STRUCTURAL_SHARE:
                pool = self.design.structural
            defect = pool[int(choice.integers(len(pool)))]
        elif defect is not None and defect not in self.defects:
            raise ValueError(
                f"`defect` must be None, 'random' or one of {', '.join(self.defects)} for a {self.family}, "
                f"got {defect!r}. Choose one of them, or draw another product."
            )
        structural = defect in STRUCTURAL_DEFECTS
        for attempt in range(5):
            view, scene = self._draw(seeds[1], piece, defect if structural else None, choice)
            if not structural or self._shows(scene, self._draw(seeds[1], piece, None, np.random.default_rng(0))[1]):
                break
            if attempt == 3:  # outside the picture or invisible in every try: draw a surface defect instead
                structural, defect = False, "stain"
        image = illuminate(scene.image, view.light)
        mask, words = np.zeros((self.size, self.size), bool), ("", "")
        if structural:
            mask, words = scene.change, scene.words
        elif defect is not None:
            drawn = apply_defect(image, defect, choice, scene.object_mask)
            image, mask, words = drawn.image, drawn.mask, drawn.words
        return RenderedPart(
            image=self.camera.expose(image, noise),
            mask=mask,
            label=int(defect is not None),
            category=self.family,
            defect_type=defect or "good",
            description=self.design.description,
            description_zh=self.design.description_zh,
            object_mask=scene.object_mask,
            defect_words=words[0],
            defect_words_zh=words[1],
        )


def render_product(family: str, rng: np.random.Generator, size: int = 224) -> Product:
    """Draws a product of a family: its design, lamp, camera and usual pose.

    Args:
        family (`str`): One of [`FAMILIES`].
        rng (`np.random.Generator`): Source of all draws.
        size (`int`, *optional*, defaults to 224): Width and height of its photographs in pixels.

    Returns:
        [`Product`]: The product, to be photographed any number of times.

    Raises:
        ValueError: On an unknown family or a size below 64.
    """
    if family not in _DESIGNS:
        raise ValueError(f"`family` must be one of {', '.join(FAMILIES)}, got {family!r}. Choose one of them.")
    if size < 64:
        raise ValueError(f"`size` must be at least 64 pixels, got {size}. Ask for a larger picture and shrink it.")
    design = _DESIGNS[family](rng)
    light = Light(
        azimuth=rng.uniform(0, 2 * np.pi),
        tilt=rng.uniform(0.35, 1.05),
        level=rng.uniform(0.85, 1.12),
        warmth=float(np.clip(rng.normal(0, 0.03), -0.09, 0.09)),
        slope=rng.uniform(0, 0.4),
        vignette=rng.uniform(0, 0.35),
    )
    quality = int(rng.choice([0, int(rng.integers(60, 98)), int(rng.integers(80, 98))]))
    camera = Camera(blur=float(rng.choice([0.0, rng.uniform(0.3, 0.9)])), noise=rng.uniform(0.5, 4.5), jpeg=quality)
    mounting = rng.random()
    if mounting < 0.45:  # a fixed camera over a fixture
        play = (np.deg2rad(0.4), 0.003, rng.uniform(0.3, 2.0))
    elif mounting < 0.8:  # placed by hand
        play = (np.deg2rad(rng.uniform(3, 12)), 0.04, rng.uniform(4, 12))
    else:  # thrown on a table
        play = (np.pi, 0.08, rng.uniform(8, 20))
    if family in SURFACE_FAMILIES:
        turn = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]))
        scale = rng.uniform(0.8, 1.5)
    else:
        turn = float(rng.choice([0.0, rng.normal(0, 0.15), rng.uniform(0, 2 * np.pi)]))
        scale = rng.uniform(0.78, 1.04)
    pose = (turn, scale, *rng.uniform(-0.05, 0.05, 2))
    return Product(family, design, size, light, camera, tuple(map(float, pose)), tuple(map(float, play)))


def render_part(family: str, rng: np.random.Generator, size: int = 224, defect: str | None = None) -> RenderedPart:
    """Draws a product and takes one picture of it, see [`render_pair`]."""
    return _product_with(family, rng, size, defect).photograph(rng, defect)


def render_pair(
    family: str, rng: np.random.Generator, size: int = 224, defect: str | None = None, same_instance: bool = False
) -> tuple[RenderedPart, RenderedPart]:
    """Draws a product and takes two pictures of it: a good reference and a query.

    Args:
        family (`str`): One of [`FAMILIES`].
        rng (`np.random.Generator`): Source of all draws.
        size (`int`, *optional*, defaults to 224): Width and height in pixels.
        defect (`str`, *optional*): The query's defect; `None`, `"random"`, or one of [`DEFECTS`].
        same_instance (`bool`, *optional*, defaults to `False`): Whether both show the same piece (same texture)
            instead of two pieces of the product.

    Returns:
        `tuple[RenderedPart, RenderedPart]`: The reference without defect, and the query.

    Raises:
        ValueError: On an unknown family or defect, or a defect that the family never has.
    """
    product = _product_with(family, rng, size, defect)
    piece = int(rng.integers(2**62)) if same_instance else None
    return product.photograph(rng, None, piece), product.photograph(rng, defect, piece)


def _product_with(family: str, rng: np.random.Generator, size: int, defect: str | None) -> Product:
    """Draws a product that can have the defect."""
    if defect not in (None, "random", *DEFECTS):
        raise ValueError(
            f"`defect` must be None, 'random' or one of {', '.join(DEFECTS)}, got {defect!r}. Choose one."
        )
    for _ in range(64):
        product = render_product(family, rng, size)
        if defect in (None, "random") or defect in product.defects:
            return product
    raise ValueError(
        f"`defect` must be one that a {family} can have ({', '.join(product.defects)}), got {defect!r}. Take another."
    )
