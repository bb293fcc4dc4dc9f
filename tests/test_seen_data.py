"""Whether a checkpoint saw the test pictures, from the record of its training."""

import json
import re

import pytest

from modeling_anomalygpt.evaluation.seen_data import seen_pictures, training_record

SOURCE = {"name": "visa", "split": "test", "num_rows": 3, "fingerprint": "f1", "labels": "supervised"}


def write(folder, *sources):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_data.json").write_text(json.dumps({"datasets": list(sources)}))


def test_no_record_is_not_the_same_as_nothing_seen(tmp_path):
    assert training_record(tmp_path) is None
    write(tmp_path)
    assert training_record(tmp_path) == []


def test_an_adapter_has_seen_what_its_checkpoint_has_seen(tmp_path):
    write(tmp_path / "base", SOURCE)
    (tmp_path / "base" / "config.json").write_text("{}")
    write(tmp_path / "adapter", SOURCE | {"name": "bolts"})
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(tmp_path / "base")})
    )
    assert [one["name"] for one in training_record(tmp_path / "adapter")] == ["bolts", "visa"]


def test_pictures_are_known_again_by_fingerprint_or_as_real_labels_of_the_same_set():
    good = SOURCE | {"labels": "synthetic", "fingerprint": "f2", "split": "train"}
    assert seen_pictures([good], "visa", {"f1"}) is None
    assert seen_pictures([good, SOURCE], "bolts", {"f1"}) == "visa (split test, labels supervised)"
    assert seen_pictures([SOURCE], "visa", {"f9"}) == "visa (split test, labels supervised)"
    assert seen_pictures([SOURCE], "mvtec_ad", {"f9"}) is None


def test_a_damaged_record_is_told(tmp_path):
    (tmp_path / "training_data.json").write_text("[1")
    with pytest.raises(ValueError, match=re.escape("must hold the record of a training")):
        training_record(tmp_path)
