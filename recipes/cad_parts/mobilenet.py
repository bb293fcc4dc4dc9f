"""An ImageNet MobileNetV2 with torchvision's parameter names as a model of transformers."""

import os

from safetensors.torch import load_file
from transformers import MobileNetV2Config, MobileNetV2Model

LAYERS_OF_BLOCK = {
    "0.0": "expand_1x1.convolution",
    "0.1": "expand_1x1.normalization",
    "1.0": "conv_3x3.convolution",
    "1.1": "conv_3x3.normalization",
    "2": "reduce_1x1.convolution",
    "3": "reduce_1x1.normalization",
}
LAYERS_OF_STEM = {
    "0.0": "conv_3x3.convolution",
    "0.1": "conv_3x3.normalization",
    "1": "reduce_1x1.convolution",
    "2": "reduce_1x1.normalization",
}
LAYERS_OF_CONVOLUTION = {"0": "convolution", "1": "normalization"}


def rename(key: str) -> str:
    """The name in transformers of a parameter of `features`.

    >>> rename("features.2.conv.1.0.weight")
    'layer.0.conv_3x3.convolution.weight'
    >>> rename("features.18.1.running_mean")
    'conv_1x1.normalization.running_mean'
    """
    _, block, rest = key.split(".", 2)
    layer, _, kind = rest.rpartition(".")
    if block == "0":
        return f"conv_stem.first_conv.{LAYERS_OF_CONVOLUTION[layer]}.{kind}"
    if block == "18":
        return f"conv_1x1.{LAYERS_OF_CONVOLUTION[layer]}.{kind}"
    layer = layer.removeprefix("conv.")
    if block == "1":
        return f"conv_stem.{LAYERS_OF_STEM[layer]}.{kind}"
    return f"layer.{int(block) - 2}.{LAYERS_OF_BLOCK[layer]}.{kind}"


def load_mobilenet(file: str | os.PathLike) -> MobileNetV2Model:
    """Loads the weights with the padding and the batch-norm epsilon that they were trained and stored with.

    Args:
        file (`str` or `os.PathLike`): Safetensors file of MobileNetV2 1.0 with the names of torchvision. Its weights
            come from TensorFlow, hence "SAME" padding; the stored batch norms are identities up to their epsilon of
            1e-5.

    Returns:
        `MobileNetV2Model`: For RGB in `[-1, 1]`; `hidden_states[4]` has stride 8, `[8]` and `[11]` stride 16.
    """
    weights = {rename(key): value for key, value in load_file(file).items() if key.startswith("features.")}
    model = MobileNetV2Model(MobileNetV2Config(tf_padding=True, layer_norm_eps=1e-5))
    model.load_state_dict(weights)
    return model.eval()
