"""`anomalygpt train --push_to_hub True` puts the adapter and this project's card on the Hub, nothing else."""

import json

import pytest

from .clean_process import run_python
from .fake_hub import USER, FakeHub

pytestmark = pytest.mark.slow

TRAIN = """
import pathlib, sys
import numpy as np
from PIL import Image
from modeling_anomalygpt.cli import main
from tests.tiny import tiny_pair

work = pathlib.Path(sys.argv[1])
for part in tiny_pair():
    part.save_pretrained(work / "model")
(work / "good").mkdir()
for number in range(3):
    values = np.random.default_rng(number).integers(90, 130, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(values).save(work / "good" / f"{number}.png")
words = ["train", "--model", work / "model", "--good", work / "good", "--category", "plate", "--max_steps", "2",
    "--per_device_train_batch_size", "2", "--save_steps", "1", "--short_side", "40", "--use_cpu", "True",
    "--output_dir", work / "plate", "--push_to_hub", "True", "--hub_model_id", "somebody/plate"]
sys.exit(main([str(word) for word in words]))
"""


def test_a_training_run_pushes_its_adapter_and_card(tmp_path):
    with FakeHub() as hub:
        run_python(TRAIN, tmp_path, cwd=tmp_path, environment=hub.environment(tmp_path / "home"))
        files = hub.files(f"{USER}/plate")
    assert {"adapter_model.safetensors", "adapter_config.json", "training_data.json", "README.md"} <= files.keys()
    assert not [name for name in files if name.startswith(("checkpoint-", ".unfinished"))]
    card = files["README.md"].decode()
    assert "plate (split good, 3 pictures, labels synthetic)" in card
    assert str(tmp_path) not in card
    assert json.loads(files["training_data.json"])["datasets"][0]["name"] == "plate"
