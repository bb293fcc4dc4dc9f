"""What happens around the steps of a run: the epoch of the data, sample pictures for TensorBoard."""

import importlib.util
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback


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


class SamplePictures(TrainerCallback):
    r"""
    Shows a few measured pictures in TensorBoard: the picture, its map, its target, and the answer.

    Args:
        trainer ([`AnomalyTrainer`]):
            Its evaluation data, model and processor are used. It does nothing without TensorBoard, and where one
            process alone has not the whole model (FSDP, ZeRO).
        count (`int`, defaults to 4):
            Pictures, evenly spread over the evaluation data.
    """

    def __init__(self, trainer: Any, count: int = 4):
        self.trainer, self.count = trainer, count

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the pictures of this step, on the first process."""
        callbacks = self.trainer.callback_handler.callbacks
        writer = next((one.tb_writer for one in callbacks if isinstance(one, TensorBoardCallback)), None)
        data = self.trainer.eval_dataset
        divided = self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled
        if writer is None or divided or not state.is_world_process_zero or not len(data):
            return
        chosen = np.linspace(0, len(data) - 1, min(self.count, len(data))).round().astype(int)
        for index in chosen:
            picture, answer = self._look(data[int(index)])
            writer.add_image(f"pictures/{index}", picture, state.global_step, dataformats="HWC")
            writer.add_text(f"answers/{index}", answer, state.global_step)
        writer.flush()

    @torch.no_grad()
    def _look(self, sample: dict[str, Any]) -> tuple[np.ndarray, str]:
        trainer = self.trainer
        batch = trainer.data_collator([sample])
        batch.pop("image_ids", None)
        batch.pop("image_labels", None)
        labels, mask = batch.pop("labels"), batch.pop("mask_labels")[0]
        begin = int((labels[0] != -100).int().argmax())
        inputs = trainer._prepare_inputs(batch)
        for name in ("input_ids", "attention_mask"):
            inputs[name] = inputs[name][:, :begin]
        model = trainer.accelerator.unwrap_model(trainer.model).eval()
        words = model.generate(
            **inputs, max_new_tokens=32, do_sample=False, pad_token_id=trainer.processing_class.tokenizer.pad_token_id
        )
        outputs = model(**inputs)
        processor = trainer.processing_class
        words = words[0, begin:] if words.shape[1] > begin else words[0]
        asked = processor.tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True)
        answer = processor.strip_answer(words)
        shown = [_as_bytes(sample["pixel_values"]), _as_bytes(outputs.anomaly_map[0]), _as_bytes(mask.clamp(min=0))]
        side = shown[0].shape[0]
        shown = [
            np.repeat(np.repeat(one, -(-side // len(one)), 0), -(-side // len(one)), 1)[:side, :side] for one in shown
        ]
        return np.concatenate(shown, axis=1), f"{asked} -> **{answer}** (score {outputs.anomaly_map.max():.3f})"


def tensorboard_is_installed() -> bool:
    """Whether `report_to="tensorboard"` works."""
    return any(importlib.util.find_spec(name) is not None for name in ("tensorboard", "tensorboardX"))


def _as_bytes(values: Any) -> np.ndarray:
    """A picture `(3, H, W)` of any range or a map `(H, W)` in [0, 1] as `(H, W, 3)`, `uint8`."""
    array = np.asarray(values.cpu() if isinstance(values, torch.Tensor) else values, np.float32)
    if array.ndim == 2:
        return np.repeat((array.clip(0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    low, high = array.min(), array.max()
    return ((array - low) / max(high - low, 1e-6) * 255).astype(np.uint8).transpose(1, 2, 0)


__all__ = ["EpochOfDataset", "SamplePictures", "tensorboard_is_installed"]
