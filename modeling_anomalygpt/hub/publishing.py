"""To the Hugging Face Hub in one commit: a model with its code and card, an adapter, the folder of a Space.

Knows files and repositories; knows no weights.
"""

import json
import os
import pathlib

from huggingface_hub import CommitOperationAdd, HfApi

from ..errors import HubError, hub_failure, needs_token
from .card import ModelFacts, model_card, readdressed
from .files import adapter_files, checkpoint_files, is_adapter, is_hub_id

_SUB_MODELS = {
    "vision_config": "vision tower",
    "text_tower_config": "text tower",
    "text_config": "language model",
}
_NEVER_SENT = (".pyc", ".pt", ".pth", ".bin", ".pkl", ".ckpt")


def model_repository(
    folder: str | os.PathLike, repo_id: str, base_model: str | None = None, licence: str | None = None
) -> dict[str, pathlib.Path | bytes]:
    r"""
    Everything that is sent of a model or an adapter, so that `from_pretrained(repo_id, trust_remote_code=True)` works.

    Args:
        folder (`str` or `os.PathLike`):
            What `save_pretrained` wrote: model and processor, or an adapter.
        repo_id (`str`):
            Where it goes, such as `"user/name"`; stands in the card.
        base_model (`str`, *optional*):
            For an adapter: the Hub id of the model it was trained on.
        licence (`str`, *optional*):
            For the card, where the folder has none.

    Returns:
        `dict[str, Path | bytes]`: Path in the repository, and the file or its content.

    Raises:
        ValueError: If the folder holds neither a model nor an adapter that can be sent.
    """
    if is_adapter(folder):
        files = adapter_files(folder, base_model)
    elif base_model is not None:
        raise ValueError(f"`base` must be left out for a whole model, got {base_model!r}. It belongs to adapters.")
    else:
        files = checkpoint_files(folder)
    return files | {"README.md": card_of(folder, repo_id, files, licence)}


def card_of(
    folder: str | os.PathLike, repo_id: str, files: dict[str, pathlib.Path | bytes], licence: str | None = None
) -> bytes:
    r"""
    The folder's own card where it has one with front matter, with its new address; else a new one of what its
    configuration tells.

    Args:
        folder (`str` or `os.PathLike`):
            Model or adapter.
        repo_id (`str`):
            Where it goes.
        files (`dict[str, Path | bytes]`):
            What is sent.
        licence (`str`, *optional*):
            Short name on the Hub, such as `"apache-2.0"`.

    Returns:
        `bytes`: The README.md.
    """
    own = pathlib.Path(folder) / "README.md"
    adapter = json.loads(files["adapter_config.json"]) if "adapter_config.json" in files else None
    base = adapter["base_model_name_or_path"] if adapter else None
    if own.is_file() and (card := own.read_text(encoding="utf-8")).startswith("---"):
        return readdressed(card, repo_id, base, licence).encode()
    licences = {} if licence is None else {"all": licence}
    if adapter:
        parts = [("adapter", str(adapter.get("peft_type", "")).lower().replace("_", " ")), ("model", base)]
        facts = ModelFacts(repo_id, base_models=[base], parts=parts, licences=licences, adapter=True)
    else:
        facts = _facts_of_config(json.loads(files["config.json"]), repo_id, licences)
    return model_card(facts).encode()


def _facts_of_config(config: dict, repo_id: str, licences: dict[str, str]) -> ModelFacts:
    parts, bases = [], []
    for key, name in _SUB_MODELS.items():
        part = config.get(key)
        if part:
            width, depth = part.get("hidden_size"), part.get("num_hidden_layers")
            size = f", {depth} layers of width {width}" if width and depth else ""
            parts.append((name, f"`{part['model_type']}`{size}"))
            source = part.get("_name_or_path") or ""
            if is_hub_id(source):
                bases.append(source)
    prompts = config.get("num_base_prompts", 0) + config.get("num_map_prompts", 0)
    parts.append(
        ("prompt learner", f"{prompts} vectors from a {config.get('map_size')} x {config.get('map_size')} map")
    )
    return ModelFacts(repo_id, base_models=sorted(set(bases)), parts=parts, licences=licences)


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
        raise ValueError(f"`folder` must hold files, got none in {str(folder)!r}.")
    return push_files(files, repo_id, repo_type, private, message)


def push_files(
    files: dict[str, pathlib.Path | bytes], repo_id: str, repo_type: str, private: bool, message: str
) -> str:
    r"""
    Makes the repository where it is missing and sends the files in one commit.

    Args:
        files (`dict[str, Path | bytes]`):
            Path in the repository, and the file or its content.
        repo_id (`str`):
            `"user/name"`, or `"name"` for one's own.
        repo_type (`str`):
            `"model"`, `"dataset"` or `"space"`.
        private (`bool`):
            Whether a new repository is hidden from others.
        message (`str`):
            Of the commit.

    Returns:
        `str`: The address of the repository.

    Raises:
        HubError: If there is no token **or** the Hub cannot be reached **or** it refuses.
    """
    needs_token()
    api = HfApi(library_name="anomalygpt")
    sdk = "gradio" if repo_type == "space" else None
    try:
        made = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
        operations = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in files.items()
        ]
        api.create_commit(made.repo_id, operations, commit_message=message, repo_type=repo_type)
    except Exception as error:  # httpx errors, HfHubHTTPError, HFValidationError: all become one line, or stay
        reason = hub_failure(error, repo_id)
        if reason is None:
            raise
        raise HubError(reason) from error
    return str(made)


__all__ = ["card_of", "model_repository", "push_files", "push_folder"]
