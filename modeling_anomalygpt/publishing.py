"""To the Hugging Face Hub in one commit: a model with its code and card, an adapter, the folder of a Space.

Knows files and repositories; knows no weights.
"""

import os
import pathlib

from huggingface_hub import CommitOperationAdd, HfApi

from .hub_errors import HubError, hub_failure, needs_token
from .travelling_files import adapter_files, checkpoint_files, is_adapter

_NEVER_SENT = (".pyc", ".pt", ".pth", ".bin", ".pkl", ".ckpt")


def model_repository(
    folder: str | os.PathLike, repo_id: str, base_model: str | None = None
) -> dict[str, pathlib.Path | bytes]:
    r"""
    Everything that [`push_model`] sends.

    Args:
        folder (`str` or `os.PathLike`):
            What `save_pretrained` wrote: model and processor, or an adapter.
        repo_id (`str`):
            Where it goes, such as `"user/name"`; stands in the card.
        base_model (`str`, *optional*):
            For an adapter: the Hub id of the model it was trained on.

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
    return files | {"README.md": card_of(folder, repo_id, files)}


def card_of(folder: str | os.PathLike, repo_id: str, files: dict[str, pathlib.Path | bytes]) -> bytes:
    """The folder's own card where it has one with front matter, else a new one."""
    own = pathlib.Path(folder) / "README.md"
    if own.is_file() and own.read_text(encoding="utf-8").startswith("---"):
        return own.read_bytes()
    return b""


def push_model(
    folder: str | os.PathLike,
    repo_id: str,
    base_model: str | None = None,
    private: bool = False,
    message: str = "AnomalyGPT model",
) -> str:
    r"""
    Sends a model or an adapter to the Hub, so that `from_pretrained(repo_id, trust_remote_code=True)` and
    `pipeline("anomaly-detection", model=repo_id, trust_remote_code=True)` work anywhere.

    Args:
        folder, repo_id, base_model:
            See [`model_repository`].
        private (`bool`, defaults to `False`):
            Whether a new repository is hidden from others.
        message (`str`):
            Of the commit.

    Returns:
        `str`: The address of the repository.

    Raises:
        ValueError: If the folder cannot be sent.
        HubError: If the Hub cannot be reached or refuses.
    """
    return push_files(model_repository(folder, repo_id, base_model), repo_id, "model", private, message)


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


__all__ = ["card_of", "model_repository", "push_files", "push_folder", "push_model"]
