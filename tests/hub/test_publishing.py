"""What is pushed to the Hub: models used by people who have nothing but transformers, data sets, Spaces."""

import json
import pathlib
import shutil

import pytest
import torch
from huggingface_hub import ModelCard, RepoCard
from PIL import Image

import modeling_anomalygpt
from modeling_anomalygpt.checkpoints import EMBEDDED_CHECKPOINT, register_for_auto_class
from modeling_anomalygpt.hub.publishing import checkpoint_files, code_files, model_repository
from tests.clean_process import OWN_NAMES, run_python
from tests.fake_hub import USER, FakeHub
from tests.tiny_processor import picture

PUBLISH = """
import contextlib, io, json, pathlib, sys
import torch
from PIL import Image
from modeling_anomalygpt import AnomalyInspector, register
from modeling_anomalygpt.cli import main
from tests.tiny import enlivened, tiny_pair

work = pathlib.Path(sys.argv[1])
register()
model, processor = tiny_pair()
enlivened(model)
for part in (model, processor):
    part.save_pretrained(work / "model")
assert main(["push", "somebody/parts", "--model", str(work / "model")]) == 0

import peft
adapted = peft.get_peft_model(model, peft.LoraConfig(
    r=2, target_modules=r".*language_model.*q_proj", modules_to_save=["prompt_learner"], task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
adapted.save_pretrained(work / "adapter")
assert main(["push", "somebody/lora", "--model", str(work / "adapter"), "--base", "somebody/parts", "--private"]) == 0

inputs = processor(images=[Image.open(work / "query.png")], text=["Good?"], category="bolt", return_tensors="pt")
with torch.no_grad():
    lora = adapted.eval()(**inputs).logits
# What the Hub now holds, read by the package itself: the id is all one needs.
inspector = AnomalyInspector.from_pretrained("somebody/parts", device="cpu")
inspector.set_references([str(work / "good.png")], category="bolt")
result = inspector.inspect(str(work / "query.png"))
loaded = inspector.model(**inputs)
torch.save({"lora": lora, "logits": loaded.logits.detach(), "map": torch.from_numpy(result.anomaly_map)},
           work / "expected.pt")
row = result.to_dict() | {"seconds": 0}
(work / "expected.json").write_text(json.dumps(row))
"""

USE = """
import json, pathlib, sys
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

work = pathlib.Path(sys.argv[1])
expected = torch.load(work / "expected.pt")
model = AutoModelForImageTextToText.from_pretrained("somebody/parts", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("somebody/parts", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.somebody.parts.")
query = Image.open(work / "query.png")
inputs = processor(images=[query], text=["Good?"], category="bolt", return_tensors="pt")
with torch.no_grad():
    assert torch.equal(model(**inputs).logits, expected["logits"])

adapted = AutoModelForImageTextToText.from_pretrained("somebody/lora", trust_remote_code=True).eval()
with torch.no_grad():
    torch.testing.assert_close(adapted(**inputs).logits, expected["lora"])
    assert not torch.allclose(expected["lora"], expected["logits"])

talk = pipeline("image-text-to-text", model="somebody/parts", trust_remote_code=True)
chat = [{"role": "user", "content": [{"type": "image", "image": query}, {"type": "text", "text": "Good?"}]}]
said = talk(text=chat, max_new_tokens=3, min_new_tokens=3, do_sample=False, return_full_text=False)

pipe = pipeline("anomaly-detection", model="somebody/parts", trust_remote_code=True)
found = pipe(str(work / "query.png"), references=[str(work / "good.png")], category="bolt")
found["anomaly_map"].save(work / "map.png")
row = {name: value for name, value in found.items() if name not in ("anomaly_map", "mask")}
print(json.dumps({"row": row, "said": said[0]["generated_text"], "size": found["mask"].size}))
assert not {"modeling_anomalygpt", "cv2", "scipy", "datasets"} & {name.split(".")[0] for name in sys.modules}
"""


DIGEST = """
import hashlib, json
import numpy as np


def digest(row):
    pixels = [None if row[name] is None else np.asarray(row[name]).tobytes() for name in ("image", "mask")]
    rest = [row[name] for name in sorted(row) if name not in ("image", "mask")]
    return hashlib.sha256(repr((pixels, rest)).encode()).hexdigest()


def printed(dataset):
    print(json.dumps({split: [digest(row) for row in rows] for split, rows in dataset.items()}))
"""
PUBLISH_DATA = """
from datasets_scripts.loading import load_anomaly_dataset
from datasets_scripts.publishing import data_card
from huggingface_hub import HfApi

dataset = load_anomaly_dataset("rendered_parts", families=["screw", "gear"], num_train=2, num_test=3)
HfApi().create_repo("somebody/parts-data", repo_type="dataset")
HfApi().upload_file(path_or_fileobj=data_card("rendered_parts", dataset).encode(), path_in_repo="README.md",
                    repo_id="somebody/parts-data", repo_type="dataset")
dataset.push_to_hub("somebody/parts-data")
printed(dataset)
"""
READ_DATA = """
from datasets import load_dataset

for streaming in (False, True):
    printed(load_dataset("somebody/parts-data", streaming=streaming))
"""
PUBLISH_SPACE = """
import sys
from modeling_anomalygpt.cli import main

folder = sys.argv[1]
assert main(["push-space", "somebody/page"]) == 0
assert main(["push-space", "somebody/bolts", "--model", "somebody/parts", "--title", "Bolts", "--private"]) == 0
assert main(["push-space", "somebody/inside", "--model", folder]) == 0
"""


@pytest.fixture(scope="module")
def hub():
    with FakeHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def work(hub, tmp_path_factory) -> pathlib.Path:
    work = tmp_path_factory.mktemp("hub")
    for seed, name in enumerate(("query.png", "good.png")):
        Image.fromarray(picture(seed, (40, 60))).save(work / name)
    run_python(PUBLISH, work, cwd=work, environment=hub.environment(work / "publisher"))
    return work


def test_one_commit_holds_weights_words_code_pipeline_handler_and_card(hub, work):
    files = hub.files(f"{USER}/parts")
    assert {
        "model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "chat_template.jinja",
        "modeling_anomalygpt.py", "pipeline_anomalygpt.py", "inspector.py", "handler.py", "README.md",
    } <= files.keys()  # fmt: skip
    assert len(hub.repositories["models", f"{USER}/parts"].commits) == 2  # the empty first one, and ours
    config = json.loads(files["config.json"])
    assert config["custom_pipelines"]["anomaly-detection"]["impl"] == "pipeline_anomalygpt.AnomalyDetectionPipeline"
    assert files["model.safetensors"] == (work / "model" / "model.safetensors").read_bytes()


def test_an_adapter_goes_alone_and_names_its_model_on_the_hub(hub, work):
    files = hub.files(f"{USER}/lora")
    assert hub.repositories["models", f"{USER}/lora"].private
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == f"{USER}/parts"
    assert not [name for name in files if name.endswith(".py")]
    assert len(files["adapter_model.safetensors"]) < len(hub.files(f"{USER}/parts")["model.safetensors"])


def test_a_clean_process_loads_model_adapter_and_pipelines_with_equal_outputs(hub, work):
    without = (*OWN_NAMES, "cv2", "scipy", "datasets")
    printed = run_python(USE, work, cwd=work, environment=hub.environment(work / "user"), without=without)
    answer = json.loads(printed.splitlines()[-1])
    expected = json.loads((work / "expected.json").read_text())
    found = answer["row"]
    for row in (found, expected):
        row["seconds"] = 0
        for region in row["regions"]:
            region["outline"] = []  # needs OpenCV
    assert found == expected
    assert answer["said"]
    assert answer["size"] == [60, 40]
    here = torch.load(work / "expected.pt")["map"]
    assert (
        torch.tensor(list(Image.open(work / "map.png").get_flattened_data())) / 255 - here.flatten()
    ).abs().max() < 0.5 / 255 + 1e-6


# Files


def test_what_is_sent_is_what_saving_with_code_writes(tiny_folder, tmp_path):
    """The folder is made ready without opening weights; transformers' own way must give the same."""
    names = ("Config", "ForConditionalGeneration", "ImageProcessor", "Model", "Processor")
    classes = [getattr(modeling_anomalygpt, f"AnomalyGPT{name}") for name in names]
    before = [one._auto_class for one in classes]
    register_for_auto_class()
    try:
        for part in (classes[1], classes[4]):
            part.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    finally:
        for one, value in zip(classes, before, strict=True):
            one._auto_class = value
    files = checkpoint_files(tiny_folder)
    saved = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert saved <= files.keys()
    assert files.keys() - saved <= code_files().keys()
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        sent, expected = json.loads(files[name]), json.loads((tmp_path / name).read_text())
        assert sent["auto_map"] == expected["auto_map"], name
        assert sent.get("image_processor") == expected.get("image_processor"), name


def test_no_pickle_and_no_training_state_is_sent(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "run")
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "secret.txt", "run.log"):
        (tmp_path / "run" / name).write_bytes(b"x")
    (tmp_path / "run" / "checkpoint-10").mkdir()
    (tmp_path / "run" / "checkpoint-10" / "model.safetensors").write_bytes(b"x")
    assert model_repository(tmp_path / "run", "me/x").keys() == model_repository(tiny_folder, "me/x").keys()


def test_what_a_checkpoint_was_trained_with_is_sent_with_it(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "whole")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base"}')
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    for name in ("whole", "adapter"):
        (tmp_path / name / "training_data.json").write_text('{"datasets": []}')
        assert "training_data.json" in model_repository(tmp_path / name, "me/x"), name


def test_a_new_card_can_be_read_by_the_hub_and_shows_the_use(tiny_folder):
    card = ModelCard(model_repository(tiny_folder, "me/bolts", licence="apache-2.0")["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert "| vision tower | `clip_vision_model`, 4 layers of width 24 |" in card.text


def test_the_embedded_checkpoint_keeps_its_own_card():
    assert (
        model_repository(EMBEDDED_CHECKPOINT, "me/x")["README.md"] == (EMBEDDED_CHECKPOINT / "README.md").read_bytes()
    )


# Data sets and Spaces


@pytest.mark.slow
def test_a_data_set_pushed_as_parquet_is_read_back_equal_and_as_a_stream(hub, tmp_path):
    pushed = run_python(DIGEST + PUBLISH_DATA, cwd=tmp_path, environment=hub.environment(tmp_path / "publisher"))
    read = run_python(
        DIGEST + READ_DATA, cwd=tmp_path, environment=hub.environment(tmp_path / "reader"), without=OWN_NAMES
    )
    whole, streamed = read.splitlines()[-2:]
    assert whole == streamed == pushed.splitlines()[-1]
    assert [len(rows) for rows in json.loads(whole).values()] == [4, 6]
    assert b"pretty_name: Rendered parts" in hub.files(f"{USER}/parts-data", "datasets")["README.md"]
    ranged = [path for method, path, status in hub.requests if status == 206]
    assert ranged or any(path.endswith(".parquet") for _, path, _ in hub.requests)


@pytest.mark.slow
def test_a_space_is_pushed_whole_with_the_model_inside_or_by_its_id(hub, tiny_folder, tmp_path):
    run_python(PUBLISH_SPACE, tiny_folder, cwd=tmp_path, environment=hub.environment(tmp_path / "publisher"))
    files = hub.files(f"{USER}/page", "spaces")
    assert {"app.py", "README.md", "requirements.txt", "modeling_anomalygpt/inspector.py"} <= files.keys()
    assert "modeling_anomalygpt/anomalygpt_tiny/model.safetensors" in files
    assert hub.repositories["spaces", f"{USER}/page"].sdk == "gradio"
    front = RepoCard(files["README.md"].decode(), ignore_metadata_errors=True).data.to_dict()
    assert front["sdk"] == "gradio"
    assert not [name for name in files if name.endswith(".pyc")]

    files = hub.files(f"{USER}/bolts", "spaces")
    assert hub.repositories["spaces", f"{USER}/bolts"].private
    front = RepoCard(files["README.md"].decode(), ignore_metadata_errors=True).data.to_dict()
    assert (front["title"], front["models"]) == ("Bolts", ["somebody/parts"])
    assert not [name for name in files if name.endswith(".safetensors")]

    inside = hub.files(f"{USER}/inside", "spaces")
    weights = "modeling_anomalygpt/anomalygpt_tiny/model.safetensors"
    assert inside[weights] == (tiny_folder / "model.safetensors").read_bytes()
