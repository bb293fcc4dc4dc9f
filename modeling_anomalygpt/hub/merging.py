"""Merges an adapter into its checkpoint: a plain checkpoint comes out that needs neither adapter nor PEFT."""

import os

from ..checkpoints import CheckpointError, adapter_base, load_checkpoint, new_folder
from ..modeling_anomalygpt import load_prompt_adapter
from ..processing_anomalygpt import AnomalyGPTProcessor


def merge_adapter(source: str | os.PathLike, output: str | os.PathLike, dtype: str = "auto") -> None:
    r"""
    Writes the checkpoint that an adapter and its base make together.

    Virtual tokens stay as they are (`config.num_virtual_tokens`) and own parts replace those of the base, so these
    give the same numbers; low-rank changes are added to the weights, equal up to rounding.

    Args:
        source (`str` or `os.PathLike`):
            Folder or Hub id of the adapter.
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.
        dtype (`str`, defaults to `"auto"`):
            Of the merged weights; `"auto"`: as the checkpoint's.

    Raises:
        CheckpointError: If `source` is no adapter, **or** cannot be loaded, **or** the output is there already.
    """
    base = adapter_base(source)
    if base is None:
        raise CheckpointError(
            f"`adapter` must be an adapter, got {str(source)!r}, which has no adapter_config.json or is whole already."
        )
    with new_folder(output) as partial:
        model, _ = load_checkpoint(base, device="cpu", dtype=dtype)
        if not load_prompt_adapter(model, str(source)):
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(source)).merge_and_unload()
        model.processor = AnomalyGPTProcessor.from_pretrained(source)
        model.save_pretrained(partial)


__all__ = ["merge_adapter"]
