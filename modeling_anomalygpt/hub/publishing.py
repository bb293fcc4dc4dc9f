"""To the Hugging Face Hub in one commit: a model with its code and card, an adapter, the folder of a Space.

Reads and rewrites small JSON files; never opens weights, so that a model of any size is made ready at once.
"""

import json
import os
import pathlib
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from ..errors import HubError, hub_failure, needs_token
from ..evaluation.seen_data import DATA_FILE
from ..pipeline_anomalygpt import TASK
from .card import ModelFacts, model_card, readdressed

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
_SUB_MODELS = {
    "vision_config": "vision tower", "text_tower_config": "text tower", "text_config": "language model",
}  # fmt: skip
# What else of a folder is sent: nothing that is unpickled when it is read, no training state, no results.
_SENT = (
    "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "generation_config.json",
    "preprocessor_config.json", "tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "class_tokenizer/*.json", "class_tokenizer/*.txt",
    "class_tokenizer/*.model", "*references*.safetensors", DATA_FILE, "LICENSE*", "NOTICE*",
)  # fmt: skip
_ADAPTER_SENT = (
    "adapter_model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "class_tokenizer/*.json", "*references*.safetensors", DATA_FILE, "LICENSE*", "NOTICE*",
)  # fmt: skip
_NEVER_SENT = (".pyc", ".pt", ".pth", ".bin", ".pkl", ".ckpt")

Files = dict[str, pathlib.Path | bytes]
"""Path in the repository, and the file or its content."""

# What a folder is


def is_adapter(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    folder = pathlib.Path(folder)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def needs_merging(folder: str | os.PathLike) -> bool:
    """Whether a folder holds an adapter whose model is not on the Hub but on this machine."""
    if not is_adapter(folder):
        return False
    return os.path.isdir(_read(pathlib.Path(folder) / "adapter_config.json").get("base_model_name_or_path") or "")


def is_hub_id(name: str) -> bool:
    """Whether a name is `user/name` on the Hub and no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not pathlib.Path(name).exists()


def code_files() -> dict[str, pathlib.Path]:
    """Name and place of the source files that travel with a checkpoint: those directly in the package."""
    return {path.name: path for path in sorted(HERE.glob("*.py")) if path.name != "__init__.py"}


# What is sent of it


def model_repository(
    folder: str | os.PathLike, repo_id: str, base_model: str | None = None, licence: str | None = None
) -> Files:
    """All that is sent of a model or an adapter, so that `from_pretrained(repo_id, trust_remote_code=True)` works.

    Args:
        folder (`str` or `os.PathLike`): What `save_pretrained` wrote: model and processor, or an adapter.
        repo_id (`str`): Where it goes, such as `"user/name"`; stands in the card.
        base_model (`str`, *optional*): For an adapter: the Hub id of the model it was trained on.
        licence (`str`, *optional*): For the card, a short name on the Hub such as `"apache-2.0"`, where the folder has
            none.

    Returns:
        `dict[str, Path | bytes]`: Path in the repository, and the file or its content. The card is the folder's own
        with its new address, where it has one with front matter; else a new one of what its configuration tells.

    Raises:
        ValueError: If the folder holds neither a model nor an adapter that can be sent.
    """
    if is_adapter(folder):
        files = adapter_files(folder, base_model)
        config = json.loads(files["adapter_config.json"])
        base = config["base_model_name_or_path"]
    elif base_model is not None:
        raise ValueError(f"`base` must be left out for a whole model, got {base_model!r}. It belongs to adapters.")
    else:
        files, base = checkpoint_files(folder), None
        config = json.loads(files["config.json"])
    own = pathlib.Path(folder) / "README.md"
    if own.is_file() and (card := own.read_text(encoding="utf-8")).startswith("---"):
        return files | {"README.md": readdressed(card, repo_id, base, licence).encode()}
    licences = {} if licence is None else {"all": licence}
    facts = _facts_of_adapter if base else _facts_of_model
    return files | {"README.md": model_card(facts(config, repo_id, licences)).encode()}


def checkpoint_files(folder: str | os.PathLike) -> Files:
    """What is sent of a folder that `save_pretrained` wrote, with the code beside it, without a card.

    Raises:
        ValueError: If the folder holds no model, no processor or no safetensors.
    """
    folder = pathlib.Path(folder)
    config = _read(folder / "config.json")
    if config.get("model_type") != "anomalygpt":
        raise ValueError(
            f"`model` must be an AnomalyGPT checkpoint, got one of {config.get('model_type')!r} in {str(folder)!r}. "
            "Give the folder of one."
        )
    processor = _read(folder / "processor_config.json")
    files = _matching(folder, _SENT)
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
        files["tokenizer_config.json"] = _json(_read(folder / "tokenizer_config.json") | {"auto_map": _AUTO_PROCESSOR})
    return files | code_files()


def adapter_files(folder: str | os.PathLike, base_model: str | None = None) -> Files:
    """What is sent of an adapter that peft saved; `base_model` is needed where it names a folder of this machine.

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
    files = _matching(folder, _ADAPTER_SENT)
    if "adapter_model.safetensors" not in files:
        raise ValueError(
            f"`model` must hold adapter_model.safetensors, got none in {str(folder)!r}. "
            "Save the adapter with peft's `save_pretrained`; pickled weights are never sent."
        )
    return files | {"adapter_config.json": _json(config | {"base_model_name_or_path": named})}


def _facts_of_adapter(config: dict[str, Any], repo_id: str, licences: dict[str, str]) -> ModelFacts:
    base, kind = config["base_model_name_or_path"], str(config.get("peft_type", "")).lower().replace("_", " ")
    parts = [("adapter", kind), ("model", base)]
    return ModelFacts(repo_id, base_models=[base], parts=parts, licences=licences, adapter=True)


def _facts_of_model(config: dict[str, Any], repo_id: str, licences: dict[str, str]) -> ModelFacts:
    parts, bases = [], set()
    for key, name in _SUB_MODELS.items():
        if part := config.get(key):
            width, depth = part.get("hidden_size"), part.get("num_hidden_layers")
            size = f", {depth} layers of width {width}" if width and depth else ""
            parts.append((name, f"`{part['model_type']}`{size}"))
            bases |= {source for source in [part.get("_name_or_path") or ""] if is_hub_id(source)}
    prompts, side = config.get("num_base_prompts", 0) + config.get("num_map_prompts", 0), config.get("map_size")
    parts.append(("prompt learner", f"{prompts} vectors from a {side} x {side} map"))
    return ModelFacts(repo_id, base_models=sorted(bases), parts=parts, licences=licences)


def _matching(folder: pathlib.Path, patterns: tuple[str, ...]) -> Files:
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
        raise ValueError(f"{str(path)!r} is not readable JSON ({error}). Save the model again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(value).__name__}. Save the model again.")
    return value


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


# Sending


def push_folder(
    folder: str | os.PathLike, repo_id: str, repo_type: str, private: bool = False, message: str = "Files"
) -> str:
    """Sends a whole folder (of a Space or a data set) to the Hub; see [`push_files`]."""
    folder = pathlib.Path(folder)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in _NEVER_SENT and "__pycache__" not in path.parts
    }
    if not files:
        raise ValueError(f"`folder` must hold files, got none in {str(folder)!r}. Check the path.")
    return push_files(files, repo_id, repo_type, private, message)


def push_files(files: Files, repo_id: str, repo_type: str, private: bool, message: str) -> str:
    """Makes the repository where it is missing and sends the files in one commit.

    Args:
        files (`dict[str, Path | bytes]`): Path in the repository, and the file or its content.
        repo_id (`str`): `"user/name"`, or `"name"` for one's own.
        repo_type (`str`): `"model"`, `"dataset"` or `"space"`.
        private (`bool`): Whether a new repository is hidden from others.
        message (`str`): Of the commit.

    Returns:
        `str`: The address of the repository.

    Raises:
        HubError: If there is no token **or** the Hub cannot be reached **or** it refuses.
    """
    needs_token()
    api = HfApi(library_name="anomalygpt")
    sdk = "gradio" if repo_type == "space" else None
    try:
        url = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        operations = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()
        ]
        api.create_commit(url.repo_id, operations, commit_message=message, repo_type=repo_type)
    except Exception as error:  # httpx errors, HfHubHTTPError, HFValidationError: all become one line, or stay
        reason = hub_failure(error, repo_id)
        if reason is None:
            raise
        raise HubError(reason) from error
    return str(url)
