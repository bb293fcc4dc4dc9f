"""Adapters of PEFT's prompt tuning, which transformers itself does not load into a model.

An adapter is a folder or a Hub repository with `adapter_config.json` and `adapter_model.safetensors`. Its virtual
tokens and own parts become the model's; saved afterwards, the model is a plain checkpoint: loading is merging.
"""

import json
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import cached_file

from .virtual_tokens import VirtualTokens

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PROMPTS, _PREFIX = "prompt_embeddings", "base_model."


def read_prompt_adapter(source: str | None, **download: Any) -> dict[str, torch.Tensor] | None:
    r"""
    Reads an adapter of prompt tuning.

    Args:
        source (`str`, *optional*):
            Folder or Hub id.
        download:
            As in `from_pretrained`: `revision`, `token`, `local_files_only`, ...

    Returns:
        `dict[str, torch.Tensor]`: `prompt_embeddings` and the weights of own parts under the model's names; `None`
        for an adapter of another kind.
    """
    if source is None:
        return None
    settings = cached_file(source, _CONFIG, _raise_exceptions_for_missing_entries=False, **download)
    if settings is None:
        return None
    with open(settings, encoding="utf-8") as file:
        if json.load(file).get("peft_type") != "PROMPT_TUNING":
            return None
    weights = load_file(cached_file(source, _WEIGHTS, **download))
    return {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}


def install_prompt_adapter(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    r"""
    Gives a model the virtual tokens and the own parts of an adapter.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            Changed in place, its configuration as well.
        weights (`dict[str, torch.Tensor]`):
            From [`read_prompt_adapter`].

    Raises:
        ValueError: If the model has virtual tokens already, **or** a weight has no place or another shape in it.
    """
    if model.config.num_virtual_tokens:
        raise ValueError(
            f"`num_virtual_tokens` must be 0 before an adapter is loaded, got {model.config.num_virtual_tokens}. "
            "Load the adapter into the model that it was trained from."
        )
    weights = dict(weights)
    prompts = weights.pop(_PROMPTS)
    places = model.state_dict()
    for name, tensor in (*weights.items(), ("the virtual tokens", prompts)):
        place = prompts.new_empty(len(prompts), model.config.text_config.hidden_size).shape
        place = place if tensor is prompts else places[name].shape if name in places else None
        if place != tensor.shape:
            raise ValueError(
                f"The adapter must fit the model, got {name} of shape {tuple(tensor.shape)} for "
                f"{'no such weight' if place is None else tuple(place)}. Load the model that it was trained from."
            )
    model.load_state_dict(weights, strict=False)
    model.config.num_virtual_tokens = len(prompts)
    anchor = model.get_input_embeddings().weight
    virtual_tokens = VirtualTokens(*prompts.shape).to(anchor.device, anchor.dtype).requires_grad_(False)
    with torch.no_grad():
        virtual_tokens.embeds.copy_(prompts)
    model.model.virtual_tokens = virtual_tokens


__all__ = ["install_prompt_adapter", "read_prompt_adapter"]
