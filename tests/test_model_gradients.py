"""What the losses are made of, and which parameters they reach."""

import pytest
import torch

from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.tiny import lively_model, one_row, tiny_inputs

TIGHT = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def model() -> AnomalyGPTForConditionalGeneration:
    return lively_model()


@pytest.fixture(scope="module")
def inputs(model) -> dict[str, torch.Tensor]:
    return tiny_inputs(model.config)


@pytest.fixture(scope="module")
def references() -> torch.Tensor:
    return torch.randn(2, 3, 3, 28, 28, generator=torch.Generator().manual_seed(5))


def training_inputs(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    mask_labels = torch.zeros(2, 28, 28)
    mask_labels[0, 5:12, 3:20] = 1
    return inputs | {"labels": labels, "mask_labels": mask_labels}


def test_the_losses_add_up_with_their_weights(inputs):
    batch = training_inputs(inputs)
    for weights in ({"lm": 1.0, "focal": 1.0, "dice": 1.0}, {"lm": 0.5, "focal": 2.0, "dice": 0.0}):
        outputs = lively_model(loss_weights=weights)(**batch)
        expected = sum(weights[name] * outputs[f"loss_{name}"] for name in weights)
        torch.testing.assert_close(outputs.loss.detach(), expected)


@torch.no_grad()
def test_the_language_loss_is_the_mean_over_answer_tokens(model, inputs):
    batch = training_inputs(inputs)
    outputs = model(**batch)
    log_probabilities = outputs.logits.log_softmax(-1)
    costs = [
        -log_probabilities[row, position - 1, batch["labels"][row, position]]
        for row in range(2)
        for position in range(batch["labels"].shape[1])
        if batch["labels"][row, position] != -100
    ]
    torch.testing.assert_close(outputs.loss_lm, torch.stack(costs).mean())


@torch.no_grad()
def test_pictures_without_a_pixel_target_are_left_out_of_the_pixel_losses(model, inputs):
    batch = training_inputs(inputs)
    batch["mask_labels"][1] = -1
    outputs = model(**batch)
    alone = model(**one_row(batch, 0))
    torch.testing.assert_close(outputs.loss_focal, alone.loss_focal, **TIGHT)
    torch.testing.assert_close(outputs.loss_dice, alone.loss_dice, **TIGHT)
    batch["mask_labels"][:] = -1
    assert model(**batch).loss_focal == 0


def test_the_pixel_losses_train_the_localizer_even_with_references(model, inputs, references):
    batch = training_inputs(inputs)
    batch.pop("labels")
    model.zero_grad()
    outputs = model(**batch, reference_pixel_values=references)
    outputs.loss.backward()
    assert model.model.localizer.layers[0].weight.grad.abs().sum() > 0
    assert model.lm_head.weight.grad is None
    assert all(parameter.grad is None for parameter in model.model.prompt_learner.parameters())
    assert all(parameter.grad is None for parameter in model.model.language_model.parameters())
    model.zero_grad()


def test_every_part_is_reached_by_the_losses(inputs):
    model = lively_model()
    model(**training_inputs(inputs)).loss.backward()
    for name, part in model.model.named_children():
        reached = [parameter for parameter in part.parameters() if parameter.grad is not None]
        assert any(parameter.grad.abs().sum() > 0 for parameter in reached), name
    without_tower = lively_model(text_tower_config=None)
    batch = {name: tensor for name, tensor in training_inputs(inputs).items() if not name.startswith("state_prompt")}
    without_tower(**batch).loss.backward()
    assert without_tower.model.localizer.state_embeds.grad.abs().sum() > 0


def test_only_the_parameters_that_are_asked_for_get_gradients(inputs):
    model = lively_model().requires_grad_(False)
    for part in (model.model.localizer, model.model.prompt_learner):
        part.requires_grad_(True)
    model(**training_inputs(inputs)).loss.backward()
    trained = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {"localizer", "prompt_learner"}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradients_are_the_same_with_activation_checkpointing(inputs, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = lively_model().train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
            assert model.is_activation_checkpointing
            if use_reentrant:
                model.enable_input_require_grads()
        model(**training_inputs(inputs), use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, **TIGHT)
