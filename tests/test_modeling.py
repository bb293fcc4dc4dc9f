"""One forward pass and its losses: shapes, placeholders, batches, references, number formats, what is refused."""

import math

import pytest
import torch
from torch.nn import functional

from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.modeling_anomalygpt import (
    AnomalyGPTForConditionalGeneration,
    dice_loss,
    focal_loss,
    pixel_losses,
)
from tests.tiny import IMAGE_TOKEN, left_padded, lively_model, one_row, tiny_inputs

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


@torch.no_grad()
def see(model, inputs, **changes):
    """What the model sees, without its language model."""
    seen = {name: tensor for name, tensor in inputs.items() if name not in ("input_ids", "attention_mask")}
    return model.get_image_features(**(seen | changes))


# Shapes and the way of the vectors


@torch.no_grad()
def test_a_pass_gives_logits_a_map_and_a_score(model, inputs):
    outputs = model(**inputs)
    assert outputs.logits.shape == (*inputs["input_ids"].shape, 97)
    assert outputs.anomaly_map.dtype == torch.float32
    assert 0 <= outputs.anomaly_map.min() < outputs.anomaly_map.max() <= 1
    assert outputs.anomaly_map.flatten(1).std(1).min() > 0.01
    torch.testing.assert_close(outputs.pred_score, outputs.anomaly_map.flatten(1).max(1).values)
    assert outputs.loss is None
    words_alone = model(input_ids=torch.tensor([[1, 5, 9]]))
    assert words_alone.logits.shape == (1, 3, 97)
    assert words_alone.anomaly_map is None


def test_what_is_seen_has_the_documented_shapes(model, inputs):
    features = see(model, inputs, return_layer_maps=True)
    assert features.pooler_output.shape == (2, 1 + 3 + 4, 32)
    assert features.layer_maps.shape == (2, 2, 2, 28, 28)
    torch.testing.assert_close(features.layer_maps.sum(2), torch.ones(2, 2, 28, 28))
    torch.testing.assert_close(features.layer_maps[:, :, 1].mean(1), features.anomaly_map)
    assert features.image_embeds.shape == (2, 20)
    torch.testing.assert_close(features.image_embeds.norm(dim=1), torch.ones(2))
    assert [(layer.vectors.shape, layer.grid) for layer in features.patch_features] == [((2, 16, 24), (4, 4))] * 2


@torch.no_grad()
def test_placeholders_are_replaced_in_order_and_words_are_left(model, inputs):
    read = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: read.update(kwargs), with_kwargs=True
    )
    model(**inputs)
    hook.remove()
    embeds, placeholder = read["inputs_embeds"], inputs["input_ids"] == IMAGE_TOKEN
    features = see(model, inputs)
    torch.testing.assert_close(embeds[placeholder].view_as(features.pooler_output), features.pooler_output)
    words = model.get_input_embeddings()(inputs["input_ids"])
    torch.testing.assert_close(embeds[~placeholder], words[~placeholder])
    base_prompts = model.model.prompt_learner.base_prompts
    torch.testing.assert_close(features.pooler_output[:, 1:4], base_prompts.expand(2, -1, -1))


@torch.no_grad()
def test_only_the_last_logits_are_computed_on_request(model, inputs):
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, logits[:, [0, 3]])


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"num_image_tokens": 3},
        {"project_towers": False, "projection_dim": 16},
        {"reference_dims": [5, 6], "reference_pooling": 3},
        {"text_tower_config": None},
        {"out_indices": [0, 1, 3]},
        {"map_size": 40, "prompt_channels": [4], "num_map_prompts": 9},
    ],
)
def test_other_configurations_run(changes, references):
    model = lively_model(**changes)
    inputs = tiny_inputs(model.config)
    for outputs in (model(**inputs), model(**inputs, reference_pixel_values=references)):
        assert outputs.anomaly_map.shape == (2, model.config.map_size, model.config.map_size)
        assert torch.isfinite(outputs.logits).all()


# Batches


@torch.no_grad()
def test_a_picture_alone_equals_its_row_in_a_batch(model, inputs, references):
    for extra in ({}, {"reference_pixel_values": references}):
        batch = inputs | extra
        together = model(**batch)
        for row in range(2):
            alone = model(**one_row(batch, row))
            torch.testing.assert_close(alone.logits[0], together.logits[row], **TIGHT)
            torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[row], **TIGHT)


@torch.no_grad()
def test_questions_of_different_lengths_equal_each_alone(model, inputs):
    together = model(**left_padded(inputs, missing=[0, 3])).logits
    for row, missing in ((0, 0), (1, 3)):
        alone = model(**one_row(inputs, row, missing)).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, **TIGHT)


# State vectors


@torch.no_grad()
def test_state_vectors_are_the_normalised_means_of_normalised_prompts(model, inputs):
    ids, labels = inputs["state_prompt_ids"], inputs["state_prompt_labels"]
    expected = torch.zeros(2, 2, 20)
    for row in range(2):
        for state in (0, 1):
            vectors = []
            for prompt, label in zip(ids[row], labels[row], strict=True):
                if label == state:
                    pooled = model.model.text_tower(prompt[None]).pooler_output[0]
                    vectors.append(functional.normalize(model.model.text_projection.weight @ pooled, dim=0))
            expected[row, state] = functional.normalize(torch.stack(vectors).mean(0), dim=0)
    torch.testing.assert_close(model.model.get_text_embeds(ids, labels), expected)


def test_prompts_with_padding_labels_count_for_nothing(model, inputs):
    padding = torch.randint(3, 50, (2, 4, 8))
    padded = {
        "state_prompt_ids": torch.cat([inputs["state_prompt_ids"], padding], dim=1),
        "state_prompt_labels": torch.cat([inputs["state_prompt_labels"], torch.full((2, 4), -1)], dim=1),
    }
    torch.testing.assert_close(see(model, inputs, **padded).anomaly_map, see(model, inputs).anomaly_map)


@torch.no_grad()
def test_state_vectors_computed_before_give_the_same_map(model, inputs):
    embeds = model.model.get_text_embeds(inputs["state_prompt_ids"], inputs["state_prompt_labels"])
    expected = see(model, inputs).anomaly_map
    pixels = {"pixel_values": inputs["pixel_values"]}
    torch.testing.assert_close(see(model, pixels, text_embeds=embeds).anomaly_map, expected)
    first = see(model, pixels, text_embeds=embeds[:1]).anomaly_map  # one category for the whole batch
    torch.testing.assert_close(first[0], expected[0])


# References


@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "k_shot"), [({}, 1), ({}, 3), ({"reference_pooling": 3}, 2), ({"reference_dims": [5, 6]}, 2)]
)
def test_reference_pictures_and_their_bank_give_the_same_map(inputs, references, changes, k_shot):
    model = lively_model(**changes)
    shared = references[:1, :k_shot].expand(2, -1, -1, -1, -1)
    bank = MemoryBank.build(model.model.get_patch_features(shared[0]), model.model.encoder_fingerprint())
    assert bank.num_references == k_shot
    by_pictures = see(model, inputs, reference_pixel_values=shared).anomaly_map
    by_bank = see(model, inputs, memory_bank=bank).anomaly_map
    torch.testing.assert_close(by_bank, by_pictures, **TIGHT)


def test_a_picture_that_is_its_own_reference_has_an_empty_map(model, inputs):
    features = see(model, inputs, reference_pixel_values=inputs["pixel_values"][:, None])
    torch.testing.assert_close(features.anomaly_map, torch.zeros(2, 28, 28), atol=1e-5, rtol=0)


def test_references_replace_the_text_guided_map_unless_it_is_asked_for(model, inputs, references):
    text = see(model, inputs).anomaly_map
    few_shot = see(model, inputs, reference_pixel_values=references).anomaly_map
    assert (text - few_shot).abs().max() > 0.01
    for mode, expected in (
        ("text", text),
        ("reference", few_shot),
        ("auto", few_shot),
        ("mean", (text + few_shot) / 2),
    ):
        seen = see(model, inputs, reference_pixel_values=references, localization=mode)
        torch.testing.assert_close(seen.anomaly_map, expected)


def test_each_picture_chooses_whether_it_follows_its_references(model, inputs, references):
    text = see(model, inputs)
    few_shot = see(model, inputs, reference_pixel_values=references)
    mixed = see(model, inputs, reference_pixel_values=references, use_reference=torch.tensor([False, True]))
    for name in ("anomaly_map", "pred_score", "pooler_output"):
        expected = torch.stack([text[name][0], few_shot[name][1]])
        torch.testing.assert_close(mixed[name], expected, **TIGHT)


def test_the_fingerprint_follows_the_encoder_and_nothing_else(model):
    assert lively_model().model.encoder_fingerprint() == model.model.encoder_fingerprint()
    other_settings = lively_model(reference_pooling=3)
    assert other_settings.model.encoder_fingerprint() != model.model.encoder_fingerprint()
    changed = lively_model()
    with torch.no_grad():
        changed.model.multi_modal_projector.weight.mul_(2)
    assert changed.model.encoder_fingerprint() == model.model.encoder_fingerprint()
    with torch.no_grad():
        next(changed.model.vision_tower.parameters()).mul_(2)
    assert changed.model.encoder_fingerprint() != model.model.encoder_fingerprint()


# Numbers


@torch.no_grad()
def test_eager_and_fused_attention_agree(inputs):
    model = lively_model()
    assert model.config._attn_implementation == "sdpa"
    fused = model(**left_padded(inputs, [0, 2]))
    model.set_attn_implementation("eager")
    assert model.model.vision_tower.config._attn_implementation == "eager"
    assert model.model.language_model.config._attn_implementation == "eager"
    eager = model(**left_padded(inputs, [0, 2]))
    real = left_padded(inputs, [0, 2])["attention_mask"].bool()
    torch.testing.assert_close(eager.logits[real], fused.logits[real], **TIGHT)
    torch.testing.assert_close(eager.anomaly_map, fused.anomaly_map, **TIGHT)


@torch.no_grad()
def test_maps_stay_float32_under_autocast(model, inputs, references):
    for extra in ({}, {"reference_pixel_values": references}):
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**inputs, **extra)
        assert outputs.anomaly_map.dtype == torch.float32
        assert outputs.anomaly_map.unique().numel() > 200  # not rounded to bfloat16 on the way


# What is refused


ONE_OF_TWO = "`input_ids` must be given when `inputs_embeds` is not, got both or none"
PIXELS = r"`pixel_values` must have shape \(batch_size, 3, height, width\), got "
PLACEHOLDERS = "`input_ids` must hold 8 placeholders in each of "
ONE_TOO_MANY = torch.tensor([[IMAGE_TOKEN] * 8 + [5] * 7, [IMAGE_TOKEN] * 9 + [5] * 6])
REFERENCES = (
    r"`reference_pixel_values` must have shape \(batch_size, k_shot, 3, height, width\) with the batch size 2, got "
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs_embeds": torch.zeros(2, 15, 32)}, ONE_OF_TWO),
        ({"input_ids": None}, ONE_OF_TWO),
        ({"pixel_values": torch.zeros(2, 1, 28, 28)}, PIXELS + r"\(2, 1, 28, 28\)"),
        ({"pixel_values": torch.zeros(3, 28, 28)}, PIXELS + r"\(3, 28, 28\)"),
        (
            {"pixel_values": torch.zeros(3, 3, 28, 28)},
            "`state_prompt_ids` must have one row, or one for each of 3 pictures, got 2",
        ),
        (
            {"text_embeds": torch.ones(3, 2, 20)},
            "`text_embeds` must have one row, or one for each of 2 pictures, got 3",
        ),
        (
            {"pixel_values": torch.zeros(1, 3, 28, 28), "text_embeds": torch.ones(1, 2, 20), "state_prompt_ids": None},
            PLACEHOLDERS + r"1 rows, got \[8, 8\]",
        ),
        ({"input_ids": torch.full((2, 15), 5)}, PLACEHOLDERS + r"2 rows, got \[0, 0\]"),
        ({"input_ids": ONE_TOO_MANY}, PLACEHOLDERS + r"2 rows, got \[8, 9\]. Put one picture into each prompt"),
        ({"reference_pixel_values": torch.zeros(2, 3, 28, 28)}, REFERENCES + r"\(2, 3, 28, 28\)"),
        ({"reference_pixel_values": torch.zeros(1, 1, 3, 28, 28)}, REFERENCES + r"\(1, 1, 3, 28, 28\)"),
        (
            {"state_prompt_ids": None},
            "`state_prompt_ids` and `state_prompt_labels` must be given for a text-guided map, got None",
        ),
        ({"localization": "magic"}, "`localization` must be one of auto, text, reference, mean, got 'magic'"),
        ({"localization": "reference"}, "`memory_bank` must be given for localization='reference', got None"),
        ({"localization": "mean"}, "`memory_bank` must be given for localization='mean', got None"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name_and_value(model, inputs, changes, message):
    with pytest.raises(ValueError, match=message), torch.no_grad():
        model(**(inputs | changes))


@torch.no_grad()
def test_what_is_given_twice_is_refused(model, inputs, references):
    features = see(model, inputs)
    with pytest.raises(ValueError, match="`pixel_values` must be None when `mm_encoder_outputs` is given, got both"):
        model(**inputs, mm_encoder_outputs={"image": features})
    bank = MemoryBank.build(model.model.get_patch_features(references[0]))
    with pytest.raises(
        ValueError, match="`memory_bank` must be None when `reference_pixel_values` is given, got both"
    ):
        see(model, inputs, memory_bank=bank, reference_pixel_values=references)


# Losses and gradients


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


def naive_focal(probability, target, gamma=2.0, smooth=1e-5):
    losses = []
    for sample, mask in zip(probability.tolist(), target.tolist(), strict=True):
        terms = []
        for row in range(len(mask)):
            for column in range(len(mask[0])):
                wanted = int(mask[row][column])
                one_hot = [smooth, smooth]
                one_hot[wanted] = 1 - smooth
                agreement = sum(one_hot[state] * sample[state][row][column] for state in (0, 1)) + smooth
                terms.append(-((1 - agreement) ** gamma) * math.log(agreement))
        losses.append(sum(terms) / len(terms))
    return torch.tensor(losses)


def random_maps():
    probability = torch.randn(3, 2, 5, 6).softmax(1)
    target = (torch.rand(3, 5, 6) > 0.6).float()
    return probability, target


def test_focal_loss_equals_a_loop_over_the_pixels():
    probability, target = random_maps()
    torch.testing.assert_close(focal_loss(probability, target), naive_focal(probability, target))


def test_dice_loss_of_a_hand_worked_map():
    probability = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
    target = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    torch.testing.assert_close(dice_loss(probability, target), torch.tensor([1 - (2 * 1.5 + 1) / (1.5 + 3 + 1)]))


def test_pixel_losses_sum_over_layers_and_skip_samples_without_target():
    layers = torch.randn(3, 4, 2, 5, 6).softmax(2)
    target = (torch.rand(3, 5, 6) > 0.6).float()
    target[1] = -1
    losses = pixel_losses(layers, target)
    kept = [0, 2]
    expected = sum(focal_loss(layers[kept, layer], target[kept]).mean() for layer in range(4))
    torch.testing.assert_close(losses["focal"], expected)
    expected = sum(dice_loss(layers[kept, layer, 1], target[kept]).mean() for layer in range(4))
    torch.testing.assert_close(losses["dice"], expected)


def test_a_batch_without_any_target_costs_nothing_but_keeps_the_graph():
    layers = torch.randn(2, 1, 2, 4, 4, requires_grad=True)
    losses = pixel_losses(layers, torch.full((2, 4, 4), -1))
    (losses["focal"] + losses["dice"]).backward()
    torch.testing.assert_close(layers.grad, torch.zeros_like(layers))


def test_a_pixel_target_without_layer_maps_is_refused():
    with pytest.raises(ValueError, match="`mask_labels` must come with pictures whose layer maps are known, got none"):
        pixel_losses(None, torch.zeros(1, 4, 4))
