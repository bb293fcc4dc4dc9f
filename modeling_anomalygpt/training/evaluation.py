"""Losses of samples, and what is measured during training: maps against masks, the first word against the truth.

Nothing of a batch is kept but counts: maps go into histograms.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import EvalPrediction

from ..evaluation.metrics import ImageMetrics, PixelMetrics
from ..modeling_anomalygpt import dice_loss, focal_loss

COLUMNS = ("lm", "focal", "dice", "answered", "masked", "correct", "tokens")
"""Columns of [`sample_losses`]."""

METRICS = (
    "loss", "loss_lm", "loss_focal", "loss_dice", "token_accuracy", "image_auroc", "pixel_auroc",
    "yes_no_balanced_accuracy",
)  # fmt: skip

YesNo = list[tuple[int, list[int], list[int]]]


def sample_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    layer_maps: torch.Tensor | None = None,
    mask_labels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Computes the losses of every sample, in float32.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, sequence_length, vocab_size)`): Longer sequences are cut on the
            left: virtual tokens stand before the text.
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Answer tokens; -100 elsewhere.
        layer_maps (`torch.Tensor` of shape `(batch_size, num_layers, 2, height, width)`, *optional*): Probabilities of
            normal and anomalous.
        mask_labels (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*): 1 where anomalous, 0
            elsewhere; a sample filled with -1 has no pixel target.

    Returns:
        `torch.Tensor` of shape `(batch_size, 7)`: Cross entropy averaged over the sample's answer tokens, focal and
        dice loss summed over the layers (each 0 without a target); whether there are answer tokens and a pixel target;
        answer tokens that the language model ranks first, and answer tokens.

    Example:
    ```python
    >>> logits = torch.zeros(2, 4, 8)                             # eight words, all alike
    >>> labels = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, 7]])
    >>> sample_losses(logits, labels)[:, 0]                       # log 8 for each, however long the answer is
    tensor([2.0794, 2.0794])

    ```
    """
    targets, predicted = labels[:, 1:], logits[:, -labels.shape[1] : -1]
    is_answer = targets != -100
    tokens = is_answer.sum(1)
    lm = logits.new_zeros(len(labels), dtype=torch.float32) + 0 * logits[:, :1, 0].sum()
    if is_answer.any():
        losses = functional.cross_entropy(predicted[is_answer].float(), targets[is_answer], reduction="none")
        lm = lm.index_add(0, is_answer.nonzero()[:, 0], losses) / tokens.clamp(min=1)
    correct = ((predicted.detach().argmax(-1) == targets) & is_answer).sum(1)
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    focal = dice = torch.zeros_like(lm)
    if mask_labels is not None and layer_maps is not None:
        masked = has_pixel_target(mask_labels)
        layers, target = layer_maps.unbind(1), mask_labels.clamp(min=0)
        focal = sum(focal_loss(layer, target) for layer in layers).where(masked, 0.0)
        dice = sum(dice_loss(layer[:, 1], target) for layer in layers).where(masked, 0.0)
    return torch.stack([lm, focal, dice, *(count.to(lm) for count in (tokens > 0, masked, correct, tokens))], dim=1)


def total_loss(losses: torch.Tensor, weights: Mapping[str, float], counts: torch.Tensor) -> torch.Tensor:
    """The weighted sum of [`sample_losses`], divided by the numbers of samples of the whole step that have targets."""
    lm, focal, dice = losses[:, :3].sum(0)
    answered, masked = counts.clamp(min=1)
    return weights["lm"] * lm / answered + (weights["focal"] * focal + weights["dice"] * dice) / masked


def has_pixel_target(mask_labels: torch.Tensor) -> torch.Tensor:
    """Which samples of `(batch_size, height, width)` have a pixel target: those without a -1."""
    return (mask_labels >= 0).flatten(1).all(1)


def count_targets(labels: torch.Tensor, mask_labels: torch.Tensor | None) -> torch.Tensor:
    """How many samples have answer tokens, how many a pixel target: two numbers, float32."""
    answered = (labels[:, 1:] != -100).any(1).sum()
    masked = torch.zeros_like(answered) if mask_labels is None else has_pixel_target(mask_labels).sum()
    return torch.stack([answered, masked.to(answered.device)]).float()


def mean_losses(sums: Sequence[float]) -> dict[str, float]:
    """Means over the samples that have them, from the sums of the columns of [`sample_losses`].

    Example:
    ```python
    >>> mean_losses([6, 0, 0, 4, 0, 9, 12])
    {'loss_lm': 1.5, 'token_accuracy': 0.75}

    ```
    """
    lm, focal, dice, answered, masked, correct, tokens = sums
    pairs = {
        "loss_lm": (lm, answered),
        "loss_focal": (focal, masked),
        "loss_dice": (dice, masked),
        "token_accuracy": (correct, tokens),
    }
    return {name: value / count for name, (value, count) in pairs.items() if count}


def yes_no_ids(processor: Any) -> YesNo:
    """Where an answer says Yes or No, in each language; nothing without a processor that knows.

    Each time how many tokens both words begin with, ids that mean yes, and ids that mean no after them.
    """
    places = []
    for language in ("en", "zh"):
        try:
            shared, yes, no = processor.yes_no_token_ids(language)
        except (AttributeError, ValueError):
            continue
        places.append((len(shared), list(yes), list(no)))
    return places


def evaluation_outputs(
    outputs: Any, inputs: dict[str, torch.Tensor], yes_no: YesNo
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """What the metrics need of a batch.

    Args:
        outputs ([`AnomalyGPTOutput`]): With `sample_losses`.
        inputs (`dict[str, torch.Tensor]`): With `labels` and `mask_labels`.
        yes_no (`list[tuple[int, list[int], list[int]]]`): From [`yes_no_ids`].

    Returns:
        `tuple(tuple(torch.Tensor), tuple(torch.Tensor))`: `(losses (B, 7), maps (B, H, W), log_odds (B,))` and
        `(mask_labels (B, H, W), truth (B,))`; truth is 1 anomalous, 0 normal, -1 unknown, log odds NaN where the
        answer does not begin with yes or no.
    """
    labels, masks, maps = inputs["labels"], inputs.get("mask_labels"), outputs.anomaly_map.float()
    masks = torch.full_like(maps, -1) if masks is None else masks.float()
    logits = outputs.logits[:, -labels.shape[1] :]
    first = (labels != -100).int().argmax(1).clamp(min=1)
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
    truth = torch.where(has_pixel_target(masks), (masks > 0).flatten(1).any(1).to(truth), truth)
    return (outputs["sample_losses"], maps, log_odds), (masks, inputs.get("image_labels", truth))


class InspectionMetrics:
    """Streaming metrics for `batch_eval_metrics`: means of the losses, AUROC of pictures and pixels, accuracies.

    Args:
        loss_weights (`dict[str, float]`, *optional*): `config.loss_weights`; with them `loss`, the weighted sum, is
            among the metrics.
    """

    def __init__(self, loss_weights: Mapping[str, float] | None = None):
        self.loss_weights = dict(loss_weights or {})
        self._reset()

    def _reset(self) -> None:
        self._sums = np.zeros(len(COLUMNS))
        self._images, self._pixels = ImageMetrics(), PixelMetrics()
        self._yes_no = np.zeros((2, 2))  # truth x whether the log-odds agree
        self._image_classes, self._pixel_classes = set(), set()

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Takes in a batch; with `compute_result` returns the metrics and starts anew."""
        losses, maps, log_odds = (_numpy(values) for values in prediction.predictions)
        masks, truth = (_numpy(values) for values in prediction.label_ids)
        self._sums += losses.astype(np.float64).sum(0)
        known = truth >= 0
        if known.any():
            self._images.update(truth[known], maps[known].reshape(known.sum(), -1).max(1))
            self._image_classes |= set(truth[known].tolist())
        masked = (masks >= 0).all((1, 2))
        if masked.any():
            self._pixels.update(masks[masked] > 0, maps[masked])
            self._pixel_classes |= set(np.unique(masks[masked] > 0).tolist())
        asked = known & np.isfinite(log_odds)
        np.add.at(self._yes_no, (truth[asked].astype(int), ((log_odds > 0) == (truth > 0))[asked].astype(int)), 1)
        if not compute_result:
            return {}
        result = self._result()
        self._reset()
        return result

    def _result(self) -> dict[str, float]:
        result = mean_losses(self._sums.tolist())
        if self.loss_weights:
            result["loss"] = sum(weight * result.get(f"loss_{name}", 0) for name, weight in self.loss_weights.items())
        if len(self._image_classes) == 2:
            result["image_auroc"] = self._images.compute()["image_auroc"]
        if len(self._pixel_classes) == 2:
            result["pixel_auroc"] = self._pixels.compute()["pixel_auroc"]
        asked = self._yes_no.sum(1)
        if asked.all():
            result["yes_no_balanced_accuracy"] = float((self._yes_no[:, 1] / asked).mean())
        return result


def _numpy(values: Any) -> np.ndarray:
    return torch.as_tensor(values).detach().float().cpu().numpy()
