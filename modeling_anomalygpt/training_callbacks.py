"""What happens around the steps of a run: the epoch of the data, sample pictures for TensorBoard."""

from typing import Any

from transformers import TrainerCallback


class EpochOfDataset(TrainerCallback):
    r"""
    Tells the training data which epoch begins, on every process: the trainer does so on one process only.

    Args:
        dataset (any, *optional*):
            Its `set_epoch(epoch)` is called where it has one.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the epoch's workers start; also in the middle of an epoch, after a resume."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))


__all__ = ["EpochOfDataset"]
