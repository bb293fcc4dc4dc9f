"""The base of `--model small` from a GGUF file."""

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from recipes.small.base import convert
from tests.tiny import tiny_tokenizer


def test_a_converted_folder_says_nothing_of_packed_weights(tmp_path, monkeypatch):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    read = LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))
    read.config.quantization_config = {"quant_method": "gguf", "dequantize": False}
    tokenizer = tiny_tokenizer()
    with monkeypatch.context() as patched:
        patched.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: read)
        patched.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
        convert(tmp_path / "some.gguf", tmp_path / "folder")
    assert "quantization_config" not in json.loads((tmp_path / "folder" / "config.json").read_text(encoding="utf-8"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, read.state_dict()[name])
