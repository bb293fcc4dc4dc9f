"""Loads a checkpoint with its processor, and says in one line what is wrong with one that cannot be used."""

import json
import os
import pathlib
import pickle
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import cached_file

from .configuration_anomalygpt import AnomalyGPTConfig
from .errors import HubError, first_line, hub_failure, needs_connection
from .image_processing_anomalygpt import AnomalyGPTImageProcessor
from .modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTModel
from .processing_anomalygpt import AnomalyGPTProcessor

ADAPTER_CONFIG = "adapter_config.json"
_EMBEDDED = "anomalygpt_tiny"


def adapter_base(source: str | os.PathLike) -> str | None:
    """Which checkpoint an adapter belongs to.

    Args:
        source (`str` or `os.PathLike`): Folder or Hub id.

    Returns:
        `str`: Folder or Hub id of the checkpoint; `None` when `source` is no adapter.

    Raises:
        ValueError: If the adapter names no checkpoint, **or** a folder that does not exist.
    """
    if os.path.isdir(source):
        found = os.path.join(source, ADAPTER_CONFIG)
        if not os.path.isfile(found) or os.path.isfile(os.path.join(source, "config.json")):
            return None
    else:
        quiet = ("gated_repo", "missing_entries", "connection_errors")
        found = cached_file(str(source), ADAPTER_CONFIG, **{f"_raise_exceptions_for_{kind}": False for kind in quiet})
        if found is None:
            return None
    try:
        base = json.loads(pathlib.Path(found).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{found!r} is not readable JSON: {error}. Save the adapter again.") from error
    if not base:
        raise ValueError(
            f"The adapter {str(source)!r} must name its checkpoint as `base_model_name_or_path`, got {base!r}. "
            f"Write it into {ADAPTER_CONFIG}."
        )
    looks_local = os.path.isabs(base) or base.startswith((".", "~")) or base.count("/") > 1
    if looks_local and not os.path.isdir(base):
        embedded = pathlib.Path(__file__).parent / _EMBEDDED
        if pathlib.PurePath(base).name == _EMBEDDED and embedded.is_dir():
            return str(embedded)
        raise ValueError(
            f"The adapter {str(source)!r} was trained from {base!r}, which does not exist here. Copy that checkpoint, "
            f"or write where it is into {ADAPTER_CONFIG}."
        )
    return base


def register() -> None:
    """Lets `AutoModelForImageTextToText` and the others load AnomalyGPT folders without custom code."""
    AutoConfig.register("anomalygpt", AnomalyGPTConfig, exist_ok=True)
    AutoModel.register(AnomalyGPTConfig, AnomalyGPTModel, exist_ok=True)
    AutoModelForImageTextToText.register(AnomalyGPTConfig, AnomalyGPTForConditionalGeneration, exist_ok=True)
    AutoImageProcessor.register(
        AnomalyGPTConfig, image_processor_classes={"pil": AnomalyGPTImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(AnomalyGPTConfig, AnomalyGPTProcessor, exist_ok=True)


def register_for_auto_class() -> None:
    """Lets `save_pretrained` and `push_to_hub` write the code beside the weights, for use without this package."""
    AnomalyGPTConfig.register_for_auto_class()
    AnomalyGPTModel.register_for_auto_class("AutoModel")
    AnomalyGPTForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
    AnomalyGPTImageProcessor.register_for_auto_class("AutoImageProcessor")
    AnomalyGPTProcessor.register_for_auto_class("AutoProcessor")


EMBEDDED_CHECKPOINT = pathlib.Path(__file__).parent / "anomalygpt_tiny"

# What stays in full precision when the language model is quantized to 4 or 8 bits: pass it as
# `llm_int8_skip_modules` (bitsandbytes) or `modules_to_not_convert` (torchao).
UNQUANTIZED_MODULES = [
    "model.vision_tower",
    "model.text_tower",
    "model.visual_projection",
    "model.text_projection",
    "model.localizer",
    "model.prompt_learner",
    "model.multi_modal_projector",
    "lm_head",
]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line that says why and what to do."""


def load_checkpoint(
    model: str | pathlib.Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization_config: Any = None,
) -> tuple[AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor]:
    """Loads model and processor from a folder or a Hub id, ready to inspect.

    Args:
        model (`str`, *optional*): Folder or Hub id of a checkpoint or of an adapter. `None`: the embedded checkpoint.
        device (`str` or `torch.device`, *optional*): `None`: the GPU if there is one, else the CPU.
        dtype (`str` or `torch.dtype`, *optional*): `None`: the checkpoint's own on a GPU, float32 on the CPU. Maps are
            float32 in any case.
        quantization_config (*optional*): Passed to `from_pretrained`; leave out `UNQUANTIZED_MODULES`.

    Returns:
        `tuple(AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor)`

    Raises:
        CheckpointError: If the folder holds no AnomalyGPT checkpoint **or** weights are missing or not finite **or**
            device or dtype are unknown.
    """
    register()
    source = EMBEDDED_CHECKPOINT if model is None else model
    _check_folder(source)
    device = _device(device)
    options = {"dtype": _dtype(dtype, device), "output_loading_info": True}
    if quantization_config is not None:
        options |= {"quantization_config": quantization_config, "device_map": device}
    try:
        if not pathlib.Path(source).exists():
            needs_connection(str(source))
        base = adapter_base(source)
        loaded, info = AnomalyGPTForConditionalGeneration.from_pretrained(base or source, **options)
        if base is not None:
            loaded.load_adapter(str(source))
        processor = AnomalyGPTProcessor.from_pretrained(source)
    except HubError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, ValueError, SafetensorError, HFValidationError) as error:
        reason = None if pathlib.Path(source).exists() else hub_failure(error, str(source))
        if reason is not None:
            raise CheckpointError(reason) from error
        raise CheckpointError(f"Cannot load the checkpoint {str(source)!r}: {first_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"`model` must hold safetensors, got pickled weights with more than tensors in them in {str(source)!r}. "
            "They are not read; get the checkpoint from somebody you trust."
        ) from error
    except RuntimeError as error:  # shapes that do not fit, weights that cannot be read
        raise CheckpointError(
            f"The weights in {str(source)!r} do not fit its config.json: {first_line(error)}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # damaged words and settings end in KeyError, TypeError, AttributeError ...
        line = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"Cannot load the checkpoint {str(source)!r}: {line}") from error
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            names = ", ".join(sorted(str(key) for key in info[kind])[:5])
            raise CheckpointError(
                f"The checkpoint {str(source)!r} has {len(info[kind])} {kind.replace('_', ' ')}: {names}. "
                "Download or convert it again."
            )
    for name, parameter in loaded.named_parameters():
        quantized = is_traceable_wrapper_subclass(parameter)  # its type knows few operations, `isfinite` is not one
        if parameter.is_floating_point() and not quantized and not torch.isfinite(parameter).all():
            raise CheckpointError(
                f"The weights of {name} in {str(source)!r} must be finite, got NaN or infinity. "
                "The file is damaged or its training diverged; use another checkpoint."
            )
    if quantization_config is None:
        loaded.to(device)
    return loaded.eval(), processor


def _check_folder(source: str | pathlib.Path) -> None:
    """A folder must hold a checkpoint of AnomalyGPT; anything else is taken for a Hub id."""
    path = pathlib.Path(source)
    looks_local = path.is_absolute() or str(source).startswith((".", "~")) or len(path.parts) > 2
    if not path.exists():
        if looks_local:
            raise CheckpointError(f"`model` must be a folder or a Hub id, got {str(source)!r}, which does not exist.")
        return
    config_file = path / "config.json"
    if (path / "adapter_config.json").is_file() and not config_file.is_file():
        return  # an adapter
    if not config_file.is_file():
        raise CheckpointError(
            f"`model` must be a folder with a config.json, got {str(source)!r}. "
            "Give a folder that `save_pretrained`, `anomalygpt convert` or training wrote."
        )
    try:
        model_type = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise CheckpointError(f"{str(config_file)!r} is not readable JSON: {first_line(error)}") from error
    if model_type != "anomalygpt":
        raise CheckpointError(
            f"`model` must be an AnomalyGPT checkpoint, got one of {model_type!r} in {str(source)!r}. "
            "Compose one with `AnomalyGPTForConditionalGeneration.from_vision_language_pretrained`."
        )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"`device` must be usable here, got {str(device)!r}: {first_line(error)}") from error
    return device


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> str | torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in named:
        raise CheckpointError(f"`dtype` must be one of {', '.join(named)}, auto, got {dtype!r}.")
    return named[dtype]


__all__ = [
    "ADAPTER_CONFIG",
    "EMBEDDED_CHECKPOINT",
    "UNQUANTIZED_MODULES",
    "CheckpointError",
    "adapter_base",
    "load_checkpoint",
    "register",
    "register_for_auto_class",
]
