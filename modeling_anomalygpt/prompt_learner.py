"""Prompt learner: an anomaly map becomes vectors that the language model reads (paper section 3.2)."""

import torch
from torch import nn
from torch.nn import functional

from .configuration_anomalygpt import AnomalyGPTConfig


class PromptLearner(nn.Module):
    r"""
    Turns an anomaly map into prompt vectors for the language model, beside learned ones (paper section 3.2).

    Args:
        config ([`AnomalyGPTConfig`]):
            Gives the number of prompts, the channels and the widths.
    """

    def __init__(self, config: AnomalyGPTConfig):
        super().__init__()
        width = config.text_config.hidden_size
        channels = [1, *config.prompt_channels]
        last_side = config.map_size >> len(config.prompt_channels)
        self.base_prompts = nn.Parameter(torch.empty(config.num_base_prompts, width))
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in zip(channels, channels[1:], strict=False)]
            + [nn.Conv2d(channels[-1], width, kernel_size=last_side - config.prompt_side + 1)]
        )

    def forward(self, anomaly_map: torch.Tensor) -> torch.Tensor:
        """Prompts `(batch_size, num_prompt_tokens, text_width)` for maps `(batch_size, map_size, map_size)`."""
        hidden = anomaly_map.unsqueeze(1).to(self.base_prompts.dtype)
        for convolution in self.convolutions[:-1]:
            hidden = functional.max_pool2d(functional.relu(convolution(hidden)), 2)
        map_prompts = self.convolutions[-1](hidden).flatten(2).transpose(1, 2)
        return torch.cat([self.base_prompts.expand(len(map_prompts), -1, -1), map_prompts], dim=1)


__all__ = ["PromptLearner"]
