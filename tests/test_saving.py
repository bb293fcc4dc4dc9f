"""To disk and back: bit exact, other number formats, tied words, missing weights, devices, quantization, new words."""

import io
import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from transformers.utils import logging as transformers_logging

from modeling_anomalygpt import register
from modeling_anomalygpt.checkpoints import UNQUANTIZED_MODULES
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration, AnomalyGPTModel
from tests.tiny import IMAGE_TOKEN, TEXT_CONFIG, lively_model, tiny_inputs

TIED = {"text_config": TEXT_CONFIG | {"tie_word_embeddings": True}}
LEARNED = {"text_tower_config": None, "reference_dims": [5, 6]}


def load(folder, **kwargs) -> AnomalyGPTForConditionalGeneration:
    return AnomalyGPTForConditionalGeneration.from_pretrained(folder, **kwargs)


@torch.no_grad()
def outputs_of(model, **changes):
    return model(**(tiny_inputs(model.config) | changes))


@pytest.mark.parametrize("changes", [{}, TIED, LEARNED], ids=["plain", "tied", "learned states"])
def test_a_saved_model_is_loaded_bit_exact_and_shares_the_words_it_shared(tmp_path, changes):
    model = lively_model(**changes)
    model.save_pretrained(tmp_path)
    loaded, info = load(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert torch.equal(outputs_of(loaded).logits, outputs_of(model).logits)
    for one in (model, loaded):
        assert (one.lm_head.weight is one.get_input_embeddings().weight) == (changes is TIED)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (changes is not TIED)


def test_a_model_saved_twice_has_the_same_bytes(tmp_path):
    lively_model().save_pretrained(tmp_path / "first")
    load(tmp_path / "first").save_pretrained(tmp_path / "a")
    load(tmp_path / "a").save_pretrained(tmp_path / "b")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# Missing weights


@pytest.mark.parametrize("changes", [{}, LEARNED], ids=["text tower", "learned states"])
def test_a_missing_weight_starts_from_the_initialiser_never_from_garbage(tmp_path, changes):
    """Weights are made on the meta device first: what nobody initialises is whatever lies in memory."""
    model = lively_model(**changes)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    own = ("localizer", "prompt_learner", "multi_modal_projector", "visual_projection", "text_projection")
    missing = {name for name in weights if name.split(".")[1] in own} | {"lm_head.weight"}
    kept = {name: tensor for name, tensor in weights.items() if name not in missing}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = load(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == missing
    for name in missing:
        tensor = loaded.get_parameter(name)
        assert torch.isfinite(tensor).all(), name
        if name.endswith("bias"):
            assert (tensor == 0).all(), name
        elif "convolutions" in name:
            assert 0.05 < tensor.std() < 1, name
        elif "state_embeds" in name:
            assert (tensor[0] - tensor[1]).abs().max() < 0.2 * tensor.std(), name
        else:
            assert 0.5 * 0.02 < tensor.std() < 2 * 0.02, name


# The model without a head


def test_the_base_model_is_read_from_the_whole_checkpoint_without_a_word(tmp_path):
    register()
    model = lively_model()
    model.save_pretrained(tmp_path)
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    transformers_logging.get_logger("transformers").addHandler(handler)
    try:
        base, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    finally:
        transformers_logging.get_logger("transformers").removeHandler(handler)
    assert type(base) is AnomalyGPTModel
    assert not any(info.values()), info
    assert "lm_head" not in said.getvalue()
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        assert torch.equal(model.lm_head(base(**inputs).last_hidden_state), model(**inputs).logits)


# Number formats and devices


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_localizer_and_the_maps_in_float32(tmp_path, dtype):
    model = lively_model()
    model.save_pretrained(tmp_path)
    half = load(tmp_path, dtype=dtype)
    number_formats = {}
    for name, parameter in half.named_parameters():
        number_formats.setdefault(name.split(".")[1], set()).add(parameter.dtype)
    assert number_formats.pop("localizer") == {torch.float32}
    assert set().union(*number_formats.values()) == {getattr(torch, dtype)}
    references = torch.randn(2, 2, 3, 28, 28)
    for changes in ({}, {"reference_pixel_values": references}):
        outputs, expected = outputs_of(half, **changes), outputs_of(model, **changes)
        assert outputs.anomaly_map.dtype == torch.float32
        assert outputs.logits.dtype == getattr(torch, dtype)
        assert outputs.anomaly_map.unique().numel() > 200  # computed in float32, not only turned into it
        torch.testing.assert_close(outputs.logits.float(), expected.logits, atol=0.5, rtol=0.1)
    answer = half.generate(**tiny_inputs(model.config), max_new_tokens=2, do_sample=False)
    assert answer.shape[1] == tiny_inputs(model.config)["input_ids"].shape[1] + 2


def test_a_half_precision_checkpoint_is_loaded_as_it_was_saved(tmp_path):
    lively_model().save_pretrained(tmp_path / "full")
    load(tmp_path / "full", dtype="bfloat16").save_pretrained(tmp_path / "half")
    again = load(tmp_path / "half", dtype="auto")
    assert again.model.localizer.layers[0].weight.dtype == torch.float32
    assert again.lm_head.weight.dtype == torch.bfloat16
    expected = load(tmp_path / "full", dtype="bfloat16")
    assert torch.equal(outputs_of(again).logits, outputs_of(expected).logits)


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_device_map_changes_nothing(tmp_path, device_map):
    pytest.importorskip("accelerate")
    model = lively_model()
    model.save_pretrained(tmp_path)
    placed = load(tmp_path, device_map=device_map)
    torch.testing.assert_close(outputs_of(placed).logits.cpu(), outputs_of(model).logits, atol=1e-4, rtol=1e-4)


def test_four_bits_leave_the_map_as_it_was(tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    # Weights are quantized in blocks of 64: narrower rows are not supported.
    model = lively_model(text_config=TEXT_CONFIG | {"hidden_size": 64, "intermediate_size": 128})
    model.save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=UNQUANTIZED_MODULES
    )
    small = load(tmp_path, quantization_config=quantization, device_map="cpu", dtype=torch.float32)
    torch.testing.assert_close(outputs_of(small).anomaly_map, outputs_of(model).anomaly_map)


def test_eight_bits_leave_the_map_as_it_was(tmp_path):
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    model = lively_model()
    model.save_pretrained(tmp_path)
    quantization = TorchAoConfig(torchao.Int8WeightOnlyConfig(), modules_to_not_convert=UNQUANTIZED_MODULES)
    small = load(tmp_path, quantization_config=quantization, device_map="cpu", dtype=torch.float32)
    torch.testing.assert_close(outputs_of(small).anomaly_map, outputs_of(model).anomaly_map)


# New words


def test_the_vocabulary_can_grow(tmp_path):
    model = lively_model()
    before = outputs_of(model)
    model.resize_token_embeddings(110)
    assert model.get_input_embeddings().num_embeddings == model.lm_head.out_features == 110
    assert model.config.text_config.vocab_size == 110
    torch.testing.assert_close(outputs_of(model).logits[..., :97], before.logits)
    labels = tiny_inputs(model.config)["input_ids"].clone()
    labels[:, -1] = 105
    assert torch.isfinite(outputs_of(model, labels=labels).loss)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs_of(load(tmp_path)).logits, outputs_of(model).logits)
    assert json.loads((tmp_path / "config.json").read_text())["image_token_index"] == IMAGE_TOKEN


def test_saved_and_uploaded_at_once_everything_is_there_before_the_upload(tmp_path, monkeypatch):
    model, sent = lively_model(), []

    def push_to_hub(self, repo_id, **kwargs):
        sent.append((repo_id, kwargs, (tmp_path / "bolts" / "modeling_anomalygpt.py").exists()))

    monkeypatch.setattr(type(model), "push_to_hub", push_to_hub)
    model.save_pretrained(tmp_path / "bolts", push_to_hub=True, repo_id="me/bolts", commit_message="First")
    model.save_pretrained(tmp_path / "bolts", push_to_hub=True)
    model.save_pretrained(tmp_path / "bolts")
    assert sent == [("me/bolts", {"commit_message": "First"}, True), ("bolts", {}, True)]
