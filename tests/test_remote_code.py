"""Saved folders work by themselves: code, weights and words travel, our package is not there."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

REPOSITORY = pathlib.Path(__file__).parents[1]

SAVE = """
import sys
import torch
from modeling_anomalygpt import register, register_for_auto_class
from modeling_anomalygpt.processing_anomalygpt import AnomalyGPTProcessor
from tests.tiny import lively_model, tiny_pair, tiny_tokenizer, TEXT_CONFIG, TEXT_TOWER_CONFIG

folder, tower = sys.argv[1], sys.argv[3] == "tower"
register()
register_for_auto_class()
model, processor = tiny_pair()
if tower:
    class_tokenizer = tiny_tokenizer()
    class_tokenizer.model_max_length = 24
    processor = AnomalyGPTProcessor(
        processor.image_processor, processor.tokenizer, class_tokenizer,
        num_image_tokens=1, num_prompt_tokens=model.config.num_prompt_tokens,
    )
    model = lively_model(
        text_config=model.config.text_config, image_token_index=model.config.image_token_id,
        text_tower_config=TEXT_TOWER_CONFIG | {
            "vocab_size": len(class_tokenizer), "max_position_embeddings": 64,
            "eos_token_id": class_tokenizer.eos_token_id,
        },
    )
model.save_pretrained(folder)
processor.save_pretrained(folder)
"""

# The package may be installed: its name is blocked, and the answers are compared with those made with it.
BLOCK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_anomalygpt", "tests"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
sys.path[:] = [entry for entry in sys.path if entry not in ("", REPOSITORY)]
"""

USE = """
import json, sys
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoProcessor

folder, output = sys.argv[1], sys.argv[2]
trust = {"trust_remote_code": REMOTE}
if REMOTE:
    try:
        AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("code of a folder ran without trust")
config = AutoConfig.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
base = AutoModel.from_pretrained(folder, **trust).eval()
image_processor = AutoImageProcessor.from_pretrained(folder, **trust)
picture = Image.open(output + "/picture.png")
inputs = processor(
    images=[picture], text=["Is there any anomaly in the image?"], category="bolt", return_tensors="pt", padding=True
)
with torch.no_grad():
    outputs = model(**inputs)
    hidden = base(**inputs).last_hidden_state
torch.testing.assert_close(model.lm_head(hidden), outputs.logits)
torch.testing.assert_close(image_processor(picture, return_tensors="pt")["pixel_values"], inputs["pixel_values"])
answer = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
maps = processor.image_processor.post_process_anomaly_map(outputs.anomaly_map, [(picture.height, picture.width)])
if "state_prompt_ids" in inputs:
    assert inputs["state_prompt_ids"].shape[0] == 1
processor.strip_answer("fine\\n###")
processor.yes_no_token_ids("zh")
torch.save(
    {"logits": outputs.logits, "map": outputs.anomaly_map, "answer": answer, "original": torch.tensor(maps[0]),
     "config": json.dumps({**config.to_dict(), "auto_map": None}, sort_keys=True, default=str)},
    output + ("/remote.pt" if REMOTE else "/local.pt"),
)
if REMOTE:
    assert type(model).__module__.startswith("transformers_modules.")
    assert "modeling_anomalygpt" not in {name.split(".")[0] for name in sys.modules}
    model.save_pretrained(output + "/again")
    processor.save_pretrained(output + "/again")
"""


def run(source: str, *arguments: object, cwd: pathlib.Path, with_package: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hub")}
    header = f"REPOSITORY = {str(REPOSITORY)!r}\nREMOTE = {not with_package}\n"
    header += "import sys\nsys.path.insert(0, REPOSITORY)\n" if with_package else BLOCK
    done = subprocess.run(
        [sys.executable, "-I", "-c", header + source, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module", params=["learned states", "tower"])
def folder(request, tmp_path_factory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("travel")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(work / "picture.png")
    run(SAVE + USE, work / "saved", work, request.param, cwd=work, with_package=True)
    return work


def test_a_saved_folder_answers_alike_without_the_package(folder):
    run(USE, folder / "saved", folder, cwd=folder, with_package=False)
    here, there = (torch.load(folder / f"{name}.pt") for name in ("local", "remote"))
    for name in ("logits", "map", "answer", "original"):
        assert torch.equal(here[name], there[name]), name
    assert there["original"].shape == (40, 60)
    again = {path.name for path in (folder / "again").iterdir()}
    assert {path.name for path in (folder / "saved").iterdir()} <= again  # the code was copied once more


def test_a_saved_folder_names_its_classes_and_holds_all_their_files(folder):
    saved = folder / "saved"
    auto_map = json.loads((saved / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_anomalygpt.AnomalyGPTConfig",
        "AutoModel": "modeling_anomalygpt.AnomalyGPTModel",
        "AutoModelForImageTextToText": "modeling_anomalygpt.AnomalyGPTForConditionalGeneration",
    }
    for path in saved.glob("*.py"):
        assert path.read_bytes() == (REPOSITORY / "modeling_anomalygpt" / path.name).read_bytes()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert (saved / f"{node.module}.py").is_file(), f"{path.name} imports {node.module}"
