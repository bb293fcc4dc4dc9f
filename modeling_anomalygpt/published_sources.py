"""Where the published files are: paths, folders and Hub ids; Vicuna as a model, or as LLaMA and a delta.

Knows folders; knows nothing of our own parameters.
"""

import json
import re
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, snapshot_download

from .checkpoint_streams import Checkpoint
from .conversion_checks import (
    check_delta,
    check_is_complete_model,
    check_kind,
    check_llama_config,
    check_rotary_frequencies,
)
from .published_layout import IGNORED_LLAMA_KEYS, Shapes

DEFAULT_CLIP_BPE = "openai/clip-vit-large-patch14"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class LanguageModelFiles:
    r"""
    Vicuna as one collection of tensors: a complete model, or LLaMA with Vicuna's delta added on the way.

    Args:
        folder (`Path`):
            `config.json`, `tokenizer.model` and weights as transformers saves them.
        delta_folder (`Path`, *optional*):
            The same for Vicuna's delta; `folder` is then LLaMA.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the model is not Vicuna v0, **or** delta and base do not belong together.
    """

    def __init__(self, folder: Path, delta_folder: Path | None = None):
        self.base = Checkpoint(folder)
        check_kind("language_model", self.base.shapes, folder)
        self.delta = Checkpoint(delta_folder) if delta_folder else None
        top = delta_folder or folder
        config_file = top / "config.json"
        if not config_file.is_file():
            raise FileNotFoundError(f"No config.json in '{top}'. Download the whole folder of the language model.")
        self.config: dict = json.loads(config_file.read_text())
        candidates = [path / "tokenizer.model" for path in (folder, delta_folder) if path]
        self.tokenizer_file = next((path for path in candidates if path.is_file()), None)
        if self.tokenizer_file is None:
            raise FileNotFoundError(f"No tokenizer.model in '{folder}'. It is part of LLaMA's and Vicuna's downloads.")
        norm = "model.norm.weight"
        if self.delta:
            check_kind("language_model", self.delta.shapes, delta_folder)
            if norm in self.delta:
                check_delta(self.base.shapes, self.delta.shapes, self.delta[norm], delta_folder)
        elif norm in self.base:
            check_is_complete_model(self.base[norm], folder)
        check_llama_config(self.config, top)
        if self.delta and (folder / "config.json").is_file():
            check_llama_config(json.loads((folder / "config.json").read_text()), folder, "--llama")
        for key in self.base.shapes:
            if IGNORED_LLAMA_KEYS.match(key):
                check_rotary_frequencies(self.base[key], key)
        self.close()

    @property
    def shapes(self) -> Shapes:
        """Shapes by key, in the order of the files; of a delta and its base, the keys of both."""
        if not self.delta:
            return self.base.shapes
        frequencies = {key: shape for key, shape in self.base.shapes.items() if IGNORED_LLAMA_KEYS.match(key)}
        return {key: self.delta.shapes[key] for key in self.base.shapes if key in self.delta} | frequencies

    def __getitem__(self, key: str) -> torch.Tensor:
        """The tensor; a delta's extra vocabulary rows have no base and stand for themselves (FastChat v0.1.10)."""
        if not self.delta:
            return self.base[key]
        tensor, base = self.delta[key].float(), self.base[key]
        tensor[: len(base)] += base.float()
        return tensor

    def close(self) -> None:
        """Unmap all files."""
        self.base.close()
        if self.delta:
            self.delta.close()


def open_language_model(
    vicuna: str | Path | None, llama: str | Path | None = None, vicuna_delta: str | Path | None = None
) -> LanguageModelFiles:
    r"""
    Open Vicuna, or LLaMA with Vicuna's delta.

    Args:
        vicuna (`str` or `Path`, *optional*):
            Folder or Hub id of the complete model.
        llama (`str` or `Path`, *optional*):
            Folder or Hub id of the base, with `vicuna_delta`.
        vicuna_delta (`str` or `Path`, *optional*):
            Folder or Hub id of the delta, with `llama`.

    Raises:
        ValueError: If not exactly one of the two ways is given.
    """
    if vicuna and not (llama or vicuna_delta):
        return LanguageModelFiles(_folder_or_hub(vicuna, "vicuna"))
    if llama and vicuna_delta and not vicuna:
        return LanguageModelFiles(_folder_or_hub(llama, "llama"), _folder_or_hub(vicuna_delta, "vicuna-delta"))
    given = [
        f"--{name}" for name, path in (("vicuna", vicuna), ("llama", llama), ("vicuna-delta", vicuna_delta)) if path
    ]
    raise ValueError(
        f"`--vicuna` must be given, or `--llama` together with `--vicuna-delta`, got {' and '.join(given) or 'none'}. "
        "A delta is of no use without its base."
    )


def _folder_or_hub(path_or_id: str | Path, option: str) -> Path:
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.is_file():
        raise ValueError(f"`--{option}` must be a folder with config.json and weights, got the file '{path}'.")
    if not _HUB_ID.fullmatch(str(path_or_id)):
        raise FileNotFoundError(f"No folder at '{path}' for `--{option}`, and it is no Hub id (owner/name).")
    return Path(snapshot_download(str(path_or_id), allow_patterns=["*.json", "*.model", "*.bin", "*.safetensors"]))


def clip_merges_file(file_or_id: str | Path) -> Path:
    """The merge list of CLIP: the file itself, `merges.txt` of a folder, or that of a Hub id."""
    path = Path(file_or_id)
    if path.is_dir():
        path = path / "merges.txt"
    if path.is_file():
        return path
    if not _HUB_ID.fullmatch(str(file_or_id)):
        raise FileNotFoundError(
            f"No file at '{path}' for `--clip-bpe`. Give bpe_simple_vocab_16e6.txt.gz or the Hub id of a CLIP model."
        )
    return Path(hf_hub_download(str(file_or_id), "merges.txt"))


__all__ = ["DEFAULT_CLIP_BPE", "LanguageModelFiles", "clip_merges_file", "open_language_model"]
