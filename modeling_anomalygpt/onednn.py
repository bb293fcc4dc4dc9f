"""Products on x86 processors by oneDNN, and the vision model's layers fused by it: the same numbers, faster.

torch takes products from a library that uses half of what many processors can do, and writes every intermediate result
to memory. Here the vision model's weights are packed once, channels come last, and activations, residuals and layer
scales belong to the products. Only for looking: without gradients, in float32, on the CPU. Processors that multiply
tiles of bfloat16 take the transformer's products in it where that is allowed.
"""

import platform
import weakref

import torch
from torch import nn
from torch.nn import functional

# What torch's own compiler makes of such layers; not there where torch was built without oneDNN.
_OPS = torch.ops.mkldnn
_AVAILABLE = platform.machine() in ("x86_64", "AMD64") and hasattr(_OPS, "_linear_pointwise")
_PASSES: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def multiplies_bfloat16() -> bool:
    """Whether this processor multiplies tiles of bfloat16 (AMX): products of it take a third of float32's time.

    The older instructions for it (AVX512-BF16) gain nothing in these layers, and without any they take several times
    as long (docs/experiments.md). It is asked for, not timed: a timing could choose differently from run to run.
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)  # older versions of torch cannot tell
    return _AVAILABLE and capabilities().get("amx_bf16", False)


def _suit(*tensors: torch.Tensor) -> bool:
    looking = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing())
    return _AVAILABLE and looking and all(one.device.type == "cpu" and one.dtype == torch.float32 for one in tensors)


def product(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`rows @ others.T`, of any device and dtype.

    Args:
        rows (`torch.Tensor` of shape `(num_rows, dim)`): Left.
        others (`torch.Tensor` of shape `(num_others, dim)`): Right.

    Returns:
        `torch.Tensor` of shape `(num_rows, num_others)`

    Example:
    ```python
    >>> product(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor([[11.,  2.]])

    ```
    """
    if not rows.numel() or not others.numel() or not _suit(rows, others):
        return rows @ others.T
    return _OPS._linear_pointwise(rows, others, None, "none", [], "none")


def fused_pass(model: nn.Module, pixel_values: torch.Tensor) -> "FusedPass | None":
    """The fused pass of a vision model, made at its first use and again when its weights have changed.

    Args:
        model ([`AnomalyGPTVisionModel`]): With any transformer.
        pixel_values (`torch.Tensor`): What it shall look at.

    Returns:
        [`FusedPass`], *optional*: `None` where the usual layers must do: gradients, training, export, another device
        or dtype, another transformer than DINOv2, layers that an adapter has wrapped.
    """
    weights = list(model.parameters())
    # Nothing tells when tensors of inference mode change.
    if model.training or not _suit(pixel_values, *weights) or any(one.is_inference() for one in weights):
        return None
    dtype = torch.bfloat16 if model.bfloat16_products else torch.float32
    state = [dtype, *((one.data_ptr(), one._version) for one in weights)]
    known = _PASSES.get(model)
    if known is None or known[0] != state:
        known = _PASSES[model] = (state, FusedPass(model, dtype) if _is_plain(model) else None)
    return known[1]


def _is_plain(model: nn.Module) -> bool:
    """Whether the model is made of the layers that are fused below and of nothing else."""
    config = model.transformer.config
    own = {"Linear", "Conv2d", "LayerNorm", "Identity", "Dropout", "ModuleList", "ParameterList", "GELUActivation"}
    own |= {type(model).__name__, "Convolution", "InvertedResidual", "Dinov2Model"}
    dinov2 = ("Encoder", "Embeddings", "PatchEmbeddings", "Layer", "Attention", "LayerScale", "DropPath", "MLP")
    own |= {f"Dinov2{name}" for name in dinov2}
    return config.hidden_act == "gelu" and {type(module).__name__ for module in model.modules()} <= own


class FusedPass:
    """The layers of a vision model, packed.

    Args:
        model ([`AnomalyGPTVisionModel`]): In evaluation mode, on the CPU, float32, its transformer DINOv2.
        dtype (`torch.dtype`): Of the transformer's products. What they are added to stays float32.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, dtype: torch.dtype):
        self._rescale = [weight.view(-1, 1, 1) for weight in (model.rescale.weight, model.rescale.bias)]
        self._stem = _Convolution(model.stem)
        self._blocks = [_InvertedResidual(block) for block in model.blocks]
        self._transformer_blocks = [_TransformerBlock(layer, dtype) for layer in model.transformer.encoder.layer]

    def convolved(self, pixel_values: torch.Tensor, read_blocks: list[int]) -> list[torch.Tensor]:
        """The output of the convolutional network's blocks that are read.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): Normalised pictures.
            read_blocks (`list[int]`): Which blocks.

        Returns:
            `list[torch.Tensor]`, each of shape `(batch_size, width, rows, columns)`
        """
        # One by one: the wide layers of several pictures would not stay in the processor's cache.
        pictures = [self._convolved(picture, read_blocks) for picture in pixel_values.split(1)]
        return [torch.cat(layers) for layers in zip(*pictures, strict=True)]

    def _convolved(self, pixel_values: torch.Tensor, read_blocks: list[int]) -> list[torch.Tensor]:
        weight, bias = self._rescale
        hidden = self._stem((pixel_values * weight + bias).contiguous(memory_format=torch.channels_last))
        layers = []
        for index, block in enumerate(self._blocks):
            hidden = block(hidden)
            if index in read_blocks:
                layers.append(hidden)
        return layers

    def transformed(self, tokens: torch.Tensor) -> torch.Tensor:
        """The transformer's last hidden state before its norm, from its embeddings `(batch_size, tokens, width)`."""
        for block in self._transformer_blocks:
            tokens = block(tokens)
        return tokens


class _Convolution:
    def __init__(self, layer: nn.Module):
        convolution = layer.convolution
        before, after = layer.padding
        # oneDNN pads both sides alike. A kernel with a first row and column of zeros, moved by one, sees the same.
        weight = functional.pad(convolution.weight, (after - before, 0) * 2)
        self.shape = ([after, after], list(convolution.stride), [1, 1], convolution.groups)
        self.weight = _OPS._reorder_convolution_weight(weight, *self.shape)
        self.bias = convolution.bias
        self.activation = ("hardtanh", [0.0, 6.0], "") if layer.bounded else ("none", [], "")

    def __call__(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if residual is None:
            return _OPS._convolution_pointwise(hidden, self.weight, self.bias, *self.shape, *self.activation)
        added = ("add", 1.0, None, [], None)
        return _OPS._convolution_pointwise.binary(hidden, residual, self.weight, self.bias, *self.shape, *added)


class _InvertedResidual:
    def __init__(self, block: nn.Module):
        self.expand = None if isinstance(block.expand, nn.Identity) else _Convolution(block.expand)
        self.depthwise, self.project = _Convolution(block.depthwise), _Convolution(block.project)
        self.is_residual = block.is_residual

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden if self.expand is None else self.expand(hidden)
        return self.project(self.depthwise(wide), residual=hidden if self.is_residual else None)


class _Linear:
    """Linear layers of one input as one product, scaled by the layer scale that follows."""

    def __init__(self, dtype: torch.dtype, layers: list[nn.Linear], scale: torch.Tensor | None = None):
        weight = torch.cat([layer.weight for layer in layers])
        biases = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in layers]
        bias = torch.cat(biases)
        if scale is not None:
            weight, bias = weight * scale[:, None], bias * scale
        self.dtype, self.bias = dtype, bias
        self.weight = _OPS._reorder_linear_weight(weight.to(dtype), 257)  # packed for one picture's tokens

    def __call__(self, rows: torch.Tensor, residual: torch.Tensor | None = None, gelu: bool = False) -> torch.Tensor:
        if residual is not None and residual.dtype == self.dtype:
            return _OPS._linear_pointwise.binary(rows, residual, self.weight, self.bias, "add")
        activation = "gelu" if gelu else "none"
        result = _OPS._linear_pointwise(rows.to(self.dtype), self.weight, self.bias, activation, [], "none")
        return result if residual is None else residual + result


class _TransformerBlock:
    def __init__(self, layer: nn.Module, dtype: torch.dtype):
        attention, mlp = layer.attention, layer.mlp
        self.norms, self.num_heads = (layer.norm1, layer.norm2), attention.num_attention_heads
        self.project_in = _Linear(dtype, [attention.q_proj, attention.k_proj, attention.v_proj])
        self.project_out = _Linear(dtype, [attention.o_proj], layer.layer_scale1.lambda1)
        self.widen, self.narrow = _Linear(dtype, [mlp.fc1]), _Linear(dtype, [mlp.fc2], layer.layer_scale2.lambda1)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        projected = self.project_in(self.norms[0](tokens)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind()
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = self.project_out(seen, residual=tokens)
        return self.narrow(self.widen(self.norms[1](tokens), gelu=True), residual=tokens)


__all__ = ["FusedPass", "fused_pass", "multiplies_bfloat16", "product"]
