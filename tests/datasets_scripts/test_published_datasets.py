"""VisA, MVTec LOCO and CrackForest on drawn miniatures of their archives, whole and broken."""

import numpy as np
import pytest

from datasets_scripts.loading import load_anomaly_dataset
from datasets_scripts.mvtec_loco import SaturationRule, read_saturation_rules

from ..dataset_checks import make_private_cache, mask_of, refused  # noqa: F401 (fixtures)
from ..drawn_trees import blob, draw_crack_forest, draw_loco, draw_mask, draw_picture, draw_visa

pytestmark = pytest.mark.usefixtures("private_cache")


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
    refused(
        root,
        "`protocol` must be one of 1cls, .*got '2cls_few'. Did you mean '2cls_fewshot'",
        "visa",
        protocol="2cls_few",
    )
    refused(root, "got 'pcb5'. Did you mean 'pcb", "visa", category="pcb5")
    refused(root, "Category 'fryum' must hold pictures, got no row in", "visa", category="fryum")
    picture = root / "candle" / "Data" / "Images" / "Normal" / "0001.JPG"
    picture.rename(picture.with_suffix(".jpg.part"))
    refused(root, "must exist, got 1 of 20 missing: .*0001.JPG'. Unpack the whole archive", "visa", FileNotFoundError)
    table = root / "split_csv" / "1cls.csv"
    text = table.read_text()
    table.write_text(text.replace("object,split", "item,split"))
    refused(root, "must have the columns object, .*Missing: object", "visa")
    table.write_text(text.replace("candle/Data/Images/Normal/0001.JPG", "../0001.JPG"))
    refused(root, "must stay inside the data folder, got '../0001.JPG'", "visa")
    table.write_text("object,split,label,image,mask\ncandle,test,broken,candle/Data/Images/Normal/0000.JPG,\n")
    refused(root, "`label` must be normal or anomaly .*got 'broken'", "visa")
    table.write_text("object,split,label,image,mask\ncandle,test,anomaly,candle/Data/Images/Normal/0000.JPG,\n")
    refused(root, "Every anomalous picture must have a mask, got none for 'candle", "visa")
    table.unlink()
    refused(root, "must hold 'split_csv/1cls.csv'", "visa", FileNotFoundError)


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
    refused(root, message, "mvtec_loco", with_regions=True)
    rules.write_text("{")
    refused(root, "must be a list of defect_name, pixel_value", "mvtec_loco", with_regions=True)
    rules.unlink()
    refused(root, "`with_regions` must find .*defects_config.json", "mvtec_loco", FileNotFoundError, with_regions=True)
    assert len(load_anomaly_dataset("mvtec_loco", root, split="test")) == 3
    draw_picture(root / "pushpins" / "test" / "bent" / "000.png")
    draw_mask(root / "pushpins" / "ground_truth" / "bent" / "000.png", blob(1, 1))
    refused(root, "must be logical_anomalies and structural_anomalies, got bent", "mvtec_loco")


def test_saturation_rules_are_read_by_pixel_value(tmp_path):
    rules = read_saturation_rules(draw_loco(tmp_path / "loco") / "pushpins" / "defects_config.json")
    assert rules == {255: SaturationRule("missing", 10, False), 254: SaturationRule("scratch", 0.5, True)}


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
    refused(root, "`category` must be one of road, got 'roads'", "crack_forest", category="roads")
    truth = {"groundTruth": {"Segmentation": np.full((4, 4), 2), "Boundaries": np.zeros((4, 4))}}
    scipy.io.savemat(root / "groundTruth" / "001.mat", truth)
    refused(root, r"got \(4, 4\) for a picture of \(24, 32\).*001.mat", "crack_forest")
    scipy.io.savemat(root / "groundTruth" / "001.mat", {"other": 1})
    refused(root, "must be a MATLAB file with groundTruth.Segmentation, got .*001.mat' .KeyError", "crack_forest")
    (root / "image" / "001.jpg").unlink()
    refused(root, "Every mask must have its picture, got .*001.mat' but no picture '001'", "crack_forest")
    refused(
        tmp_path,
        "must hold pictures in 'image' and .mat files in 'groundTruth', got 0 and 0",
        "crack_forest",
        FileNotFoundError,
    )
