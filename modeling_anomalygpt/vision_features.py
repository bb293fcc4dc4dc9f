"""Eyes: how any vision model of transformers is read, and the one of the embedded checkpoint.

Reading gives a global vector and patch grids. It knows shapes only: hidden states are token sequences (with or without
class and register tokens, possibly halved from stage to stage) or feature maps. Nothing is keyed on a model's name.

The embedded checkpoint looks at a picture with a convolutional network and a vision transformer: what the two see
differs, and maps of both together find more than either alone (docs/experiments.md).
"""

import copy
import functools
import inspect

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_anomalygpt import AnomalyGPTVisionConfig
from .localization import PatchFeatures
from .onednn import FusedPass, fused_pass

_WIDTHS: dict[tuple, tuple[int, tuple[int, ...]]] = {}  # what `vision_tower_widths` has found


def read_vision_tower(
    tower: nn.Module, pixel_values: torch.Tensor, out_indices: list[int]
) -> tuple[torch.Tensor, tuple[PatchFeatures, ...]]:
    """Runs the vision model once and takes out its global vector and the selected layers.

    Args:
        tower (`nn.Module`): A vision model of transformers.
        pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Normalised pictures.
        out_indices (`list[int]`): Which hidden states to return.

    Returns:
        `tuple(torch.Tensor, tuple[PatchFeatures])`: The pooled output of shape `(batch_size, dim)`, and one entry for
        each of `out_indices` without class and register tokens.

    Raises:
        ValueError: If `pixel_values` has not three channels **or** an index is beyond the last hidden state **or** a
            layer's tokens form no grid.
    """
    channels = getattr(tower.config, "num_channels", 3)
    if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
        raise ValueError(
            f"`pixel_values` must have shape (batch_size, {channels}, height, width), got "
            f"{tuple(pixel_values.shape)}. `AnomalyGPTProcessor` makes them from pictures."
        )
    grid = _patch_grid(tower.config, pixel_values.shape[-2:])
    dtype = next(tower.parameters()).dtype
    outputs = tower(**_tower_inputs(tower, pixel_values.to(dtype), grid), output_hidden_states=True, return_dict=True)
    hidden_states = outputs.hidden_states
    if max(out_indices) >= len(hidden_states):
        raise ValueError(
            f"`out_indices` must be below {len(hidden_states)}, the number of hidden states of "
            f"{type(tower).__name__}, got {out_indices}. Count from 0."
        )
    pooled = getattr(outputs, "pooler_output", None)
    if pooled is None:
        last = outputs.last_hidden_state
        pooled = last.mean((2, 3)) if last.dim() == 4 else last.mean(1)
    num_prefixes = {0, 1, 1 + (getattr(tower.config, "num_register_tokens", 0) or 0)}
    layers = tuple(_patch_features(hidden_states[index], grid, num_prefixes) for index in out_indices)
    return pooled.flatten(1), layers


def vision_tower_widths(config: PreTrainedConfig, out_indices: list[int]) -> tuple[int, list[int]]:
    """Widths of the pooled output and of the selected layers.

    Our own vision model's configuration knows them; those of others are found by a pass without memory on the meta
    device, once for a configuration, since it takes a quarter of a second.
    """
    known = getattr(config, "layer_widths", None)
    if known is not None and max(out_indices) < len(known):
        return sum(known), [known[index] for index in out_indices]
    key = (type(config), config.to_json_string(), tuple(out_indices))
    if key not in _WIDTHS:
        config = copy.deepcopy(config)
        config._attn_implementation = "eager"
        with torch.device("meta"):
            tower = AutoModel.from_config(config).eval()
            size = getattr(config, "image_size", None) or 224
            height, width = (size, size) if isinstance(size, int) else size
            pixel_values = torch.zeros(1, getattr(config, "num_channels", 3), height, width)
            pooled, layers = read_vision_tower(tower, pixel_values, out_indices)
        _WIDTHS[key] = pooled.shape[-1], tuple(layer.vectors.shape[-1] for layer in layers)
    pooled_width, widths = _WIDTHS[key]
    return pooled_width, list(widths)


def _patch_grid(config: PreTrainedConfig, size: tuple[int, int]) -> tuple[int, int] | None:
    patch_size = getattr(config, "patch_size", None)
    if patch_size is None:
        return None
    height, width = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)[-2:]
    return size[0] // height, size[1] // width


@functools.cache
def _accepted(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _tower_inputs(
    tower: nn.Module, pixel_values: torch.Tensor, grid: tuple[int, int] | None
) -> dict[str, torch.Tensor]:
    """Models of any aspect ratio (SigLIP 2 NaFlex) take flattened patches and their grid; all others take pictures."""
    accepted = _accepted(type(tower))
    if "spatial_shapes" in accepted:
        side = tower.config.patch_size
        patches = functional.unfold(pixel_values, side, stride=side).transpose(1, 2)
        patches = patches.unflatten(2, (pixel_values.shape[1], side, side)).permute(0, 1, 3, 4, 2).flatten(2)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": None,  # every patch holds picture
            "spatial_shapes": torch.tensor([grid] * len(pixel_values), device="cpu"),
        }
    size = getattr(tower.config, "image_size", None)
    own_size = (size, size) if isinstance(size, int) else size
    if "interpolate_pos_encoding" in accepted and own_size and tuple(own_size) != tuple(pixel_values.shape[-2:]):
        return {"pixel_values": pixel_values, "interpolate_pos_encoding": True}
    return {"pixel_values": pixel_values}


def _patch_features(hidden_state: torch.Tensor, grid: tuple[int, int] | None, num_prefixes: set[int]) -> PatchFeatures:
    if hidden_state.dim() == 4:  # (batch_size, channels, height, width)
        return PatchFeatures(hidden_state.flatten(2).transpose(1, 2), tuple(hidden_state.shape[-2:]))
    height, width = grid or (0, 0)
    while height and width:
        num_prefix = hidden_state.shape[1] - height * width
        if num_prefix in num_prefixes:
            return PatchFeatures(hidden_state[:, num_prefix:], (height, width))
        height, width = height // 2, width // 2  # hierarchical models halve the grid from stage to stage
    raise ValueError(
        f"`out_indices` must select layers whose tokens form a grid, got {hidden_state.shape[1]} tokens for a grid of "
        f"{grid} patches. Choose others."
    )


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
    # Whether weights of float32 may be multiplied as bfloat16 on the CPU; maps then differ by less than .01.
    bfloat16_products = False

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

__all__ = ["AnomalyGPTVisionModel", "read_vision_tower", "vision_tower_widths"]
