"""The vision model of the embedded checkpoint: a convolutional network and a vision transformer look at one picture.

What the two see differs, and maps of both together find more than either alone (docs/experiments.md). Any other vision
model of transformers can stand in its place.
"""

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_anomalygpt import AnomalyGPTVisionConfig
from .onednn import FusedPass, fused_pass


class Convolution(nn.Module):
    """Convolution with its batch norm folded in, padded as TensorFlow does ("SAME") for sides its stride divides.

    Args:
        inputs, outputs (`int`): Channels.
        kernel (`int`), stride (`int`), groups (`int`): Of the convolution.
        bounded (`bool`): Whether ReLU6 follows.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bounded: bool = True):
        super().__init__()
        self.padding = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.bounded = bounded

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Feature maps `(batch_size, inputs, height, width)` at the stride of the convolution."""
        hidden = self.convolution(functional.pad(hidden, self.padding * 2))
        return hidden.clamp(0, 6) if self.bounded else hidden


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow (https://arxiv.org/abs/1801.04381).

    Args:
        inputs, outputs (`int`): Channels.
        kernel (`int`), stride (`int`): Of the filters.
        expansion (`int`): How many times wider the filters' channels are.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = Convolution(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, outputs, 1, bounded=False)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Feature maps `(batch_size, inputs, height, width)` at the stride of the block."""
        result = self.project(self.depthwise(self.expand(hidden)))
        return hidden + result if self.is_residual else result


class AnomalyGPTVisionModel(PreTrainedModel):
    """Reads some blocks of a convolutional network and the last block of a vision transformer.

    Each layer's mean over ordinary photographs is taken off: what all pictures have in common would hide differences.

    Args:
        config ([`AnomalyGPTVisionConfig`]): The configuration.
    """

    config_class = AnomalyGPTVisionConfig
    config: AnomalyGPTVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["InvertedResidual"]

    def __init__(self, config: AnomalyGPTVisionConfig):
        super().__init__(config)
        width, blocks = config.stem_width, []
        for kernel, stride, expansion, outputs, count in config.stages:
            for index in range(count):
                blocks.append(InvertedResidual(width, outputs, kernel, stride if index == 0 else 1, expansion))
                width = outputs
        self.rescale = nn.Conv2d(3, 3, 1, groups=3)  # from the transformer's normalisation to the network's
        self.stem = Convolution(3, config.stem_width, 3, 2)
        self.blocks = nn.ModuleList(blocks[: max(config.read_blocks) + 1])
        self.transformer = AutoModel.from_config(config.transformer_config)
        widths = [blocks[index].project.convolution.out_channels for index in config.read_blocks]
        widths.append(config.transformer_config.hidden_size)
        self.means = nn.ParameterList(torch.zeros(width) for width in widths)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AnomalyGPTVisionModel):
            init.ones_(module.rescale.weight)
            init.zeros_(module.rescale.bias)
            for mean in module.means:
                init.zeros_(mean)

    def forward(self, pixel_values: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling:
        """Looks at pictures.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, 3, height, width)`): Normalised pictures. The
                transformer sees them at its own `image_size`.

        Returns:
            `BaseModelOutputWithPooling`: `hidden_states` are the layers, `(batch_size, width, rows, columns)` each;
            `pooler_output` of shape `(batch_size, sum of widths)` holds the mean of each.
        """
        fused = fused_pass(self, pixel_values)
        if fused is not None:
            layers = fused.convolved(pixel_values, self.config.read_blocks)
        else:
            layers = self._convolved(pixel_values)
        layers.append(self._transformed(pixel_values, fused))
        layers = tuple(layer - mean[:, None, None] for layer, mean in zip(layers, self.means, strict=True))
        pooled = torch.cat([layer.mean((2, 3)) for layer in layers], dim=1)
        return BaseModelOutputWithPooling(last_hidden_state=layers[-1], pooler_output=pooled, hidden_states=layers)

    def _convolved(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        hidden, layers = self.stem(self.rescale(pixel_values)), []
        for index, block in enumerate(self.blocks):
            hidden = block(hidden)
            if index in self.config.read_blocks:
                layers.append(hidden)
        return layers

    def _transformed(self, pixel_values: torch.Tensor, fused: FusedPass | None) -> torch.Tensor:
        """The transformer's last hidden state before its norm, `(batch_size, width, rows, columns)`."""
        config = self.config.transformer_config
        side = config.image_size
        if pixel_values.shape[-2:] != (side, side):
            pixel_values = functional.interpolate(pixel_values, (side, side), mode="bicubic", align_corners=False)
        if fused is not None:
            hidden = fused.transformed(self.transformer.embeddings(pixel_values))
        else:
            hidden = self.transformer(pixel_values, output_hidden_states=True).hidden_states[-1]
        rows = side // config.patch_size
        return hidden[:, -rows * rows :].transpose(1, 2).unflatten(2, (rows, rows))


AutoModel.register(AnomalyGPTVisionConfig, AnomalyGPTVisionModel, exist_ok=True)

__all__ = ["AnomalyGPTVisionModel"]
