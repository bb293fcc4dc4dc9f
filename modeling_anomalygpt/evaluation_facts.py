"""What a row of results must name beside its numbers: weights, versions, commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import torch

from .memory_bank import weights_fingerprint

_PACKAGES = ("torch", "transformers", "numpy", "pillow")


def result_facts(model: torch.nn.Module, checkpoint: str) -> dict[str, str]:
    r"""
    Columns that tell which code and weights made a row.

    Args:
        model (`torch.nn.Module`):
            The loaded model.
        checkpoint (`str`):
            How it was named; a folder is named by its last part.

    Returns:
        `dict[str, str]`: `checkpoint`, `checkpoint_hash` (of a sample of every weight), `versions`, `commit` (empty
        outside a repository; with `+changes` where files of the package differ from it).
    """
    name = pathlib.Path(checkpoint).resolve().name if os.path.isdir(checkpoint) else checkpoint
    versions = [f"python {platform.python_version()}"]
    versions += [f"{package} {importlib.metadata.version(package)}" for package in _PACKAGES]
    return {
        "checkpoint": name,
        "checkpoint_hash": weights_fingerprint([model], ()),
        "versions": "; ".join(versions),
        "commit": source_commit(),
    }


def source_commit() -> str:
    """The commit of the package's source, where it lies in a git repository; else nothing."""
    folder = pathlib.Path(__file__).parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return ""
    return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def _git(folder: pathlib.Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


__all__ = ["result_facts", "source_commit"]
