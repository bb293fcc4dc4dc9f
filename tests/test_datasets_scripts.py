"""The builders on drawn miniature trees in the real layouts, on broken ones, and (when named) on real files."""

import json
import os
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from datasets_scripts.anomaly_files import content_digest, picture_size, read_mask, resolve_inside
from datasets_scripts.anomaly_folder import AnomalyFolder
from datasets_scripts.loading import DATASET_NAMES, load_anomaly_dataset, load_builder
from datasets_scripts.mvtec_ad import MVTEC_AD_CATEGORIES, MVTecAD
from datasets_scripts.mvtec_loco import SaturationRule, read_saturation_rules
from datasets_scripts.publishing import data_card, save_parquet
from datasets_scripts.validation import closest

from .drawn_trees import (
    SIZE,
    blob,
    draw_crack_forest,
    draw_loco,
    draw_mask,
    draw_mvtec,
    draw_picture,
    draw_visa,
)

COLUMNS = ["image", "mask", "label", "category", "defect_type", "image_id", "split"]


@pytest.fixture(autouse=True)
def quiet_and_private_cache(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not the whole data set.*")
        yield


@pytest.fixture
def mvtec(tmp_path):
    return draw_mvtec(tmp_path / "mvtec")


def mask_of(row) -> np.ndarray:
    return np.asarray(row["mask"])


def facts(row) -> tuple:
    """Everything in a row, as comparable values."""
    mask = None if row["mask"] is None else mask_of(row).tobytes()
    rest = tuple(row[name] for name in COLUMNS[2:])
    return np.asarray(row["image"].convert("RGB")).tobytes(), mask, *rest


# ---------------------------------------------------------------- MVTec AD


def test_mvtec_gives_the_schema_the_counts_and_the_masks(mvtec):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    assert set(dataset) == {"train", "test"}
    assert dataset["train"].column_names == COLUMNS
    assert dataset["train"].features["label"].names == ["normal", "anomalous"]
    assert [len(dataset["train"]), len(dataset["test"])] == [6, 10]
    assert set(dataset["train"]["label"]) == {0}
    for row in dataset["test"]:
        kind, stem = row["image_id"].split("/")[-2:]
        assert row["defect_type"] == kind
        assert row["label"] == int(kind != "good")
        assert row["category"] == row["image_id"].split("/")[0]
        assert row["split"] == "test"
        if kind == "good":
            assert row["mask"] is None
        else:
            np.testing.assert_array_equal(mask_of(row), blob(2 + int(stem[:3]), 3) * 255)
            assert row["mask"].mode == "L"


def test_a_category_is_read_alone_and_carries_the_pixels_of_its_files(mvtec):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="test")
    assert set(dataset["category"]) == {"grid"}
    assert len(dataset) == 4
    for row in dataset:
        with Image.open(mvtec / row["image_id"]) as file:
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(file))


def test_the_builder_class_works_directly(mvtec, tmp_path):
    builder = MVTecAD(config_name="bottle", data_dir=mvtec, cache_dir=str(tmp_path / "own"))
    builder.download_and_prepare()
    assert len(builder.as_dataset(split="test")) == 6
    assert set(builder.builder_configs) == {"all", *MVTEC_AD_CATEGORIES}
    assert builder.info.license == "cc-by-nc-sa-4.0"
    assert "bergmann2019mvtec" in builder.info.citation


def test_two_processes_prepare_the_same_rows(mvtec, tmp_path):
    builder = MVTecAD(config_name="bottle", data_dir=mvtec, cache_dir=str(tmp_path / "two"))
    builder.download_and_prepare(num_proc=2)
    alone = load_anomaly_dataset("mvtec_ad", mvtec, category="bottle", split="test")
    assert sorted(map(facts, builder.as_dataset(split="test"))) == sorted(map(facts, alone))


@pytest.mark.parametrize("name", ["mvtec_ad", "visa", "mvtec_loco", "crack_forest", "anomaly_folder"])
def test_streaming_equals_prepared(name, tmp_path):
    draw = {"visa": draw_visa, "mvtec_loco": draw_loco, "crack_forest": draw_crack_forest}.get(name, draw_mvtec)
    root = draw(tmp_path / name)
    prepared = load_anomaly_dataset(name, root)
    streamed = load_anomaly_dataset(name, root, streaming=True)
    assert set(prepared) == set(streamed)
    for split in prepared:
        assert streamed[split].features == prepared[split].features
        assert [facts(row) for row in streamed[split]] == [facts(row) for row in prepared[split]]


def test_a_shuffled_stream_holds_every_row_once(mvtec):
    stream = load_anomaly_dataset("mvtec_ad", mvtec, split="test", streaming=True).shuffle(seed=3, buffer_size=2)
    ids = [row["image_id"] for row in stream]
    assert len(ids) == len(set(ids)) == 10
    assert ids != sorted(ids)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("streaming", [False, True])
def test_nodes_share_all_rows_without_overlap(mvtec, streaming, world_size):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec, split="test", streaming=streaming)
    nodes = [
        [row["image_id"] for row in split_dataset_by_node(dataset, rank, world_size)] for rank in range(world_size)
    ]
    assert sorted(sum(nodes, [])) == sorted(row["image_id"] for row in dataset)
    assert min(map(len, nodes)) >= 10 // world_size


def test_a_new_file_is_noticed_by_the_cache(mvtec):
    assert len(load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="train")) == 3
    draw_picture(mvtec / "grid" / "train" / "good" / "003.png")
    assert len(load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="train")) == 4


def test_a_changed_mask_is_noticed_by_the_cache(mvtec):
    before = load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="test")
    first = next(row for row in before if row["mask"] is not None)
    path = mvtec / "grid" / "ground_truth" / "bent" / "000_mask.png"
    draw_mask(path, blob(15, 15))
    os.utime(path, ns=(1, 1))
    after = load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="test")
    row = next(row for row in after if row["image_id"] == first["image_id"])
    np.testing.assert_array_equal(mask_of(row), blob(15, 15) * 255)


def test_the_fingerprint_is_stable_while_nothing_changes(mvtec):
    assert load_builder("mvtec_ad", mvtec).hash == load_builder("mvtec_ad", mvtec).hash
    (mvtec / "notes.txt").write_text("not data")
    assert load_builder("mvtec_ad", mvtec).hash == load_builder("mvtec_ad", mvtec / ".").hash


# ---------------------------------------------------------------- broken MVTec trees


def broken(data_dir: Path, message: str, name: str = "mvtec_ad", error: type[Exception] = ValueError, **options):
    for streaming in (False, True):
        with pytest.raises(error, match=message):
            load_anomaly_dataset(name, data_dir, streaming=streaming, **options)


def test_a_misspelt_category_names_the_closest(mvtec):
    broken(mvtec, "`category` must be one of bottle, .*, got 'bottel'. Did you mean 'bottle'", category="bottel")
    with pytest.raises(ValueError, match="got 'gird'. Did you mean 'grid'"):
        MVTecAD(config_name="gird", data_dir=mvtec)


def test_a_published_category_that_is_not_there_is_named(mvtec):
    broken(mvtec, "must hold the folder of 'wood', got .* with bottle, grid", error=FileNotFoundError, category="wood")


def test_a_missing_folder_names_the_closest_and_the_layout(tmp_path):
    draw_mvtec(tmp_path / "mvtec_ad")
    message = "must be a folder that exists, got .*mvtec_da'. Did you mean 'mvtec_ad'.* Expected layout: <data_dir>"
    broken(tmp_path / "mvtec_da", message, error=FileNotFoundError)
    broken(None, "`data_dir` must be the folder that holds the data set, got None")
    (tmp_path / "file").write_text("x")
    broken(tmp_path / "file", "must be a folder, got the file", error=NotADirectoryError)


def test_the_folder_of_one_category_is_recognised(mvtec):
    broken(mvtec / "grid", "must be the folder that holds the categories, got .*which is one category. Pass")


def test_a_folder_without_categories_shows_the_layout(tmp_path):
    draw_picture(tmp_path / "set" / "pictures" / "1.png")
    broken(tmp_path / "set", "must hold at least one of bottle, .*Expected layout", error=FileNotFoundError)


def test_missing_categories_are_warned_about(mvtec):
    with pytest.warns(UserWarning, match="it lacks: cable, capsule, .*zipper"):
        load_anomaly_dataset("mvtec_ad", mvtec)


def test_an_empty_category_and_an_empty_kind_are_refused(mvtec):
    (mvtec / "wood" / "train").mkdir(parents=True)
    broken(mvtec, "Category 'wood' must hold pictures, got none", error=FileNotFoundError, category="wood")
    (mvtec / "grid" / "test" / "glue").mkdir()
    broken(mvtec, "must not be empty, got none in .*glue'", error=FileNotFoundError, category="grid")


def test_a_mask_of_another_size_is_refused_with_both_sizes(mvtec):
    draw_mask(mvtec / "grid" / "ground_truth" / "bent" / "001_mask.png", blob(1, 1, (12, 16)))
    message = r"must have the size of its picture, got \(12, 16\) for a picture of \(24, 32\).*001_mask.png"
    broken(mvtec, message, category="grid")
    draw_mask(mvtec / "grid" / "ground_truth" / "bent" / "001_mask.png", blob(1, 1, SIZE[::-1]))
    broken(mvtec, "It fits the picture turned by its EXIF orientation", category="grid")


def test_a_mask_without_picture_is_refused_with_the_closest(mvtec):
    draw_mask(mvtec / "grid" / "ground_truth" / "bent" / "0001_mask.png", blob(1, 1))
    broken(mvtec, "Every mask must have its picture, got .*0001_mask' but no picture '0001'.*Did you", category="grid")


def test_a_folder_of_masks_without_pictures_is_refused(mvtec):
    draw_mask(mvtec / "grid" / "ground_truth" / "bend" / "000_mask.png", blob(1, 1))
    broken(mvtec, "got .*bend' but no test/bend. Did you mean 'bent'", category="grid")


def test_a_missing_mask_is_refused_in_the_published_set(mvtec):
    (mvtec / "grid" / "ground_truth" / "bent" / "001_mask.png").unlink()
    message = "defective picture of 'grid' must have a mask, got none for .*001.png'. Expected .*001_mask.png"
    broken(mvtec, message, error=FileNotFoundError, category="grid")


def test_defects_in_train_and_loose_pictures_are_refused_in_the_published_set(mvtec):
    draw_picture(mvtec / "grid" / "train" / "bent" / "009.png")
    broken(mvtec, "`train` of 'grid' must hold normal pictures only, got", category="grid")
    draw_picture(mvtec / "bottle" / "test" / "009.png")
    broken(mvtec, "must stand in folders of their kind, got .*009.png", category="bottle")


def test_a_damaged_picture_is_named(mvtec):
    (mvtec / "grid" / "train" / "good" / "001.png").write_bytes(b"not a picture")
    broken(mvtec, "Pictures must be readable, got .*train/good/001.png", category="grid")


def test_duplicates_across_train_and_test_are_listed_in_a_warning(mvtec):
    picture = (mvtec / "grid" / "train" / "good" / "001.png").read_bytes()
    (mvtec / "grid" / "test" / "good" / "007.png").write_bytes(picture)
    (mvtec / "grid" / "train" / "good" / "008.png").write_bytes(picture)
    with pytest.warns(UserWarning, match="1 pictures stand in more than one split") as record:
        load_anomaly_dataset("mvtec_ad", mvtec, category="grid")
    text = next(str(item.message) for item in record if "more than one split" in str(item.message))
    assert text.endswith("  grid/train/good/001.png = grid/train/good/008.png = grid/test/good/007.png")


def test_duplicates_within_one_split_are_no_matter(mvtec):
    picture = (mvtec / "grid" / "train" / "good" / "001.png").read_bytes()
    (mvtec / "grid" / "train" / "good" / "008.png").write_bytes(picture)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_anomaly_dataset("mvtec_ad", mvtec, category="grid")


def test_hidden_files_of_desktop_systems_are_passed_over(mvtec):
    (mvtec / "grid" / "train" / "good" / "._000.png").write_bytes(b"resource fork")
    (mvtec / "grid" / "test" / ".ipynb_checkpoints").mkdir()
    (mvtec / "grid" / "test" / "good" / "Thumbs.db").write_bytes(b"x")
    assert len(load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="test")) == 4


# ---------------------------------------------------------------- VisA


@pytest.mark.parametrize(
    ("protocol", "train", "test"),
    [("1cls", (6, 0), (2, 6)), ("2cls_fewshot", (2, 2), (6, 4)), ("2cls_highshot", (4, 4), (4, 2))],
)
def test_visa_follows_each_of_its_split_files(tmp_path, protocol, train, test):
    dataset = load_anomaly_dataset("visa", draw_visa(tmp_path / "visa"), protocol=protocol)
    for split, expected in (("train", train), ("test", test)):
        labels = dataset[split]["label"]
        assert (labels.count(0), labels.count(1)) == expected


def test_visa_masks_of_small_values_become_0_and_255_and_kinds_come_from_the_annotations(tmp_path):
    dataset = load_anomaly_dataset("visa", draw_visa(tmp_path / "visa"), category="candle", split="test")
    rows = {row["image_id"]: row for row in dataset}
    for index, kind in enumerate(["chunk of wax missing", "wax melded out of the candle,spot", "other"]):
        row = rows[f"candle/Data/Images/Anomaly/{index:03d}.JPG"]
        assert row["defect_type"] == kind
        np.testing.assert_array_equal(mask_of(row), blob(5, 6 + index) * 255)
    assert rows["candle/Data/Images/Normal/0003.JPG"]["mask"] is None
    assert rows["candle/Data/Images/Normal/0003.JPG"]["defect_type"] == "good"


def test_visa_without_annotations_still_loads(tmp_path):
    root = draw_visa(tmp_path / "visa")
    (root / "candle" / "image_anno.csv").unlink()
    dataset = load_anomaly_dataset("visa", root, category="candle", split="test")
    assert {row["defect_type"] for row in dataset} == {"good", "anomaly"}


def test_broken_visa_trees_say_what_is_wrong(tmp_path):
    root = draw_visa(tmp_path / "visa")
    broken(
        root,
        "`protocol` must be one of 1cls, .*got '2cls_few'. Did you mean '2cls_fewshot'",
        "visa",
        protocol="2cls_few",
    )
    broken(root, "got 'pcb5'. Did you mean 'pcb", "visa", category="pcb5")
    broken(root, "Category 'fryum' must hold pictures, got no row in", "visa", category="fryum")
    picture = root / "candle" / "Data" / "Images" / "Normal" / "0001.JPG"
    picture.rename(picture.with_suffix(".jpg.part"))
    broken(root, "must exist, got 1 of 20 missing: .*0001.JPG'. Unpack the whole archive", "visa", FileNotFoundError)
    table = root / "split_csv" / "1cls.csv"
    text = table.read_text()
    table.write_text(text.replace("object,split", "item,split"))
    broken(root, "must have the columns object, .*Missing: object", "visa")
    table.write_text(text.replace("candle/Data/Images/Normal/0001.JPG", "../0001.JPG"))
    broken(root, "must stay inside the data folder, got '../0001.JPG'", "visa")
    table.write_text("object,split,label,image,mask\ncandle,test,broken,candle/Data/Images/Normal/0000.JPG,\n")
    broken(root, "`label` must be normal or anomaly .*got 'broken'", "visa")
    table.write_text("object,split,label,image,mask\ncandle,test,anomaly,candle/Data/Images/Normal/0000.JPG,\n")
    broken(root, "Every anomalous picture must have a mask, got none for 'candle", "visa")
    table.unlink()
    broken(root, "must hold 'split_csv/1cls.csv'", "visa", FileNotFoundError)


# ---------------------------------------------------------------- MVTec LOCO


def test_loco_merges_all_mask_files_of_a_picture(tmp_path):
    dataset = load_anomaly_dataset("mvtec_loco", draw_loco(tmp_path / "loco"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 2, "validation": 1, "test": 3}
    rows = {row["defect_type"]: row for row in dataset["test"]}
    assert set(rows) == {"good", "logical_anomalies", "structural_anomalies"}
    np.testing.assert_array_equal(mask_of(rows["logical_anomalies"]), (blob(1, 1) | blob(12, 20)) * 255)
    np.testing.assert_array_equal(mask_of(rows["structural_anomalies"]), blob(4, 4) * 255)
    assert rows["good"]["mask"] is None


@pytest.mark.parametrize("streaming", [False, True])
def test_loco_regions_carry_their_names_and_saturation_areas(tmp_path, streaming):
    root = draw_loco(tmp_path / "loco")
    rows = load_anomaly_dataset("mvtec_loco", root, split="test", with_regions=True, streaming=streaming)
    rows = {row["defect_type"]: row for row in rows}
    logical = rows["logical_anomalies"]
    assert logical["region_names"] == ["missing", "scratch"]
    assert logical["region_saturation_areas"] == [10, 8]  # 10 pixels; half of 16 pixels
    np.testing.assert_array_equal(np.asarray(logical["region_masks"][1]), blob(12, 20) * 255)
    assert rows["good"]["region_masks"] == []


def test_a_saturation_area_is_never_larger_than_its_region():
    assert SaturationRule("missing", 400, relative=False).area(16) == 16
    assert SaturationRule("missing", 0.01, relative=True).area(16) == 1


def test_broken_loco_trees_say_what_is_wrong(tmp_path):
    root = draw_loco(tmp_path / "loco")
    rules = root / "pushpins" / "defects_config.json"
    rules.write_text(rules.read_text().replace("254", "253"))
    message = r"Values in masks must stand in the defects_config.json of 'pushpins' \(253, 255\), got 254"
    broken(root, message, "mvtec_loco", with_regions=True)
    rules.write_text("{")
    broken(root, "must be a list of defect_name, pixel_value", "mvtec_loco", with_regions=True)
    rules.unlink()
    broken(root, "`with_regions` must find .*defects_config.json", "mvtec_loco", FileNotFoundError, with_regions=True)
    assert len(load_anomaly_dataset("mvtec_loco", root, split="test")) == 3
    draw_picture(root / "pushpins" / "test" / "bent" / "000.png")
    draw_mask(root / "pushpins" / "ground_truth" / "bent" / "000.png", blob(1, 1))
    broken(root, "must be logical_anomalies and structural_anomalies, got bent", "mvtec_loco")


def test_saturation_rules_are_read_by_pixel_value(tmp_path):
    rules = read_saturation_rules(draw_loco(tmp_path / "loco") / "pushpins" / "defects_config.json")
    assert rules == {255: SaturationRule("missing", 10, False), 254: SaturationRule("scratch", 0.5, True)}


# ---------------------------------------------------------------- CrackForest


def test_crack_forest_reads_matlab_ground_truth(tmp_path):
    dataset = load_anomaly_dataset("crack_forest", draw_crack_forest(tmp_path / "cfd"))
    assert set(dataset) == {"test"}
    for index, row in enumerate(dataset["test"], start=1):
        assert (row["image_id"], row["label"], row["defect_type"]) == (f"image/{index:03d}.jpg", 1, "crack")
        np.testing.assert_array_equal(mask_of(row), blob(index, 8) * 255)


def test_crack_forest_without_ground_truth_has_neither_label_nor_mask(tmp_path):
    root = draw_crack_forest(tmp_path / "cfd")
    (root / "groundTruth" / "002.mat").unlink()
    row = load_anomaly_dataset("crack_forest", root, split="test")[1]
    assert (row["label"], row["mask"], row["defect_type"]) == (None, None, None)


def test_broken_crack_forest_trees_say_what_is_wrong(tmp_path):
    import scipy.io

    root = draw_crack_forest(tmp_path / "cfd")
    broken(root, "`category` must be one of road, got 'roads'", "crack_forest", category="roads")
    truth = {"groundTruth": {"Segmentation": np.full((4, 4), 2), "Boundaries": np.zeros((4, 4))}}
    scipy.io.savemat(root / "groundTruth" / "001.mat", truth)
    broken(root, r"got \(4, 4\) for a picture of \(24, 32\).*001.mat", "crack_forest")
    scipy.io.savemat(root / "groundTruth" / "001.mat", {"other": 1})
    broken(root, "must be a MATLAB file with groundTruth.Segmentation, got .*001.mat' .KeyError", "crack_forest")
    (root / "image" / "001.jpg").unlink()
    broken(root, "Every mask must have its picture, got .*001.mat' but no picture '001'", "crack_forest")
    broken(
        tmp_path,
        "must hold pictures in 'image' and .mat files in 'groundTruth', got 0 and 0",
        "crack_forest",
        FileNotFoundError,
    )


# ---------------------------------------------------------------- own pictures


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
    broken(tmp_path / "bolt", "A mask must fit one picture, got", "anomaly_folder")


def test_own_folders_without_a_known_layout_show_what_is_there_and_what_is_expected(tmp_path):
    draw_picture(tmp_path / "set" / "tests" / "1.png")
    message = "in a layout known here, got tests in .*Expected layout: .*train/good.*metadata.jsonl/csv with file_name"
    broken(tmp_path / "set", message, "anomaly_folder", FileNotFoundError)
    draw_mvtec(tmp_path / "set", {"bolt": ("bent",)})
    with pytest.warns(UserWarning, match="are not read: tests"):
        load_anomaly_dataset("anomaly_folder", tmp_path / "set")
    broken(tmp_path / "set", "`category` must be one of bolt, got 'bold'. Did you", "anomaly_folder", category="bold")


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
    broken(root, message, "anomaly_folder")


def test_bad_metadata_files_are_refused(tmp_path):
    root = tmp_path / "own"
    draw_picture(root / "1.png")
    write_metadata(root, [{"file_name": "1.png"}, {"file_name": "9.png"}], "jsonl")
    broken(root, "must exist, got 1 of 2 missing: .*9.png", "anomaly_folder", FileNotFoundError)
    write_metadata(root, [{"file_name": "1.png"}], "csv")
    broken(root, "must hold one metadata file, got two", "anomaly_folder")
    (root / "metadata.csv").unlink()
    (root / "metadata.jsonl").write_text('{"file_name": "1.png"}\n{"file_name": \n')
    broken(root, r"Lines must be JSON objects, got .*metadata.jsonl, line 2", "anomaly_folder")
    (root / "metadata.jsonl").write_text("\n")
    broken(root, "must name at least one picture, got none", "anomaly_folder")
    (root / "metadata.jsonl").write_text('{"file_name": "1.png", "lable": "normal"}\n')
    with pytest.warns(UserWarning, match="are not read: lable Did you mean 'label'"):
        load_anomaly_dataset("anomaly_folder", root)


def test_a_csv_row_with_too_many_cells_is_refused(tmp_path):
    draw_picture(tmp_path / "own" / "1.png")
    (tmp_path / "own" / "metadata.csv").write_text("file_name,defect_type\n1.png,scratch, deep\n")
    broken(tmp_path / "own", r"as many cells as the header, got more \(metadata.csv, line 2\)", "anomaly_folder")


# ---------------------------------------------------------------- pieces


def test_masks_in_every_pixel_format_say_the_same(tmp_path):
    expected = blob(3, 5)
    grey = Image.fromarray(expected.astype(np.uint8))
    files = {
        "one.png": grey,
        "full.png": grey.point(lambda value: value * 255),
        "bit.png": grey.point(lambda value: value * 255).convert("1"),
        "rgb.png": grey.point(lambda value: value * 255).convert("RGB"),
        "rgba.png": grey.point(lambda value: value * 255).convert("RGBA"),
        "palette.png": grey.point(lambda value: value * 255).convert("P"),
        "deep.png": Image.fromarray(expected.astype(np.uint16) * 40000),
        "lossy.jpg": grey.point(lambda value: value * 255),
    }
    for name, picture in files.items():
        picture.save(tmp_path / name, **({"quality": 95} if name.endswith("jpg") else {}))
        np.testing.assert_array_equal(read_mask([tmp_path / name]), expected, err_msg=name)


def test_bad_masks_are_refused(tmp_path):
    draw_mask(tmp_path / "a.png", blob(1, 1))
    draw_mask(tmp_path / "b.png", blob(1, 1, (8, 8)))
    with pytest.raises(ValueError, match=r"must have one size, got \(24, 32\) and \(8, 8\)"):
        read_mask([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(ValueError, match="must name at least one mask file, got none"):
        read_mask([])
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="Masks must be readable pictures, got .*c.png"):
        read_mask([tmp_path / "c.png"])


def test_the_size_of_a_picture_follows_its_orientation(tmp_path):
    picture = Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8))
    for orientation, size in ((1, SIZE), (3, SIZE), (6, SIZE[::-1]), (8, SIZE[::-1])):
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "p.jpg", exif=exif)
        assert picture_size(tmp_path / "p.jpg") == size


def test_equal_files_have_equal_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c").write_bytes(b"x" * 2_999_999 + b"y")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b") != content_digest(tmp_path / "c")


def test_paths_inside_stay_as_they_are():
    assert resolve_inside("/data", "a\\b.png", "here") == Path("/data/a/b.png")
    assert closest("nothing like it", ["bottle"]) == ""


def test_unknown_names_and_options_name_the_closest(mvtec):
    with pytest.raises(ValueError, match="`name` must be one of mvtec_ad, .*got 'mvtec'. Did you mean 'mvtec_ad'"):
        load_anomaly_dataset("mvtec", mvtec)
    with pytest.raises(ValueError, match="Options of 'visa' must be among .*got 'protokol'. Did you mean 'protocol'"):
        load_anomaly_dataset("visa", mvtec, protokol="1cls")
    with pytest.raises(ValueError, match="`category` must be None for 'conversations', got 'cat'"):
        load_anomaly_dataset("conversations", mvtec, category="cat")
    with pytest.raises(ValueError, match="validation"):
        load_anomaly_dataset("mvtec_ad", mvtec, split="validation")
    assert "rendered_parts" in DATASET_NAMES


# ---------------------------------------------------------------- to the Hub


@pytest.mark.parametrize("streaming", [False, True])
def test_a_saved_folder_is_read_by_plain_load_dataset(mvtec, tmp_path, streaming):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    expected = {split: [facts(row) for row in rows] for split, rows in dataset.items()}
    files = save_parquet(dataset, tmp_path / "hub", "mvtec_ad")
    assert [file.name for file in files] == [
        "train-00000-of-00001.parquet",
        "test-00000-of-00001.parquet",
        "README.md",
    ]
    features = dataset["train"].features
    mvtec.rename(tmp_path / "moved")  # the pictures travel inside
    loaded = datasets.load_dataset(str(tmp_path / "hub"), streaming=streaming)
    assert {split: [facts(row) for row in rows] for split, rows in loaded.items()} == expected
    assert loaded["train"].features == features


def test_large_splits_are_saved_in_several_files(mvtec, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.publishing._ROWS_PER_GROUP", 4)
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    files = save_parquet(dataset, tmp_path / "hub", "mvtec_ad", max_shard_bytes=10)
    assert [file.name for file in files if "test" in file.name] == [f"test-0000{n}-of-00003.parquet" for n in range(3)]
    assert datasets.load_dataset(str(tmp_path / "hub"), split="test")["image_id"][:] == dataset["test"]["image_id"][:]


def test_the_builder_prepares_parquet_that_plain_load_dataset_reads(mvtec, tmp_path):
    builder = load_builder("mvtec_ad", mvtec, category="grid")
    builder.download_and_prepare(str(tmp_path / "out"), file_format="parquet")
    expected = [facts(row) for row in load_anomaly_dataset("mvtec_ad", mvtec, category="grid", split="test")]
    assert [facts(row) for row in datasets.load_dataset(str(tmp_path / "out"), split="test")] == expected


@pytest.mark.parametrize(
    ("name", "draw", "licence", "key"),
    [
        ("mvtec_ad", draw_mvtec, "license: cc-by-nc-sa-4.0", "bergmann2019mvtec"),
        ("visa", draw_visa, "license: cc-by-4.0", "zou2022spot"),
        ("mvtec_loco", draw_loco, "license: cc-by-nc-sa-4.0", "bergmann2022beyond"),
        ("crack_forest", draw_crack_forest, "license: other", "shi2016automatic"),
    ],
)
def test_data_cards_carry_licence_citation_and_counts(tmp_path, name, draw, licence, key):
    from huggingface_hub import DatasetCard

    dataset = load_anomaly_dataset(name, draw(tmp_path / name))
    text = data_card(name, dataset)
    assert licence in text
    assert key in text
    assert f"| test | {len(dataset['test'])} |" in text
    card = DatasetCard(text)
    assert card.data.task_categories == ["image-classification", "image-segmentation"]
    assert card.data.configs[0]["data_files"][-1] == {"split": "test", "path": "data/test-*"}


def test_saving_refuses_what_it_cannot_save(mvtec, tmp_path):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    with pytest.raises(TypeError, match="`dataset` must be a DatasetDict, got Dataset"):
        save_parquet(dataset["train"], tmp_path / "hub", "mvtec_ad")
    save_parquet(dataset, tmp_path / "hub", "mvtec_ad")
    with pytest.raises(FileExistsError, match="must hold no parquet files yet"):
        save_parquet(dataset, tmp_path / "hub", "mvtec_ad")
    with pytest.raises(ValueError, match="must hold at least one split, got none"):
        data_card("mvtec_ad", datasets.DatasetDict())


# ---------------------------------------------------------------- real files


@pytest.mark.real_data
def test_the_real_grid_is_read_as_its_files_are(real_data):
    dataset = load_anomaly_dataset("mvtec_ad", real_data / "mvtec_ad", category="grid")
    assert [len(dataset["train"]), len(dataset["test"])] == [7, 14]
    assert sum(row["mask"] is not None for row in dataset["test"]) == 11
    for row in dataset["test"]:
        if row["mask"] is not None:
            kind, name = row["image_id"].split("/")[-2:]
            path = real_data / "mvtec_ad" / "grid" / "ground_truth" / kind / name.replace(".png", "_mask.png")
            with Image.open(path) as file:
                np.testing.assert_array_equal(mask_of(row), np.asarray(file.convert("L")))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "train", "normal", "defective", "masks"),
    [
        ("hazelnut_toy", 28, 6, 17, 17),
        ("dobot_cubes", 92, 24, 72, 0),
        ("cookies", 31, 14, 40, 32),
        ("circuit_board", 20, 20, 40, 0),
        ("battery_weld", 36, 28, 93, 93),
    ],
)
def test_real_photographs_have_the_counts_they_are_said_to_have(real_data, name, train, normal, defective, masks):
    builder = AnomalyFolder(data_dir=real_data / "inspection" / name)
    builder.download_and_prepare()
    test = builder.as_dataset(split="test")
    assert len(builder.as_dataset(split="train")) == train
    assert (test["label"].count(0), test["label"].count(1)) == (normal, defective)
    assert sum(row["mask"] is not None for row in test) == masks
