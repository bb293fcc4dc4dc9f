"""Own pictures: every layout that is read, every fault in them that is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.loading import load_anomaly_dataset

from ..dataset_checks import make_private_cache, mask_of, refused  # noqa: F401 (fixtures)
from ..drawn_trees import blob, draw_mask, draw_mvtec, draw_picture

pytestmark = pytest.mark.usefixtures("private_cache")


def test_own_folders_take_any_category_and_defects_without_masks(tmp_path):
    root = draw_mvtec(tmp_path / "own", {"M8 bolt": ("bent", "rusty"), "Gehäuse": ("crack",)})
    for mask in (root / "M8 bolt" / "ground_truth").rglob("*.png"):
        mask.unlink()
    dataset = load_anomaly_dataset("anomaly_folder", root)
    assert set(dataset["test"]["category"]) == {"M8 bolt", "Gehäuse"}
    masked = {row["category"] for row in dataset["test"] if row["mask"] is not None}
    assert masked == {"Gehäuse"}
    assert len(load_anomaly_dataset("anomaly_folder", root, category="M8 bolt", split="test")) == 6


def test_one_category_takes_the_name_of_its_folder_or_the_one_given(tmp_path):
    root = draw_mvtec(tmp_path, {"bolt": ("bent",)}) / "bolt"
    assert set(load_anomaly_dataset("anomaly_folder", root, split="test")["category"]) == {"bolt"}
    assert set(load_anomaly_dataset("anomaly_folder", root, category="hex bolt", split="test")["category"]) == {
        "hex bolt"
    }


def test_defect_only_folders_and_unlabelled_pictures_are_allowed(tmp_path):
    draw_picture(tmp_path / "bolt" / "test" / "bent" / "1.png")
    draw_picture(tmp_path / "bolt" / "test" / "2.png")
    dataset = load_anomaly_dataset("anomaly_folder", tmp_path / "bolt")
    assert set(dataset) == {"test"}
    rows = {row["image_id"]: (row["label"], row["defect_type"], row["mask"]) for row in dataset["test"]}
    assert rows == {"test/bent/1.png": (1, "bent", None), "test/2.png": (None, None, None)}


@pytest.mark.parametrize("kind", ["good", "Normal", "OK"])
def test_kinds_that_mean_normal_are_known(tmp_path, kind):
    draw_picture(tmp_path / "bolt" / "train" / kind / "1.png")
    row = load_anomaly_dataset("anomaly_folder", tmp_path / "bolt", split="train")[0]
    assert (row["label"], row["defect_type"], row["mask"]) == (0, "good", None)


def test_masks_may_have_the_picture_name_or_several_files(tmp_path):
    for stem in ("a", "b", "c_mask"):
        draw_picture(tmp_path / "bolt" / "test" / "bent" / f"{stem}.jpg")
    truth = tmp_path / "bolt" / "ground_truth" / "bent"
    draw_mask(truth / "a.png", blob(1, 1))
    draw_mask(truth / "b" / "0.png", blob(2, 2))
    draw_mask(truth / "b" / "1.png", blob(9, 9))
    draw_mask(truth / "c_mask.png", blob(3, 3))
    rows = load_anomaly_dataset("anomaly_folder", tmp_path / "bolt", split="test")
    masks = {row["image_id"][-5]: mask_of(row) > 0 for row in rows if "c_mask" not in row["image_id"]}
    np.testing.assert_array_equal(masks["a"], blob(1, 1))
    np.testing.assert_array_equal(masks["b"], blob(2, 2) | blob(9, 9))
    np.testing.assert_array_equal(mask_of(rows[2]) > 0, blob(3, 3))


def test_a_mask_that_fits_two_pictures_is_refused(tmp_path):
    draw_picture(tmp_path / "bolt" / "test" / "bent" / "1.png")
    draw_picture(tmp_path / "bolt" / "train" / "bent" / "1.png")
    draw_mask(tmp_path / "bolt" / "ground_truth" / "bent" / "1.png", blob(1, 1))
    refused(tmp_path / "bolt", "A mask must fit one picture, got", "anomaly_folder")


def test_own_folders_without_a_known_layout_show_what_is_there_and_what_is_expected(tmp_path):
    draw_picture(tmp_path / "set" / "tests" / "1.png")
    message = "in a layout known here, got tests in .*Expected layout: .*train/good.*metadata.jsonl/csv with file_name"
    refused(tmp_path / "set", message, "anomaly_folder", FileNotFoundError)
    draw_mvtec(tmp_path / "set", {"bolt": ("bent",)})
    with pytest.warns(UserWarning, match="are not read: tests"):
        load_anomaly_dataset("anomaly_folder", tmp_path / "set")
    refused(tmp_path / "set", "`category` must be one of bolt, got 'bold'. Did you", "anomaly_folder", category="bold")


def write_metadata(root: Path, rows: list[dict], kind: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [",".join(columns)] + [",".join(str(row.get(column, "")) for column in columns) for row in rows]
    (root / "metadata.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_gives_what_its_rows_say_and_infers_what_it_can(tmp_path, kind):
    root = tmp_path / "own"
    for index in range(6):
        draw_picture(root / "pictures" / f"{index}.png")
    draw_mask(root / "masks" / "2.png", blob(7, 7))
    draw_mask(root / "masks" / "3.png", blob(0, 0) & False)
    rows = [
        {"file_name": "pictures/0.png", "label": "normal", "category": "bolt", "split": "train"},
        {"file_name": "pictures/1.png", "label": 1, "category": "bolt", "defect_type": "bent", "split": "test"},
        {"file_name": "pictures/2.png", "mask_file_name": "masks/2.png", "category": "nut", "split": "test"},
        {"file_name": "pictures/3.png", "mask_file_name": "masks/3.png", "split": "val"},
        {"file_name": "pictures/4.png", "defect_type": "rust"},
        {"file_name": "pictures/5.png"},
    ]
    write_metadata(root, rows, kind)
    dataset = load_anomaly_dataset("anomaly_folder", root)
    found = {
        row["image_id"][9]: (row["label"], row["category"], row["defect_type"], row["split"], row["mask"] is not None)
        for split in dataset.values()
        for row in split
    }
    assert found == {
        "0": (0, "bolt", "good", "train", False),
        "1": (1, "bolt", "bent", "test", False),
        "2": (1, "nut", None, "test", True),
        "3": (0, "own", "good", "validation", True),
        "4": (1, "own", "rust", "train", False),
        "5": (None, "own", None, "train", False),
    }
    picked = load_anomaly_dataset("anomaly_folder", root, category="nut")
    np.testing.assert_array_equal(mask_of(picked["test"][0]), blob(7, 7) * 255)


def test_metadata_may_list_several_masks(tmp_path):
    draw_picture(tmp_path / "own" / "1.png")
    draw_mask(tmp_path / "own" / "a.png", blob(1, 1))
    draw_mask(tmp_path / "own" / "b.png", blob(9, 9))
    write_metadata(tmp_path / "own", [{"file_name": "1.png", "mask_file_name": ["a.png", "b.png"]}], "jsonl")
    row = load_anomaly_dataset("anomaly_folder", tmp_path / "own", split="train")[0]
    np.testing.assert_array_equal(mask_of(row), (blob(1, 1) | blob(9, 9)) * 255)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "../1.png"}, r"must stay inside the data folder, got '../1.png' \(metadata.jsonl, line 2\)"),
        ({"file_name": "a/../../1.png"}, "must stay inside the data folder"),
        ({"file_name": "/etc/1.png"}, "must stay inside the data folder, got '/etc/1.png'"),
        ({"file_name": "C:\\1.png"}, "must stay inside the data folder"),
        ({"file_name": "1.png", "mask_file_name": "..\\m.png"}, "must stay inside the data folder"),
        ({"label": 1}, r"`file_name` must name a picture, got None \(metadata.jsonl, line 2\)"),
        ({"file_name": "2.png", "label": "crakc"}, "`label` must be normal or anomalous .*got 'crakc'"),
        ({"file_name": "2.png", "label": "anomalos"}, "Did you mean 'anomalous'"),
        (
            {"file_name": "2.png", "split": "tset"},
            "`split` must be train, validation or test, got 'tset'.*mean 'test'",
        ),
        (
            {"file_name": "1.png"},
            "must be named once, got '1.png' in metadata.jsonl, line 1 and metadata.jsonl, line 2",
        ),
        ({"file_name": "2.png", "mask_file_name": 3}, "`mask_file_name` must be a path or a list of paths, got 3"),
        ({"file_name": "2.png", "label": 0, "mask_file_name": "m.png"}, "mask of a normal picture must be empty"),
    ],
)
def test_bad_metadata_rows_are_refused_with_their_line(tmp_path, row, message):
    root = tmp_path / "own"
    draw_picture(root / "1.png")
    draw_picture(root / "2.png")
    draw_mask(root / "m.png", blob(1, 1))
    write_metadata(root, [{"file_name": "1.png"}, row], "jsonl")
    refused(root, message, "anomaly_folder")


def test_bad_metadata_files_are_refused(tmp_path):
    root = tmp_path / "own"
    draw_picture(root / "1.png")
    write_metadata(root, [{"file_name": "1.png"}, {"file_name": "9.png"}], "jsonl")
    refused(root, "must exist, got 1 of 2 missing: .*9.png", "anomaly_folder", FileNotFoundError)
    write_metadata(root, [{"file_name": "1.png"}], "csv")
    refused(root, "must hold one metadata file, got two", "anomaly_folder")
    (root / "metadata.csv").unlink()
    (root / "metadata.jsonl").write_text('{"file_name": "1.png"}\n{"file_name": \n')
    refused(root, r"Lines must be JSON objects, got .*metadata.jsonl, line 2", "anomaly_folder")
    (root / "metadata.jsonl").write_text("\n")
    refused(root, "must name at least one picture, got none", "anomaly_folder")
    (root / "metadata.jsonl").write_text('{"file_name": "1.png", "lable": "normal"}\n')
    with pytest.warns(UserWarning, match="are not read: lable Did you mean 'label'"):
        load_anomaly_dataset("anomaly_folder", root)


def test_a_csv_row_with_too_many_cells_is_refused(tmp_path):
    draw_picture(tmp_path / "own" / "1.png")
    (tmp_path / "own" / "metadata.csv").write_text("file_name,defect_type\n1.png,scratch, deep\n")
    refused(tmp_path / "own", r"as many cells as the header, got more \(metadata.csv, line 2\)", "anomaly_folder")


def test_a_relative_folder_has_the_name_it_has_on_disk(tmp_path, monkeypatch):
    draw_mvtec(tmp_path, {"bolt": ("bent",)})
    monkeypatch.chdir(tmp_path / "bolt" / "train")
    assert set(load_anomaly_dataset("anomaly_folder", "..", split="test")["category"]) == {"bolt"}
