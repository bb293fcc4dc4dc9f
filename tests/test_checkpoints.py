"""Loading: the auto classes know AnomalyGPT, and what cannot be used is refused by name, in one line, at once."""

import json
import os
import pathlib
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    LlamaForCausalLM,
)

import modeling_anomalygpt
from modeling_anomalygpt.checkpoints import (
    SMALL_BASE_VARIABLE,
    UNQUANTIZED_MODULES,
    CheckpointError,
    load_checkpoint,
    new_folder,
)
from modeling_anomalygpt.composition import with_language_model
from modeling_anomalygpt.conversations.checking import contradictions
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.fuzzing import bounded_memory
from tests.tiny import TEXT_CONFIG, tiny_config, tiny_inputs, tiny_tokenizer
from tests.tiny_processor import byte_tokenizer, picture


@pytest.fixture
def saved(tiny_folder, tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def refusal(source, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What loads


@pytest.mark.parametrize(
    ("auto", "name"),
    [
        (AutoConfig, "AnomalyGPTConfig"),
        (AutoModel, "AnomalyGPTModel"),
        (AutoModelForImageTextToText, "AnomalyGPTForConditionalGeneration"),
        (AutoImageProcessor, "AnomalyGPTImageProcessor"),
        (AutoProcessor, "AnomalyGPTProcessor"),
    ],
)
def test_each_auto_class_loads_ours(tiny_folder, auto, name):
    modeling_anomalygpt.register()
    modeling_anomalygpt.register()  # twice does no harm
    assert type(auto.from_pretrained(tiny_folder)) is getattr(modeling_anomalygpt, name)
    assert auto is not AutoModel or type(auto.from_config(tiny_config())) is modeling_anomalygpt.AnomalyGPTModel


def test_the_first_use_of_a_class_registers_all(monkeypatch):
    registered = []
    monkeypatch.setattr("modeling_anomalygpt.checkpoints.register", lambda: registered.append(True))
    vars(modeling_anomalygpt).pop("AnomalyGPTConfig", None)
    assert modeling_anomalygpt.AnomalyGPTConfig.model_type == "anomalygpt"
    assert registered


def test_a_saved_checkpoint_is_loaded_in_evaluation_mode(tiny_folder):
    model, processor = load_checkpoint(tiny_folder, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert processor.num_prompt_tokens == model.config.num_prompt_tokens


def test_a_language_model_of_eight_bits_loads_through_load_checkpoint():
    torchao = pytest.importorskip("torchao.quantization")
    from transformers import TorchAoConfig

    settings = TorchAoConfig(torchao.Int8WeightOnlyConfig(), modules_to_not_convert=UNQUANTIZED_MODULES)
    model, _ = load_checkpoint(quantization_config=settings)
    assert type(model.model.language_model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"


# What is refused


def test_folders_without_a_checkpoint_of_ours_are_refused(tmp_path):
    assert "which does not exist" in refusal(tmp_path / "nothing")
    assert "`model` must be a folder with a config.json" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    assert "`model` must be an AnomalyGPT checkpoint, got one of 'llava'" in refusal(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        assert "is not readable JSON" in refusal(tmp_path)


PROMPTS = "model.prompt_learner.base_prompts"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (None, f"1 missing keys: {PROMPTS}"),
        (torch.zeros(5, 7), "do not fit its config.json"),
        (torch.full((3, 32), float("nan")), f"The weights of {PROMPTS} in"),
    ],
    ids=["missing", "another size", "not finite"],
)
def test_weights_that_cannot_be_used_are_named(saved, changed, message):
    weights = load_file(saved / "model.safetensors")
    weights |= {PROMPTS: changed}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, saved / "model.safetensors", metadata={"format": "pt"})
    assert message in refusal(saved)


def test_a_folder_without_processor_is_refused(saved):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (saved / name).unlink()
    assert str(saved) in refusal(saved)


def test_products_are_rounded_where_the_processor_gains_and_no_dtype_is_asked_for(tiny_folder, monkeypatch):
    for gains in (True, False):
        monkeypatch.setattr("modeling_anomalygpt.checkpoints.multiplies_bfloat16", lambda gains=gains: gains)
        for dtype, rounded in ((None, gains), ("float32", False), ("bfloat16", False)):
            model, _ = load_checkpoint(tiny_folder, device="cpu", dtype=dtype)
            assert model.model.vision_tower.bfloat16_products == rounded


def test_unknown_device_and_dtype_are_refused(tiny_folder):
    assert "`device` must be usable here, got 'toaster'" in refusal(tiny_folder, device="toaster")
    assert "`dtype` must be one of float32, bfloat16, float16, auto, got 'int4'" in refusal(tiny_folder, dtype="int4")


LARGE = 10**8
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("file", "place", "value", "message"),
    [
        ("config.json", "text_config.num_hidden_layers", 3_000_000, "must be between 0 and 1024, got 3000000"),
        ("config.json", "text_config.num_hidden_layers", -1, "must be between 0 and 1024, got -1"),
        ("config.json", "vision_config.num_hidden_layers", 3_000_000, "must be between 0 and 1024, got 3000000"),
        ("config.json", "text_config.layer_types", ["full_attention"] * 99_999, "layer"),
        ("config.json", "text_config.hidden_size", LARGE, "numbers, its weights are"),
        ("config.json", "text_config.vocab_size", LARGE, "numbers, its weights are"),
        ("config.json", "vision_config.image_size", 7 * 10**4, "numbers, its weights are"),
        ("config.json", "prompt_channels", [LARGE], "numbers, its weights are"),
        ("config.json", "num_virtual_tokens", LARGE, "must be between 0 and 4096"),
        ("config.json", "map_size", 10**6, "must be between 1 and 4096"),
        ("processor_config.json", "num_prompt_tokens", LARGE, "none above 8192, got"),
        ("processor_config.json", "image_processor.size", {"height": 22400, "width": 22400}, "from 1 to 4096, got"),
        ("chat_template.jinja", None, LOOPS, "`chat_template` must be the published format, got"),
        ("chat_template.jinja", None, "{{ 'a' * 1500000000 }}", "`chat_template` must be the published format, got"),
    ],
)
def test_a_checkpoint_that_would_hang_or_fill_the_memory_is_refused(saved, file, place, value, message):
    if place is None:
        (saved / file).write_text(value)
    else:
        settings = json.loads((saved / file).read_text())
        *groups, name = place.split(".")
        group = settings
        for one in groups:
            group = group[one]
        group[name] = value
        (saved / file).write_text(json.dumps(settings))
    with bounded_memory():
        assert message in refusal(saved, device="cpu")


def test_an_adapter_of_a_huge_rank_is_refused(saved, tmp_path):
    settings = {"peft_type": "LORA", "r": LARGE, "base_model_name_or_path": str(saved), "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert "must be a rank up to 4096, got 100000000" in refusal(tmp_path)


def test_weights_that_the_configuration_leaves_out_are_named(saved, recwarn):
    load_checkpoint(saved)
    assert not [one for one in recwarn if "are not used" in str(one.message)]
    config = json.loads((saved / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] -= 1
    config["text_config"].pop("layer_types", None)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"\d+ tensors of the weights in .* are not used \(.*language_model.layers"):
        load_checkpoint(saved)


# Folders to write into


def test_two_runs_that_write_one_folder_do_not_take_each_others_files(tmp_path):
    output = tmp_path / "models" / "mine"
    with new_folder(output) as partial:
        pathlib.Path(partial).mkdir()
        pathlib.Path(partial, "weights").write_text("first")
        with pytest.raises(CheckpointError, match="must be free.*another process is writing"), new_folder(output):
            pass
        assert not output.exists()
    assert (output / "weights").read_text() == "first"
    assert [path.name for path in output.parent.iterdir()] == ["mine"], "neither lock nor half a folder stays"


def test_what_a_killed_run_left_does_not_enter_the_next_one(tmp_path):
    left = tmp_path / "mine.partial"
    left.mkdir()
    (left / "half").touch()
    (tmp_path / "mine.partial.lock").touch()
    (tmp_path / "mine.lock").write_text("of another program")
    with new_folder(tmp_path / "mine") as partial:
        pathlib.Path(partial).mkdir()
    assert not list((tmp_path / "mine").iterdir())
    assert (tmp_path / "mine.lock").read_text() == "of another program"


# The small model: embedded eyes, a language model that does not ship, an adapter that does


def test_without_network_one_line_says_how_to_get_the_small_models_language_model(monkeypatch):
    monkeypatch.delenv(SMALL_BASE_VARIABLE, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    line = refusal("small")
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in line
    assert "set ANOMALYGPT_SMALL_BASE to its folder" in line


def test_another_language_model_than_the_adapters_is_refused(monkeypatch, tmp_path):
    config = {name: value for name, value in TEXT_CONFIG.items() if name != "model_type"}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setenv(SMALL_BASE_VARIABLE, str(tmp_path))
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in refusal("small")


def test_the_small_model_in_half_precision_keeps_its_maps_in_full(tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("modeling_anomalygpt.checkpoints.EMBEDDED_CHECKPOINT", tiny_folder)
    config = {name: value for name, value in TEXT_CONFIG.items() if name != "model_type"}
    tokenizer = byte_tokenizer()
    model = LlamaForCausalLM(LlamaConfig(**config | {"vocab_size": len(tokenizer)}))
    model.save_pretrained(tmp_path / "language")
    tokenizer.save_pretrained(tmp_path / "language")
    eyes, processor = load_checkpoint(device="cpu")
    small = with_language_model(eyes, processor, str(tmp_path / "language"), torch.float32)
    settings = peft.LoraConfig(r=1, target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM")
    peft.get_peft_model(small, settings).save_pretrained(tmp_path / "adapter")
    monkeypatch.setenv(SMALL_BASE_VARIABLE, str(tmp_path / "language"))
    monkeypatch.setattr("modeling_anomalygpt.checkpoints.SMALL_ADAPTER", tmp_path / "adapter")
    model, _ = load_checkpoint("small", device="cpu", dtype="bfloat16")
    with torch.no_grad():
        outputs = model(**tiny_inputs(model.config))  # without references
    assert outputs.anomaly_map.isfinite().all()
    assert (outputs.anomaly_map.dtype, outputs.logits.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.skipif(SMALL_BASE_VARIABLE not in os.environ, reason="needs a folder with SmolLM2-135M-Instruct")
def test_the_small_model_speaks_of_what_was_measured():
    inspector = AnomalyInspector.from_pretrained("small", device="cpu")
    inspector.set_references([picture(0, (64, 64)), picture(2, (64, 64))], category="gear box")
    result = inspector.inspect(picture(0, (64, 64)))
    assert contradictions(result.answer, result.facts) == []
    assert "gear box" in inspector.ask(result, "What is this part called?")
    own, _ = load_checkpoint(device="cpu")
    assert inspector.model.model.encoder_fingerprint() == own.model.encoder_fingerprint()
