"""Anomaly maps from patch features: by the state vectors of a text tower, or by good references (paper section 3.1).

Knows unit vectors, grids and interpolation; knows no encoder, data set or loss.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from .memory_bank import PatchFeatures, best_matches, nearby_distances, unit_length
from .onednn import product

LOCALIZATION_MODES = ("auto", "text", "reference", "mean")
# A patch that is found again in its own picture is rarely a defect; nearer than this factor it counts for less.
_SELF_FACTOR = 1.25
_LEAST_SLOPED = 1e-6


def patch_scores(layer: PatchFeatures, bank: torch.Tensor, self_similarity: float = 0.0) -> torch.Tensor:
    """Scores every patch by how far it is from its nearest good patch: one minus the best cosine (equation 3).

    Args:
        layer ([`PatchFeatures`]): Patch vectors of the queries, of any length.
        bank (`torch.Tensor` of shape `(num_patches, dim)`, or `(batch_size, num_patches, dim)`): Unit-length good
            patches, for all queries or for each its own.
        self_similarity (`float`, defaults to 0.0): See [`AnomalyGPTConfig`].

    Returns:
        `torch.Tensor` of shape `(batch_size, grid_height, grid_width)`: Scores in [0, 2].

    Example:
    ```python
    >>> layer = PatchFeatures(torch.eye(4).unsqueeze(0), grid=(2, 2))
    >>> patch_scores(layer, torch.eye(4)[:3])[0]
    tensor([[0., 0.],
            [0., 1.]])

    ```
    """
    query = unit_length(layer.vectors)
    if bank.dim() == 2:
        best, _ = best_matches(query.flatten(0, 1), bank)
    else:
        best = torch.stack([best_matches(one, own)[0] for one, own in zip(query, bank, strict=True)])
    return discounted(1 - best.view(-1, *layer.grid), layer, self_similarity)


def discounted(scores: torch.Tensor, layer: PatchFeatures, self_similarity: float) -> torch.Tensor:
    """Scores of patches `(batch_size, grid_height, grid_width)`, less where a patch is found again in its picture."""
    if not self_similarity:
        return scores
    scores = scores.clamp(min=0)
    common = torch.minimum(scores, _SELF_FACTOR * self_distances(layer))
    if common.requires_grad:  # roots are infinitely steep at 0, as on a flat ground
        scores, common = scores.clamp(min=_LEAST_SLOPED), common.clamp(min=_LEAST_SLOPED)
    return scores ** (1 - self_similarity) * common**self_similarity


def self_distances(layer: PatchFeatures) -> torch.Tensor:
    """How far every patch is from the nearest patch elsewhere in its own picture, its neighbours left out.

    Args:
        layer ([`PatchFeatures`]): Patch vectors of any length.

    Returns:
        `torch.Tensor` of shape `(batch_size, grid_height, grid_width)`: One minus the best cosine, in [0, 2]; 0 on
        grids so small that nothing is left.

    Example:
    ```python
    >>> layer = PatchFeatures(torch.eye(5)[[0, 1, 2, 3, 0]].unsqueeze(0), grid=(1, 5))  # the last is the first again
    >>> self_distances(layer)[0, 0]
    tensor([0., 1., 1., 1., 0.])

    ```
    """
    height, width = layer.grid
    rows, columns = torch.arange(height), torch.arange(width)
    near = ((rows[:, None] - rows).abs() <= 1)[:, None, :, None] & ((columns[:, None] - columns).abs() <= 1)[:, None]
    near = near.reshape(height * width, height * width).to(layer.vectors.device)
    patches = unit_length(layer.vectors)
    if torch.compiler.is_compiling():  # an export takes any number of pictures
        cosines = patches @ patches.transpose(1, 2)
    else:
        cosines = torch.stack([product(picture, picture) for picture in patches])
    best = cosines.masked_fill(near, -math.inf).amax(2).nan_to_num(neginf=1.0)
    return (1 - best).clamp(min=0).unflatten(1, layer.grid)


def missing_scores(layer: PatchFeatures, ordered: torch.Tensor, tolerance: torch.Tensor) -> torch.Tensor:
    """Scores every place by what all good pictures show there and the query does not.

    Of each good patch one minus the best cosine with a patch of the query at its place or beside it, less its
    tolerance; the highest of a patch and its neighbours, since good parts lie a little differently; the lowest of all
    good pictures, since a piece is missing only where all have it.

    Args:
        layer ([`PatchFeatures`]): Patch vectors of the queries, of any length.
        ordered (`torch.Tensor` of shape `(num_references, height * width, dim)`): Unit-length good patches, see
            [`MemoryBank.ordered`]; zeros count for nothing.
        tolerance (`torch.Tensor` of shape `(num_references, height * width)`): See [`MemoryBank`].

    Returns:
        `torch.Tensor` of shape `(batch_size, grid_height, grid_width)`: Scores in [0, 2].

    Example:
    ```python
    >>> good = torch.eye(5)[None]  # five patches in a row, all different
    >>> missing_scores(PatchFeatures(torch.eye(5)[[0, 1, 2, 3, 3]][None], (1, 5)), good, torch.full((1, 5), 0.25))[0]
    tensor([[0.0000, 0.0000, 0.0000, 0.7500, 0.7500]])

    ```
    """
    distances = nearby_distances(ordered, unit_length(layer.vectors), layer.grid)
    missing = ((distances - tolerance).clamp(min=0) * ordered.any(-1)).unflatten(2, layer.grid)
    return functional.max_pool2d(missing, 3, stride=1, padding=1).amin(1)


def few_shot_anomaly_map(
    patch_features: tuple[PatchFeatures, ...],
    bank: tuple[torch.Tensor, ...],
    map_size: int,
    self_similarity: float = 0.0,
    smoothing: int = 0,
    required: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The few-shot map: patch scores of all layers, enlarged bilinearly and averaged (paper section 3.1).

    Args:
        patch_features (`tuple[PatchFeatures]`): The queries' layers.
        bank (`tuple[torch.Tensor]`): Good patches of the same layers, see [`patch_scores`].
        map_size (`int`): Height and width of the map, in pixels.
        self_similarity (`float`, defaults to 0.0), smoothing (`int`, defaults to 0): See [`AnomalyGPTConfig`].
        required (`tuple[torch.Tensor, torch.Tensor]`, *optional*): Of [`MemoryBank.required`]: what is missing counts
            as well.

    Returns:
        `torch.Tensor` of shape `(batch_size, map_size, map_size)`: float32, clamped to [0, 1].
    """
    scores = [patch_scores(layer, rows, self_similarity) for layer, rows in zip(patch_features, bank, strict=True)]
    new = merged_map(scores, map_size, smoothing)
    if required is None:
        return new
    missing = missing_scores(patch_features[len(patch_features) // 2], *required)
    return torch.maximum(new, merged_map([missing], map_size, smoothing))


def merged_map(scores: list[torch.Tensor], map_size: int, smoothing: int) -> torch.Tensor:
    """One map `(batch_size, map_size, map_size)` in [0, 1] from each layer's scores of patches."""
    anomaly_map = torch.stack([enlarge(layer.unsqueeze(1), map_size) for layer in scores]).mean(0)
    for _ in range(smoothing):
        anomaly_map = functional.avg_pool2d(anomaly_map, 3, stride=1, padding=1)
    return anomaly_map.squeeze(1).clamp(0, 1)


def state_vectors(prompt_embeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean direction of the prompts of each state.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(batch_size, num_prompts, dim)`): Unit-length vectors, float32.
        labels (`torch.Tensor` of shape `(batch_size, num_prompts)`): 0 for a prompt of a normal part, 1 of an
            anomalous one, -1 for padding.

    Returns:
        `torch.Tensor` of shape `(batch_size, 2, dim)`: Unit-length vectors, float32.
    """
    member = torch.stack([labels == 0, labels == 1], dim=1).to(prompt_embeds)
    with in_float32(prompt_embeds):
        return unit_length(member @ prompt_embeds)


def text_guided_layer_maps(
    embedded: tuple[PatchFeatures, ...], state_embeds: torch.Tensor, temperature: float, map_size: int
) -> torch.Tensor:
    """Scores every pixel, for every layer, by how much nearer its patch is to "anomalous" than to "normal" (eq. 2).

    Args:
        embedded (`tuple[PatchFeatures]`): Patch vectors projected into the space of the state vectors.
        state_embeds (`torch.Tensor` of shape `(batch_size, 2, dim)`): Unit-length vectors of normal (0) and anomalous
            (1).
        temperature (`float`): Divides the cosines before the softmax.
        map_size (`int`): Height and width of the maps, in pixels.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_layers, 2, map_size, map_size)`: Probabilities, summing to 1 over
        dimension 2.

    Example:
    ```python
    >>> layer = PatchFeatures(torch.eye(4).unsqueeze(0), grid=(2, 2))           # four patches, each its own direction
    >>> states = torch.eye(4)[[0, 3]].unsqueeze(0)                              # patch 0 is normal, patch 3 anomalous
    >>> text_guided_layer_maps((layer,), states, temperature=1.0, map_size=2)[0, 0, 1]
    tensor([[0.2689, 0.5000],
            [0.5000, 0.7311]])

    ```
    """
    maps = []
    for layer in embedded:
        cosine = unit_length(layer.vectors) @ state_embeds.float().transpose(1, 2) / temperature
        cosine = cosine.transpose(1, 2).unflatten(2, layer.grid)
        maps.append(enlarge(cosine, map_size).softmax(dim=1))
    return torch.stack(maps, dim=1)


def maps_needed(localization: str, has_reference: bool, use_reference: torch.Tensor | None) -> tuple[bool, bool]:
    """Whether the few-shot map and whether the text-guided map must be computed; refuses what cannot be."""
    if localization not in LOCALIZATION_MODES:
        raise ValueError(
            f"`localization` must be one of {', '.join(LOCALIZATION_MODES)}, got {localization!r}. Choose one of them."
        )
    if localization in ("reference", "mean") and not has_reference:
        raise ValueError(
            f"`memory_bank` must be given for localization={localization!r}, got None. "
            "Pass a bank or `reference_pixel_values`."
        )
    by_reference = has_reference and localization != "text"
    by_text = not by_reference or localization == "mean" or use_reference is not None
    return by_reference, by_text


def combine_maps(
    text_map: torch.Tensor | None,
    few_shot_map: torch.Tensor | None,
    use_reference: torch.Tensor | None,
    mean: bool,
) -> torch.Tensor:
    """Makes one map of what was computed: the few-shot map replaces the text-guided one, or is averaged with it.

    Args:
        text_map, few_shot_map (`torch.Tensor` of shape `(batch_size, map_size, map_size)`, *optional*): At least one
            of them.
        use_reference (`torch.BoolTensor` of shape `(batch_size,)`, *optional*): Which pictures follow the references;
            the others keep the text-guided map. `None`: all follow.
        mean (`bool`): Whether the two maps are averaged instead.

    Returns:
        `torch.Tensor` of shape `(batch_size, map_size, map_size)`
    """
    if few_shot_map is None or text_map is None:
        return few_shot_map if text_map is None else text_map
    followed = (text_map + few_shot_map) / 2 if mean else few_shot_map
    if use_reference is None:
        return followed
    return torch.where(use_reference.to(text_map.device)[:, None, None], followed, text_map)


def in_float32(tensor: torch.Tensor) -> torch.autocast:
    """No mixed precision in this block: cosines that are divided by a small temperature do not bear it."""
    return torch.autocast(tensor.device.type, enabled=False)


def enlarge(maps: torch.Tensor, map_size: int) -> torch.Tensor:
    """Maps `(batch_size, channels, height, width)` at `map_size`, bilinear, corners on corners (published)."""
    return functional.interpolate(maps, size=(map_size, map_size), mode="bilinear", align_corners=True)


class AnomalyLocalizer(nn.Module):
    """The learned part of localization: linear layers into the space of the state vectors (paper section 3.1).

    Args:
        feature_dims (`list[int]`): Width of each read-out layer.
        projection_dim (`int`): Width of the state vectors.
        learned_states (`bool`): Whether the two state vectors are parameters, for a model without a text tower.
        reference_dims (`list[int]`, *optional*): Widths of the projections before matching; `None` matches raw
            features, as published.
        reference_pooling (`int` or `list[int]`): Window over which features are averaged before matching; each of
            several windows gives maps of its own.
        map_size (`int`), self_similarity (`float`), map_smoothing (`int`): See [`AnomalyGPTConfig`].
    """

    def __init__(
        self,
        feature_dims: list[int],
        projection_dim: int,
        learned_states: bool,
        reference_dims: list[int] | None = None,
        reference_pooling: int | list[int] = 1,
        map_size: int = 224,
        self_similarity: float = 0.0,
        map_smoothing: int = 0,
    ):
        super().__init__()
        self.map_size, self.self_similarity, self.map_smoothing = map_size, self_similarity, map_smoothing
        self.layers = nn.ModuleList(nn.Linear(dim, projection_dim) for dim in feature_dims)
        self.state_embeds = nn.Parameter(torch.empty(2, projection_dim)) if learned_states else None
        self.reference_projections = (
            nn.ModuleList(nn.Linear(dim, out) for dim, out in zip(feature_dims, reference_dims, strict=True))
            if reference_dims is not None
            else None
        )
        self.windows = (reference_pooling,) if isinstance(reference_pooling, int) else tuple(reference_pooling)

    def embed(self, patch_features: tuple[PatchFeatures, ...]) -> tuple[PatchFeatures, ...]:
        """Patch vectors in the space of the state vectors, float32."""
        return tuple(
            PatchFeatures(project(layer.vectors.float()), layer.grid)
            for project, layer in zip(self.layers, patch_features, strict=True)
        )

    def comparable(self, patch_features: tuple[PatchFeatures, ...]) -> tuple[PatchFeatures, ...]:
        """Patch vectors as they are compared with references: projected and averaged, once a window, if configured."""
        layers = [PatchFeatures(layer.vectors.float(), layer.grid) for layer in patch_features]
        if self.reference_projections is not None:
            layers = [
                PatchFeatures(project(layer.vectors), layer.grid)
                for project, layer in zip(self.reference_projections, layers, strict=True)
            ]
        return tuple(
            _average_neighbours(layer, window) if window > 1 else layer for window in self.windows for layer in layers
        )

    def compare(
        self,
        queries: tuple[PatchFeatures, ...],
        bank: tuple[torch.Tensor, ...],
        required: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The few-shot map of comparable queries ([`few_shot_anomaly_map`]), as the configuration wants it."""
        settings = (self.map_size, self.self_similarity, self.map_smoothing)
        return few_shot_anomaly_map(queries, bank, *settings, required=required)


class DefectKindHead(nn.Module):
    """Tells what kind of defect a region is from what is there and how that differs from the nearest good patches.

    Args:
        feature_dims (`list[int]`): Width of each layer as it is compared.
        width (`int`): Of the hidden layer.
        num_kinds (`int`): Of `DEFECT_KINDS`.
    """

    def __init__(self, feature_dims: list[int], width: int, num_kinds: int):
        super().__init__()
        self.hidden = nn.Linear(2 * sum(feature_dims), width)
        self.kinds = nn.Linear(width, num_kinds)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Log-odds `(batch_size, num_kinds)` from [`defect_features`] `(batch_size, 2 * sum(feature_dims))`."""
        return self.kinds(functional.gelu(self.hidden(features)))


def defect_features(
    layers: Sequence[PatchFeatures], bank: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """What lies in a region and how it differs from the good patches most like it, averaged over the region.

    Args:
        layers (`list[PatchFeatures]`): Of one picture, vectors `(num_patches, dim)`.
        bank (`list[torch.Tensor]`): Good unit-length patches of each layer, `(num_good, dim)`.
        weights (`list[torch.Tensor]`): How far each patch lies in the region, `(num_patches,)`, not all zero.

    Returns:
        `torch.Tensor` of shape `(2 * sum(dims),)`
    """
    found = []
    for layer, good, weight in zip(layers, bank, weights, strict=True):
        inside = weight > 0
        vectors, share = unit_length(layer.vectors[inside]), (weight[inside] / weight.sum())[:, None]
        _, nearest = best_matches(vectors, good)
        found += [(share * vectors).sum(0), (share * (vectors - good[nearest])).sum(0)]
    return torch.cat(found)


def _average_neighbours(layer: PatchFeatures, window: int) -> PatchFeatures:
    maps = layer.vectors.transpose(1, 2).unflatten(2, layer.grid)
    maps = functional.avg_pool2d(maps, window, stride=1, padding=window // 2, count_include_pad=False)
    return PatchFeatures(maps.flatten(2).transpose(1, 2), layer.grid)


__all__ = [
    "LOCALIZATION_MODES",
    "AnomalyLocalizer",
    "DefectKindHead",
    "combine_maps",
    "defect_features",
    "discounted",
    "few_shot_anomaly_map",
    "in_float32",
    "maps_needed",
    "merged_map",
    "missing_scores",
    "patch_scores",
    "self_distances",
    "state_vectors",
    "text_guided_layer_maps",
]
