"""The teacher of the embedded checkpoint: torchvision names, written out by rule, meet those of transformers."""

import pytest
import torch
from safetensors.torch import save_file

from recipes.cad_parts.mobilenet import load_mobilenet

CHANNELS = [(32, 16, 1)] + [
    (before, after, 6)
    for before, after in [(16, 24), (24, 24), (24, 32), (32, 32), (32, 32), (32, 64)]
    + [(64, 64)] * 3
    + [(64, 96), (96, 96), (96, 96), (96, 160), (160, 160), (160, 160), (160, 320)]
]


def torchvision_weights():
    generator = torch.Generator().manual_seed(0)
    weights = {}

    def layer(convolution, norm, out_channels, in_channels, side):
        shape = (out_channels, in_channels, side, side)
        weights[f"features.{convolution}.weight"] = torch.randn(shape, generator=generator) * 0.1
        for kind in ("weight", "bias", "running_mean", "running_var"):
            weights[f"features.{norm}.{kind}"] = torch.rand(out_channels, generator=generator) + 0.5
        weights[f"features.{norm}.num_batches_tracked"] = torch.tensor(0)

    layer("0.0", "0.1", 32, 3, 3)
    for block, (before, after, factor) in enumerate(CHANNELS, start=1):
        prefix, wide, first = f"{block}.conv", before * factor, 0
        if factor > 1:
            layer(f"{prefix}.0.0", f"{prefix}.0.1", wide, before, 1)
            first = 1
        layer(f"{prefix}.{first}.0", f"{prefix}.{first}.1", wide, 1, 3)
        layer(f"{prefix}.{first + 1}", f"{prefix}.{first + 2}", after, wide, 1)
    layer("18.0", "18.1", 1280, 320, 1)
    weights["classifier.1.weight"] = torch.zeros(1000, 1280)
    return weights


@pytest.fixture(scope="module")
def weights():
    return torchvision_weights()


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "mobilenet.safetensors"
    save_file(weights, file)
    return load_mobilenet(file)


def test_every_weight_of_torchvision_has_its_place(weights, model):
    assert len(model.state_dict()) == len(weights) - 1
    assert torch.equal(model.layer[3].conv_3x3.convolution.weight, weights["features.5.conv.1.0.weight"])
    assert torch.equal(model.layer[3].reduce_1x1.normalization.bias, weights["features.5.conv.3.bias"])
    assert torch.equal(model.conv_stem.reduce_1x1.convolution.weight, weights["features.1.conv.1.weight"])
    assert not model.training


def test_the_named_layers_have_the_strides_and_widths_that_the_recipe_relies_on(model):
    states = model(torch.zeros(1, 3, 64, 64), output_hidden_states=True).hidden_states
    assert [tuple(states[layer].shape[1:]) for layer in (4, 8, 11)] == [(32, 8, 8), (64, 4, 4), (96, 4, 4)]


def test_padding_is_that_of_tensorflow(model):
    picture = torch.rand(1, 3, 8, 8)
    got = model.conv_stem.first_conv.convolution(torch.nn.functional.pad(picture, (0, 1, 0, 1)))
    norm = model.conv_stem.first_conv.normalization
    expected = (got - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
    expected = (expected * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(0, 6)
    torch.testing.assert_close(model.conv_stem.first_conv(picture), expected)
