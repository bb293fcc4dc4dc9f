"""Which files a checkpoint needs on the Hub: its weights and words, the code of its classes, pipeline and handler.

Reads and rewrites small JSON files; never opens weights, so that a model of any size is made ready at once.
"""

import json
import os
import pathlib
from typing import Any

from ..pipeline_anomalygpt import TASK

HERE = pathlib.Path(__file__).parents[1]
_AUTO_MAP = {
    "AutoConfig": "configuration_anomalygpt.AnomalyGPTConfig",
    "AutoModel": "modeling_anomalygpt.AnomalyGPTModel",
    "AutoModelForImageTextToText": "modeling_anomalygpt.AnomalyGPTForConditionalGeneration",
}
_AUTO_PROCESSOR = {"AutoProcessor": "processing_anomalygpt.AnomalyGPTProcessor"}
_AUTO_IMAGE_PROCESSOR = {"AutoImageProcessor": "image_processing_anomalygpt.AnomalyGPTImageProcessor"}
_PIPELINES = {
    TASK: {
        "impl": "pipeline_anomalygpt.AnomalyDetectionPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}

# What else of a folder is sent: nothing that is unpickled when it is read, no training state, no results.
_SENT = (
    "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "generation_config.json",
    "preprocessor_config.json", "tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "class_tokenizer/*.json", "class_tokenizer/*.txt",
    "class_tokenizer/*.model", "*references*.safetensors", "LICENSE*", "NOTICE*",
)  # fmt: skip
_ADAPTER_SENT = (
    "adapter_model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "class_tokenizer/*.json", "*references*.safetensors", "LICENSE*", "NOTICE*",
)  # fmt: skip


def is_adapter(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    folder = pathlib.Path(folder)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def needs_merging(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an adapter whose model is not on the Hub but on this machine."""
    folder = pathlib.Path(folder)
    return is_adapter(folder) and os.path.isdir(
        _read(folder / "adapter_config.json").get("base_model_name_or_path") or ""
    )


def code_files() -> dict[str, pathlib.Path]:
    """Name and place of the source files that travel with a checkpoint: those directly in the package."""
    return {path.name: path for path in sorted(HERE.glob("*.py")) if path.name != "__init__.py"}


def checkpoint_files(folder: str | os.PathLike) -> dict[str, pathlib.Path | bytes]:
    r"""
    What is sent of a folder that `save_pretrained` wrote, with the code beside it.

    Args:
        folder (`str` or `os.PathLike`):
            Model and processor.

    Returns:
        `dict[str, Path | bytes]`: Path in the repository, and the file or its changed content. Without a card.

    Raises:
        ValueError: If the folder holds no model, no processor or no safetensors.
    """
    folder = pathlib.Path(folder)
    config = _read(folder / "config.json")
    if config.get("model_type") != "anomalygpt":
        raise ValueError(
            f"`model` must be an AnomalyGPT checkpoint, got one of {config.get('model_type')!r} in {str(folder)!r}."
        )
    processor = _read(folder / "processor_config.json")
    files: dict[str, pathlib.Path | bytes] = dict(_matching(folder, _SENT))
    if not any(name.endswith(".safetensors") and name.startswith("model") for name in files):
        raise ValueError(
            f"`model` must hold its weights as safetensors, got none in {str(folder)!r}. "
            "Save them with `save_pretrained`; pickled weights are never sent."
        )
    files["config.json"] = _json(config | {"auto_map": _AUTO_MAP, "custom_pipelines": _PIPELINES})
    images = processor.get("image_processor")
    if isinstance(images, dict):
        processor["image_processor"] = images | {"auto_map": _AUTO_IMAGE_PROCESSOR | _AUTO_PROCESSOR}
    files["processor_config.json"] = _json(processor | {"auto_map": _AUTO_PROCESSOR})
    if (folder / "tokenizer_config.json").is_file():
        words = _read(folder / "tokenizer_config.json")
        files["tokenizer_config.json"] = _json(words | {"auto_map": _AUTO_PROCESSOR})
    return files | code_files()


def adapter_files(folder: str | os.PathLike, base_model: str | None = None) -> dict[str, pathlib.Path | bytes]:
    r"""
    What is sent of an adapter that peft saved.

    Args:
        folder (`str` or `os.PathLike`):
            The adapter.
        base_model (`str`, *optional*):
            Hub id of the model it was trained on; needed where the adapter names a folder of this machine.

    Returns:
        `dict[str, Path | bytes]`: As [`checkpoint_files`].

    Raises:
        ValueError: If the adapter is pickled **or** its model is not named by a Hub id.
    """
    folder = pathlib.Path(folder)
    config = _read(folder / "adapter_config.json")
    named = base_model or config.get("base_model_name_or_path") or ""
    if not is_hub_id(named):
        raise ValueError(
            f"`base` must be the Hub id of the model that the adapter was trained on, got {named!r}. "
            "Push that model first, then give its id with --base."
        )
    files: dict[str, pathlib.Path | bytes] = dict(_matching(folder, _ADAPTER_SENT))
    if "adapter_model.safetensors" not in files:
        raise ValueError(
            f"`model` must hold adapter_model.safetensors, got none in {str(folder)!r}. "
            "Save the adapter with peft's `save_pretrained`; pickled weights are never sent."
        )
    files["adapter_config.json"] = _json(config | {"base_model_name_or_path": named})
    return files


def is_hub_id(name: str) -> bool:
    """Whether a name is `user/name` on the Hub and no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not pathlib.Path(name).exists()


def _matching(folder: pathlib.Path, patterns: tuple[str, ...]) -> dict[str, pathlib.Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"`model` must be a folder with a {path.name}, got {str(path.parent)!r}. "
            "Give a folder that `save_pretrained`, `anomalygpt convert` or training wrote."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(value).__name__}.")
    return value


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


__all__ = ["adapter_files", "checkpoint_files", "code_files", "is_adapter", "is_hub_id", "needs_merging"]
