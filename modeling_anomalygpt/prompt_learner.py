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
        feature_dim (`int`):
            Sum of the widths of the layers that are read out; counts where `config.cell_features` is set.
    """

    def __init__(self, config: AnomalyGPTConfig, feature_dim: int):
        super().__init__()
        width = config.text_config.hidden_size
        channels = [1, *config.prompt_channels]
        last_side = config.map_size >> len(config.prompt_channels)
        self.base_prompts = nn.Parameter(torch.empty(config.num_base_prompts, width))
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in zip(channels, channels[1:], strict=False)]
            + [nn.Conv2d(channels[-1], width, kernel_size=last_side - config.prompt_side + 1)]
        )
        self.cell_projection = None
        if config.cell_features:  # without biases: where nothing is known of the picture, nothing is added
            layers = nn.Linear(2 * feature_dim, width, bias=False), nn.GELU(), nn.Linear(width, width, bias=False)
            self.cell_projection = nn.Sequential(*layers)

    def forward(self, anomaly_map: torch.Tensor, cell_features: torch.Tensor | None = None) -> torch.Tensor:
        r"""
        Prompts of a map.

        Args:
            anomaly_map (`torch.Tensor` of shape `(batch_size, map_size, map_size)`):
                Values in [0, 1].
            cell_features (`torch.Tensor` of shape `(batch_size, num_map_prompts, 2 * feature_dim)`, *optional*):
                From [`features_by_cell`]; added to the map prompts of a model that has learned to read them.

        Returns:
            `torch.Tensor` of shape `(batch_size, num_prompt_tokens, text_width)`: Base prompts, then map prompts, row
            by row of their grid.
        """
        hidden = anomaly_map.unsqueeze(1).to(self.base_prompts.dtype)
        for convolution in self.convolutions[:-1]:
            hidden = functional.max_pool2d(functional.relu(convolution(hidden)), 2)
        map_prompts = self.convolutions[-1](hidden).flatten(2).transpose(1, 2)
        if self.cell_projection is not None and cell_features is not None:
            map_prompts = map_prompts + self.cell_projection(cell_features.to(self.base_prompts.dtype))
        return torch.cat([self.base_prompts.expand(len(map_prompts), -1, -1), map_prompts], dim=1)


__all__ = ["PromptLearner"]
