"""The methods AnomalyGPT is compared with, on the patch vectors of any vision model: PatchCore, SPADE, PaDiM, pixels.

Reimplemented from their papers, on unit-length vectors and with the matching of [`MemoryBank`], as AnomalyGPT itself;
so they differ in method, not in features. Each is a [`Detector`]; none gives a verdict. Known differences from the
published ones: cosine instead of raw Euclidean distances, the checkpoint's vision model instead of a WideResNet-50.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from .backbones import Backbone, in_batches
from .detectors import Detection
from .localization import patch_scores
from .memory_bank import MemoryBank, best_matches, unit_length

METHODS = ("patchcore", "patchcore_few", "spade", "padim", "pixel_difference", "winclip")
"""Names of the methods; the last is in `window_text_scores`."""

_CORESET_SHARE, _CORESET_MOST = 0.1, 4096
_REWEIGHTED_NEIGHBOURS = 9
_SPADE_NEIGHBOURS = 50
_PADIM_DIMS, _PADIM_EPSILON = 100, 0.01
_SMOOTHING = 4 / 224  # sigma of the maps, as part of the side: 4 pixels of 224


class PatchCore:
    r"""
    Distance of each patch from the nearest good one (PatchCore, https://arxiv.org/abs/2106.08265).

    The picture's score is that of its farthest patch, weighted down where the good patch it is nearest to lies among
    others just as near (equation 7, nine neighbours).

    Args:
        backbone ([`Backbone`]):
            Makes the patches.
        coreset (`bool`):
            Whether a tenth of the good patches is kept (at most 4,096, greedy k-centre) and all good pictures are
            taken; else every patch of a few pictures.
        batch_size (`int`, defaults to 8):
            Pictures that go through the model together.
    """

    def __init__(self, backbone: Backbone, coreset: bool, batch_size: int = 8):
        self.backbone, self.coreset, self.batch_size = backbone, coreset, batch_size
        self.name = "patchcore" if coreset else "patchcore_few"
        self.shots = ("all",) if coreset else ("some",)
        self.backbone_name, self.facts = backbone.name, backbone.facts

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        bank = None
        for batch in in_batches(references, self.batch_size):
            part = MemoryBank.build((self.backbone.look(batch)[1],))
            bank = part if bank is None else bank.extend(part)
        if self.coreset:
            bank = bank.reduce(min(_CORESET_MOST, math.ceil(_CORESET_SHARE * len(bank.features[0]))))
        self.bank = bank.features[0]

    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]."""
        for batch in in_batches(pictures, self.batch_size):
            _, layer = self.backbone.look(batch)
            distances = (2 * patch_scores(layer, self.bank).clamp(min=0)).sqrt()
            queries = unit_length(layer.vectors)
            scores = [self._score(one, own.flatten()) for one, own in zip(queries, distances, strict=True)]
            yield from _detections(self.backbone, batch, distances, scores)

    def _score(self, query: torch.Tensor, distances: torch.Tensor) -> float:
        farthest = int(distances.argmax())
        distance = distances[farthest]
        if len(self.bank) < 2:
            return float(distance)
        patch = query[farthest]
        nearest = int((self.bank @ patch).argmax())
        count = min(_REWEIGHTED_NEIGHBOURS, len(self.bank))
        around = (self.bank @ self.bank[nearest]).topk(count).indices
        apart = (2 - 2 * (self.bank[around] @ patch)).clamp(min=0).sqrt()
        weight = 1 - torch.exp(distance) / torch.exp(apart).sum()
        return float(weight * distance)


class Spade:
    r"""
    Nearest good pictures as wholes, then nearest patches among theirs (SPADE, https://arxiv.org/abs/2005.02357).

    The picture's score is the mean distance of its global vector from the 50 nearest good ones (all, where there are
    fewer).

    Args:
        backbone ([`Backbone`]):
            Makes the vectors.
        batch_size (`int`, defaults to 8):
            Pictures that go through the model together.
    """

    name, shots = "spade", ("some", "all")

    def __init__(self, backbone: Backbone, batch_size: int = 8):
        self.backbone, self.batch_size = backbone, batch_size
        self.backbone_name, self.facts = backbone.name, backbone.facts

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        looks = [self.backbone.look(batch) for batch in in_batches(references, self.batch_size)]
        self.wholes = torch.cat([pooled for pooled, _ in looks])
        self.patches = unit_length(torch.cat([layer.vectors for _, layer in looks]))

    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]."""
        count = min(_SPADE_NEIGHBOURS, len(self.wholes))
        for batch in in_batches(pictures, self.batch_size):
            pooled, layer = self.backbone.look(batch)
            near = torch.cdist(pooled, self.wholes).topk(count, largest=False)
            queries = unit_length(layer.vectors)
            best = [
                best_matches(query, self.patches[chosen].flatten(0, 1))[0]
                for query, chosen in zip(queries, near.indices, strict=True)
            ]
            distances = (2 - 2 * torch.stack(best)).clamp(min=0).sqrt().view(-1, *layer.grid)
            yield from _detections(self.backbone, batch, distances, near.values.mean(1).tolist())


class Padim:
    r"""
    A normal distribution at each place of the picture (PaDiM, https://arxiv.org/abs/2011.08785).

    At most 100 features, drawn once; 0.01 is added to the variances. The score is the maximum of the smoothed map of
    Mahalanobis distances.

    Args:
        backbone ([`Backbone`]):
            Makes the patches.
        batch_size (`int`, defaults to 8):
            Pictures that go through the model together.
    """

    name, shots = "padim", ("some", "all")

    def __init__(self, backbone: Backbone, batch_size: int = 8):
        self.backbone, self.batch_size = backbone, batch_size
        self.backbone_name, self.facts = backbone.name, backbone.facts

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        looks = [self.backbone.look(batch)[1].vectors for batch in in_batches(references, self.batch_size)]
        dim = looks[0].shape[-1]
        drawn = np.random.default_rng(0).permutation(dim)[:_PADIM_DIMS]
        self.dims = torch.as_tensor(np.sort(drawn), device=looks[0].device)
        vectors = torch.cat([one[..., self.dims] for one in looks])
        self.mean = vectors.mean(0)
        apart = vectors - self.mean
        spread = torch.einsum("npd,npe->pde", apart, apart) / max(1, len(vectors) - 1)
        eye = torch.eye(len(self.dims), device=vectors.device)
        self.precision = torch.linalg.inv(spread + _PADIM_EPSILON * eye)

    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]."""
        for batch in in_batches(pictures, self.batch_size):
            _, layer = self.backbone.look(batch)
            apart = layer.vectors[..., self.dims] - self.mean
            distances = torch.einsum("npd,pde,npe->np", apart, self.precision, apart).clamp(min=0).sqrt()
            yield from _detections(self.backbone, batch, distances.view(-1, *layer.grid), None)


class PixelDifference:
    r"""
    No model at all: each pixel's mean difference over the colours from the same pixel of the nearest good picture.

    Args:
        size (`tuple[int, int]`):
            `(height, width)` at which pictures are compared.
    """

    name, shots = "pixel_difference", ("some", "all")

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.facts = {"checkpoint": "", "checkpoint_hash": f"pixels {size[0]}x{size[1]}", "saw_test_pictures": "no"}

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        self.good = [self._pixels(one) for one in references]

    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]; the score is the maximum."""
        for picture in pictures:
            pixels, found = self._pixels(picture), None
            for good in self.good:
                apart = np.abs(pixels - good).mean(2)
                found = apart if found is None else np.minimum(found, apart)
            enlarged = cv2.resize(found, picture.size, interpolation=cv2.INTER_LINEAR)
            yield Detection(float(found.max()), enlarged)

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        height, width = self.size
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255


def make_baselines(methods: Sequence[str], backbone: Backbone, inspector: Any, batch_size: int = 8) -> list[Any]:
    r"""
    Detectors by name.

    Args:
        methods (`list[str]`):
            Of `METHODS`.
        backbone ([`Backbone`]):
            For those that compare patches.
        inspector ([`AnomalyInspector`]):
            Its model gives the texts of `"winclip"`.
        batch_size (`int`, defaults to 8):
            Pictures that go through a model together.

    Returns:
        `list[Detector]`

    Raises:
        ValueError: If a name is unknown, **or** `"winclip"` is asked of a model without a text tower.
    """
    from .window_text_scores import WindowTextScores

    size = backbone.image_processor.size
    made = {
        "patchcore": lambda: PatchCore(backbone, True, batch_size),
        "patchcore_few": lambda: PatchCore(backbone, False, batch_size),
        "spade": lambda: Spade(backbone, batch_size),
        "padim": lambda: Padim(backbone, batch_size),
        "pixel_difference": lambda: PixelDifference((size["height"], size["width"])),
        "winclip": lambda: WindowTextScores(inspector.model, inspector.processor),
    }
    for method in methods:
        if method not in made:
            raise ValueError(f"`--methods` must be among anomalygpt, {', '.join(METHODS)}, got {method!r}.")
    return [made[method]() for method in methods]


def _detections(
    backbone: Backbone, batch: Sequence[Image.Image], distances: torch.Tensor, scores: Sequence[float] | None
) -> Iterator[Detection]:
    """Patch distances as smoothed maps of the pictures; where there is no score, the maximum of the map."""
    size = backbone.image_processor.size
    canvas = (size["width"], size["height"])
    maps = []
    for one in distances.cpu().numpy():
        enlarged = cv2.resize(one, canvas, interpolation=cv2.INTER_LINEAR)
        sigma = _SMOOTHING * size["height"]
        maps.append(cv2.GaussianBlur(enlarged, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
    if scores is None:
        scores = [float(one.max()) for one in maps]
    for score, one in zip(scores, backbone.to_pictures(np.stack(maps), batch), strict=True):
        yield Detection(score, one)


__all__ = ["METHODS", "Padim", "PatchCore", "PixelDifference", "Spade", "make_baselines"]
