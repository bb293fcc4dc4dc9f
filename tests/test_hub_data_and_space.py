"""Data sets and Spaces on the Hub: pushed, then read back equal, whole and as a stream; a Space is complete."""

import json

import pytest

from .clean_process import OWN_NAMES, run_python
from .fake_hub import USER, FakeHub

PUBLISH_DATA = """
import hashlib, json, sys
import numpy as np
from datasets_scripts.loading import load_anomaly_dataset
from datasets_scripts.publishing import data_card
from huggingface_hub import HfApi

dataset = load_anomaly_dataset("rendered_parts", families=["screw", "gear"], num_train=2, num_test=3)
HfApi().create_repo("somebody/parts", repo_type="dataset")
HfApi().upload_file(path_or_fileobj=data_card("rendered_parts", dataset).encode(), path_in_repo="README.md",
                    repo_id="somebody/parts", repo_type="dataset")
dataset.push_to_hub("somebody/parts")


def digest(row):
    pixels = [None if row[name] is None else np.asarray(row[name]).tobytes() for name in ("image", "mask")]
    rest = [row[name] for name in sorted(row) if name not in ("image", "mask")]
    return hashlib.sha256(repr((pixels, rest)).encode()).hexdigest()


print(json.dumps({split: [digest(row) for row in rows] for split, rows in dataset.items()}))
"""
READ_DATA = """
import hashlib, json
import numpy as np
from datasets import load_dataset


def digest(row):
    pixels = [None if row[name] is None else np.asarray(row[name]).tobytes() for name in ("image", "mask")]
    rest = [row[name] for name in sorted(row) if name not in ("image", "mask")]
    return hashlib.sha256(repr((pixels, rest)).encode()).hexdigest()


for streaming in (False, True):
    dataset = load_dataset("somebody/parts", streaming=streaming)
    print(json.dumps({split: [digest(row) for row in rows] for split, rows in dataset.items()}))
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


@pytest.mark.slow
def test_a_data_set_pushed_as_parquet_is_read_back_equal_and_as_a_stream(hub, tmp_path):
    pushed = run_python(PUBLISH_DATA, cwd=tmp_path, environment=hub.environment(tmp_path / "publisher"))
    read = run_python(READ_DATA, cwd=tmp_path, environment=hub.environment(tmp_path / "reader"), without=OWN_NAMES)
    whole, streamed = read.splitlines()[-2:]
    assert whole == streamed == pushed.splitlines()[-1]
    assert [len(rows) for rows in json.loads(whole).values()] == [4, 6]
    assert b"pretty_name: Rendered parts" in hub.files(f"{USER}/parts", "datasets")["README.md"]
    ranged = [path for method, path, status in hub.requests if status == 206]
    assert ranged or any(path.endswith(".parquet") for _, path, _ in hub.requests)


@pytest.mark.slow
def test_a_space_is_pushed_whole_with_the_model_inside_or_by_its_id(hub, tmp_path):
    from huggingface_hub import RepoCard

    from .tiny import tiny_pair

    for part in tiny_pair():
        part.save_pretrained(tmp_path / "model")
    run_python(PUBLISH_SPACE, tmp_path / "model", cwd=tmp_path, environment=hub.environment(tmp_path / "publisher"))
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
    assert inside[weights] == (tmp_path / "model" / "model.safetensors").read_bytes()
