"""Adapters: trained by PEFT alone or by ours, loaded by transformers, merged into plain checkpoints."""

import functools
import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from modeling_anomalygpt.checkpoints import (
    EMBEDDED_CHECKPOINT,
    CheckpointError,
    adapter_base,
    load_checkpoint,
    register,
)
from modeling_anomalygpt.hub.merging import merge_adapter
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from modeling_anomalygpt.training.tuning import TuningArguments, prepare_for_tuning
from tests.tiny import left_padded, lively_model, one_row, tiny_inputs
from tests.tiny_processor import make_processor

peft = pytest.importorskip("peft")
register()
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    lively_model().save_pretrained(folder / "base")
    for name in ("base", "paper", "prompt", "lora", "full"):
        make_processor(num_prompt_tokens=7).save_pretrained(folder / name)
    return folder


@functools.cache
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


@pytest.mark.parametrize("mode", ["paper", "prompt", "lora"])
def test_a_merged_adapter_is_a_plain_checkpoint_that_says_the_same(folder, mode):
    adapted = trained(folder, mode)
    merge_adapter(folder / mode, folder / f"{mode}-merged")
    assert not (folder / f"{mode}-merged" / "adapter_config.json").exists()
    loaded, _ = load_checkpoint(folder / f"{mode}-merged", device="cpu")
    inputs = tiny_inputs(adapted.config)
    with torch.no_grad():
        expected, got = adapted(**inputs), loaded(**inputs)
    length = inputs["input_ids"].shape[1]
    torch.testing.assert_close(got.logits, expected.logits[:, -length:], atol=1e-4, rtol=1e-4)
    assert torch.equal(got.anomaly_map, expected.anomaly_map)
    with pytest.raises(CheckpointError, match="`output` must be a new folder"):
        merge_adapter(folder / mode, folder / f"{mode}-merged")


def test_padding_before_virtual_tokens_changes_nothing(folder):
    adapted = trained(folder, "prompt")
    loaded, _ = load_checkpoint(folder / "prompt", device="cpu")
    assert loaded.config.num_virtual_tokens == 5
    inputs = tiny_inputs(adapted.config)
    options = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    together = loaded.generate(**left_padded(inputs, [2, 0]), **options)
    for row, missing in enumerate((2, 0)):
        alone = loaded.generate(**one_row(inputs, row, missing), **options)
        for one, both in zip(alone.logits, together.logits, strict=True):
            torch.testing.assert_close(both[row : row + 1], one, atol=1e-4, rtol=1e-4)


def test_a_cache_changes_nothing_with_virtual_tokens_and_one_of_another_call_is_refused(folder):
    trained(folder, "prompt")
    loaded = AutoModelForImageTextToText.from_pretrained(folder / "prompt").eval()
    inputs = tiny_inputs(loaded.config)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2}
    with_cache = loaded.generate(**inputs, **options)
    assert torch.equal(with_cache, loaded.generate(**inputs, **options, use_cache=False))
    first = loaded.generate(**inputs, max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    ids = torch.cat([first.sequences, first.sequences[:, -3:]], dim=1)
    with pytest.raises(ValueError, match="`past_key_values` must be a dynamic cache of the same `generate` call"):
        loaded.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=first.past_key_values, max_new_tokens=2
        )


def test_an_adapter_of_a_smaller_model_is_refused(folder, tmp_path):
    trained(folder, "prompt")
    lively_model(prompt_channels=[4, 6]).save_pretrained(tmp_path / "other")
    other = AnomalyGPTForConditionalGeneration.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="The adapter must fit the model, got model.prompt_learner.convolutions"):
        other.load_adapter(str(folder / "prompt"))


def test_an_adapter_is_looked_for_on_this_machine_alone_where_that_is_asked_for(folder, monkeypatch):
    trained(folder, "prompt")
    asked = []

    def local(source, name, local_files_only=False, **options):
        asked.append(local_files_only)
        return str(folder / "prompt" / name)

    monkeypatch.setattr("modeling_anomalygpt.modeling_anomalygpt.cached_file", local)
    lively_model().load_adapter("me/prompt", local_files_only=True)
    assert asked == [True, True]


def test_an_adapter_without_its_checkpoint_is_refused_and_the_embedded_one_is_found_anywhere(folder, tmp_path):
    trained(folder, "paper")
    settings = json.loads((folder / "paper" / "adapter_config.json").read_text())
    for base, expected in (
        ("/nowhere/gone", "was trained from '/nowhere/gone', which does not exist here"),
        (None, "must name its checkpoint as `base_model_name_or_path`, got None"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        with pytest.raises(CheckpointError, match=expected):
            load_checkpoint(tmp_path)
    elsewhere = settings | {"base_model_name_or_path": "/opt/elsewhere/modeling_anomalygpt/anomalygpt_tiny"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(elsewhere))
    assert adapter_base(tmp_path) == str(EMBEDDED_CHECKPOINT)
    assert adapter_base(EMBEDDED_CHECKPOINT) is None


# PEFT alone


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
    model = AnomalyGPTForConditionalGeneration.from_pretrained(folder / "base")
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
        assert (
            expected.anomaly_map
            - AnomalyGPTForConditionalGeneration.from_pretrained(folder / "base")(**words).anomaly_map
        ).abs().max() > 1e-3
    answer = adapted.generate(**words, max_new_tokens=3, do_sample=False)
    adapted.save_pretrained(folder / kind)
    loaded = peft.PeftModel.from_pretrained(
        AnomalyGPTForConditionalGeneration.from_pretrained(folder / "base"), folder / kind
    ).eval()
    with torch.no_grad():
        outputs = loaded(**words)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.anomaly_map, expected.anomaly_map)
    assert torch.equal(loaded.generate(**words, max_new_tokens=3, do_sample=False), answer)
