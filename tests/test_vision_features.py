"""The two-network vision model: against a naive convolution, hand-worked sizes, and transformers' own classes."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTVisionConfig
from modeling_anomalygpt.vision_features import (
    AnomalyGPTVisionModel,
    Convolution,
    InvertedResidual,
    read_vision_tower,
    vision_tower_widths,
)

SMALL = {
    "image_size": 32,
    "stem_width": 4,
    "stages": [[3, 1, 1, 4, 1], [5, 2, 2, 6, 2]],
    "read_blocks": [0, 2],
    "transformer_config": {
        "model_type": "dinov2",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    },
}


@pytest.fixture(scope="module")
def model() -> AnomalyGPTVisionModel:
    torch.manual_seed(0)
    return AutoModel.from_config(AnomalyGPTVisionConfig(**SMALL)).eval()


def test_layers_have_the_strides_of_their_blocks_and_the_grid_of_the_transformer(model):
    pooled, layers = read_vision_tower(model, torch.randn(3, 3, 32, 32), [0, 1, 2])
    assert [layer.grid for layer in layers] == [(16, 16), (8, 8), (2, 2)]
    assert (pooled.shape, [layer.vectors.shape[2] for layer in layers]) == ((3, 18), [4, 6, 8])
    assert model.config.layer_widths == [4, 6, 8]
    assert vision_tower_widths(model.config, [0, 2]) == (18, [4, 8])
    with pytest.raises(ValueError, match="`out_indices` must be below 3"):
        vision_tower_widths(model.config, [3])


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 2, 8), (5, 2, 8), (5, 1, 7), (1, 1, 5)])
def test_padding_is_tensorflows_same(kernel, stride, side):
    """`ceil(side / stride)` places; of the padding that they need the odd row lies below."""
    layer, image = Convolution(2, 3, kernel, stride), torch.randn(1, 2, side, side)
    places = -(-side // stride)
    needed = max((places - 1) * stride + kernel - side, 0)
    padded = torch.nn.functional.pad(image, (needed // 2, needed - needed // 2) * 2)
    expected = torch.zeros(1, 3, places, places)
    for y in range(places):
        for x in range(places):
            window = padded[0, :, y * stride : y * stride + kernel, x * stride : x * stride + kernel]
            expected[0, :, y, x] = (layer.convolution.weight * window).sum((1, 2, 3)) + layer.convolution.bias
    torch.testing.assert_close(layer(image), expected.clamp(0, 6))


def test_a_block_adds_its_input_where_shapes_allow_it():
    block, image = InvertedResidual(4, 4, 3, 1, 2), torch.randn(1, 4, 6, 6)
    torch.nn.init.zeros_(block.project.convolution.weight)
    torch.nn.init.zeros_(block.project.convolution.bias)
    assert torch.equal(block(image), image)
    assert not InvertedResidual(4, 6, 3, 1, 2).is_residual
    assert not InvertedResidual(4, 4, 3, 2, 2).is_residual


def test_the_transformer_sees_the_picture_at_its_own_size(model):
    image = torch.randn(1, 3, 32, 32)
    small = torch.nn.functional.interpolate(image, (28, 28), mode="bicubic", align_corners=False)
    hidden = model.transformer(small, output_hidden_states=True).hidden_states[-1]
    expected = hidden[:, 1:].transpose(1, 2).unflatten(2, (2, 2)) - model.means[2][:, None, None]
    torch.testing.assert_close(model(image).hidden_states[2], expected)


def test_the_mean_over_photographs_is_taken_off(model):
    image = torch.randn(1, 3, 32, 32)
    before = model(image).hidden_states[1]
    with torch.no_grad():
        model.means[1] += 2.0
    torch.testing.assert_close(model(image).hidden_states[1], before - 2)
    with torch.no_grad():
        model.means[1] -= 2.0


def test_what_is_saved_loads_by_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), AnomalyGPTVisionConfig)
    again, image = AutoModel.from_pretrained(tmp_path), torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(again(image).pooler_output, model(image).pooler_output)
