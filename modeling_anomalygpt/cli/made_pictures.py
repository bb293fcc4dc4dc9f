"""Where the pictures of `anomalygpt synthesize` come from: photographs with made defects, or rendered products.

The only place that puts the methods of this package and the renderers of `datasets_scripts` together. What picture
number `index` shows depends on the seed, the settings and `index` alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from datasets_scripts.rendering.defects import STRUCTURAL_DEFECTS, SURFACE_DEFECTS, apply_defect
from datasets_scripts.rendering.products import FAMILIES, Product, render_product

from ..images import PictureError, load_picture
from ..synthesis.anomaly import MIN_SIDE, SyntheticAnomaly, shrunk
from ..synthesis.pasted import drawn_defect
from ..synthesis.synthesizer import Mixture, cut_paste, cut_paste_scar, nsa, perlin_texture

_GOOD, _BAD = 0, 1  # apart in the seeds


def _draw(name: str, image: np.ndarray, object_mask: np.ndarray | None, rng: np.random.Generator) -> Any:
    return apply_defect(image, name, rng, object_mask)


METHODS: dict[str, Callable[..., SyntheticAnomaly]] = {
    "nsa": nsa,
    "nsa_mixed": partial(nsa, blending="mixed"),
    "nsa_original": partial(nsa, compat="original"),
    "cut_paste": cut_paste,
    "scar": cut_paste_scar,
    "perlin": perlin_texture,
    **{name: partial(drawn_defect, renderer=partial(_draw, name)) for name in SURFACE_DEFECTS},
}
"""Methods that work on any picture."""

PHOTOGRAPH_DEFAULT = ("nsa", "cut_paste", "scar", "perlin", *SURFACE_DEFECTS)
"""What is drawn from on photographs when no method is named."""

ALL_METHODS = (*METHODS, *STRUCTURAL_DEFECTS)
"""Those, and the defects that need a rendered product's design."""


@dataclass(frozen=True, eq=False)
class MadePicture:
    """One picture, uint8 `(height, width, 3)`, with the mask of its defect, bool `(height, width)`.

    `defect_type` is `"good"` where there is none; `category` is the family of a rendered product, `origin` the good
    picture's file or the family.
    """

    image: np.ndarray
    mask: np.ndarray
    defect_type: str
    category: str | None
    origin: str


class Photographs:
    """Good photographs, on which the methods of `weights` make defects, as often as their weights say.

    Patches and textures come from `sources`, without any from the other good photographs. `category` chooses the
    settings of NSA and the background; longer pictures are shrunk to `short_side` pixels.
    """

    categories: tuple[str | None, ...] = (None,)

    def __init__(
        self,
        files: Sequence[str],
        sources: Sequence[str],
        weights: Mapping[str, float],
        category: str | None,
        short_side: int | None,
        seed: int,
    ):
        structural = [name for name in weights if name not in METHODS]
        if structural:
            raise ValueError(
                f"`--methods` on photographs must be among {', '.join(METHODS)}, got {structural[0]!r}. "
                "It needs a rendered product: name --family."
            )
        self.methods = tuple(weights)
        self._files, self._sources, self._category, self._seed = list(files), list(sources), category, seed
        self._order = np.random.default_rng([seed, 7]).permutation(len(self._files))
        self._mixture = Mixture([METHODS[name] for name in weights], list(weights.values()))
        self._read = lru_cache(maxsize=64)(partial(_read, short_side=short_side))

    def good(self, index: int) -> MadePicture:
        """The good picture below picture `index`."""
        file = self._files[self._order[index % len(self._files)]]
        image = self._read(file)
        return MadePicture(image, np.zeros(image.shape[:2], bool), "good", None, file)

    def make(self, index: int, method: str | None = None) -> MadePicture:
        """Picture `index` with a defect; with `method`, of that method alone. Good where none can be seen."""
        good = self.good(index)
        number = 0 if method is None else 1 + self.methods.index(method)
        rng = np.random.default_rng([self._seed, _BAD, index, number])
        others = self._sources or [file for file in self._files if file != good.origin] or [good.origin]
        source = self._read(others[rng.integers(len(others))])
        maker = self._mixture if method is None else Mixture([METHODS[method]])
        made = maker(good.image, source, rng, category=self._category)
        return MadePicture(made.image, made.mask, made.defect_type if made.is_anomalous else "good", None, good.origin)


class Renderings:
    """Rendered products of `size` x `size` pixels, one of each family, which take turns; each seed shows others.

    Without weights each family gets its own defects; `ValueError` where a family can have none of those named.
    """

    def __init__(self, families: Sequence[str], weights: Mapping[str, float], size: int, seed: int):
        self.categories = tuple(families)
        self._seed = seed
        self._products = [
            render_product(name, np.random.default_rng([seed, FAMILIES.index(name)]), size) for name in families
        ]
        self._weights = [self._fitting(product, weights) for product in self._products]

    @staticmethod
    def _fitting(product: Product, weights: Mapping[str, float]) -> dict[str, float]:
        suited = {*product.defects, *(METHODS.keys() - set(SURFACE_DEFECTS))}
        wanted = weights or dict.fromkeys(product.defects, 1.0)
        fitting = {name: weight for name, weight in wanted.items() if name in suited}
        if not fitting:
            raise ValueError(
                f"`--methods` must hold something that a {product.family} can have ({', '.join(product.defects)}), "
                f"got {', '.join(weights)}. Name one of these, or leave the family out."
            )
        return fitting

    def good(self, index: int) -> MadePicture:
        """Another good picture of the family of `index`."""
        product, rng, _ = self._drawn(_GOOD, index)
        part = product.photograph(rng)
        return MadePicture(part.image, part.mask, "good", product.family, product.family)

    def make(self, index: int) -> MadePicture:
        """Picture `index`, of its family, with a defect."""
        product, rng, weights = self._drawn(_BAD, index)
        share = np.array(list(weights.values()))
        method = list(weights)[rng.choice(len(weights), p=share / share.sum())]
        if method in product.defects:
            part = product.photograph(rng, method)
            return MadePicture(part.image, part.mask, part.defect_type, product.family, product.family)
        image, source = product.photograph(rng).image, product.photograph(rng).image
        made = METHODS[method](image, source, rng)
        kind = made.defect_type if made.is_anomalous else "good"
        return MadePicture(made.image, made.mask, kind, product.family, product.family)

    def _drawn(self, kind: int, index: int) -> tuple[Product, np.random.Generator, Mapping[str, float]]:
        """Product, random numbers and weights of a picture."""
        number, family = divmod(index, len(self._products))
        product = self._products[family]
        rng = np.random.default_rng([self._seed, kind, FAMILIES.index(product.family), number])
        return product, rng, self._weights[family]


def parse_methods(words: Sequence[str]) -> dict[str, float]:
    """Reads `NAME` or `NAME=WEIGHT`; `ValueError` where a name is unknown or twice or a weight is not above 0.

    Example:
        >>> parse_methods(["nsa=2", "scratch"])
        {'nsa': 2.0, 'scratch': 1.0}
    """
    weights: dict[str, float] = {}
    for word in words:
        name, equals, number = word.partition("=")
        if name not in ALL_METHODS or name in weights:
            problem = "each once, got" if name in weights else "got"
            raise ValueError(
                f"`--methods` must be among {', '.join(ALL_METHODS)}, {problem} {name!r}. Choose some of them."
            )
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = math.nan
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"A weight in `--methods` must be a number above 0, got {word!r}. Write {name}=2.")
        weights[name] = weight
    return weights


def _read(file: str, short_side: int | None) -> np.ndarray:
    image = load_picture(file)
    if min(image.size) < MIN_SIDE:
        raise PictureError(
            f"Pictures must have sides of at least {MIN_SIDE} pixels, got {image.width} x {image.height} in {file!r}. "
            "Leave it out."
        )
    return np.asarray(shrunk(image, short_side))
