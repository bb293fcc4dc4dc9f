"""Merges an adapter into its checkpoint: a plain checkpoint comes out that needs neither adapter nor PEFT."""

import os
import pathlib
import shutil

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from ..checkpoints import ADAPTER_CONFIG, CheckpointError, adapter_base, load_checkpoint
from ..modeling_anomalygpt import install_prompt_adapter, read_prompt_adapter
from ..processing_anomalygpt import AnomalyGPTProcessor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def merge_adapter(source: str | os.PathLike, output: str | os.PathLike, dtype: str | None = None) -> None:
    r"""
    Writes the checkpoint that an adapter and its base make together.

    Virtual tokens stay as they are (`config.num_virtual_tokens`) and own parts replace those of the base, so these
    give the same numbers; low-rank changes are added to the weights, equal up to rounding.

    Args:
        source (`str` or `os.PathLike`):
            Folder or Hub id of the adapter.
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.
        dtype (`str`, *optional*):
            Of the merged weights; `None`: each weight keeps the one in which base or adapter store it.

    Raises:
        CheckpointError: If `source` is no adapter, **or** cannot be loaded, **or** the output is there already.
    """
    if os.path.isdir(output) and os.listdir(output):
        raise CheckpointError(f"`output` must be a new folder, got {str(output)!r}, which holds files.")
    base = adapter_base(source)
    if base is None:
        raise CheckpointError(
            f"`adapter` must be an adapter, got {str(source)!r}, which has no adapter_config.json or is whole already."
        )
    model, _ = load_checkpoint(base, device="cpu", dtype=dtype or "float32")
    weights = read_prompt_adapter(str(source))
    if weights is not None:
        install_prompt_adapter(model, weights)
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(source)).merge_and_unload()
    stored = {} if dtype else _stored_dtypes(base, "config.json") | _stored_dtypes(source, ADAPTER_CONFIG)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(stored.get(name, parameter.dtype))
    partial = pathlib.Path(f"{os.fspath(output).rstrip(os.sep)}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    AnomalyGPTProcessor.from_pretrained(source).save_pretrained(partial)
    os.umask(umask := os.umask(0))
    for path in partial.rglob("*"):  # safetensors writes files that only their owner can read
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    if os.path.isdir(output):
        os.rmdir(output)
    os.replace(partial, output)


def _stored_dtypes(source: str | os.PathLike, beside: str) -> dict[str, torch.dtype]:
    """The dtype of each weight in the files of a folder or Hub id, which is in the cache by now."""
    folder = pathlib.Path(source if os.path.isdir(source) else cached_file(str(source), beside)).resolve()
    dtypes = {}
    for file in (folder if folder.is_dir() else folder.parent).glob("*model*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping, only a `keys` method)
                dtype = _DTYPES.get(tensors.get_slice(key).get_dtype())
                if dtype is not None:
                    dtypes[key.removeprefix("base_model.model.")] = dtype
    return dtypes


__all__ = ["merge_adapter"]
