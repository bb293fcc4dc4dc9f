"""Loading: what cannot be used is refused by name, in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_anomalygpt.checkpoints import UNQUANTIZED_MODULES, CheckpointError, load_checkpoint
from tests.tiny import tiny_pair


@pytest.fixture
def saved(tmp_path):
    model, processor = tiny_pair()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def refusal(source, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_saved_checkpoint_is_loaded_in_evaluation_mode(saved):
    model, processor = load_checkpoint(saved, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert processor.num_prompt_tokens == model.config.num_prompt_tokens


def test_the_language_model_may_be_half_precision_while_maps_stay_single(saved):
    model, _ = load_checkpoint(saved, device="cpu", dtype="bfloat16")
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.model.localizer.layers[0].weight.dtype == torch.float32


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    assert "`model` must be a folder with a config.json" in refusal(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    assert "which does not exist" in refusal(tmp_path / "nothing")


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    assert "`model` must be an AnomalyGPT checkpoint, got one of 'llava'" in refusal(tmp_path)


def test_a_damaged_configuration_is_refused(saved):
    (saved / "config.json").write_text("{")
    assert "is not readable JSON" in refusal(saved)
    (saved / "config.json").write_text("[]")
    assert "is not readable JSON" in refusal(saved)


def test_missing_weights_are_named(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["model.prompt_learner.base_prompts"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "1 missing keys: model.prompt_learner.base_prompts" in refusal(saved)


def test_truncated_weights_are_refused(saved):
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert str(saved) in refusal(saved)


def test_weights_of_another_size_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    weights["model.prompt_learner.base_prompts"] = torch.zeros(5, 7)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert str(saved) in refusal(saved)


def test_weights_that_are_not_finite_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    weights["model.prompt_learner.base_prompts"][0, 0] = float("nan")
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    assert "The weights of model.prompt_learner.base_prompts" in refusal(saved)


def test_a_folder_without_processor_is_refused(saved):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (saved / name).unlink()
    assert str(saved) in refusal(saved)


def test_unknown_device_and_dtype_are_refused(saved):
    assert "`device` must be usable here, got 'toaster'" in refusal(saved, device="toaster")
    assert "`dtype` must be one of float32, bfloat16, float16, auto, got 'int4'" in refusal(saved, dtype="int4")


def test_a_language_model_of_eight_bits_loads_through_load_checkpoint():
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    settings = TorchAoConfig(torchao.Int8WeightOnlyConfig(), modules_to_not_convert=UNQUANTIZED_MODULES)
    model, _ = load_checkpoint(quantization_config=settings)
    assert type(model.model.language_model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
