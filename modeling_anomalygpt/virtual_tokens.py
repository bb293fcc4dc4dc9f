"""Virtual tokens: learned vectors that stand before every text (prompt tuning, https://arxiv.org/abs/2104.08691)."""

from typing import Any

import torch
from torch import nn


class VirtualTokens(nn.Module):
    r"""
    Calls a language model with learned vectors before its input; the caller sees nothing of them.

    Text positions count on after the virtual tokens, whatever padding lies between, so that a padded row gives the
    same as the row alone.

    Args:
        count (`int`):
            Number of virtual tokens.
        width (`int`):
            Width of the language model.
    """

    def __init__(self, count: int, width: int):
        super().__init__()
        self.embeds = nn.Parameter(torch.empty(count, width))

    def forward(
        self,
        language_model: nn.Module,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs,
    ) -> Any:
        """The language model's output for `inputs_embeds` alone; its cache holds the virtual tokens as well."""
        batch_size, count = len(inputs_embeds), len(self.embeds)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = inputs_embeds.shape[1]
        seen = past + length - (count if past else 0)  # tokens of text, as the caller counts them
        if attention_mask is not None:
            fits = attention_mask.dim() == 2 and attention_mask.shape[1] == seen
        else:
            fits = position_ids is None or not past or int(position_ids.max()) + 1 == seen
        if not fits:
            raise ValueError(
                "`past_key_values` must be a dynamic cache of the same `generate` call when the model has virtual "
                "tokens, got another. Pass the whole conversation without a cache."
            )
        if position_ids is not None:
            position_ids = position_ids + count
        if attention_mask is not None:
            attention_mask = torch.cat([attention_mask.new_ones(batch_size, count), attention_mask], dim=1)
        if not past:
            first = self.embeds.to(inputs_embeds).expand(batch_size, -1, -1)
            inputs_embeds = torch.cat([first, inputs_embeds], dim=1)
            if position_ids is not None:
                begin = torch.arange(count, device=position_ids.device).expand(len(position_ids), -1)
                position_ids = torch.cat([begin, position_ids], dim=1)
        outputs = language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        if not past:
            outputs.last_hidden_state = outputs.last_hidden_state[:, count:]
            if outputs.hidden_states is not None:
                outputs.hidden_states = tuple(hidden[:, count:] for hidden in outputs.hidden_states)
        return outputs


__all__ = ["VirtualTokens"]
