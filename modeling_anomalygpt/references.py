"""What a memory bank keeps as notes, checked where a bank enters: later nobody can say which file was wrong.

Knows the notes of [`AnomalyInspector`]; knows no model and no pictures.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn import functional

from .localization import few_shot_anomaly_map
from .memory_bank import MemoryBank, PatchFeatures, unit_length

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


# A picture is unlike when it is this much farther than references and their views are from each other, and at least
# this far: other good pictures of the same part were never farther than .051, other kinds of photographed parts hardly
# ever nearer than .07; drawn parts come as near as .02 (python -m benchmarks.normal_limits), so not all are caught.
_FARTHER, _FAR = 1.3, 0.07
# Standard deviations of the normalised pixels, as they are and where the light is matched; powers of e of the mean
# difference of a pixel from its surroundings.
_EXPOSURE, _MATCHED_EXPOSURE, _BLUR = 0.8, 1.5, 0.7
# From which difference on light is matched (the embedded vision model learned to bear a tenth more or less light), and
# least and most by which it is multiplied.
_OTHER_LIGHT, _GAINS = 0.3, (0.4, 2.5)
_MOST_KEPT = 24


@dataclass(frozen=True)
class Traits:
    r"""
    What a picture is like as a whole.

    Args:
        vectors (`torch.Tensor` of shape `(batch_size, dim)`):
            Mean patch vectors of the last layer, unit length.
        brightness (`torch.Tensor` of shape `(batch_size,)`):
            Mean of the normalised pixels.
        sharpness (`torch.Tensor` of shape `(batch_size,)`):
            Natural logarithm of the mean difference of a pixel from its surroundings.
    """

    vectors: torch.Tensor
    brightness: torch.Tensor
    sharpness: torch.Tensor


def picture_traits(
    pixel_values: torch.Tensor, last_layer: PatchFeatures, brightness: torch.Tensor | None = None
) -> Traits:
    r"""
    Traits of pictures as the vision model saw them.

    Args:
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`):
            Normalised pictures.
        last_layer ([`PatchFeatures`]):
            Their last layer.
        brightness (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            Theirs before [`Comparability.relit`]; of `pixel_values` by default.

    Returns:
        [`Traits`]
    """
    grey = pixel_values.float().mean(1, keepdim=True)
    around = functional.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
    return Traits(
        vectors=unit_length(last_layer.vectors.mean(1)),
        brightness=picture_brightness(pixel_values) if brightness is None else brightness,
        sharpness=(grey - around).abs().mean((1, 2, 3)).clamp(min=1e-6).log(),
    )


def picture_brightness(pixel_values: torch.Tensor) -> torch.Tensor:
    """Mean of the normalised pixels, `(batch_size,)`."""
    return pixel_values.float().mean((1, 2, 3))


@dataclass(frozen=True)
class Comparability:
    r"""
    What pictures must be like to be compared with these references.

    Args:
        vectors (`list[list[float]]`):
            Mean patch vectors of up to 24 references.
        farthest (`float`):
            Largest cosine distance from the nearest of them.
        light (`tuple[float, float]`):
            Lowest and highest mean of the normalised pixels of the references and their views.
        sharpness (`float`):
            Lowest sharpness.
    """

    vectors: list[list[float]]
    farthest: float
    light: tuple[float, float]
    sharpness: float

    @classmethod
    def of(cls, references: ViewedReferences) -> "Comparability":
        """Limits from the references and their views."""
        good = picture_traits(references.pixel_values, references.good[-1])
        views = picture_traits(references.view_pixel_values, references.views[-1])
        firsts = references.firsts[:_MOST_KEPT]
        similar = good.vectors[firsts] @ good.vectors[firsts].T
        apart = [1 - float((views.vectors @ good.vectors.T).max(1).values.min())]
        if len(firsts) > 1:
            apart.append(1 - float(similar.fill_diagonal_(-1).max(1).values.min()))
        light = torch.cat([good.brightness, views.brightness])
        return cls(
            vectors=[[round(value, 5) for value in row] for row in good.vectors[firsts].tolist()],
            farthest=max(_FAR, _FARTHER * max(apart)),
            light=(float(light.min()), float(light.max())),
            sharpness=float(torch.cat([good.sharpness, views.sharpness]).min()) - _BLUR,
        )

    def relit(self, pixel_values: torch.Tensor, black: torch.Tensor) -> torch.Tensor:
        r"""
        Pictures that are darker or brighter by 0.3 than all references and their views, in the nearest light of these.

        As a longer or shorter exposure would: every pixel is multiplied by the same number, from 0.4 to 2.5.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`):
                Normalised pictures.
            black (`torch.Tensor` of shape `(3,)`):
                What black is after normalisation, `-mean / std`.

        Returns:
            `torch.Tensor` of shape `(batch_size, 3, height, width)`: the others are untouched.
        """
        brightness, level = picture_brightness(pixel_values), black.mean()
        wanted = brightness.clamp(*self.light)
        filled = (pixel_values.abs() > 1e-5).any(1, keepdim=True)  # around a letterboxed picture all is 0
        part = filled.float().mean((1, 2, 3)).clamp(min=1e-3)
        gains = ((wanted / part - level) / (brightness / part - level).clamp(min=1e-3)).clamp(*_GAINS)
        black = black[:, None, None]
        brought = (black + gains[:, None, None, None] * (pixel_values - black)).to(pixel_values)
        other = (wanted - brightness).abs() > _OTHER_LIGHT
        return torch.where(other[:, None, None, None] & filled, brought, pixel_values)

    def doubts(self, traits: Traits, matched: bool = False) -> list[list[str]]:
        r"""
        Why pictures may not be comparable.

        Args:
            traits ([`Traits`]):
                Of the pictures.
            matched (`bool`, defaults to `False`):
                Whether they were compared in the references' light; a greater difference is let pass then.

        Returns:
            `list[list[str]]`: For each picture any of `"unlike"`, `"exposure"`, `"blur"`; empty where there is none.
        """
        good = torch.tensor(self.vectors).to(traits.vectors)
        distances = 1 - (traits.vectors @ unit_length(good).T).max(1).values
        play = _MATCHED_EXPOSURE if matched else _EXPOSURE
        found = []
        for distance, brightness, sharpness in zip(
            distances.tolist(), traits.brightness.tolist(), traits.sharpness.tolist(), strict=True
        ):
            doubts = ["unlike"] * (distance > self.farthest)
            doubts += ["exposure"] * (not self.light[0] - play <= brightness <= self.light[1] + play)
            doubts += ["blur"] * (sharpness < self.sharpness)
            found.append(doubts)
        return found

    def to_json(self) -> str:
        """For the notes of a memory bank."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Comparability":
        """Reads [`Comparability.to_json`] back."""
        row = json.loads(text)
        return cls(row["vectors"], row["farthest"], tuple(row["light"]), row["sharpness"])


def load_bank(path: str | os.PathLike, fingerprint: str) -> MemoryBank:
    """Reads a memory bank of this encoder ([`MemoryBank.load`]) and checks its notes."""
    bank = MemoryBank.load(path, fingerprint)
    check_notes(bank)
    return bank


def check_notes(bank: MemoryBank) -> None:
    r"""
    Refuses a bank whose notes are not those that an inspector writes.

    Args:
        bank ([`MemoryBank`]):
            From a file, perhaps of a stranger. Notes of other names are let pass; nobody reads them.

    Raises:
        ValueError: If a note is no JSON or holds something else; names the note.

    Example:
    ```python
    >>> import torch
    >>> bank = MemoryBank((torch.eye(4),), (torch.arange(4),), ((2, 2),), 1, notes={"calibration": "[]"})
    >>> check_notes(bank)
    Traceback (most recent call last):
    ValueError: `memory_bank` must have a note 'calibration' that an inspector wrote, got '[]'. Make the bank again.

    ```
    """
    checks = {
        "normal_scores": _are_scores,
        "comparability": _is_comparability,
        "copies": _are_copies,
        "calibration": _is_calibration,
    }
    for name, check in checks.items():
        if name not in bank.notes:
            continue
        try:
            sound = check(json.loads(bank.notes[name]), bank)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            sound = False
        if not sound:
            raise ValueError(
                f"`memory_bank` must have a note {name!r} that an inspector wrote, got {bank.notes[name]!r:.60}. "
                "Make the bank again."
            )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_scores(row: Any, bank: MemoryBank) -> bool:
    return isinstance(row["crossed"], list) and all(map(_is_number, row["crossed"]))


def _is_comparability(row: Any, bank: MemoryBank) -> bool:
    vectors, width = row["vectors"], bank.features[-1].shape[1]
    return (
        isinstance(vectors, list)
        and len(vectors) > 0
        and all(isinstance(one, list) and len(one) == width and all(map(_is_number, one)) for one in vectors)
        and isinstance(row["light"], list)
        and len(row["light"]) == 2
        and all(map(_is_number, (row["farthest"], row["sharpness"], *row["light"])))
    )


def _are_copies(row: Any, bank: MemoryBank) -> bool:
    copies, sizes = row
    return (
        type(copies) is int
        and copies >= 1
        and isinstance(sizes, list)
        and copies * len(sizes) <= bank.num_references  # feedback adds pictures
        and all(len(size) == 2 and all(type(side) is int and side > 0 for side in size) for size in sizes)
    )


def _is_calibration(row: Any, bank: MemoryBank) -> bool:
    names = ("num_normals", "supported_false_alarm_rate", "confidence", "evidence_limit")
    return row == {} or all(_is_number(row[name]) for name in names)


__all__ = [
    "Comparability",
    "NormalScores",
    "Traits",
    "ViewedReferences",
    "check_notes",
    "load_bank",
    "normal_scores",
    "normal_views",
    "picture_brightness",
    "picture_traits",
    "scores_of",
    "view_references",
]
