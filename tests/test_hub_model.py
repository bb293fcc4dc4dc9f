"""A model pushed to the Hub by one command is used from there by people who have nothing but transformers."""

import json
import pathlib

import pytest
import torch
from PIL import Image

from .clean_process import OWN_NAMES, run_python
from .fake_hub import USER, FakeHub
from .tiny_processor import picture

PUBLISH = """
import contextlib, io, json, pathlib, sys
import torch
from PIL import Image
from modeling_anomalygpt import AnomalyInspector, register
from modeling_anomalygpt.cli import main
from tests.tiny import tiny_pair

work = pathlib.Path(sys.argv[1])
register()
model, processor = tiny_pair()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(5)
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
