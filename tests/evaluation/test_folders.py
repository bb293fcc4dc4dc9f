"""A data set in one folder or several, as `anomalygpt evaluate` reads it."""

import re

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt.cli.evaluate import load_splits


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for category in ("one/nut", "one/bolt", "two/gear"):
        for kind, count in (("train/good", 2), ("test/good", 1), ("test/dent", 1)):
            (tmp_path / category / kind).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(picture).save(tmp_path / category / kind / f"{number}.png")
    return [str(tmp_path / name) for name in ("one", "two")]


def test_several_folders_are_read_one_after_another(folders):
    splits = load_splits("anomaly_folder", folders)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 6, "test": 6}
    assert sorted(splits["test"].unique("category")) == ["bolt", "gear", "nut"]
    chosen = load_splits("anomaly_folder", folders, ["gear", "nut"])
    assert sorted(chosen["train"].unique("category")) == ["gear", "nut"]
    assert load_splits("anomaly_folder", folders[:1], ["nut"])["test"].unique("category") == ["nut"]


def test_a_category_named_twice_is_read_once(folders):
    for chosen in (folders, folders[:1]):
        splits = load_splits("anomaly_folder", chosen, ["nut", "nut"])
        assert {split: len(rows) for split, rows in splits.items()} == {"train": 2, "test": 2}


def test_the_same_pictures_are_not_measured_as_two_categories(folders):
    families = {"families": ("screw", "gear"), "num_train": 1, "num_test": 1, "size": 64}
    made = load_splits("rendered_parts", [None], ["gear"], families)
    assert made["test"].unique("category") == ["gear"]
    for name, folder, options in (("anomaly_folder", f"{folders[0]}/nut", {}), ("rendered_parts", None, families)):
        with pytest.raises(ValueError, match="`--category` must name sets of different pictures, got 'screw gear'"):
            load_splits(name, [folder], ["screw", "gear"], options)


def test_a_category_named_in_two_ways_is_refused_in_words(folders):
    with pytest.raises(ValueError, match="`--category` must be left out where --dataset has a category, got 'nut'"):
        load_splits("anomaly_folder", folders[:1], ["nut"], {"category": "bolt"})


@pytest.mark.parametrize(
    ("chosen", "categories", "message"),
    [
        ([0, 1, 0], None, "`--data-dir` must hold 'bolt' in one folder only, got it in two."),
        ([0, 1], ["cog"], "`--category` must be among bolt, gear, nut, got 'cog'."),
        ([0, None], None, "`--data-dir` must be a folder that exists, got 'nowhere'."),
    ],
)
def test_categories_that_lie_nowhere_or_twice_are_refused(folders, chosen, categories, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_splits("anomaly_folder", ["nowhere" if one is None else folders[one] for one in chosen], categories)


def test_a_folder_of_something_else_is_not_listed_whole(tmp_path):
    for number in range(40):
        (tmp_path / f"other_{number:02d}").mkdir()
    with pytest.raises(FileNotFoundError, match="got 'other_00', .*'other_07' and 32 more in") as error:
        load_splits("anomaly_folder", [str(tmp_path)])
    assert "other_08" not in str(error.value)
