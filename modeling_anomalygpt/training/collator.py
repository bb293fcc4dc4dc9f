"""Samples to a padded batch for `AnomalyGPTForConditionalGeneration.forward`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..processing_anomalygpt import AnomalyGPTProcessor, stack_state_prompts


class InspectionCollator:
    """Batches samples of `TrainingExamples`, `StreamedExamples` and `evaluation_examples`.

    Args:
        processor (`AnomalyGPTProcessor`):
            Of the model.
        num_references (`int`, *optional*):
            With it every batch has so many reference pictures, zeros where a sample has none. By default a batch has
            them only where one of its samples does. Give it where several processes train something that only
            references reach (`localizer.reference_projections`): their graphs must be the same.
        with_names (`bool`, *optional*, defaults to `False`):
            Whether `image_ids`, a list of names, is added; to be taken out before the model sees the batch.

    Raises:
        ValueError: If `num_references` is not positive.
    """

    def __init__(self, processor: AnomalyGPTProcessor, num_references: int | None = None, with_names: bool = False):
        if num_references is not None and num_references < 1:
            raise ValueError(f"`num_references` must be positive, got {num_references}. Leave it out for none.")
        self.processor = processor
        self.num_references = num_references
        self.with_names = with_names

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Makes one batch.

        Args:
            samples (`Sequence[dict]`): As `TrainingExamples` gives them.

        Returns:
            `dict`: `input_ids`, `attention_mask`, `labels` `(B, T)`, padded on the right; `pixel_values`
            `(B, 3, H, W)`; `mask_labels` `(B, M, M)`, -1 in samples without a target; with references
            `reference_pixel_values` `(B, K, 3, H, W)` and `use_reference` `(B,)`; `state_prompt_ids` `(B, P, L)` and
            `state_prompt_labels` `(B, P)` where the samples have them; `image_labels` `(B,)` in evaluation.

        Raises:
            ValueError: If there is no sample, or samples differ in the size of maps or number of references.
        """
        if not samples:
            raise ValueError("`samples` must hold at least one sample, got none.")
        texts = [{name: sample[name] for name in ("input_ids", "labels")} for sample in samples]
        batch = dict(self.processor.pad_conversations(texts))
        batch["pixel_values"] = _stacked([sample["pixel_values"] for sample in samples])
        batch["mask_labels"] = _targets(samples)
        batch |= self._references(samples)
        if "state_prompt_ids" in samples[0]:
            pairs = [(sample["state_prompt_ids"], sample["state_prompt_labels"]) for sample in samples]
            ids, labels = stack_state_prompts(pairs, self.processor.class_tokenizer.pad_token_id)
            batch["state_prompt_ids"], batch["state_prompt_labels"] = torch.from_numpy(ids), torch.from_numpy(labels)
        if "image_label" in samples[0]:
            batch["image_labels"] = torch.tensor([sample["image_label"] for sample in samples])
        if self.with_names:
            batch["image_ids"] = [sample["image_id"] for sample in samples]
        return batch

    def _references(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        given = [sample["reference_pixel_values"] for sample in samples]
        counts = {len(one) for one in given if one is not None}
        if self.num_references is not None:
            counts.add(self.num_references)
        if not counts:
            return {}
        if len(counts) > 1:
            raise ValueError(
                f"`reference_pixel_values` must hold the same number of pictures in all samples, got {sorted(counts)}."
            )
        none = np.zeros((counts.pop(), *samples[0]["pixel_values"].shape), np.float32)
        return {
            "reference_pixel_values": _stacked([none if one is None else one for one in given]),
            "use_reference": torch.tensor([sample["use_reference"] for sample in samples]),
        }


def _stacked(arrays: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))


def _targets(samples: Sequence[dict[str, Any]]) -> torch.Tensor:
    targets = [sample["mask_labels"] for sample in samples]
    sizes = {sample["map_size"] for sample in samples}
    if len(sizes) > 1:
        raise ValueError(f"`mask_labels` must be of one size in all samples, got {sorted(sizes)}. Use one `map_size`.")
    none = np.full((sizes.pop(),) * 2, -1, np.int64)
    return _stacked([none if target is None else target for target in targets])


__all__ = ["InspectionCollator"]
