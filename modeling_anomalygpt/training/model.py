"""The model that is trained: loaded in the numbers that training wants."""

import os
from typing import Any

import torch

from ..checkpoints import ADAPTER_CONFIG, EMBEDDED_CHECKPOINT, UNQUANTIZED_MODULES, load_checkpoint
from .checkpoints import TrainingError


def load_for_training(arguments: Any) -> tuple[torch.nn.Module, Any]:
    r"""
    Loads a model and its processor to train it.

    Args:
        arguments ([`ModelArguments`]):
            Model, dtype, bits, weights of the losses.

    Returns:
        `tuple(AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor)`: On the CPU, or where its 4-bit weights are.

    Raises:
        TrainingError: If the model is an adapter, **or** 4 bits are asked for without bitsandbytes.
        CheckpointError: If it cannot be loaded.
    """
    source = arguments.model or str(EMBEDDED_CHECKPOINT)
    if os.path.isfile(os.path.join(source, ADAPTER_CONFIG)):
        raise TrainingError(
            f"`model` must be a whole checkpoint, got the adapter {source!r}. "
            f"Merge it first: anomalygpt merge {source} --output DIR"
        )
    source = os.path.abspath(source) if os.path.isdir(source) else source  # the adapter names it
    quantization, device = None, "cpu"
    if arguments.load_in_4bit:
        quantization = _four_bits(arguments.dtype)
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    model, processor = load_checkpoint(source, device, arguments.dtype, quantization)
    weights = {name: getattr(arguments, f"loss_weight_{name}") for name in ("lm", "focal", "dice")}
    model.config.loss_weights = model.config.loss_weights | {
        name: value for name, value in weights.items() if value is not None
    }
    return model, processor


def _four_bits(dtype: str) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise TrainingError("`load_in_4bit` needs bitsandbytes. Install it: pip install bitsandbytes.") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, dtype),
        llm_int8_skip_modules=UNQUANTIZED_MODULES,
    )


__all__ = ["load_for_training"]
