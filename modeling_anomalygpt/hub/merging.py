"""Merges an adapter into its checkpoint: a plain checkpoint comes out that needs neither adapter nor PEFT."""

import os
import shutil

from ..checkpoints import CheckpointError, adapter_base, load_checkpoint
from ..modeling_anomalygpt import install_prompt_adapter, read_prompt_adapter
from ..processing_anomalygpt import AnomalyGPTProcessor


def merge_adapter(source: str | os.PathLike, output: str | os.PathLike, dtype: str = "float32") -> None:
    r"""
    Writes the checkpoint that an adapter and its base make together.

    Virtual tokens stay as they are (`config.num_virtual_tokens`) and own parts replace those of the base, so these
    give the same numbers; low-rank changes are added to the weights, equal up to rounding.

    Args:
        source (`str` or `os.PathLike`):
            Folder or Hub id of the adapter.
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.
        dtype (`str`, defaults to `"float32"`):
            Of the merged weights.

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
    model, _ = load_checkpoint(base, device="cpu", dtype=dtype)
    weights = read_prompt_adapter(str(source))
    if weights is not None:
        install_prompt_adapter(model, weights)
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(source)).merge_and_unload()
    processor = AnomalyGPTProcessor.from_pretrained(source)
    partial = f"{os.fspath(output).rstrip(os.sep)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    if os.path.isdir(output):
        os.rmdir(output)
    os.replace(partial, output)


__all__ = ["merge_adapter"]
