"""Pretrained parts become one model: what they computed alone they compute inside it."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
)

from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.tiny import TEXT_CONFIG, TEXT_TOWER_CONFIG, VISION_CONFIG, tiny_inputs

SMALL_MAPS = {"map_size": 28, "prompt_channels": [4, 8], "num_map_prompts": 4, "num_base_prompts": 3}
WORDS = TEXT_CONFIG["vocab_size"]


def without_type(config: dict) -> dict:
    return {name: value for name, value in config.items() if name != "model_type"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vision, text = without_type(VISION_CONFIG), without_type(TEXT_TOWER_CONFIG)
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20)).save_pretrained(folder / "clip")
    siglip = SiglipConfig(vision_config=vision, text_config=text | {"hidden_size": 24, "projection_size": 24})
    SiglipModel(siglip).save_pretrained(folder / "siglip")
    Dinov2Model(Dinov2Config(**vision)).save_pretrained(folder / "dinov2")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(resnet).save_pretrained(folder / "resnet")
    for name, tied in (("llama", False), ("tied", True)):
        LlamaForCausalLM(LlamaConfig(**without_type(TEXT_CONFIG), tie_word_embeddings=tied)).save_pretrained(
            folder / name
        )
    return folder


def compose(parts, vision, language="llama", text_tower=None, **kwargs) -> AnomalyGPTForConditionalGeneration:
    return AnomalyGPTForConditionalGeneration.from_vision_language_pretrained(
        parts / vision,
        parts / language,
        text_tower=parts / text_tower if text_tower else None,
        **(SMALL_MAPS | kwargs),
    ).eval()


def check_files(model, folder) -> None:
    inputs = tiny_inputs(model.config)
    model.save_pretrained(folder)
    loaded, info = AnomalyGPTForConditionalGeneration.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        expected, outputs = model(**inputs), loaded(**inputs)
    assert torch.equal(outputs.logits, expected.logits)
    assert torch.equal(outputs.anomaly_map, expected.anomaly_map)
    assert loaded.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


@torch.no_grad()
def test_both_halves_of_clip_see_and_read_as_before(parts, tmp_path):
    model = compose(parts, "clip", text_tower="clip")
    clip = CLIPModel.from_pretrained(parts / "clip").eval()
    inputs = tiny_inputs(model.config)
    assert model.config.project_towers
    assert model.config.projection_dim == 20
    assert model.config.out_indices == [1, 2, 3, 4]
    outputs = clip(input_ids=inputs["state_prompt_ids"][0], pixel_values=inputs["pixel_values"], return_dict=True)
    features = model.get_image_features(
        inputs["pixel_values"], inputs["state_prompt_ids"], inputs["state_prompt_labels"]
    )
    torch.testing.assert_close(features.image_embeds, outputs.image_embeds)
    each = torch.arange(2).repeat(3)[:5]  # the first two prompts alone, the others as padding
    labels = torch.full_like(each, -1)
    labels[0], labels[1] = 0, 1
    states = model.model.get_text_embeds(inputs["state_prompt_ids"][:1], labels[None])
    torch.testing.assert_close(states[0], outputs.text_embeds[:2])
    check_files(model, tmp_path)


@torch.no_grad()
def test_both_halves_of_siglip_see_as_before(parts, tmp_path):
    model = compose(parts, "siglip", text_tower="siglip")
    siglip = SiglipModel.from_pretrained(parts / "siglip").eval()
    inputs = tiny_inputs(model.config)
    assert not model.config.project_towers
    assert model.config.projection_dim == 24
    pooled = siglip.vision_model(inputs["pixel_values"]).pooler_output
    features = model.get_image_features(inputs["pixel_values"], text_embeds=torch.randn(1, 2, 24))
    torch.testing.assert_close(features.image_embeds, torch.nn.functional.normalize(pooled, dim=-1))
    check_files(model, tmp_path)


@torch.no_grad()
def test_a_vision_model_without_a_text_tower_gets_two_learned_states(parts, tmp_path):
    model = compose(parts, "dinov2")
    assert model.model.text_tower is None
    assert model.config.text_tower_config is None
    pixel_values = tiny_inputs(model.config)["pixel_values"]
    alone = AutoModel.from_pretrained(parts / "dinov2").eval()(pixel_values, output_hidden_states=True)
    layer = model.get_image_features(pixel_values).patch_features[1].vectors
    torch.testing.assert_close(layer, alone.hidden_states[2][:, 1:])
    check_files(model, tmp_path)


@torch.no_grad()
def test_the_text_tower_may_come_from_another_model(parts, tmp_path):
    model = compose(parts, "dinov2", text_tower="clip")
    assert type(model.model.text_tower).__name__ == "CLIPTextModel"
    check_files(model, tmp_path)


@torch.no_grad()
def test_layers_of_a_model_without_a_depth_are_named_by_the_caller(parts, tmp_path):
    check_files(compose(parts, "resnet", out_indices=[1, 2], projection_dim=16), tmp_path)
    with pytest.raises(ValueError, match="`out_indices` must be below 3, the number of hidden states of ResNetModel"):
        compose(parts, "resnet", projection_dim=16)


@torch.no_grad()
@pytest.mark.parametrize("language", ["llama", "tied"])
def test_the_language_model_speaks_as_before_and_knows_one_more_token(parts, tmp_path, language):
    model = compose(parts, "dinov2", language)
    alone = AutoModelForCausalLM.from_pretrained(parts / language).eval()
    assert model.config.image_token_id == WORDS
    assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == WORDS + 1
    assert model.lm_head.weight.shape[0] == WORDS + 1
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (language == "tied")
    ids = torch.randint(3, 90, (2, 7))
    torch.testing.assert_close(model(input_ids=ids).logits[..., :WORDS], alone(input_ids=ids).logits)
    assert model.generation_config.eos_token_id == TEXT_CONFIG["eos_token_id"]
    check_files(model, tmp_path)


@torch.no_grad()
def test_a_placeholder_of_the_vocabulary_leaves_its_size(parts):
    model = compose(parts, "dinov2", image_token_index=WORDS - 1)
    assert model.get_input_embeddings().num_embeddings == WORDS
    assert model.generation_config.suppress_tokens == [WORDS - 1]


@torch.no_grad()
@pytest.mark.parametrize(("vision", "text_tower"), [("clip", "clip"), ("dinov2", None), ("siglip", "siglip")])
def test_parts_in_half_precision_make_a_model_that_runs(parts, tmp_path, vision, text_tower):
    model = compose(parts, vision, text_tower=text_tower, dtype=torch.bfloat16)
    number_formats = {}
    for name, parameter in model.named_parameters():
        number_formats.setdefault(name.split(".")[1], set()).add(parameter.dtype)
    assert number_formats.pop("localizer") == {torch.float32}
    assert set().union(*number_formats.values()) == {torch.bfloat16}
    check_files(model, tmp_path)


def test_gradients_reach_the_new_parts_only_when_the_old_ones_are_frozen(parts):
    model = compose(parts, "clip", text_tower="clip").train()
    for part in (model.model.vision_tower, model.model.text_tower, model.model.language_model):
        part.requires_grad_(False)
    inputs = tiny_inputs(model.config)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.model.multi_modal_projector.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.model.vision_tower.parameters())


def test_new_parts_are_initialised_and_nothing_stays_without_memory(parts):
    model = compose(parts, "dinov2")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert not tensor.is_meta, name
        assert torch.isfinite(tensor).all(), name
    assert model.model.prompt_learner.convolutions[0].weight.std() > 0.1
