"""Adapters: loaded by transformers, merged into plain checkpoints, equal to PEFT's own."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.registration import register
from modeling_anomalygpt.tuning import TuningArguments, prepare_for_tuning
from tests.tiny import lively_model, tiny_inputs

peft = pytest.importorskip("peft")
register()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    lively_model().save_pretrained(folder / "base")
    return folder


def trained(folder, mode):
    """A model of each mode with changed weights, saved as it is after training."""
    model = AnomalyGPTForConditionalGeneration.from_pretrained(folder / "base")
    adapted = prepare_for_tuning(model, TuningArguments(tuning=mode, num_virtual_tokens=5)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder / mode)
    return adapted


@pytest.mark.parametrize("mode", ["paper", "prompt", "lora", "full"])
def test_a_saved_adapter_loads_with_the_auto_class_and_says_the_same(folder, mode):
    adapted = trained(folder, mode)
    inputs = tiny_inputs(adapted.config)
    loaded = AutoModelForImageTextToText.from_pretrained(folder / mode).eval()
    assert type(loaded) is AnomalyGPTForConditionalGeneration
    with torch.no_grad():
        expected, got = adapted(**inputs), loaded(**inputs)
    length = inputs["input_ids"].shape[1]
    torch.testing.assert_close(got.logits, expected.logits[:, -length:], atol=0, rtol=0)
    assert torch.equal(got.anomaly_map, expected.anomaly_map)
    words = adapted.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(loaded.generate(**inputs, max_new_tokens=5, do_sample=False), words)
