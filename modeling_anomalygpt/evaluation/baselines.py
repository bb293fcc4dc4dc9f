"""The methods AnomalyGPT is compared with: PatchCore, SPADE, PaDiM, WinCLIP, differences of pixels.

Reimplemented from their papers, on unit-length vectors and with the matching of [`MemoryBank`], as AnomalyGPT itself;
so they differ in method, not in features. Each is a [`Detector`]; none gives a verdict. Known differences from the
published ones: cosine instead of raw Euclidean distances, the checkpoint's vision model instead of a WideResNet-50.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModel
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import describe_error
from ..image_processing_anomalygpt import AnomalyGPTImageProcessor
from ..localization import patch_scores
from ..memory_bank import MemoryBank, PatchFeatures, best_matches, unit_length, weights_fingerprint
from ..vision_features import read_vision_tower
from .detectors import Detection

_USUAL_SIZE = 224
_NEIGHBOURHOOD = 3  # PatchCore and its relatives average a patch with its neighbours
_CORESET_SHARE, _CORESET_MOST = 0.1, 4096
_REWEIGHTED_NEIGHBOURS = 9
_SPADE_NEIGHBOURS = 50
_PADIM_DIMS, _PADIM_EPSILON = 100, 0.01
_SMOOTHING = 4 / 224  # sigma of the maps, as part of the side: 4 pixels of 224
_CELLS = 6  # cells a side of WinCLIP's map
_WINDOWS = ((3, 1), (2, 1))  # side and step of its windows, in cells: a half and a third of the picture


class Backbone:
    """A vision model with the geometry of its pictures and the layers that are compared.

    Args:
        name (`str`): As it stands in the table.
        tower (`torch.nn.Module`): A vision model of transformers, in evaluation mode.
        image_processor ([`AnomalyGPTImageProcessor`]): Brings pictures to its input and maps back.
        out_indices (`list[int]`): Hidden states that are compared.

    `facts` name its weights in the table where they are not those of the checkpoint.
    """

    def __init__(
        self,
        name: str,
        tower: torch.nn.Module,
        image_processor: AnomalyGPTImageProcessor,
        out_indices: Sequence[int],
    ):
        self.name, self.tower, self.image_processor = name, tower, image_processor
        self.out_indices = list(out_indices)
        self.facts: dict[str, str] = {}

    @classmethod
    def load(
        cls,
        source: str | os.PathLike,
        size: int | None = None,
        out_indices: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> "Backbone":
        """Loads a vision model, or the vision half of a dual encoder.

        Args:
            source (`str` or `os.PathLike`): Folder or Hub id. Mean and deviation come from its
                `preprocessor_config.json`, where there is one.
            size (`int`, *optional*): Side of the pictures in pixels; `None`: the model's own, 224 where it has none.
            out_indices (`list[int]`, *optional*): `None`: of models whose grid shrinks the last hidden states of
                strides 8 and 16, of others those at a half and at three quarters of the depth.
            device (`torch.device` or `str`, defaults to `"cpu"`): Where it runs.

        Returns:
            [`Backbone`]

        Raises:
            ValueError: If it cannot be loaded, **or** has no such layers.
        """
        try:
            whole = AutoModel.from_pretrained(source, dtype=torch.float32)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = describe_error(error)
            raise ValueError(
                f"`--backbone` must be a vision model, got {os.fspath(source)!r} ({reason}). Choose another one."
            ) from error
        tower = getattr(whole, "vision_model", whole).eval().to(device)
        if size is None:
            configured = getattr(tower.config, "image_size", None)
            size = configured if isinstance(configured, int) else _USUAL_SIZE
        options: dict[str, Any] = {"size": {"height": size, "width": size}}
        with contextlib.suppress(OSError):  # of a bare model: the usual statistics
            known, _ = BaseImageProcessor.get_image_processor_dict(source)
            options |= {name: known[name] for name in ("image_mean", "image_std") if known.get(name)}
        if out_indices is None:
            out_indices = _usual_layers(tower, size)
        backbone = cls(pathlib.PurePath(source).name, tower, AnomalyGPTImageProcessor(**options), out_indices)
        settings = (backbone.out_indices, size, options.get("image_mean"), options.get("image_std"))
        weights = weights_fingerprint([tower], settings)
        backbone.facts = {"checkpoint": backbone.name, "checkpoint_hash": weights, "saw_test_pictures": "not recorded"}
        return backbone

    @torch.inference_mode()
    def features(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor, PatchFeatures]:
        """Encodes a batch of pictures.

        Args:
            images (`list[PIL.Image.Image]`): RGB pictures of any sizes.

        Returns:
            `tuple(torch.Tensor, PatchFeatures)`: Global vectors `(batch_size, dim)`, and for each patch of the finest
            grid all layers, averaged over 3 x 3 neighbours, enlarged to that grid, each of unit length, side by side
            (https://arxiv.org/abs/2106.08265, section 3.1).
        """
        pixel_values = self.image_processor(list(images), return_tensors="pt")["pixel_values"]
        device = next(self.tower.parameters()).device
        pooled, layers = read_vision_tower(self.tower, pixel_values.to(device), self.out_indices)
        finest = max((layer.grid for layer in layers), key=lambda grid: grid[0] * grid[1])
        joined = [_on_grid(layer, finest) for layer in layers]
        return pooled.float(), PatchFeatures(torch.cat(joined, dim=-1), finest)


def _on_grid(layer: PatchFeatures, grid: tuple[int, int]) -> torch.Tensor:
    maps = layer.vectors.float().transpose(1, 2).unflatten(2, layer.grid)
    maps = functional.avg_pool2d(maps, _NEIGHBOURHOOD, stride=1, padding=_NEIGHBOURHOOD // 2, count_include_pad=False)
    if layer.grid != grid:
        maps = functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
    return unit_length(maps.flatten(2).transpose(1, 2))


@torch.inference_mode()
def _usual_layers(tower: torch.nn.Module, size: int) -> list[int]:
    device = next(tower.parameters()).device
    channels = getattr(tower.config, "num_channels", 3)
    picture = torch.zeros(1, channels, size, size, device=device)
    states = tower(picture, output_hidden_states=True, return_dict=True).hidden_states
    if all(state.dim() == 4 for state in states):
        strides = {size // max(1, state.shape[-1]): index for index, state in enumerate(states)}
        indices = [index for stride, index in sorted(strides.items()) if stride in (8, 16)]
        if not indices:
            raise ValueError(
                f"`--backbone` must have layers of stride 8 or 16, got strides {sorted(strides)}. "
                "Choose layers with --backbone-layers."
            )
        return indices
    depth = len(states) - 1
    return sorted({max(1, depth // 2), max(1, 3 * depth // 4)})


class PatchMethod:
    """What the methods on patches share: batches in, smoothed maps of the pictures out.

    Args:
        backbone ([`Backbone`]): Makes the patches.
        batch_size (`int`, defaults to 8): Pictures that go through the model together.
    """

    shots: tuple[int | str, ...] = ("some", "all")

    def __init__(self, backbone: Backbone, batch_size: int = 8):
        self.backbone, self.batch_size = backbone, batch_size
        self.backbone_name, self.facts = backbone.name, backbone.facts

    def features(
        self, images: Iterable[Image.Image]
    ) -> Iterator[tuple[list[Image.Image], torch.Tensor, PatchFeatures]]:
        """Batches of pictures with their global vectors and patches."""
        stream = iter(images)
        while batch := list(islice(stream, self.batch_size)):
            yield batch, *self.backbone.features(batch)

    def detect(self, images: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]; where the method gives no score, it is the maximum of the map."""
        image_processor = self.backbone.image_processor
        height, width = image_processor.size["height"], image_processor.size["width"]
        for batch, pooled, layer in self.features(images):
            distances, scores = self.compare(pooled, layer)
            maps = []
            for grid in distances.view(-1, *layer.grid).cpu().numpy():
                enlarged = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
                maps.append(cv2.GaussianBlur(enlarged, (0, 0), _SMOOTHING * height, borderType=cv2.BORDER_REPLICATE))
            if scores is None:
                scores = [float(one.max()) for one in maps]
            sizes = [(image.height, image.width) for image in batch]
            in_pixels = image_processor.post_process_anomaly_map(np.stack(maps), sizes)
            for score, anomaly_map in zip(scores, in_pixels, strict=True):
                yield Detection(score, anomaly_map)

    def compare(self, pooled: torch.Tensor, layer: PatchFeatures) -> tuple[torch.Tensor, list[float] | None]:
        """Distance of each patch from what is normal, and the score of each picture."""
        raise NotImplementedError


class PatchCore(PatchMethod):
    """Distance of each patch from the nearest good one (PatchCore, https://arxiv.org/abs/2106.08265).

    The picture's score is that of its farthest patch, weighted down where the good patch it is nearest to lies among
    others just as near (equation 7, nine neighbours).

    Args:
        backbone ([`Backbone`]), batch_size (`int`): See [`PatchMethod`].
        coreset (`bool`, defaults to `True`): Whether a tenth of the good patches is kept (at most 4,096, greedy
            k-centre) and all good pictures are taken; else every patch of a few pictures.
    """

    def __init__(self, backbone: Backbone, batch_size: int = 8, coreset: bool = True):
        super().__init__(backbone, batch_size)
        self.coreset = coreset
        self.name, self.shots = ("patchcore", ("all",)) if coreset else ("patchcore_few", ("some",))

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        parts = [MemoryBank.build((layer,)) for _, _, layer in self.features(references)]
        bank = parts[0].extend(*parts[1:])
        if self.coreset:
            bank = bank.reduce(min(_CORESET_MOST, math.ceil(_CORESET_SHARE * len(bank.features[0]))))
        self.bank = bank.features[0]

    def compare(self, pooled: torch.Tensor, layer: PatchFeatures) -> tuple[torch.Tensor, list[float] | None]:
        """See [`PatchMethod`]."""
        distances = (2 * patch_scores(layer, self.bank).clamp(min=0)).sqrt()
        queries = unit_length(layer.vectors)
        return distances, [self._score(one, far.flatten()) for one, far in zip(queries, distances, strict=True)]

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


class Spade(PatchMethod):
    """Nearest good pictures as wholes, then nearest patches among theirs (SPADE, https://arxiv.org/abs/2005.02357).

    The picture's score is the mean distance of its global vector from the 50 nearest good ones (all, where there are
    fewer). Arguments as [`PatchMethod`].
    """

    name = "spade"

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        encoded = list(self.features(references))
        self.wholes = torch.cat([pooled for _, pooled, _ in encoded])
        self.patches = unit_length(torch.cat([layer.vectors for _, _, layer in encoded]))

    def compare(self, pooled: torch.Tensor, layer: PatchFeatures) -> tuple[torch.Tensor, list[float] | None]:
        """See [`PatchMethod`]."""
        near = torch.cdist(pooled, self.wholes).topk(min(_SPADE_NEIGHBOURS, len(self.wholes)), largest=False)
        best = [
            best_matches(query, self.patches[chosen].flatten(0, 1))[0]
            for query, chosen in zip(unit_length(layer.vectors), near.indices, strict=True)
        ]
        return (2 - 2 * torch.stack(best)).clamp(min=0).sqrt(), near.values.mean(1).tolist()


class Padim(PatchMethod):
    """A normal distribution at each place of the picture (PaDiM, https://arxiv.org/abs/2011.08785).

    At most 100 features, drawn once; 0.01 is added to the variances. The score is the maximum of the smoothed map of
    Mahalanobis distances. Arguments as [`PatchMethod`].
    """

    name = "padim"

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        vectors = torch.cat([layer.vectors for _, _, layer in self.features(references)])
        drawn = np.random.default_rng(0).permutation(vectors.shape[-1])[:_PADIM_DIMS]
        self.dims = torch.as_tensor(np.sort(drawn), device=vectors.device)
        vectors = vectors[..., self.dims]
        self.mean = vectors.mean(0)
        apart = vectors - self.mean
        spread = torch.einsum("npd,npe->pde", apart, apart) / max(1, len(vectors) - 1)
        self.precision = torch.linalg.inv(spread + _PADIM_EPSILON * torch.eye(len(self.dims), device=vectors.device))

    def compare(self, pooled: torch.Tensor, layer: PatchFeatures) -> tuple[torch.Tensor, list[float] | None]:
        """See [`PatchMethod`]."""
        apart = layer.vectors[..., self.dims] - self.mean
        return torch.einsum("npd,pde,npe->np", apart, self.precision, apart).clamp(min=0).sqrt(), None


class PixelDifference:
    """No model at all: each pixel's mean difference over the colours from the same pixel of the nearest good picture.

    Args:
        size (`tuple[int, int]`): `(height, width)` at which pictures are compared.
    """

    name, shots = "pixel_difference", ("some", "all")

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.facts = {"checkpoint": "", "checkpoint_hash": f"pixels {size[0]}x{size[1]}", "saw_test_pictures": "no"}

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]; the words are not used."""
        self.good = [self._pixels(one) for one in references]

    def detect(self, images: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]; the score is the maximum."""
        for image in images:
            pixels = self._pixels(image)
            nearest = np.min([np.abs(pixels - good).mean(2) for good in self.good], axis=0)
            yield Detection(float(nearest.max()), cv2.resize(nearest, image.size, interpolation=cv2.INTER_LINEAR))

    def _pixels(self, image: Image.Image) -> np.ndarray:
        height, width = self.size
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255


class WindowTextScores:
    """WinCLIP-style scores of an AnomalyGPT checkpoint with a text tower (https://arxiv.org/abs/2303.14814).

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): With a text tower.
        processor ([`AnomalyGPTProcessor`]): Its processor.

    Raises:
        ValueError: If the model has no text tower.
    """

    name, shots = "winclip", (0, "some")

    def __init__(self, model: torch.nn.Module, processor: Any):
        if model.model.text_tower is None:
            raise ValueError(
                "`--methods` winclip needs a checkpoint with a text tower, got one without. Leave it out, or take a "
                "checkpoint whose vision model is the half of a dual encoder (CLIP, ImageBind)."
            )
        self.model, self.processor = model.model, processor

    @torch.inference_mode()
    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]."""
        blank = Image.new("RGB", (8, 8))
        inputs = self.processor(images=[blank], category=category, return_tensors="pt").to(self.model.device)
        self.states = self.model.get_text_embeds(inputs["state_prompt_ids"], inputs["state_prompt_labels"])[0]
        good = [self._windows(one) for one in references]
        self.good = [torch.cat(scale) for scale in zip(*good, strict=True)] if good else []

    @torch.inference_mode()
    def detect(self, images: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]."""
        for image in images:
            scales = self._windows(image)
            whole, *windows = [self._by_text(vectors) for vectors in scales]
            inverse = [
                mean_map(1 / np.maximum(one, 1e-6), *shape) for one, shape in zip(windows, _WINDOWS, strict=True)
            ]
            anomaly_map = 1 / np.mean([np.full_like(inverse[0], 1 / max(whole[0], 1e-6)), *inverse], axis=0)
            score = float(whole[0])
            if self.good:
                (apart,), *others = (
                    ((1 - (vectors @ good.T).max(1).values) / 2).cpu().numpy()
                    for vectors, good in zip(scales, self.good, strict=True)
                )
                maps = [mean_map(one, *shape) for one, shape in zip(others, _WINDOWS, strict=True)]
                by_references = np.mean([np.full_like(maps[0], apart), *maps], axis=0)
                anomaly_map = (anomaly_map + by_references) / 2
                score = (score + float(by_references.max())) / 2
            anomaly_map = cv2.resize(anomaly_map.astype(np.float32), image.size, interpolation=cv2.INTER_LINEAR)
            yield Detection(score, anomaly_map)

    def _by_text(self, vectors: torch.Tensor) -> np.ndarray:
        """Probability of "anomalous" for each vector."""
        cosines = vectors @ self.states.T / self.model.config.map_temperature
        return cosines.softmax(1)[:, 1].cpu().numpy()

    def _windows(self, image: Image.Image) -> list[torch.Tensor]:
        """Unit-length vectors of the whole picture and of the windows of each size, rows left to right."""
        scales = [self._embed([image])]
        for side, step in _WINDOWS:
            boxes = [(left, top, left + side, top + side) for top, left in _corners(side, step)]
            lengths = image.size * 2
            in_pixels = [
                tuple(round(cell / _CELLS * length) for cell, length in zip(box, lengths, strict=True))
                for box in boxes
            ]
            scales.append(self._embed([image.crop(box) for box in in_pixels]))
        return scales

    def _embed(self, images: list[Image.Image]) -> torch.Tensor:
        pixel_values = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        pooled, _ = read_vision_tower(
            self.model.vision_tower, pixel_values.to(self.model.device), self.model.config.out_indices
        )
        if self.model.visual_projection is not None:
            pooled = self.model.visual_projection(pooled)
        return unit_length(pooled)


def _corners(side: int, step: int) -> list[tuple[int, int]]:
    edges = range(0, _CELLS - side + 1, step)
    return [(row, column) for row in edges for column in edges]


def mean_map(values: np.ndarray, side: int, step: int) -> np.ndarray:
    """Mean, for each of 6 x 6 cells, of the windows that cover it; rows of windows left to right.

    Of the inverse values, its inverse is the harmonic mean of WinCLIP (equation 4).
    """
    total, count = np.zeros((_CELLS, _CELLS)), np.zeros((_CELLS, _CELLS))
    for value, (row, column) in zip(values, _corners(side, step), strict=True):
        total[row : row + side, column : column + side] += value
        count[row : row + side, column : column + side] += 1
    return total / count


METHODS = ("patchcore", "patchcore_few", "spade", "padim", "pixel_difference", "winclip")
"""Names of the methods."""


def make_baselines(methods: Sequence[str], backbone: Backbone, inspector: Any, batch_size: int = 8) -> list[Any]:
    """Detectors by name.

    Args:
        methods (`list[str]`): Of `METHODS`.
        backbone ([`Backbone`]): For those that compare patches.
        inspector ([`AnomalyInspector`]): Its model gives the texts of `"winclip"`.
        batch_size (`int`, defaults to 8): Pictures that go through a model together.

    Returns:
        `list[Detector]`

    Raises:
        ValueError: If a name is unknown, **or** `"winclip"` is asked of a model without a text tower.
    """
    size = backbone.image_processor.size
    makers = {
        "patchcore": lambda: PatchCore(backbone, batch_size),
        "patchcore_few": lambda: PatchCore(backbone, batch_size, coreset=False),
        "spade": lambda: Spade(backbone, batch_size),
        "padim": lambda: Padim(backbone, batch_size),
        "pixel_difference": lambda: PixelDifference((size["height"], size["width"])),
        "winclip": lambda: WindowTextScores(inspector.model, inspector.processor),
    }
    for method in methods:
        if method not in makers:
            raise ValueError(
                f"`--methods` must be among anomalygpt, {', '.join(METHODS)}, got {method!r}. Choose some of them."
            )
    return [makers[method]() for method in methods]
