"""What the map of a normal picture of this part reaches at most, from the good references alone.

Good pictures are compared with each other and with changed views of themselves: shifted, turned, relit, blurred and
noisy, as the next photograph of a good part may be. Knows pictures as tensors and how they become patch features;
knows no files and no words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from .localization import few_shot_anomaly_map
from .memory_bank import PatchFeatures, unit_length

Encoder = Callable[[torch.Tensor], tuple[PatchFeatures, ...]]

# Shift (parts of the side), turn (degrees), scale, contrast, brightness and noise (both in standard deviations of the
# normalised pixels), share of the blurred picture.
_VIEWS = (
    ((0.03, 0.02), 0.0, 1.00, 1.00, 0.10, 0.00, 0.0),
    ((-0.02, 0.03), 0.0, 1.00, 0.90, -0.10, 0.05, 0.0),
    ((0.00, 0.00), 4.0, 1.00, 1.10, 0.05, 0.00, 0.5),
    ((0.01, -0.02), -4.0, 1.00, 1.00, -0.05, 0.05, 0.0),
)
# Pictures of which views are made, pictures that are compared with the others, pictures that are encoded together.
_MOST_VIEWED, _MOST_CROSSED, _AT_A_TIME = 4, 24, 8
# Fitted on good pictures alone, so that about one good picture in ten exceeds the limit (benchmarks/README.md).
_ONE_REFERENCE, _SEVERAL_REFERENCES = 2.0, 0.95
_EACH_DOUBLING, _MOST = 0.13, 1.4
# How much nearer the nearest good patch lies in a bank of more references.
_NEARER = 0.2


@dataclass(frozen=True)
class NormalScores:
    r"""
    Maxima of the few-shot maps of pictures that are known to be good.

    Args:
        views (`tuple[float]`):
            Of changed views of the references, against all references: how much a photograph of the same part varies.
        crossed (`tuple[float]`):
            Of each reference against the others: how much good parts differ. Empty with one reference.
        normal_distance (`float`, defaults to 0.0):
            Field of the configuration: how far good parts are usually from one reference; 0 if unknown.
    """

    views: tuple[float, ...]
    crossed: tuple[float, ...]
    normal_distance: float = 0.0

    @property
    def limit(self) -> float:
        """The highest score to be expected of a normal picture, above 0.

        Views vary less than good parts do, and a reference that is compared with the k - 1 others finds less than a
        query finds in all k; the factors make up for both. Few references tell little: what is usual for the vision
        model counts as much as one comparison, and decides alone where there is none.
        """
        by_views = _geometric_mean(self.views)
        if self.crossed:
            factor = min(_MOST, 1 + _EACH_DOUBLING * math.log2(len(self.crossed)))
            found = max(factor * _geometric_mean(self.crossed), _SEVERAL_REFERENCES * by_views)
        else:
            found = _ONE_REFERENCE * by_views
        if not self.normal_distance:
            return found
        references = max(1, len(self.crossed))
        usual = self.normal_distance * references**-_NEARER
        return (usual * found ** (references - 1)) ** (1 / references)


def normal_views(pixel_values: torch.Tensor) -> torch.Tensor:
    r"""
    Each picture as other photographs of the same good part might show it; the same at every call.

    Args:
        pixel_values (`torch.Tensor` of shape `(num_pictures, 3, height, width)`):
            Normalised pictures.

    Returns:
        `torch.Tensor` of shape `(num_views, num_pictures, 3, height, width)`
    """
    pixels = pixel_values.float()
    generator = torch.Generator().manual_seed(0)
    made = []
    for shift, degrees, scale, contrast, brightness, noise, blur in _VIEWS:
        cosine, sine = math.cos(math.radians(degrees)) / scale, math.sin(math.radians(degrees)) / scale
        turn = pixels.new_tensor([[cosine, -sine, 2 * shift[0]], [sine, cosine, 2 * shift[1]]])
        places = functional.affine_grid(turn.expand(len(pixels), 2, 3), pixels.shape, align_corners=False)
        view = functional.grid_sample(pixels, places, padding_mode="reflection", align_corners=False)
        mean = view.mean((2, 3), keepdim=True)
        view = (view - mean) * contrast + mean + brightness
        if noise:
            view = view + noise * torch.randn(view.shape[1:], generator=generator).to(view)
        if blur:
            blurred = functional.avg_pool2d(functional.pad(view, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            view = blur * blurred + (1 - blur) * view
        made.append(view.to(pixel_values))
    return torch.stack(made)


@torch.no_grad()
def normal_scores(
    encode: Encoder,
    pixel_values: torch.Tensor,
    map_size: int,
    groups: Sequence[int] | None = None,
    normal_distance: float = 0.0,
) -> NormalScores:
    r"""
    Compares good pictures with each other and with views of themselves.

    Args:
        encode (`Callable`):
            [`AnomalyGPTModel.get_patch_features`].
        pixel_values (`torch.Tensor` of shape `(num_pictures, 3, height, width)`):
            Normalised good pictures.
        map_size (`int`):
            Side of the map in pixels.
        groups (`list[int]`, *optional*):
            Which reference each picture belongs to (turned copies and tiles share one); each its own by default.
        normal_distance (`float`, defaults to 0.0):
            Field of the configuration.

    Returns:
        [`NormalScores`]
    """
    return scores_of(view_references(encode, pixel_values, groups), map_size, normal_distance)


@dataclass(frozen=True)
class ViewedReferences:
    r"""
    Good pictures and their views, looked at once.

    Args:
        pixel_values, view_pixel_values (`torch.Tensor` of shape `(num_pictures, 3, height, width)`):
            The pictures, and the views of some of them.
        good, views (`tuple[PatchFeatures]`):
            Their patch features.
        groups (`torch.Tensor` of shape `(num_pictures,)`):
            Which reference each picture belongs to.
    """

    pixel_values: torch.Tensor
    view_pixel_values: torch.Tensor
    good: tuple[PatchFeatures, ...]
    views: tuple[PatchFeatures, ...]
    groups: torch.Tensor

    @property
    def firsts(self) -> list[int]:
        """The first picture of each reference."""
        return [int((self.groups == group).nonzero()[0]) for group in self.groups.unique()]


@torch.no_grad()
def view_references(
    encode: Encoder, pixel_values: torch.Tensor, groups: Sequence[int] | None = None
) -> ViewedReferences:
    """Looks at good pictures and at views of up to four of them; see [`normal_scores`] for the arguments."""
    numbers = torch.as_tensor(list(groups) if groups is not None else range(len(pixel_values)))
    firsts = [int((numbers == group).nonzero()[0]) for group in numbers.unique()]
    views = normal_views(pixel_values[_evenly(firsts, _MOST_VIEWED)]).flatten(0, 1)
    return ViewedReferences(pixel_values, views, _encode(encode, pixel_values), _encode(encode, views), numbers)


def scores_of(references: ViewedReferences, map_size: int, normal_distance: float = 0.0) -> NormalScores:
    """Scores of views and of references against the others; see [`normal_scores`]."""
    good, groups = references.good, references.groups
    view_scores = _maxima(references.views, _rows(good, torch.ones(len(groups), dtype=torch.bool)), map_size)
    crossed = []
    if len(references.firsts) > 1:
        for picture in _evenly(references.firsts, _MOST_CROSSED):
            others = _rows(good, groups != groups[picture])
            crossed += _maxima(_pick(good, slice(picture, picture + 1)), others, map_size)
    return NormalScores(tuple(view_scores), tuple(crossed), normal_distance)


def _encode(encode: Encoder, pixel_values: torch.Tensor) -> tuple[PatchFeatures, ...]:
    parts = [encode(batch) for batch in pixel_values.split(_AT_A_TIME)]
    return tuple(
        PatchFeatures(torch.cat([layer.vectors for layer in layers]), layers[0].grid)
        for layers in zip(*parts, strict=True)
    )


def _pick(layers: tuple[PatchFeatures, ...], pictures: slice | torch.Tensor) -> tuple[PatchFeatures, ...]:
    return tuple(PatchFeatures(layer.vectors[pictures], layer.grid) for layer in layers)


def _rows(layers: tuple[PatchFeatures, ...], pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return tuple(unit_length(layer.vectors[pictures.to(layer.vectors.device)].flatten(0, 1)) for layer in layers)


def _maxima(queries: tuple[PatchFeatures, ...], bank: tuple[torch.Tensor, ...], map_size: int) -> list[float]:
    return few_shot_anomaly_map(queries, bank, map_size).flatten(1).amax(1).tolist()


def _evenly(items: list[int], most: int) -> list[int]:
    """At most so many of them, spread evenly."""
    return items if len(items) <= most else [items[number * len(items) // most] for number in range(most)]


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(max(value, 1e-6)) for value in values) / len(values))


__all__ = [
    "NormalScores",
    "ViewedReferences",
    "normal_scores",
    "normal_views",
    "scores_of",
    "view_references",
]
