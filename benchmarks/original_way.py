"""The original's way to inspect a picture, step by step, on our modules: what speed is compared with.

A second implementation from the facts of the published code (paper arXiv 2308.15366): for every picture it encodes the
24 state prompts, encodes the query twice (once for its global vector and the text-guided map, once for the patches
that are compared), encodes every reference again, and compares patches by a broadcast cosine.
"""

import torch
from torch.nn import functional

from modeling_anomalygpt.localization import text_guided_layer_maps
from modeling_anomalygpt.memory_bank import PatchFeatures
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTModel
from modeling_anomalygpt.vision_features import read_vision_tower


def text_vectors(model: AnomalyGPTModel, prompt_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """State vectors `(1, 2, dim)` of `(1, num_prompts, length)` prompts, encoded one state after the other."""
    states = []
    for state in (0, 1):
        pooled = model.text_projection(model.text_tower(prompt_ids[0][labels[0] == state]).pooler_output)
        mean = functional.normalize(pooled, dim=-1).mean(0)
        states.append(functional.normalize(mean, dim=-1))
    return torch.stack(states).unsqueeze(0)


def patches(model: AnomalyGPTModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, tuple[PatchFeatures, ...]]:
    """Global vector and raw patch features of one pass."""
    pooled, layers = read_vision_tower(model.vision_tower, pixel_values, model.config.out_indices)
    return functional.normalize(model.visual_projection(pooled), dim=-1), layers


def broadcast_scores(query: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Best cosine of each of `(num_queries, dim)` among `(num_patches, dim)`, all pairs held at once."""
    return functional.cosine_similarity(query.unsqueeze(1), good.unsqueeze(0), dim=2).max(dim=1).values


def zero_shot_map(
    model: AnomalyGPTModel, pixel_values: torch.Tensor, prompt_ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Text-guided map `(1, map_size, map_size)`."""
    states = text_vectors(model, prompt_ids, labels)
    _, layers = patches(model, pixel_values)
    config = model.config
    maps = text_guided_layer_maps(model.localizer.embed(layers), states, config.map_temperature, config.map_size)
    return maps[:, :, 1].mean(1)


def few_shot_map(
    model: AnomalyGPTModel,
    pixel_values: torch.Tensor,
    references: torch.Tensor,
    prompt_ids: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """Few-shot map `(1, map_size, map_size)`; the text-guided one is computed as well and then replaced."""
    zero_shot_map(model, pixel_values, prompt_ids, labels)
    _, query_layers = patches(model, pixel_values)
    _, good_layers = patches(model, references)
    maps = []
    for query, good in zip(query_layers, good_layers, strict=True):
        best = broadcast_scores(query.vectors[0], good.vectors.flatten(0, 1))
        scores = (1 - best).view(1, 1, *query.grid)
        size = (model.config.map_size, model.config.map_size)
        maps.append(functional.interpolate(scores, size=size, mode="bilinear", align_corners=True)[:, 0])
    return torch.stack(maps).mean(0)
