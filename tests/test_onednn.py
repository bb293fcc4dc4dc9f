"""The fused pass against the usual layers, and when it must not be used."""

import copy

import pytest
import torch
from transformers import AutoModel

from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTVisionConfig
from modeling_anomalygpt.onednn import fused_pass, multiplies_bfloat16, product
from modeling_anomalygpt.vision_features import AnomalyGPTVisionModel
from tests.test_vision_features import SMALL


@pytest.fixture
def model() -> AnomalyGPTVisionModel:
    torch.manual_seed(0)
    model = AutoModel.from_config(AnomalyGPTVisionConfig(**SMALL)).eval()
    with torch.no_grad():  # biases, scales and means that are not 0 and 1
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def fuses(model, pixel_values) -> bool:
    with torch.no_grad():
        return fused_pass(model, pixel_values) is not None


needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="torch without oneDNN",
)


@needs_onednn
def test_the_fused_pass_sees_what_the_usual_layers_see(model):
    pixel_values = torch.randn(3, 3, 32, 32)
    usual = model(pixel_values)  # with gradients
    with torch.no_grad():
        assert fused_pass(model, pixel_values) is not None
        fused = model(pixel_values)
    for one, other in zip(fused.hidden_states, usual.hidden_states, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fused.pooler_output, usual.pooler_output.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not multiplies_bfloat16(), reason="no processor that multiplies tiles of bfloat16")
def test_products_in_bfloat16_give_the_same_to_two_digits_and_only_where_they_are_allowed(model):
    pixel_values = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        exact = model(pixel_values).hidden_states
        model.bfloat16_products = True
        rounded = model(pixel_values).hidden_states
        model.bfloat16_products = False
        again = model(pixel_values).hidden_states
    for one, other in zip(exact[:-1], rounded[:-1], strict=True):
        assert torch.equal(one, other)  # the convolutions stay as they are
    assert 1e-6 < (rounded[-1] - exact[-1]).norm() / exact[-1].norm() < 0.02
    assert rounded[-1].dtype == torch.float32
    assert torch.equal(again[-1], exact[-1])


@needs_onednn
@pytest.mark.parametrize("change", ["in place", "data", "another parameter"])
def test_changed_weights_are_packed_again(model, change):
    pixel_values = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values).hidden_states
        layer = model.transformer.encoder.layer[1].mlp.fc2
        if change == "in place":
            layer.weight.mul_(2)
        elif change == "data":
            layer.weight.data = 2 * layer.weight.data
        else:
            layer.weight = torch.nn.Parameter(2 * layer.weight)
        fused = model(pixel_values).hidden_states
    usual = model(pixel_values).hidden_states
    torch.testing.assert_close(fused[2], usual[2].detach(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(fused[2], before[2], atol=1e-3)


@needs_onednn
def test_a_copy_of_a_model_is_a_model_of_its_own(model):
    pixel_values = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values).hidden_states[1]
        other = copy.deepcopy(model)
        other.blocks[0].project.convolution.weight.zero_()
        assert not torch.allclose(other(pixel_values).hidden_states[1], before)
        assert torch.equal(model(pixel_values).hidden_states[1], before)


def test_training_gradients_and_half_precision_take_the_usual_layers(model):
    pixel_values = torch.randn(1, 3, 32, 32)
    assert fused_pass(model, pixel_values) is None  # gradients are on
    assert not fuses(model.train(), pixel_values)
    assert not fuses(model.eval().bfloat16(), pixel_values.bfloat16())


def test_an_adapter_in_the_transformer_is_not_passed_over(model):
    layer = model.transformer.encoder.layer[0].mlp
    layer.fc1 = torch.nn.Sequential(layer.fc1, torch.nn.Tanh())
    assert not fuses(model, torch.randn(1, 3, 32, 32))


def test_another_transformer_takes_its_own_layers():
    transformer = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformer |= {"intermediate_size": 16, "image_size": 32, "patch_size": 16}
    model = AutoModel.from_config(AnomalyGPTVisionConfig(**SMALL | {"transformer_config": transformer})).eval()
    pixel_values = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert fused_pass(model, pixel_values) is None
        assert model(pixel_values).hidden_states[2].shape == (1, 8, 2, 2)


@pytest.mark.parametrize("shapes", [((5, 7), (4, 7)), ((1, 3), (1, 3)), ((0, 3), (4, 3)), ((4, 3), (0, 3))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_product_is_rows_times_the_others_transposed(shapes, dtype):
    torch.manual_seed(0)
    rows, others = (torch.randn(shape, dtype=dtype) for shape in shapes)
    expected = torch.einsum("id,jd->ij", rows, others)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(product(rows, others), expected)


def test_a_product_of_rows_that_do_not_lie_one_after_the_other():
    wide = torch.randn(6, 8)
    with torch.no_grad():
        torch.testing.assert_close(product(wide[::2, ::2], wide[:, 1::2]), wide[::2, ::2] @ wide[:, 1::2].T)


def test_a_product_passes_gradients_on():
    rows = torch.randn(2, 3, requires_grad=True)
    product(rows, torch.ones(4, 3)).sum().backward()
    assert torch.equal(rows.grad, torch.full((2, 3), 4.0))
