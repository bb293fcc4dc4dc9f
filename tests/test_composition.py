"""Pretrained parts become one model: what they computed alone they compute inside it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CohereConfig,
    Dinov2Config,
    Dinov2Model,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
)

from modeling_anomalygpt.checkpoints import load_checkpoint
from modeling_anomalygpt.cli import main
from modeling_anomalygpt.composition import with_language_model
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.modeling_anomalygpt import AnomalyGPTForConditionalGeneration
from tests.tiny import TEXT_CONFIG, TEXT_TOWER_CONFIG, VISION_CONFIG, tiny_inputs, tiny_pair, tiny_tokenizer
from tests.tiny_processor import byte_tokenizer, picture

SMALL_MAPS = {"map_size": 28, "prompt_channels": [4, 8], "num_map_prompts": 4, "num_base_prompts": 3}
WORDS = len(byte_tokenizer())
IMAGE_TOKEN = WORDS - 1  # the tokenizer knows <image>
NORMALIZE = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def without_type(config: dict) -> dict:
    return {name: value for name, value in config.items() if name != "model_type"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    vision, text = without_type(VISION_CONFIG), without_type(TEXT_TOWER_CONFIG) | {"vocab_size": 300}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=20)).save_pretrained(folder / "clip")
    siglip = SiglipConfig(vision_config=vision, text_config=text | {"hidden_size": 24, "projection_size": 24})
    SiglipModel(siglip).save_pretrained(folder / "siglip")
    Dinov2Model(Dinov2Config(**vision)).save_pretrained(folder / "dinov2")
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(resnet).save_pretrained(folder / "resnet")
    words = without_type(TEXT_CONFIG) | {"vocab_size": WORDS}
    for name, tied in (("llama", False), ("tied", True)):
        LlamaForCausalLM(LlamaConfig(**words, tie_word_embeddings=tied)).save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    for name in ("clip", "siglip"):
        text_words = tiny_tokenizer()
        text_words.model_max_length = 12
        text_words.save_pretrained(folder / name)
    settings = {"image_processor_type": "CLIPImageProcessor", "crop_size": {"height": 28, "width": 28}, **NORMALIZE}
    for name in ("clip", "siglip", "dinov2"):
        (folder / name / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"shortest_edge": 32}}))
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
def speaks_as_alone(model, alone) -> None:
    ids = torch.randint(3, 90, (2, 7))
    torch.testing.assert_close(model(input_ids=ids).logits, alone(input_ids=ids).logits)


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
def test_a_vision_model_without_a_text_tower_gets_two_learned_states_and_new_parts_are_initialised(parts, tmp_path):
    model = compose(parts, "dinov2")
    assert model.model.text_tower is None
    assert model.config.text_tower_config is None
    pixel_values = tiny_inputs(model.config)["pixel_values"]
    alone = AutoModel.from_pretrained(parts / "dinov2").eval()(pixel_values, output_hidden_states=True)
    layer = model.get_image_features(pixel_values).patch_features[1].vectors
    torch.testing.assert_close(layer, alone.hidden_states[2][:, 1:])
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert not tensor.is_meta, name
        assert torch.isfinite(tensor).all(), name
    assert model.model.prompt_learner.convolutions[0].weight.std() > 0.1
    check_files(model, tmp_path)


@torch.no_grad()
def test_the_middle_stages_of_a_staged_model_are_compared_unless_others_are_named(parts, tmp_path):
    model = compose(parts, "resnet", projection_dim=16)
    assert model.config.out_indices == [1]
    size = model.processor.image_processor.size  # of a folder without settings: the usual one
    assert (size["height"], size["width"]) == (224, 224)
    check_files(compose(parts, "resnet", out_indices=[1, 2], projection_dim=16), tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("language", ["llama", "tied"])
def test_the_language_model_speaks_as_before(parts, tmp_path, language):
    model = compose(parts, "dinov2", language)
    assert model.config.image_token_id == IMAGE_TOKEN
    assert model.get_input_embeddings().num_embeddings == model.lm_head.weight.shape[0] == WORDS
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (language == "tied")
    speaks_as_alone(model, AutoModelForCausalLM.from_pretrained(parts / language).eval())
    assert model.generation_config.suppress_tokens == [IMAGE_TOKEN]
    check_files(model, tmp_path)


TOKENS = {"vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ALIKE = without_type(TEXT_CONFIG) | TOKENS | {"initializer_range": 0.3}
OPT = TOKENS | {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SPOKEN = {
    "embeddings elsewhere": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **TOKENS),
    "embeddings in a decoder": OPTConfig(word_embed_proj_dim=32, **OPT),
    "a bias": PhiConfig(**ALIKE),
    "divided": GraniteConfig(logits_scaling=8.0, **ALIKE),
    "multiplied": CohereConfig(logit_scale=0.0625, **ALIKE),
    "bounded": Gemma2Config(final_logit_softcapping=0.5, head_dim=8, **ALIKE),
}
REFUSED = {
    "no keys and values": MambaConfig(hidden_size=32, num_hidden_layers=2, **TOKENS),
    "layers in the head": BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, is_decoder=True, **TOKENS
    ),
    "another width": OPTConfig(word_embed_proj_dim=16, **OPT),
}


def language_folder(config, folder):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", SPOKEN)
def test_scores_of_other_language_models_are_those_that_they_have_alone(parts, tmp_path, kind):
    alone = language_folder(SPOKEN[kind], tmp_path / "words")
    model = compose(parts, "dinov2", tmp_path / "words")
    speaks_as_alone(model, alone)
    check_files(model, tmp_path / "composed")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_language_model_that_would_speak_otherwise_is_refused(parts, tmp_path, capsys, kind):
    language_folder(REFUSED[kind], tmp_path / "words")
    command = ["compose", "--vision", str(parts / "dinov2"), "--language", str(tmp_path / "words")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "Phi, GPT-2 and others), got one of the kind" in said
    assert f"{REFUSED[kind].model_type!r} that differs" in said
    assert not (tmp_path / "out").exists()


def words_without_image(folder, vocabulary: int, known: int) -> None:
    """A language model of `vocabulary` rows with a tokenizer of `known` words, `<image>` not among them."""
    config = without_type(TEXT_CONFIG) | {"vocab_size": vocabulary}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(known)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1").save_pretrained(folder)


@pytest.mark.parametrize(("vocabulary", "rows"), [(60, 61), (70, 70)], ids=["full", "rows to spare"])
def test_a_tokenizer_without_a_placeholder_learns_one_after_its_last_word(parts, tmp_path, vocabulary, rows):
    words_without_image(tmp_path / "words", vocabulary, 60)
    model = compose(parts, "dinov2", tmp_path / "words")
    with pytest.raises(ValueError, match="must write 'Yes' and 'No' differently"):
        model.processor.yes_no_token_ids()
    assert model.config.image_token_id == model.processor.image_token_id == 60
    assert model.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == rows
    other = compose(parts, "dinov2", tmp_path / "words", image_token_index=7)
    assert (other.processor.image_token, other.generation_config.suppress_tokens) == ("w7", [7])
    with pytest.raises(ValueError, match="`image_token_index` must be a token of the tokenizer or 60, .*, got 99"):
        compose(parts, "dinov2", tmp_path / "words", image_token_index=99)


@torch.no_grad()
@pytest.mark.parametrize(("vision", "text_tower"), [("clip", "clip"), ("dinov2", None)])
def test_parts_in_half_precision_make_a_model_that_runs_and_keep_their_number_format_on_disk(
    parts, tmp_path, vision, text_tower
):
    model = compose(parts, vision, text_tower=text_tower, dtype=torch.bfloat16)
    check_files(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    for tensors in (dict(model.named_parameters()), saved):
        assert {tensor.dtype for name, tensor in tensors.items() if "localizer" in name} == {torch.float32}
        assert {tensor.dtype for name, tensor in tensors.items() if "localizer" not in name} == {torch.bfloat16}


# Complete folders


def test_a_composed_model_is_saved_with_its_processor_and_inspects(parts, tmp_path):
    compose(parts, "clip", text_tower="clip").save_pretrained(tmp_path)
    model, processor = load_checkpoint(tmp_path, device="cpu")
    images = processor.image_processor
    assert (images.size["height"], images.size["width"]) == (28, 28)
    assert {name: list(getattr(images, name)) for name in NORMALIZE} == NORMALIZE
    assert model.generation_config.eos_token_id == processor.stop_token_ids
    inspector = AnomalyInspector(model, processor)
    inspector.set_references([picture(0)], category="bolt")
    assert inspector.inspect(picture(1), category="bolt", answer=False).anomaly_map.shape == (20, 30)


@pytest.mark.parametrize(("dtype", "stored"), [([], torch.float16), (["--dtype", "bfloat16"], torch.bfloat16)])
def test_without_eyes_the_embedded_ones_are_written_as_they_are_or_in_the_dtype_asked_for(
    parts, tmp_path, embedded_pair, dtype, stored
):
    arguments = ["compose", "--language", str(parts / "llama"), *dtype]
    assert main([*arguments, "--output", str(tmp_path / "new")]) == 0
    weights = load_file(tmp_path / "new" / "model.safetensors")
    eyes = {name: value.dtype for name, value in weights.items() if "vision_tower" in name or "kind_head" in name}
    assert len(eyes) > 10
    assert set(eyes.values()) == {stored}
    if not dtype:
        (model, _), (own, _) = load_checkpoint(tmp_path / "new", device="cpu"), embedded_pair
        assert model.model.encoder_fingerprint() == own.model.encoder_fingerprint()
        assert model.config.decision == own.config.decision


def test_the_command_writes_a_folder_and_refuses_in_one_line(parts, tmp_path, capsys):
    arguments = ["compose", "--vision", str(parts / "dinov2"), "--language", str(parts / "llama")]
    assert main([*arguments, "--output", str(tmp_path / "new")]) == 0
    assert load_checkpoint(tmp_path / "new", device="cpu")[1].image_token_id == IMAGE_TOKEN
    assert not list(tmp_path.glob("*.partial"))
    capsys.readouterr()
    for changed, message in (
        (["--output", str(tmp_path / "new")], "`output` must be a new folder"),
        (["--output", str(tmp_path / "b"), "--language", str(parts / "dinov2")], ""),
        (["--output", str(tmp_path / "b"), "--vision", str(tmp_path / "nothing")], ""),
    ):
        assert main([*arguments, *changed]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    assert not (tmp_path / "b").exists()


def test_the_eyes_of_one_model_see_the_same_with_the_words_of_another(parts, tmp_path):
    torch.manual_seed(0)
    eyes, processor = tiny_pair(answering="grounded", kind_width=8)
    features = torch.randn(3, eyes.model.kind_head.hidden.in_features)
    kinds_of_defects = eyes.model.kind_head(features)
    fields = {name: torch.clone(value) for name, value in eyes.model.vision_tower.state_dict().items()}
    pictures = tiny_inputs(eyes.config)["pixel_values"]
    kinds = {name: value for name, value in tiny_inputs(eyes.config).items() if name.startswith("state_prompt")}
    before = eyes.get_image_features(pictures, **kinds)
    model = with_language_model(eyes.eval(), processor, str(parts / "llama"), torch.float32).eval()
    after = model.get_image_features(pictures, **kinds)
    torch.testing.assert_close(after.anomaly_map, before.anomaly_map)
    assert all(torch.equal(value, fields[name]) for name, value in model.model.vision_tower.state_dict().items())
    assert torch.equal(model.model.kind_head(features), kinds_of_defects)
    assert model.config.answering == "grounded"
    speaks_as_alone(model, AutoModelForCausalLM.from_pretrained(parts / "llama").eval())
    check_files(model, tmp_path)


def test_a_text_tower_without_eyes_of_its_own_is_refused(parts, tmp_path, capsys):
    words = ["compose", "--language", str(parts / "llama"), "--text-tower", str(parts / "clip")]
    assert main([*words, "--output", str(tmp_path / "out")]) == 2
    assert "`--text-tower` must come with --vision" in capsys.readouterr().err
