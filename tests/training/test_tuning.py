"""What each mode trains, what it says about it, what it refuses."""

import pytest
import torch

from modeling_anomalygpt.modeling_anomalygpt import focal_loss
from modeling_anomalygpt.training.arguments import ModelArguments
from modeling_anomalygpt.training.checkpoints import TrainingError
from modeling_anomalygpt.training.tuning import (
    FrozenInEvaluationMode,
    TuningArguments,
    describe_tuning,
    load_for_training,
    prepare_for_tuning,
    trainable_names,
)
from tests.tiny import lively_model, tiny_inputs, tiny_pair

pytest.importorskip("peft")


def sizes(model, *parts):
    return sum(value.numel() for name, value in model.named_parameters() if any(part in name for part in parts))


def trained(model):
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


@pytest.mark.parametrize(
    ("tuning", "parts", "tokens"),
    [
        ("paper", ("localizer", "prompt_learner"), 0),
        ("prompt", ("localizer", "prompt_learner", "multi_modal_projector"), 6 * 32),
        ("full", ("",), 0),
    ],
)
def test_each_mode_trains_its_parts_and_as_many_numbers_as_virtual_tokens_have(tuning, parts, tokens):
    model = lively_model()
    expected, total = sizes(model, *parts) + tokens, sizes(model, "") + tokens
    adapted = prepare_for_tuning(model, TuningArguments(tuning, num_virtual_tokens=6))
    assert trained(adapted) == expected
    assert (adapted is model) == (tuning == "full")
    line = describe_tuning(adapted, tuning)
    assert line.startswith(f"{tuning}: trains {expected:,} of {total:,} parameters ({100 * expected / total:.1f} %): ")
    assert "\n" not in line


def test_lora_changes_the_language_model_only_and_begins_without_a_change():
    model = lively_model()
    own = sizes(model, "localizer", "prompt_learner", "multi_modal_projector")
    adapted = prepare_for_tuning(model, TuningArguments("lora", lora_rank=3, lora_target=["q_proj", "down_proj"]))
    # two layers; q_proj 32 -> 32, down_proj 48 -> 32
    assert trained(adapted) == own + 2 * 3 * ((32 + 32) + (48 + 32))
    low_rank = [name for name in trainable_names(adapted) if ".lora_" in name]
    assert all(".language_model." in name for name in low_rank)
    assert all(not value.any() for name, value in adapted.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_dropout_of_low_rank_changes_drops_in_every_step(dropout):
    model = lively_model()
    inputs = tiny_inputs(model.config)
    adapted = prepare_for_tuning(model, TuningArguments("lora", lora_dropout=dropout))
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    adapted.train()
    FrozenInEvaluationMode(adapted).apply()
    with torch.no_grad():
        first, second = (adapted(**inputs).logits for _ in range(2))
    assert torch.equal(first, second) == (dropout == 0)


def test_full_trains_in_float32_and_refuses_4_bits():
    model = prepare_for_tuning(lively_model().to(torch.bfloat16), TuningArguments("full"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    model.is_quantized = True
    with pytest.raises(ValueError, match="`tuning` full must train a model in float32 or bfloat16, got one in 4 bits"):
        prepare_for_tuning(model, TuningArguments("full"))


def test_projections_before_matching_are_never_trained_by_an_adapter():
    model, _ = tiny_pair(reference_dims=[6, 6])
    names = trainable_names(prepare_for_tuning(model, TuningArguments("prompt")))
    assert any("localizer.modules_to_save.default.layers" in name for name in names)
    assert any("state_embeds" in name for name in names)
    assert not any("reference_projections" in name for name in names)


def test_virtual_tokens_begin_near_the_start_token():
    model = lively_model()
    adapted = prepare_for_tuning(model, TuningArguments("prompt"))
    first = model.get_input_embeddings().weight
    distance = (adapted.prompt_encoder["default"].embedding.weight - first[1]).std()
    assert 0.5 < distance / first.std() < 1.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tuning": "lorra"}, "`tuning` must be one of paper, prompt, lora, full, got 'lorra'"),
        ({"num_virtual_tokens": 0}, "`num_virtual_tokens` must be at least 1, got 0"),
        ({"lora_rank": -1}, "`lora_rank` must be at least 1, got -1"),
        ({"lora_dropout": 1.0}, r"`lora_dropout` must be in \[0, 1\), got 1.0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TuningArguments(**fields)


def test_a_part_or_layer_that_the_model_has_not_is_refused():
    with pytest.raises(ValueError, match="`train_parts` must be among the model's own parts localizer, .* got 'eyes'"):
        prepare_for_tuning(lively_model(), TuningArguments(train_parts=["eyes"]))
    model = lively_model()
    model.model.localizer = None
    with pytest.raises(ValueError, match="own parts prompt_learner, multi_modal_projector, got 'localizer'"):
        prepare_for_tuning(model, TuningArguments("paper"))
    with pytest.raises(ValueError, match="`lora_target` must be among .*q_proj.*, got query"):
        prepare_for_tuning(lively_model(), TuningArguments("lora", lora_target=["query"]))


def test_what_is_put_together_or_lies_as_an_adapter_on_the_hub_is_not_trained_on(monkeypatch):
    with pytest.raises(TrainingError, match="`model` must be a whole checkpoint, got 'small', .*anomalygpt compose"):
        load_for_training(ModelArguments("small"))
    monkeypatch.setattr("modeling_anomalygpt.training.tuning.adapter_base", {"me/bolts": "me/base"}.get)
    with pytest.raises(TrainingError, match="got the adapter 'me/bolts'. Merge it first: anomalygpt merge me/bolts"):
        load_for_training(ModelArguments("me/bolts"))


def test_a_loss_weight_must_be_a_finite_number():
    for weight in (-3.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`loss_weight_lm` must be a finite number of at least 0, got"):
            ModelArguments(loss_weight_lm=weight)
    assert ModelArguments(loss_weight_lm=0).loss_weight_lm == 0


@pytest.mark.parametrize("temperature", [1.0, 0.01, 1e-4])
def test_learned_state_vectors_begin_where_the_losses_move_them(temperature):
    model, _ = tiny_pair(map_temperature=temperature)
    pictures = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    maps = model.get_image_features(pictures, return_layer_maps=True, return_dict=True).layer_maps
    assert (maps > 0.01).all()
    loss = focal_loss(maps[:, 0], torch.ones(4, 28, 28)).sum()
    assert torch.autograd.grad(loss, model.model.localizer.state_embeds)[0].abs().max() > 1e-2
