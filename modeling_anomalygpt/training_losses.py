"""Losses of single samples: a sample weighs the same in any batch, on any process and in any accumulation step.

The model itself averages over what it gets at once; sums of these divided by counts over the whole step do not depend
on how the step was cut into pieces.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from .losses import dice_loss, focal_loss


@dataclass
class SampleLosses:
    r"""
    What each sample of a batch costs.

    Args:
        lm (`torch.Tensor` of shape `(batch_size,)`):
            Cross entropy averaged over the sample's answer tokens; 0 without any.
        focal, dice (`torch.Tensor` of shape `(batch_size,)`):
            Pixel losses summed over the layers; 0 without a pixel target.
        answered, masked (`torch.BoolTensor` of shape `(batch_size,)`):
            Which samples have answer tokens, which a pixel target.
        correct, tokens (`torch.LongTensor` of shape `(batch_size,)`):
            Answer tokens that the language model ranks first, and answer tokens.
    """

    lm: torch.Tensor
    focal: torch.Tensor
    dice: torch.Tensor
    answered: torch.Tensor
    masked: torch.Tensor
    correct: torch.Tensor
    tokens: torch.Tensor

    def total(self, weights: dict[str, float], counts: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the losses, divided by how many samples of the whole step have answers and targets."""
        answered, masked = counts.clamp(min=1)
        pixels = weights["focal"] * self.focal.sum() + weights["dice"] * self.dice.sum()
        return weights["lm"] * self.lm.sum() / answered + pixels / masked

    def sums(self) -> torch.Tensor:
        """Sums over the batch, in the order of `SUMS`, float64."""
        values = (self.lm, self.focal, self.dice, self.answered, self.masked, self.correct, self.tokens)
        return torch.stack([value.detach().double().sum() for value in values])


SUMS = ("lm", "focal", "dice", "answered", "masked", "correct", "tokens")


def sample_losses(
    logits: torch.Tensor,
    labels: torch.Tensor,
    layer_maps: torch.Tensor | None = None,
    mask_labels: torch.Tensor | None = None,
) -> SampleLosses:
    r"""
    Computes the losses of every sample, in float32.

    Args:
        logits (`torch.Tensor` of shape `(batch_size, sequence_length, vocab_size)`):
            Longer sequences are cut on the left: virtual tokens stand before the text.
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`):
            Answer tokens; -100 elsewhere.
        layer_maps (`torch.Tensor` of shape `(batch_size, num_layers, 2, height, width)`, *optional*):
            Probabilities of normal and anomalous.
        mask_labels (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*):
            1 where anomalous, 0 elsewhere; a sample filled with -1 has no pixel target.

    Returns:
        [`SampleLosses`]

    Example:
    ```python
    >>> logits = torch.zeros(2, 4, 8)                             # eight words, all alike
    >>> labels = torch.tensor([[-100, -100, 5, 6], [-100, -100, -100, 7]])
    >>> sample_losses(logits, labels).lm                          # log 8 for each, however long the answer is
    tensor([2.0794, 2.0794])

    ```
    """
    targets = labels[:, 1:]
    predicted = logits[:, -labels.shape[1] : -1]
    is_answer = targets != -100
    tokens = is_answer.sum(1)
    lm = logits.new_zeros(len(labels), dtype=torch.float32) + 0 * logits[:, :1, 0].sum()
    if is_answer.any():
        each = functional.cross_entropy(predicted[is_answer].float(), targets[is_answer], reduction="none")
        rows = is_answer.nonzero()[:, 0]
        lm = lm.index_add(0, rows, each) / tokens.clamp(min=1)
    correct = ((predicted.detach().argmax(-1) == targets) & is_answer).sum(1)
    masked = torch.zeros_like(tokens, dtype=torch.bool)
    focal = dice = torch.zeros_like(lm)
    if mask_labels is not None and layer_maps is not None:
        masked = has_pixel_target(mask_labels)
        layers, target = layer_maps.unbind(1), mask_labels.clamp(min=0)
        focal = sum(focal_loss(layer, target) for layer in layers).where(masked, 0.0)
        dice = sum(dice_loss(layer[:, 1], target) for layer in layers).where(masked, 0.0)
    return SampleLosses(lm, focal, dice, tokens > 0, masked, correct, tokens)


def has_pixel_target(mask_labels: torch.Tensor) -> torch.Tensor:
    """Which samples of `(batch_size, height, width)` have a pixel target: those without a -1."""
    return (mask_labels >= 0).flatten(1).all(1)


def count_targets(labels: torch.Tensor, mask_labels: torch.Tensor | None) -> torch.Tensor:
    """How many samples have answer tokens, how many a pixel target: two numbers, float64."""
    answered = (labels[:, 1:] != -100).any(1).sum()
    masked = torch.zeros_like(answered) if mask_labels is None else has_pixel_target(mask_labels).sum()
    return torch.stack([answered, masked.to(answered.device)]).double()


def mean_losses(sums: Mapping[str, float]) -> dict[str, float]:
    r"""
    Means of losses over the samples that have them.

    Args:
        sums (`dict[str, float]`):
            Under the names of `training_losses.SUMS`.

    Returns:
        `dict[str, float]`: `loss_lm` and `token_accuracy`; `loss_focal` and `loss_dice` where there were targets.

    Example:
    ```python
    >>> mean_losses({"lm": 6, "focal": 0, "dice": 0, "answered": 4, "masked": 0, "correct": 9, "tokens": 12})
    {'loss_lm': 1.5, 'token_accuracy': 0.75}

    ```
    """
    means = {}
    for name, value, count in (
        ("loss_lm", "lm", "answered"),
        ("loss_focal", "focal", "masked"),
        ("loss_dice", "dice", "masked"),
        ("token_accuracy", "correct", "tokens"),
    ):
        if sums[count]:
            means[name] = sums[value] / sums[count]
    return means


__all__ = ["SUMS", "SampleLosses", "count_targets", "has_pixel_target", "mean_losses", "sample_losses"]
