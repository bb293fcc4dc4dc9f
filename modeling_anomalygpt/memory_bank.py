"""Patch vectors on their grids, and the bank of good ones against which queries are compared (paper section 3.1).

Knows unit vectors and files of them; knows no encoder, picture or map.
"""

import hashlib
import itertools
import json
import math
import os
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from .files import write_atomically
from .onednn import product
from .region_of_interest import patches_inside

# Similarities computed at a time: 4 MiB, which stay in the processor's cache whatever the number of references.
_SIMILARITIES_PER_CHUNK = 1024 * 1024
# The later ones hold what earlier versions would pass over: a region of interest, a pose, what must be there.
FORMATS = (
    "anomalygpt-memory-bank-1", "anomalygpt-references-2", "anomalygpt-references-3", "anomalygpt-references-4",
    "anomalygpt-references-5",
)  # fmt: skip


@dataclass(frozen=True)
class PatchFeatures:
    """Patch vectors of one layer and the grid on which they lie.

    Args:
        vectors (`torch.Tensor` of shape `(batch_size, height * width, dim)`): Rows run left to right, top to bottom.
        grid (`tuple[int, int]`): `(height, width)` in patches.
    """

    vectors: torch.Tensor
    grid: tuple[int, int]


@dataclass(frozen=True)
class MemoryBank:
    """Patches of good references, against which queries are compared.

    Args:
        features (`tuple[torch.Tensor]`, each of shape `(num_patches, dim)`): Unit-length patch vectors, one tensor a
            layer, float32.
        sources (`tuple[torch.Tensor]`, each of shape `(num_patches,)`): Where each patch comes from: `reference *
            patches_per_reference + patch`, int64.
        grids (`tuple[tuple[int, int]]`): `(height, width)` of each layer's grid in patches.
        num_references (`int`): Pictures in the bank, rotated copies included.
        fingerprint (`str`): Names the encoder that made the features; a bank of another encoder is refused.
        threshold (`float`, *optional*): What the few-shot map of a normal picture reaches at most, above 0; `None`:
            not known, the map stays as it is.
        tolerance (`torch.Tensor` of shape `(num_references, height * width)`, *optional*): How far patches of the
            middle layer may be from what a query shows near their place, see [`MemoryBank.requiring_presence`] and
            [`missing_scores`]; `None`: nothing must be there.
    """

    features: tuple[torch.Tensor, ...]
    sources: tuple[torch.Tensor, ...]
    grids: tuple[tuple[int, int], ...]
    num_references: int
    fingerprint: str = ""
    threshold: float | None = None
    tolerance: torch.Tensor | None = None

    @property
    def presence(self) -> bool:
        """Whether what all references show must be there."""
        return self.tolerance is not None

    @property
    def ordered(self) -> torch.Tensor:
        """Patches of the middle layer, `(num_references, height * width, dim)`; zeros for those not in the bank."""
        middle = len(self.features) // 2
        features, (height, width) = self.features[middle], self.grids[middle]
        whole = features.new_zeros(self.num_references * height * width, features.shape[1])
        whole[self.sources[middle]] = features
        return whole.unflatten(0, (self.num_references, height * width))

    def requiring_presence(self) -> "MemoryBank":
        """This bank with a tolerance: what all references show must be found in a query.

        Of each patch how far the other references are from it near its place, the farthest. Of `n` references `n - 1`
        others do not show all that good parts may differ: the largest of so many even draws is `(n - 1) / n` of what
        is possible, and is enlarged by that. One reference tells nothing, so everything is tolerated.
        """
        patches, count = self.ordered, self.num_references
        if count == 1:
            return replace(self, tolerance=torch.full_like(patches[..., 0], math.inf))
        distances = nearby_distances(patches, patches, self.grids[len(self.grids) // 2])
        distances.diagonal(dim1=0, dim2=1).zero_()  # from itself
        return replace(self, tolerance=distances.amax(0) * count / (count - 1))

    @property
    def required(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What [`missing_scores`] compares a query with; `None`: nothing must be there."""
        return None if self.tolerance is None else (self.ordered, self.tolerance)

    @classmethod
    def build(
        cls,
        patch_features: tuple[PatchFeatures, ...],
        fingerprint: str = "",
        inside: torch.Tensor | None = None,
        margin: int = 1,
    ) -> "MemoryBank":
        """Makes a bank of the patches of a batch of references, layer by layer.

        Args:
            patch_features (`tuple[PatchFeatures]`): Theirs.
            fingerprint (`str`): Names the encoder.
            inside (`torch.BoolTensor` of shape `(batch_size, height, width)`, *optional*): Region of interest on the
                model's canvas; `None`: all patches.
            margin (`int`, defaults to 1): So many patches around the region are kept: the next part lies a little
                beside the place of this one.
        """
        kept = [
            torch.ones(layer.vectors.shape[:2], dtype=torch.bool, device=layer.vectors.device).flatten()
            if inside is None
            else patches_inside(inside, layer.grid, margin).flatten()
            for layer in patch_features
        ]
        return cls(
            features=tuple(
                unit_length(layer.vectors.flatten(0, 1)[keep])
                for layer, keep in zip(patch_features, kept, strict=True)
            ),
            sources=tuple(keep.nonzero().flatten() for keep in kept),
            grids=tuple(layer.grid for layer in patch_features),
            num_references=patch_features[0].vectors.shape[0],
            fingerprint=fingerprint,
        )

    def extend(self, *others: "MemoryBank") -> "MemoryBank":
        """This bank followed by others of the same encoder; many at once, since each call copies everything."""
        sources, num_references = [self.sources], self.num_references
        for other in others:
            self.check(other.fingerprint, other.grids)
            offsets = [num_references * height * width for height, width in self.grids]
            sources.append(tuple(layer + offset for layer, offset in zip(other.sources, offsets, strict=True)))
            num_references += other.num_references
        features = [bank.features for bank in (self, *others)]
        whole = replace(
            self,
            features=tuple(torch.cat(layers) for layers in zip(*features, strict=True)),
            sources=tuple(torch.cat(layers) for layers in zip(*sources, strict=True)),
            num_references=num_references,
        )
        return whole.requiring_presence() if self.presence else whole

    def reduce(self, num_patches: int) -> "MemoryBank":
        """Keeps at most `num_patches` a layer, chosen by greedy k-centre (https://arxiv.org/abs/2106.08265)."""
        if num_patches < 1:
            raise ValueError(f"`num_patches` must be at least 1, got {num_patches}. Keep some.")
        kept = [k_centre_indices(layer, num_patches) for layer in self.features]
        return replace(
            self,
            features=tuple(layer[index] for layer, index in zip(self.features, kept, strict=True)),
            sources=tuple(layer[index] for layer, index in zip(self.sources, kept, strict=True)),
        )

    def to(self, device: torch.device | str) -> "MemoryBank":
        """The bank on another device."""
        return replace(
            self,
            features=tuple(layer.to(device) for layer in self.features),
            sources=tuple(layer.to(device) for layer in self.sources),
            tolerance=None if self.tolerance is None else self.tolerance.to(device),
        )

    def check(self, fingerprint: str, grids: tuple[tuple[int, int], ...] | None = None) -> None:
        """Refuses a bank that another encoder made, or that was made at another picture size."""
        if self.fingerprint != fingerprint:
            raise ValueError(
                f"`memory_bank` must come from this encoder and its settings ({fingerprint!r}), got one of "
                f"{self.fingerprint!r}. Build it again from the reference pictures."
            )
        if grids is not None and self.grids != grids:
            raise ValueError(
                f"`memory_bank` must have the patch grids {grids}, got {self.grids}. "
                "Build it again with pictures of the query's size."
            )

    def save(self, path: str | os.PathLike) -> None:
        """Writes the bank as safetensors, whole or not at all."""
        tensors, metadata = self.to_tensors()
        write_atomically(path, save(tensors, {"format": FORMATS[4 if self.presence else 0], **metadata}))

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Tensors and metadata of a file that holds this bank."""
        tensors = {f"features.{i}": layer.contiguous().cpu() for i, layer in enumerate(self.features)}
        tensors |= {f"sources.{i}": layer.contiguous().cpu() for i, layer in enumerate(self.sources)}
        metadata = {
            "fingerprint": self.fingerprint,
            "num_references": str(self.num_references),
            "grids": json.dumps(self.grids),
            "threshold": json.dumps(self.threshold),
            **({"presence": "true"} if self.presence else {}),
        }
        return tensors, metadata

    @classmethod
    def load(cls, path: str | os.PathLike, fingerprint: str | None = None) -> "MemoryBank":
        """Reads a bank, also that of a references file; refuses one of another encoder when `fingerprint` is given."""
        return cls.read(path, fingerprint)[0]

    @classmethod
    def read(
        cls, path: str | os.PathLike, fingerprint: str | None = None
    ) -> tuple["MemoryBank", dict[str, str], dict[str, torch.Tensor]]:
        """The bank of a file, its metadata and its other tensors; see [`MemoryBank.load`]."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") not in FORMATS:
                    raise ValueError(f"`path` must be a memory bank, got {os.fspath(path)!r}. Save one with `save`.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            count = sum(name.startswith("features.") for name in tensors)
            bank = cls(
                features=tuple(tensors.pop(f"features.{i}") for i in range(count)),
                sources=tuple(tensors.pop(f"sources.{i}") for i in range(count)),
                grids=tuple(tuple(grid) for grid in json.loads(metadata["grids"])),
                num_references=json.loads(metadata["num_references"]),
                fingerprint=metadata["fingerprint"],
                threshold=json.loads(metadata.get("threshold", metadata.get("limit", "null"))),  # formerly `limit`
            )
        except (SafetensorError, KeyError, TypeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(
                f"`path` must be a memory bank, got {os.fspath(path)!r} ({error}). Make it again."
            ) from error
        if wrong := _what_is_wrong(bank):
            raise ValueError(f"`path` must be a memory bank, got {os.fspath(path)!r} ({wrong}). Make it again.")
        if fingerprint is not None:
            bank.check(fingerprint)
        return bank.requiring_presence() if metadata.get("presence") == "true" else bank, metadata, tensors


def _what_is_wrong(bank: MemoryBank) -> str | None:
    """What of a bank from a file cannot be; such values would fail only later, while a picture is inspected."""
    sound = type(bank.num_references) is int and bank.num_references > 0
    if not sound or not 0 < len(bank.features) == len(bank.sources) == len(bank.grids):
        return "layers or references are missing"
    threshold = bank.threshold
    if threshold is not None and not (type(threshold) in (int, float) and 0 < threshold < math.inf):
        return f"its threshold is {threshold!r:.40}"
    for features, sources, grid in zip(bank.features, bank.sources, bank.grids, strict=True):
        if len(grid) != 2 or not all(type(side) is int and side > 0 for side in grid):
            return f"a grid is {grid!r:.40}"
        most = bank.num_references * grid[0] * grid[1]
        if features.dim() != 2 or features.dtype != torch.float32 or not 0 < len(features) <= most:
            return f"patch vectors have the shape {tuple(features.shape)} and the type {features.dtype}"
        if sources.shape != features.shape[:1] or sources.dtype != torch.int64:
            return "patches and their places do not belong together"
        if sources.min() < 0 or sources.max() >= most or not features.isfinite().all():
            return "values are out of range"
    return None


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of any shape `(..., dim)` scaled to length 1, in float32."""
    return functional.normalize(vectors.float(), dim=-1)


def weights_fingerprint(modules: list[nn.Module | None], settings: tuple) -> str:
    """Digest of settings and of a sample of every tensor of the modules; 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(settings).encode())
    for position, module in enumerate(modules):
        for name, tensor in module.state_dict().items() if module is not None else ():
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 64)].to("cpu", torch.float32)
            digest.update(f"{position}.{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def k_centre_indices(features: torch.Tensor, num_patches: int) -> torch.Tensor:
    """Picks rows greedily so that the farthest row left out is as near as possible to a picked one.

    Starts with the row farthest from the mean, so that the choice is the same at every run.

    Args:
        features (`torch.Tensor` of shape `(num_rows, dim)`): Unit-length vectors.
        num_patches (`int`): How many rows to keep.

    Returns:
        `torch.Tensor` of shape `(min(num_patches, num_rows),)`: Row indices in the order of choice, int64.

    Example:
    ```python
    >>> rows = unit_length(torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]))
    >>> k_centre_indices(rows, 2).tolist()
    [2, 0]

    ```
    """
    if num_patches >= len(features):
        return torch.arange(len(features), device=features.device)
    similarity = features @ unit_length(features.mean(0))
    picked = []
    nearest = torch.full_like(similarity, -math.inf)
    current = int(similarity.argmin())
    for _ in range(num_patches):
        picked.append(current)
        nearest = torch.maximum(nearest, features @ features[current])
        current = int(nearest.argmin())
    return torch.tensor(picked, device=features.device)


def normalised_map(anomaly_map: torch.Tensor, threshold: float | torch.Tensor, contrast: float = 1.0) -> torch.Tensor:
    """A map in units of what is normal on this part: 0.5 is the threshold, and no score is cut off.

    With `q = (anomaly_map / threshold) ** contrast` it is `q / (1 + q)`: the same order of pixels and pictures, the
    same meaning on every part.

    Args:
        anomaly_map (`torch.Tensor` of any shape `(batch_size, ...)`): Few-shot map, not negative.
        threshold (`float` or `torch.Tensor` of shape `(batch_size,)`): Above 0; see [`MemoryBank`].
        contrast (`float`, defaults to 1.0): How steeply it rises at the threshold.

    Returns:
        `torch.Tensor` of the same shape: Values in [0, 1).

    Example:
    ```python
    >>> normalised_map(torch.tensor([0.0, 0.2, 0.6]), threshold=0.2)
    tensor([0.0000, 0.5000, 0.7500])

    ```
    """
    if isinstance(threshold, torch.Tensor):
        threshold = threshold.to(anomaly_map).view(-1, *[1] * (anomaly_map.dim() - 1))
    ratio = anomaly_map / threshold
    if ratio.requires_grad:  # a contrast below 1 is infinitely steep at 0
        ratio = torch.where(ratio > 0, ratio, ratio.detach())
    q = (ratio**contrast).clamp(max=torch.finfo(ratio.dtype).max)
    return q / (1 + q)


def nearby_distances(patches: torch.Tensor, pictures: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """How far patches are from what pictures show at their place or beside it.

    Args:
        patches (`torch.Tensor` of shape `(num_patch_sets, height * width, dim)`): Unit-length vectors.
        pictures (`torch.Tensor` of shape `(num_pictures, height * width, dim)`): Unit-length vectors.
        grid (`tuple[int, int]`): `(height, width)` of both.

    Returns:
        `torch.Tensor` of shape `(num_pictures, num_patch_sets, height * width)`: One minus the best cosine with one of
        the up to nine patches there, in [0, 2].

    Example:
    ```python
    >>> nearby_distances(torch.eye(4)[None], torch.eye(4)[[1, 0, 0, 3]][None], (1, 4))
    tensor([[[0., 0., 1., 0.]]])

    ```
    """
    (height, width), steps = grid, (-1, 0, 1)
    good, shown = patches.unflatten(1, grid), pictures.unflatten(1, grid)
    best = good.new_full((len(shown), len(good), height, width), -1.0)
    for down, right in itertools.product(steps, steps):
        here = slice(max(0, -down), height - max(0, down)), slice(max(0, -right), width - max(0, right))
        there = slice(max(0, down), height - max(0, -down)), slice(max(0, right), width - max(0, -right))
        cosines = torch.einsum("nhwd,khwd->nkhw", shown[:, *there], good[:, *here])
        best[:, :, *here] = torch.maximum(best[:, :, *here], cosines)
    return (1 - best).clamp(min=0).flatten(2)


def best_matches(query: torch.Tensor, bank: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Finds each query vector's most similar bank vector, in chunks of the bank, exactly.

    Args:
        query (`torch.Tensor` of shape `(num_queries, dim)`): Unit-length vectors.
        bank (`torch.Tensor` of shape `(num_patches, dim)`): Unit-length vectors.

    Returns:
        `tuple(torch.Tensor, torch.Tensor)`, both of shape `(num_queries,)`: the best cosine and its row in the bank.
    """
    chunk = max(1, _SIMILARITIES_PER_CHUNK // max(1, len(query)))
    best, row = product(query, bank[:chunk]).max(dim=1)
    for start in range(chunk, len(bank), chunk):
        value, index = product(query, bank[start : start + chunk]).max(dim=1)
        row = torch.where(value > best, index + start, row)
        best = torch.maximum(best, value)
    return best, row


__all__ = [
    "MemoryBank",
    "PatchFeatures",
    "best_matches",
    "k_centre_indices",
    "nearby_distances",
    "normalised_map",
    "unit_length",
    "weights_fingerprint",
]
