"""Samples to a padded batch for `AnomalyGPTForConditionalGeneration.forward`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..processing_anomalygpt import AnomalyGPTProcessor, stack_state_prompts


class InspectionCollator:
    """Batches samples of `TrainingExamples`, `StreamedExamples` and `EvaluationExamples`.

    Args:
        processor (`AnomalyGPTProcessor`): Of the model.
        with_names (`bool`, *optional*, defaults to `False`): Whether `image_ids`, a list of names, is added; to be
            taken out before the model sees the batch.
    """

    def __init__(self, processor: AnomalyGPTProcessor, with_names: bool = False):
        self.processor, self.with_names = processor, with_names

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Makes one batch.

        Args:
            samples (`Sequence[dict]`): As `TrainingExamples` gives them.

        Returns:
            `dict`: `input_ids`, `attention_mask`, `labels` `(B, T)`, padded on the right; `pixel_values`
            `(B, 3, H, W)`; `mask_labels` `(B, M, M)`, -1 in samples without a target; where a sample has references
            `reference_pixel_values` `(B, K, 3, H, W)`, zeros in the others, and `use_reference` `(B,)`;
            `state_prompt_ids` `(B, P, L)` and `state_prompt_labels` `(B, P)` where the samples have them;
            `image_labels` `(B,)` in evaluation.

        Raises:
            ValueError: If there is no sample, or samples differ in the size of maps or number of references.
        """
        if not samples:
            raise ValueError("`samples` must hold at least one sample, got none.")
        texts = [{name: sample[name] for name in ("input_ids", "labels")} for sample in samples]
        batch = dict(self.processor.pad_conversations(texts))
        batch["pixel_values"] = torch.from_numpy(np.stack([sample["pixel_values"] for sample in samples]))
        side = _only({sample["map_size"] for sample in samples}, "mask_labels", "be of one size")
        batch["mask_labels"] = _stacked(samples, "mask_labels", np.full((side, side), -1, np.int64))
        counts = {len(sample["reference_pixel_values"]) for sample in samples if sample["use_reference"]}
        if counts:
            count = _only(counts, "reference_pixel_values", "hold the same number of pictures")
            none = np.zeros((count, *samples[0]["pixel_values"].shape), np.float32)
            batch["reference_pixel_values"] = _stacked(samples, "reference_pixel_values", none)
            batch["use_reference"] = torch.tensor([sample["use_reference"] for sample in samples])
        if "state_prompt_ids" in samples[0]:
            pairs = [(sample["state_prompt_ids"], sample["state_prompt_labels"]) for sample in samples]
            ids, labels = stack_state_prompts(pairs, self.processor.class_tokenizer.pad_token_id)
            batch["state_prompt_ids"], batch["state_prompt_labels"] = torch.from_numpy(ids), torch.from_numpy(labels)
        if "image_label" in samples[0]:
            batch["image_labels"] = torch.tensor([sample["image_label"] for sample in samples])
        if self.with_names:
            batch["image_ids"] = [sample["image_id"] for sample in samples]
        return batch


def _only(values: set[int], name: str, what: str) -> int:
    if len(values) > 1:
        raise ValueError(f"`{name}` must {what} in all samples, got {sorted(values)}.")
    return next(iter(values))


def _stacked(samples: Sequence[dict[str, Any]], name: str, none: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([none if sample[name] is None else sample[name] for sample in samples]))
