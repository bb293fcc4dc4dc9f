"""A memory bank from a stranger is refused where it enters, not while a picture is inspected."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.images import load_picture
from modeling_anomalygpt.memory_bank import MemoryBank
from tests.tiny import tiny_pair


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def inspector() -> AnomalyInspector:
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([picture(0), picture(1)])
    inspector.calibrate([picture(seed) for seed in range(2, 5)], progress=False)
    return inspector


def test_the_notes_of_an_inspector_pass(inspector, tmp_path):
    assert set(inspector.memory_bank.notes) == {"normal_scores", "comparability", "copies", "calibration"}
    inspector.save_references(tmp_path / "bank.safetensors")
    AnomalyInspector(*tiny_pair()).load_references(tmp_path / "bank.safetensors")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("calibration", "{"),
        ("calibration", '{"num_normals": 3}'),
        ("calibration", "[" * 100_000),
        ("normal_scores", '{"crossed": "many"}'),
        ("normal_scores", '{"crossed": [NaN]}'),
        ("comparability", '{"vectors": [], "farthest": 1, "light": [0, 1], "sharpness": 0}'),
        ("comparability", '{"vectors": [[1, 2]], "farthest": 1, "light": [0, 1], "sharpness": 0}'),
        ("copies", "[0, []]"),
        ("copies", "[1, [[40, 40], [40, 40], [40, 40]]]"),
        ("copies", "[1, [[40, 40], 3]]"),
    ],
)
def test_other_notes_are_refused_by_name(inspector, tmp_path, name, note):
    replace(inspector.memory_bank, notes=inspector.memory_bank.notes | {name: note}).save(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=f"`memory_bank` must have a note '{name}' that an inspector wrote, got "):
        AnomalyInspector(*tiny_pair()).load_references(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": float("nan")}, "its limit is nan"),
        ({"limit": -1.0}, "its limit is -1.0"),
        ({"limit": "high"}, "its limit is 'high'"),
        ({"features": ()}, "layers or references are missing"),
        ({"num_references": 0}, "layers or references are missing"),
        ({"grids": ((2, 2, 2),)}, r"a grid is \(2, 2, 2\)"),
        ({"grids": ((1, 1),)}, "patch vectors have the shape"),
        ({"features": (torch.eye(4, dtype=torch.float64),)}, "and the type torch.float64"),
        ({"features": (torch.full((4, 4), torch.inf),)}, "values are out of range"),
        ({"sources": (torch.tensor([0, 1, 2, 4]),)}, "values are out of range"),
        ({"sources": (torch.arange(3),)}, "patches and their places do not belong together"),
    ],
)
def test_tensors_that_cannot_be_are_refused(tmp_path, changes, message):
    sound = MemoryBank((torch.eye(4),), (torch.arange(4),), ((2, 2),), 1, "encoder", 0.5)
    sound.save(tmp_path / "sound.safetensors")
    assert MemoryBank.load(tmp_path / "sound.safetensors").limit == 0.5
    replace(sound, **changes).save(tmp_path / "bank.safetensors")
    with pytest.raises(ValueError, match=f"`path` must be a memory bank, got .*{message}.*Make it again."):
        MemoryBank.load(tmp_path / "bank.safetensors")


def test_the_nearest_good_patch_may_lie_in_a_picture_that_feedback_added(inspector):
    other = AnomalyInspector(inspector.model, inspector.processor)
    other.set_references([picture(0)])
    other.feedback(other.inspect(picture(7), answer=False), is_normal=True, picture=picture(7))
    image = other.observer.look([load_picture(picture(7))], "object", "auto")
    assert other.observer.nearest_good(image.patches[0], (40, 40), 20, 20) is None
    assert len(json.loads(other.memory_bank.notes["copies"])[1]) == 1
    assert other.memory_bank.num_references == 2
