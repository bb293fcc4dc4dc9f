"""A tiny model and two categories of own pictures, and the command as a person calls it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import cli


@pytest.fixture(scope="module")
def place(tiny_folder, tmp_path_factory):
    """`model`, and `parts/nut` and `parts/bolt` with good training pictures, good and scratched test pictures."""
    place = tmp_path_factory.mktemp("cli")
    shutil.copytree(tiny_folder, place / "model")
    settings = place / "model" / "generation_config.json"
    ends = {"eos_token_id": list(range(0, 300, 2))}  # a random model would never end its answers
    settings.write_text(json.dumps(json.loads(settings.read_text()) | ends))
    rng = np.random.default_rng(0)
    for category in ("nut", "bolt"):
        root = place / "parts" / category
        for folder, count in (("train/good", 5), ("test/good", 4), ("test/scratch", 4), ("ground_truth/scratch", 4)):
            (root / folder).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(90, 130, (40, 52, 3), dtype=np.uint8)
                name = f"{number}.png"
                if "scratch" in folder:
                    picture[10:14, 5:30] = 255
                if "ground_truth" in folder:
                    picture, name = np.where(picture == 255, picture, 0)[..., 0], f"{number}_mask.png"
                Image.fromarray(picture).save(root / folder / name)
    return place


@pytest.fixture
def call(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(place / "cache"))

    def call(*words):
        code = cli.main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call
