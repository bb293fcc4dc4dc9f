"""Pixel losses on anomaly probabilities (paper section 3.4, equations 5 and 6). Knows nothing of models or data."""

import torch


def focal_loss(
    probability: torch.Tensor, target: torch.Tensor, gamma: float = 2.0, smooth: float = 1e-5
) -> torch.Tensor:
    r"""
    Cross entropy that weighs down pixels already right, https://arxiv.org/abs/1708.02002.

    With the target's one-hot vector `t` clamped to `[smooth, 1 - smooth]` and `p = sum(t * probability) + smooth`, a
    pixel costs `-(1 - p) ** gamma * log(p)`; this smoothing is the published training's.

    Args:
        probability (`torch.Tensor` of shape `(batch_size, 2, height, width)`):
            Probabilities of normal (channel 0) and anomalous (channel 1), in [0, 1].
        target (`torch.Tensor` of shape `(batch_size, height, width)`):
            1 where anomalous, 0 elsewhere.
        gamma (`float`, defaults to 2.0):
            Focusing exponent.
        smooth (`float`, defaults to 1e-5):
            Keeps the logarithm finite.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: The mean over the pixels of each sample, float32.

    Example:
    ```python
    >>> certain = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    >>> focal_loss(certain, torch.ones(1, 1, 1)).item() < 1e-6 < focal_loss(certain, torch.zeros(1, 1, 1)).item()
    True

    ```
    """
    anomalous = target.float().clamp(smooth, 1 - smooth)
    probability = probability.float()
    agreement = (1 - anomalous) * probability[:, 0] + anomalous * probability[:, 1] + smooth
    return (-((1 - agreement) ** gamma) * agreement.log()).flatten(1).mean(1)


def dice_loss(probability: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    r"""
    One minus the overlap of probability and target, https://arxiv.org/abs/1606.04797.

    Args:
        probability (`torch.Tensor` of shape `(batch_size, height, width)`):
            Probability of anomalous, in [0, 1].
        target (`torch.Tensor` of shape `(batch_size, height, width)`):
            1 where anomalous, 0 elsewhere.
        smooth (`float`, defaults to 1.0):
            Added to both sides of the fraction, in pixels: an empty target that is met costs nothing.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`: One loss a sample, float32.

    Example:
    ```python
    >>> square = torch.eye(2).view(1, 2, 2)
    >>> dice_loss(square, square).item(), round(dice_loss(1 - square, square).item(), 2)
    (0.0, 0.8)

    ```
    """
    probability, target = probability.float().flatten(1), target.float().flatten(1)
    overlap = (probability * target).sum(1)
    return 1 - (2 * overlap + smooth) / (probability.sum(1) + target.sum(1) + smooth)


def pixel_losses(layer_maps: torch.Tensor | None, mask_labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Focal and dice loss, summed over the layers and averaged over the samples that have a pixel target."""
    if layer_maps is None:
        raise ValueError(
            "`mask_labels` must come with pictures whose layer maps are known, got none. Pass `pixel_values`, or "
            "encode them with `return_layer_maps=True`."
        )
    has_target = (mask_labels >= 0).flatten(1).all(1)
    if not has_target.any():
        zero = layer_maps.sum() * 0.0  # keeps every process's graph the same
        return {"focal": zero, "dice": zero}
    layers = layer_maps[has_target].unbind(1)
    target = mask_labels[has_target]
    return {
        "focal": sum(focal_loss(layer, target).mean() for layer in layers),
        "dice": sum(dice_loss(layer[:, 1], target).mean() for layer in layers),
    }


__all__ = ["dice_loss", "focal_loss", "pixel_losses"]
