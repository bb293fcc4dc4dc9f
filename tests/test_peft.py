"""Adapters around the whole model: only what is asked for is trained, and it is saved and loaded exactly."""

import pytest
import torch

from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.tiny import lively_model, tiny_inputs

peft = pytest.importorskip("peft")

OWN_PARTS = ["localizer", "prompt_learner", "multi_modal_projector"]
LORA = {
    "r": 4,
    "target_modules": r".*language_model.*\.(q_proj|v_proj)",
    "modules_to_save": OWN_PARTS,
    "task_type": "CAUSAL_LM",
}
PROMPTS = {
    "num_virtual_tokens": 5,
    "modules_to_save": OWN_PARTS,
    "task_type": "CAUSAL_LM",
    "num_layers": 2,
    "token_dim": 32,
    "num_attention_heads": 4,
}


@pytest.fixture
def folder(tmp_path):
    lively_model().save_pretrained(tmp_path / "base")
    return tmp_path


def base(folder) -> AnomalyGPTForConditionalGeneration:
    return AnomalyGPTForConditionalGeneration.from_pretrained(folder / "base")


def training_inputs(model) -> dict[str, torch.Tensor]:
    inputs = tiny_inputs(model.config)
    mask_labels = torch.zeros(2, 28, 28)
    mask_labels[:, :14] = 1
    return inputs | {"labels": inputs["input_ids"].where(inputs["input_ids"] < 90, -100), "mask_labels": mask_labels}


def train(adapted, inputs, steps=3) -> list[float]:
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = adapted(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("kind", "settings"), [("LoraConfig", LORA), ("PromptTuningConfig", PROMPTS)], ids=["LoRA", "prompt tuning"]
)
def test_an_adapter_is_trained_saved_and_loaded_exactly(folder, kind, settings):
    model = base(folder)
    adapted = peft.get_peft_model(model, getattr(peft, kind)(**settings))
    inputs = training_inputs(model)
    untouched = model.model.language_model.layers[0].mlp.up_proj.weight.clone()
    losses = train(adapted, inputs)
    assert losses[-1] < losses[0]
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    for part in OWN_PARTS:
        assert any(f".{part}.modules_to_save." in name for name in trained), part
    others = [name for name in trained if "lora_" not in name and "prompt_encoder" not in name]
    assert all(any(f".{part}.modules_to_save." in name for part in OWN_PARTS) for name in others)
    assert torch.equal(model.model.language_model.layers[0].mlp.up_proj.weight, untouched)

    adapted.eval()
    words = {name: tensor for name, tensor in inputs.items() if name not in ("labels", "mask_labels")}
    with torch.no_grad():
        expected = adapted(**words)
        assert (expected.anomaly_map - base(folder)(**words).anomaly_map).abs().max() > 1e-3
    answer = adapted.generate(**words, max_new_tokens=3, do_sample=False)
    adapted.save_pretrained(folder / "adapter")
    loaded = peft.PeftModel.from_pretrained(base(folder), folder / "adapter").eval()
    with torch.no_grad():
        outputs = loaded(**words)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.anomaly_map, expected.anomaly_map)
    assert torch.equal(loaded.generate(**words, max_new_tokens=3, do_sample=False), answer)


def test_merged_low_rank_weights_give_a_plain_model(folder):
    adapted = peft.get_peft_model(base(folder), peft.LoraConfig(**LORA))
    inputs = training_inputs(adapted)
    train(adapted, inputs, steps=2)
    adapted.eval()
    with torch.no_grad():
        expected = adapted(**inputs)
        merged = adapted.merge_and_unload()
        assert type(merged) is AnomalyGPTForConditionalGeneration
        merged.save_pretrained(folder / "merged")
        loaded, info = AnomalyGPTForConditionalGeneration.from_pretrained(folder / "merged", output_loading_info=True)
        assert not any(info.values()), info
        outputs = loaded(**inputs)
    torch.testing.assert_close(outputs.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(outputs.anomaly_map, expected.anomaly_map)
