"""From references, given as a memory bank or as pictures, to the few-shot map of the queries.

Knows the model's parts and in which order they are asked; knows no words and no files.
"""

from typing import Any

import torch

from .calibration import normal_scores
from .localization import few_shot_anomaly_map
from .memory_bank import MemoryBank, PatchFeatures, relative_map, unit_length


def map_by_references(
    model: Any,
    patch_features: tuple[PatchFeatures, ...],
    memory_bank: MemoryBank | None,
    reference_pixel_values: torch.Tensor | None,
) -> torch.Tensor:
    r"""
    The few-shot map; relative to what is normal on the part where the configuration says so and it is known.

    Args:
        model ([`AnomalyGPTModel`]):
            Its encoder, localizer and configuration are used.
        patch_features (`tuple[PatchFeatures]`):
            The queries' layers as the vision tower gives them.
        memory_bank ([`MemoryBank`], *optional*):
            For all queries.
        reference_pixel_values (`torch.Tensor` of shape `(batch_size, k_shot, 3, height, width)`, *optional*):
            For each query its own, when there is no bank.

    Returns:
        `torch.Tensor` of shape `(batch_size, map_size, map_size)`: float32 in [0, 1].

    Raises:
        ValueError: If the bank or the references do not fit the queries.
    """
    map_size = model.config.map_size
    queries = model.localizer.comparable(patch_features)
    if memory_bank is not None:
        memory_bank.check(memory_bank.fingerprint, tuple(layer.grid for layer in queries))
        bank = memory_bank.to(queries[0].vectors.device).features
    else:
        bank = _banks(model, len(queries[0].vectors), reference_pixel_values)
    anomaly_map = few_shot_anomaly_map(queries, bank, map_size)
    if not model.config.relative_maps:
        return anomaly_map
    if memory_bank is not None:
        return anomaly_map if memory_bank.limit is None else relative_map(anomaly_map, memory_bank.limit)
    usual = model.config.normal_distance
    limits = [
        normal_scores(model.get_patch_features, own, map_size, normal_distance=usual).limit
        for own in reference_pixel_values
    ]
    return relative_map(anomaly_map, anomaly_map.new_tensor(limits))


def _banks(model: Any, batch_size: int, reference_pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Unit-length good patches of each layer, `(batch_size, num_patches, dim)`."""
    if reference_pixel_values.dim() != 5 or len(reference_pixel_values) != batch_size:
        raise ValueError(
            "`reference_pixel_values` must have shape (batch_size, k_shot, 3, height, width) with the batch size "
            f"{batch_size}, got {tuple(reference_pixel_values.shape)}."
        )
    layers = model.get_patch_features(reference_pixel_values.flatten(0, 1))
    shape = reference_pixel_values.shape[:2]
    return tuple(unit_length(layer.vectors).unflatten(0, shape).flatten(1, 2) for layer in layers)


__all__ = ["map_by_references"]
