"""Saved folders work by themselves: code, weights and words travel, our package is not there."""

import ast
import inspect
import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from modeling_anomalygpt import AnomalyGPTForConditionalGeneration, register
from modeling_anomalygpt.processing_anomalygpt import AnomalyGPTProcessor
from tests.clean_process import OWN_NAMES, REPOSITORY, run_python
from tests.tiny import TEXT_CONFIG, TEXT_TOWER_CONFIG, VISION_CONFIG, lively_model, tiny_pair, tiny_tokenizer

FOLDERS = ("tower", "composed")


def save_with_a_text_tower(folder: pathlib.Path) -> None:
    model, processor = tiny_pair()
    words = tiny_tokenizer()
    words.model_max_length = 24
    text_tower = {"vocab_size": len(words), "max_position_embeddings": 64, "eos_token_id": words.eos_token_id}
    lively_model(
        text_config=model.config.text_config,
        image_token_index=model.config.image_token_id,
        text_tower_config=TEXT_TOWER_CONFIG | text_tower,
    ).save_pretrained(folder)
    count = model.config.num_prompt_tokens
    AnomalyGPTProcessor(
        processor.image_processor, processor.tokenizer, words, num_image_tokens=1, num_prompt_tokens=count
    ).save_pretrained(folder)


def save_composed(folder: pathlib.Path) -> None:
    def without_type(config):
        return {name: value for name, value in config.items() if name != "model_type"}

    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**without_type(VISION_CONFIG))).save_pretrained(folder / "vision")
    words = tiny_tokenizer()
    text_config = without_type(TEXT_CONFIG) | {"vocab_size": len(words)}
    LlamaForCausalLM(LlamaConfig(**text_config)).save_pretrained(folder / "language")
    words.save_pretrained(folder / "language")
    maps = {"map_size": 28, "prompt_channels": [4, 8], "num_map_prompts": 4}
    model = AnomalyGPTForConditionalGeneration.from_vision_language_pretrained(
        folder / "vision", folder / "language", **maps
    )
    model.save_pretrained(folder)


def answers(folder: str, picture: str, **trust: bool) -> dict:
    """What the auto classes of transformers make of a folder; also runs where only transformers is."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, **trust)
    model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
    image = Image.open(picture)
    inputs = processor(images=[image], text=["Is there any anomaly?"], category="bolt", return_tensors="pt")
    alone = AutoImageProcessor.from_pretrained(folder, **trust)(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = model(**inputs)
        hidden = AutoModel.from_pretrained(folder, **trust).eval()(**inputs).last_hidden_state
    said = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    maps = processor.image_processor.post_process_anomaly_map(outputs.anomaly_map, [(image.height, image.width)])
    return {
        "logits": outputs.logits, "by the base model": model.lm_head(hidden).detach(), "said": said, "pixels": alone,
        "map": torch.tensor(maps[0]), "words": processor.strip_answer(said[0]), "module": type(model).__module__,
        "model": model, "processor": processor,
    }  # fmt: skip


WITHOUT_THE_PACKAGE = (
    inspect.getsource(answers)
    + """
import sys
work, *folders = sys.argv[1:]
for name in folders:
    found = answers(f"{work}/{name}", f"{work}/picture.png", trust_remote_code=True)
    assert found["module"].startswith("transformers_modules."), found["module"]
    model, processor = found.pop("model"), found.pop("processor")
    torch_file = f"{work}/{name}.pt"
    import torch
    torch.save(found, torch_file)
    model.save_pretrained(f"{work}/{name} again")
    processor.save_pretrained(f"{work}/{name} again")
assert "modeling_anomalygpt" not in {name.split(".")[0] for name in sys.modules}
"""
)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("travel")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(work / "picture.png")
    save_with_a_text_tower(work / "tower")
    save_composed(work / "composed")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hub")}
    run_python(WITHOUT_THE_PACKAGE, work, *FOLDERS, cwd=work, environment=environment, without=OWN_NAMES)
    return work


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_folder_answers_alike_without_the_package(work, name):
    register()
    here, there = answers(str(work / name), str(work / "picture.png")), torch.load(work / f"{name}.pt")
    assert here.pop("module") == "modeling_anomalygpt.modeling_anomalygpt"
    torch.testing.assert_close(here["by the base model"], here["logits"])
    for key in there.keys() - {"module", "words"}:
        assert torch.equal(here[key], there[key]), key
    assert there["words"] == here["words"]
    assert there["map"].shape == (40, 60)


@pytest.mark.parametrize("name", [*FOLDERS, *(f"{name} again" for name in FOLDERS)])
def test_a_saved_folder_names_its_classes_and_holds_all_their_files(work, name):
    config = json.loads((work / name / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_anomalygpt.AnomalyGPTConfig",
        "AutoModel": "modeling_anomalygpt.AnomalyGPTModel",
        "AutoModelForImageTextToText": "modeling_anomalygpt.AnomalyGPTForConditionalGeneration",
    }
    named = list(config["auto_map"].values())
    named.append(json.loads((work / name / "processor_config.json").read_text())["auto_map"]["AutoProcessor"])
    for module in named:
        assert (work / name / f"{module.split('.')[0]}.py").is_file()
    for path in (work / name).glob("*.py"):
        assert path.read_bytes() == (REPOSITORY / "modeling_anomalygpt" / path.name).read_bytes()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (work / name / f"{node.module}.py").is_file(), f"{path.name} imports {node.module}"


def test_others_may_read_the_weights_as_they_may_read_the_folder(work):
    for path in (work / "composed").glob("*.safetensors"):
        assert path.stat().st_mode & 0o777 == (work / "composed").stat().st_mode & 0o666
