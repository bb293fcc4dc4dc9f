"""Merges an adapter into its checkpoint: a plain checkpoint comes out that needs neither adapter nor PEFT."""

import json
import os
import pathlib

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from ..checkpoints import ADAPTER_CONFIG, CheckpointError, adapter_base, load_checkpoint, new_folder
from ..evaluation.seen_data import DATA_FILE, training_record
from ..modeling_anomalygpt import load_prompt_adapter
from ..processing_anomalygpt import AnomalyGPTProcessor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def merge_adapter(source: str | os.PathLike, output: str | os.PathLike, dtype: str = "auto") -> None:
    """Writes the checkpoint that an adapter and its base make together, and the data both were trained with.

    Virtual tokens stay as they are (`config.num_virtual_tokens`) and own parts replace those of the base, so these
    give the same numbers; low-rank changes are added to the weights, equal up to rounding.

    Args:
        source (`str` or `os.PathLike`): Folder or Hub id of the adapter.
        output (`str` or `os.PathLike`): A folder that does not exist yet, or is empty.
        dtype (`str`, defaults to `"auto"`): Of the merged weights; `"auto"`: each keeps that in which base or adapter
            store it.

    Raises:
        CheckpointError: If `source` is no adapter, **or** cannot be loaded, **or** the output is there already.
    """
    base = adapter_base(source)
    if base is None:
        raise CheckpointError(
            f"`adapter` must be an adapter, got {str(source)!r}, which has no adapter_config.json or is whole already."
            " Give the folder that training wrote."
        )
    with new_folder(output) as partial:
        stored = {}
        if dtype == "auto":
            stored = _stored_dtypes(base, "config.json") | _stored_dtypes(source, ADAPTER_CONFIG)
        model, _ = load_checkpoint(base, device="cpu", dtype="float32" if stored else dtype)
        if not load_prompt_adapter(model, str(source)):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(source)).merge_and_unload()
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data.to(stored.get(name, parameter.dtype))
        model.processor = AnomalyGPTProcessor.from_pretrained(source)
        model.save_pretrained(partial)
        record = training_record(source)
        if record is not None:
            text = json.dumps({"datasets": record}, indent=2, sort_keys=True)
            pathlib.Path(partial, DATA_FILE).write_text(text, encoding="utf-8")


def _stored_dtypes(source: str | os.PathLike, beside: str) -> dict[str, torch.dtype]:
    """The dtype of each weight in the files of a folder or Hub id, which is in the cache by now."""
    # The cache's files are links to files without names: what lies beside one is found by the name of the link.
    folder = pathlib.Path(source if os.path.isdir(source) else os.path.dirname(cached_file(str(source), beside)))
    dtypes = {}
    for file in folder.glob("*model*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (no mapping, only a `keys` method)
                dtype = _DTYPES.get(tensors.get_slice(key).get_dtype())
                if dtype is not None:
                    for prefix in ("base_model.", "base_model.model."):  # of prompt adapters, of others
                        dtypes[key.removeprefix(prefix)] = dtype
    return dtypes
