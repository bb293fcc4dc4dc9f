"""The adapter of the small model: how it is trained quickly, and what is kept of it."""

import json
import types

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from modeling_anomalygpt.checkpoints import SMALL_BASE, SMALL_BASE_VARIABLE, load_checkpoint
from recipes.small.language import low_rank_product, main
from tests.tiny import TEXT_CONFIG
from tests.tiny_processor import byte_tokenizer

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def output_and_gradients(net, inputs):
    net.zero_grad()
    inputs = inputs.clone().requires_grad_()
    output = net(inputs)
    output.pow(2).sum().backward()
    return [output, inputs.grad, *(one.grad for one in net.parameters() if one.requires_grad)]


def test_a_low_rank_product_and_its_gradients_are_those_of_peft():
    layers = [torch.nn.Linear(12, 20), torch.nn.Tanh(), torch.nn.Linear(20, 5, bias=False)]
    settings = LoraConfig(r=3, lora_alpha=6, target_modules=["0", "2"], init_lora_weights=False)
    net, inputs = get_peft_model(torch.nn.Sequential(*layers), settings), torch.randn(2, 4, 12)
    expected = output_and_gradients(net, inputs)
    with net.disable_adapter():
        plain = net(inputs)
    for layer in net.modules():
        if isinstance(layer, Linear):
            layer.forward = types.MethodType(low_rank_product, layer)
    for found, wanted in zip(output_and_gradients(net, inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with net.disable_adapter():
        assert torch.equal(net(inputs), plain)


def test_an_adapter_learns_topics_goes_on_from_another_and_loads(tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("modeling_anomalygpt.checkpoints.EMBEDDED_CHECKPOINT", tiny_folder)
    monkeypatch.setattr("recipes.small.language.HALF_PRECISION", False)  # compiling takes a minute
    monkeypatch.setattr("recipes.small.language.TEXTS", 2)
    monkeypatch.setattr("recipes.small.language.TEXT_TOKENS", 32)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    config = {name: value for name, value in TEXT_CONFIG.items() if name != "model_type"}
    LlamaForCausalLM(LlamaConfig(**config | {"vocab_size": len(tokenizer)})).save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    sizes = ["--batch-size", "1", "--questions", "1", "--unanswered", "1", "--mixed", "0", "--rank", "2"]
    shared = ["--language", str(tmp_path / "language"), *sizes, "--learning-rate", "3e-2"]
    main([*shared, "--output", str(tmp_path / "first"), "--steps", "40"])
    (state,) = (tmp_path / "first").glob("trainer/checkpoint-*/trainer_state.json")
    losses = [row["topic_loss"] for row in json.loads(state.read_text())["log_history"] if "topic_loss" in row]
    assert losses[-1] < losses[0]
    main([*shared, "--output", str(tmp_path / "second"), "--steps", "2", "--adapter", str(tmp_path / "first")])
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "second"))
    assert set(first) == set(second)
    assert not any("topic" in name for name in first)
    assert {value.dtype for value in first.values()} == {torch.float16}
    name = next(name for name in first if "lora_B" in name)
    assert 0 < (first[name] - second[name]).abs().max() < 0.1, "a step away: the first is at a rate of zero"
    settings = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == SMALL_BASE
    monkeypatch.setenv(SMALL_BASE_VARIABLE, str(tmp_path / "language"))
    monkeypatch.setattr("modeling_anomalygpt.checkpoints.SMALL_ADAPTER", tmp_path / "first")
    model, _ = load_checkpoint("small", device="cpu")
    assert not hasattr(model, "topic_head")
