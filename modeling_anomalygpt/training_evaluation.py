"""Evaluation during training, batch by batch: losses, maps against masks, the first word against the truth.

Nothing of a batch is kept but counts: maps go into histograms.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from .metrics import ImageMetrics
from .pixel_metrics import PixelMetrics
from .training_losses import SUMS, SampleLosses, has_pixel_target, mean_losses

METRICS = (
    "loss",
    "loss_lm",
    "loss_focal",
    "loss_dice",
    "token_accuracy",
    "image_auroc",
    "pixel_auroc",
    "yes_no_balanced_accuracy",
)


def yes_no_ids(processor: Any) -> list[tuple[int, list[int], list[int]]]:
    r"""
    Where an answer says Yes or No, in each language.

    Args:
        processor ([`AnomalyGPTProcessor`]):
            May be `None` or another object: nothing then.

    Returns:
        `list[tuple[int, list[int], list[int]]]`: Tokens that both words begin with, ids that mean yes and that mean no
        after them.
    """
    found = []
    for language in ("en", "zh"):
        try:
            shared, yes, no = processor.yes_no_token_ids(language)
        except (AttributeError, ValueError):
            continue
        found.append((len(shared), list(yes), list(no)))
    return found


def evaluation_outputs(
    outputs: Any, inputs: dict[str, torch.Tensor], yes_no: list[tuple[int, list[int], list[int]]]
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    r"""
    What the metrics need of a batch.

    Args:
        outputs ([`AnomalyGPTOutput`]):
            With `sample_losses`.
        inputs (`dict[str, torch.Tensor]`):
            With `labels` and `mask_labels`.
        yes_no (`list[tuple[int, list[int], list[int]]]`):
            From [`yes_no_ids`].

    Returns:
        `tuple(tuple(torch.Tensor), tuple(torch.Tensor))`: `(losses (B, 7), maps (B, H, W), log_odds (B,))` and
        `(mask_labels (B, H, W), truth (B,))`; truth is 1 anomalous, 0 normal, -1 unknown, log odds NaN where the
        answer does not begin with yes or no.
    """
    losses: SampleLosses = outputs["sample_losses"]
    numbers = torch.stack([getattr(losses, name).float() for name in SUMS], dim=1)
    labels, masks = inputs["labels"], inputs.get("mask_labels")
    maps = outputs.anomaly_map.float()
    masks = torch.full_like(maps, -1) if masks is None else masks.float()
    logits = outputs.logits[:, -labels.shape[1] :]
    answered = labels != -100
    first = answered.int().argmax(1).clamp(min=1)
    rows = torch.arange(len(labels), device=labels.device)
    log_odds = torch.full((len(labels),), float("nan"), device=labels.device)
    truth = torch.full_like(first, -1)
    for shared, yes, no in yes_no:
        place = (first + shared).clamp(max=labels.shape[1] - 1)
        word, before = labels[rows, place], logits[rows, place - 1].float()
        says_yes, says_no = torch.isin(word, word.new_tensor(yes)), torch.isin(word, word.new_tensor(no))
        asked = says_yes | says_no
        log_odds = torch.where(asked, before[:, yes].logsumexp(1) - before[:, no].logsumexp(1), log_odds)
        truth = torch.where(asked, says_yes.to(truth), truth)
    masked = has_pixel_target(masks)
    if "image_labels" in inputs:
        return (numbers, maps, log_odds), (masks, inputs["image_labels"])
    truth = torch.where(masked, (masks > 0).flatten(1).any(1).to(truth), truth)
    return (numbers, maps, log_odds), (masks, truth)


class InspectionMetrics:
    r"""
    Streaming metrics for `batch_eval_metrics`: means of the losses, AUROC of pictures and pixels, accuracies.

    Args:
        loss_weights (`dict[str, float]`, *optional*):
            `config.loss_weights`; with them `loss`, the weighted sum, is among the metrics.
    """

    def __init__(self, loss_weights: Mapping[str, float] | None = None):
        self.loss_weights = dict(loss_weights or {})
        self._reset()

    def _reset(self) -> None:
        self.sums = np.zeros(len(SUMS))
        self.pictures, self.pixels = ImageMetrics(), PixelMetrics()
        self.yes_no = np.zeros((2, 2))  # truth x whether the log-odds agree
        self.seen = {"pictures": set(), "pixels": set()}

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Takes in a batch; with `compute_result` returns the metrics and starts anew."""
        numbers, maps, log_odds = (_numpy(values) for values in prediction.predictions)
        masks, truth = (_numpy(values) for values in prediction.label_ids)
        self.sums += numbers.astype(np.float64).sum(0)
        known = truth >= 0
        if known.any():
            self.pictures.update(truth[known], maps[known].reshape(known.sum(), -1).max(1))
            self.seen["pictures"] |= set(truth[known].tolist())
        masked = (masks >= 0).all((1, 2))
        if masked.any():
            self.pixels.update(masks[masked] > 0, maps[masked])
            self.seen["pixels"] |= set(np.unique(masks[masked] > 0).tolist())
        asked = known & np.isfinite(log_odds)
        np.add.at(self.yes_no, (truth[asked].astype(int), ((log_odds > 0) == (truth > 0))[asked].astype(int)), 1)
        if not compute_result:
            return {}
        result = self._result()
        self._reset()
        return result

    def _result(self) -> dict[str, float]:
        result = mean_losses(dict(zip(SUMS, self.sums.tolist(), strict=True)))
        if self.loss_weights:
            result["loss"] = sum(weight * result.get(f"loss_{name}", 0) for name, weight in self.loss_weights.items())
        if len(self.seen["pictures"]) == 2:
            result["image_auroc"] = self.pictures.compute()["image_auroc"]
        if len(self.seen["pixels"]) == 2:
            result["pixel_auroc"] = self.pixels.compute()["pixel_auroc"]
        asked = self.yes_no.sum(1)
        if asked.all():
            result["yes_no_balanced_accuracy"] = float((self.yes_no[:, 1] / asked).mean())
        return result


def _numpy(values: Any) -> np.ndarray:
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


__all__ = ["METRICS", "InspectionMetrics", "evaluation_outputs", "yes_no_ids"]
