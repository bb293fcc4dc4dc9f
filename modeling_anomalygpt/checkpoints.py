"""Checkpoints by folder or Hub id: loads one with its processor, or says in one line why it cannot be used."""

import contextlib
import json
import os
import pathlib
import pickle
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.utils import cached_file

from .composition import with_language_model
from .configuration_anomalygpt import AnomalyGPTConfig
from .errors import HubError, describe_error, hub_failure, needs_connection
from .image_processing_anomalygpt import AnomalyGPTImageProcessor
from .modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTModel
from .onednn import multiplies_bfloat16
from .processing_anomalygpt import AnomalyGPTProcessor

ADAPTER_CONFIG = "adapter_config.json"
EMBEDDED_CHECKPOINT = pathlib.Path(__file__).parent / "anomalygpt_tiny"
SMALL = "small"
"""Stands for the embedded eyes with `SMALL_BASE` and the adapter in this package."""
SMALL_ADAPTER = pathlib.Path(__file__).parent / "anomalygpt_small"
SMALL_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMALL_BASE_VARIABLE = "ANOMALYGPT_SMALL_BASE"

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
    """Nothing is left to do: `save_pretrained` and `push_to_hub` always write the code beside the weights."""


def load_checkpoint(
    model: str | pathlib.Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization_config: Any = None,
) -> tuple[AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor]:
    """Loads model and processor from a folder or a Hub id, ready to inspect.

    Args:
        model (`str`, *optional*): Folder or Hub id of a checkpoint or of an adapter. `None`: the embedded checkpoint;
            `"small"`: its eyes with a real language model, from the Hub or from the folder that the environment
            variable `ANOMALYGPT_SMALL_BASE` names.
        device (`str` or `torch.device`, *optional*): `None`: the GPU if there is one, else the CPU.
        dtype (`str` or `torch.dtype`, *optional*): `None`: the checkpoint's own on a GPU, float32 on the CPU, where
            processors with AMX multiply in bfloat16 in the embedded vision model's transformer. Maps are float32 in
            any case.
        quantization_config (*optional*): Passed to `from_pretrained`; leave out `UNQUANTIZED_MODULES`.

    Returns:
        `tuple(AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor)`

    Raises:
        CheckpointError: If the folder holds no AnomalyGPT checkpoint **or** weights are missing or not finite **or**
            device or dtype are unknown.
    """
    register()
    source = EMBEDDED_CHECKPOINT if model is None else model
    if source == SMALL:
        return _load_small(_device(device), dtype, quantization_config)
    _check_folder(source)
    device = _device(device)
    options = {"dtype": _dtype(dtype, device), "output_loading_info": True}
    if quantization_config is not None:
        options |= {"quantization_config": quantization_config, "device_map": device}
    try:
        if not os.path.exists(source):
            needs_connection(str(source))
        base = adapter_base(source)
        _check_size(base or source)
        loaded, info = AnomalyGPTForConditionalGeneration.from_pretrained(base or source, **options)
        if base is not None:
            loaded.load_adapter(str(source))
        processor = AnomalyGPTProcessor.from_pretrained(source)
    except MemoryError:
        raise
    except Exception as error:  # damaged words and settings end in KeyError, TypeError, AttributeError ...
        raise CheckpointError(_why(error, str(source))) from error
    _check_weights(loaded, info, source)
    if quantization_config is None:
        loaded.to(device)
    return _ready(loaded, dtype), processor


def _ready(model: AnomalyGPTForConditionalGeneration, dtype: object) -> AnomalyGPTForConditionalGeneration:
    """Ready to inspect, in the products of this processor where no dtype is asked for."""
    model.model.vision_tower.bfloat16_products = dtype is None and multiplies_bfloat16()
    return model.eval()


def _load_small(
    device: torch.device, dtype: str | torch.dtype | None, quantization_config: Any
) -> tuple[AnomalyGPTForConditionalGeneration, AnomalyGPTProcessor]:
    """The embedded eyes, the language model from Hub or folder, the adapter of this package merged into it."""
    if quantization_config is not None:
        raise CheckpointError(
            "`model` small must be loaded whole, got a quantization. Leave it out, or merge it first."
        )
    language = os.environ.get(SMALL_BASE_VARIABLE) or SMALL_BASE
    eyes, processor = load_checkpoint(None, "cpu", "float32")
    try:
        if not os.path.exists(language):
            needs_connection(language)
        from peft import PeftModel

        model = with_language_model(eyes, processor, language, torch.float32)
        processor = model.processor
        model = PeftModel.from_pretrained(model, str(SMALL_ADAPTER)).merge_and_unload()
    except MemoryError:
        raise
    except Exception as error:
        why = _why(error, language)
        raise CheckpointError(
            f"{why} The model `small` needs {SMALL_BASE}: from the Hub, or set {SMALL_BASE_VARIABLE} to its folder."
        ) from error
    kept = _dtype(dtype, device)
    model.to(device, *([] if kept == "auto" else [kept]))
    model.model.localizer.float()  # maps are float32 in any case
    return _ready(model, dtype), processor


@contextlib.contextmanager
def new_folder(output: str | os.PathLike) -> Iterator[str]:
    """A folder to write a checkpoint into, which appears as `output` only when it is complete.

    Raises:
        CheckpointError: If `output` holds files already, **or** another process is writing it.
    """
    partial = f"{os.fspath(output).rstrip(os.sep)}.partial"
    lock = FileLock(f"{partial}.lock")
    os.makedirs(os.path.dirname(os.path.abspath(partial)), exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CheckpointError(
            f"`output` must be free, got {str(output)!r}, which another process is writing. Choose another one."
        ) from error
    try:
        if os.path.isdir(output) and os.listdir(output):
            raise CheckpointError(
                f"`output` must be a new folder, got {str(output)!r}, which holds files. Choose another one."
            )
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        yield partial
        if os.path.isdir(output):
            os.rmdir(output)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):  # Windows deletes no open file
            os.unlink(lock.lock_file)
        lock.release()


def adapter_base(source: str | os.PathLike) -> str | None:
    """Which checkpoint an adapter belongs to.

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
        settings = json.loads(pathlib.Path(found).read_text(encoding="utf-8"))
        base, rank = settings.get("base_model_name_or_path"), settings.get("r") or 0
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{found!r} is not readable JSON: {error}. Save the adapter again.") from error
    if not isinstance(rank, int) or rank > 4096:
        raise ValueError(f"`r` in {found!r} must be a rank up to 4096, got {rank!r}. Save the adapter again.")
    if not base:
        raise ValueError(
            f"The adapter {str(source)!r} must name its checkpoint as `base_model_name_or_path`, got {base!r}. "
            f"Write it into {ADAPTER_CONFIG}."
        )
    looks_local = os.path.isabs(base) or base.startswith((".", "~")) or base.count("/") > 1
    if looks_local and not os.path.isdir(base):
        if pathlib.PurePath(base).name == EMBEDDED_CHECKPOINT.name and EMBEDDED_CHECKPOINT.is_dir():
            return str(EMBEDDED_CHECKPOINT)
        raise ValueError(
            f"The adapter {str(source)!r} was trained from {base!r}, which does not exist here. Copy that checkpoint, "
            f"or write where it is into {ADAPTER_CONFIG}."
        )
    return base


def _check_folder(source: str | pathlib.Path) -> None:
    """A folder must hold a checkpoint of AnomalyGPT; anything else is taken for a Hub id."""
    path = pathlib.Path(source)
    looks_local = path.is_absolute() or str(source).startswith((".", "~")) or len(path.parts) > 2
    if not path.exists():
        if looks_local:
            raise CheckpointError(
                f"`model` must be a folder or a Hub id, got {str(source)!r}, which does not exist. Check the path."
            )
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
        raise CheckpointError(
            f"{str(config_file)!r} is not readable JSON ({describe_error(error)}). Download or convert it again."
        ) from error
    if model_type != "anomalygpt":
        raise CheckpointError(
            f"`model` must be an AnomalyGPT checkpoint, got one of {model_type!r} in {str(source)!r}. "
            "Compose one with `AnomalyGPTForConditionalGeneration.from_vision_language_pretrained`."
        )


def _check_size(source: str | os.PathLike) -> None:
    """Refuses a configuration of many more numbers than the weights hold: they would fill the memory first."""
    if source == EMBEDDED_CHECKPOINT:
        return
    names = ("model.safetensors", "pytorch_model.bin")
    if os.path.isdir(source):
        files = [path for name in names for path in pathlib.Path(source).glob(name.replace(".", "*."))]
    else:  # one file, which is loaded in any case; of several the last is known only after all
        found = cached_file(str(source), names[0], _raise_exceptions_for_missing_entries=False)
        files = [] if found is None else [pathlib.Path(found)]
    held = sum(path.stat().st_size for path in files)
    with torch.device("meta"):
        model = AnomalyGPTForConditionalGeneration(AnomalyGPTConfig.from_pretrained(source))
    described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if files and described > 4 * held:  # two bits a number
        raise ValueError(f"its config.json describes {described:.2g} numbers, its weights are {held:.2g} bytes.")


def _why(error: Exception, source: str) -> str:
    """One line about a checkpoint that cannot be loaded."""
    reason = None if os.path.exists(source) else hub_failure(error, source)
    if isinstance(error, HubError) or reason is not None:
        return reason or str(error)
    if isinstance(error, pickle.UnpicklingError):
        return (
            f"`model` must hold safetensors, got pickled weights with more than tensors in them in {source!r}. "
            "They are not read; get the checkpoint from somebody you trust."
        )
    if isinstance(error, RuntimeError):  # shapes that do not fit, weights that cannot be read
        return f"The weights in {source!r} do not fit its config.json: {describe_error(error)}"
    return f"Cannot load the checkpoint {source!r}: {describe_error(error)}"


def _check_weights(model: torch.nn.Module, info: dict[str, Any], source: str | os.PathLike) -> None:
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            names = ", ".join(sorted(str(key) for key in info[kind])[:5])
            raise CheckpointError(
                f"The checkpoint {str(source)!r} has {len(info[kind])} {kind.replace('_', ' ')}: {names}. "
                "Download or convert it again."
            )
    if unused := sorted(map(str, info["unexpected_keys"])):
        warnings.warn(
            f"{len(unused)} tensors of the weights in {str(source)!r} are not used ({', '.join(unused[:3])}): its "
            "config.json may describe another model. Results may be wrong.",
            stacklevel=3,
        )
    for name, parameter in model.named_parameters():
        quantized = is_traceable_wrapper_subclass(parameter)  # its type knows few operations, `isfinite` is not one
        if parameter.is_floating_point() and not quantized and not torch.isfinite(parameter).all():
            raise CheckpointError(
                f"The weights of {name} in {str(source)!r} must be finite, got NaN or infinity. "
                "The file is damaged or its training diverged; use another checkpoint."
            )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"`device` must be usable here, got {str(device)!r} ({describe_error(error)}). Try 'cpu'."
        ) from error
    return device


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> str | torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in named:
        raise CheckpointError(f"`dtype` must be one of {', '.join(named)}, auto, got {dtype!r}. Choose one of them.")
    return named[dtype]
