"""The builders of published data sets on drawn miniatures: rows, streams, nodes, cache, and what is refused."""

import os
import shutil
import warnings

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from datasets_scripts.anomaly_files import closest, content_digest, read_mask, read_table, resolve_inside
from datasets_scripts.anomaly_folder import AnomalyFolder
from datasets_scripts.loading import load_anomaly_dataset, load_builder
from datasets_scripts.mvtec_ad import MVTEC_AD_CATEGORIES, MVTecAD
from datasets_scripts.mvtec_loco import SaturationRule, read_saturation_rules
from modeling_anomalygpt import images

from ..dataset_checks import facts, make_private_cache, mask_of, refused  # noqa: F401 (fixtures)
from ..drawn_trees import DRAWN, SIZE, blob, draw_loco, draw_mask, draw_mvtec, draw_picture, draw_visa

pytestmark = pytest.mark.usefixtures("private_cache")

COLUMNS = ["image", "mask", "label", "category", "defect_type", "image_id", "split"]


@pytest.fixture
def mvtec(tmp_path):
    return draw_mvtec(tmp_path / "mvtec")


def grid(root, split="test"):
    return load_anomaly_dataset("mvtec_ad", root, category="grid", split=split)


# Rows


def test_mvtec_gives_the_schema_the_counts_and_the_masks(mvtec):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    assert dataset["train"].column_names == COLUMNS
    assert dataset["train"].features["label"].names == ["normal", "anomalous"]
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 6, "test": 10}
    assert set(dataset["train"]["label"]) == {0}
    for row in dataset["test"]:
        category, split, kind, stem = row["image_id"].split("/")
        assert (row["category"], row["split"], row["defect_type"]) == (category, split, kind)
        assert row["label"] == int(kind != "good")
        with Image.open(mvtec / row["image_id"]) as file:
            np.testing.assert_array_equal(np.asarray(row["image"]), np.asarray(file))
        if kind == "good":
            assert row["mask"] is None
        else:
            np.testing.assert_array_equal(mask_of(row), blob(2 + int(stem[:3]), 3) * 255)


def test_the_builder_class_works_directly_and_in_two_processes(mvtec, tmp_path):
    builder = MVTecAD(config_name="bottle", data_dir=mvtec, cache_dir=str(tmp_path / "own"))
    builder.download_and_prepare(num_proc=2)
    alone = load_anomaly_dataset("mvtec_ad", mvtec, category="bottle", split="test")
    assert sorted(map(facts, builder.as_dataset(split="test"))) == sorted(map(facts, alone))
    assert set(builder.builder_configs) == {"all", *MVTEC_AD_CATEGORIES}
    assert "bergmann2019mvtec" in builder.info.citation


def test_visa_follows_each_of_its_split_files(tmp_path):
    root = draw_visa(tmp_path / "visa")
    for protocol, train, test in (
        ("1cls", (6, 0), (2, 6)), ("2cls_fewshot", (2, 2), (6, 4)), ("2cls_highshot", (4, 4), (4, 2)),
    ):  # fmt: skip
        dataset = load_anomaly_dataset("visa", root, protocol=protocol)
        for split, expected in (("train", train), ("test", test)):
            labels = dataset[split]["label"]
            assert (labels.count(0), labels.count(1)) == expected, protocol


def test_visa_masks_of_small_values_become_0_and_255_and_kinds_come_from_the_annotations(tmp_path):
    root = draw_visa(tmp_path / "visa")
    rows = {row["image_id"]: row for row in load_anomaly_dataset("visa", root, category="candle", split="test")}
    for index, kind in enumerate(["chunk of wax missing", "wax melded out of the candle,spot", "other"]):
        row = rows[f"candle/Data/Images/Anomaly/{index:03d}.JPG"]
        assert row["defect_type"] == kind
        np.testing.assert_array_equal(mask_of(row), blob(5, 6 + index) * 255)
    good = rows["candle/Data/Images/Normal/0003.JPG"]
    assert (good["mask"], good["defect_type"]) == (None, "good")
    (root / "candle" / "image_anno.csv").unlink()
    rows = load_anomaly_dataset("visa", root, category="candle", split="test")
    assert set(rows["defect_type"]) == {"good", "anomaly"}


def test_visa_annotations_with_an_empty_cell_name_no_kind(tmp_path):
    root = draw_visa(tmp_path / "visa")
    rows = "candle/Data/Images/Anomaly/000.JPG,,\n,spot,\n"
    (root / "candle" / "image_anno.csv").write_text(f"image,label,mask\n{rows}")
    rows = load_anomaly_dataset("visa", root, category="candle", split="test")
    assert set(rows["defect_type"]) == {"good", "anomaly"}


@pytest.mark.parametrize("streaming", [False, True])
def test_loco_merges_the_masks_of_a_picture_and_keeps_its_regions(tmp_path, streaming):
    root = draw_loco(tmp_path / "loco")
    dataset = load_anomaly_dataset("mvtec_loco", root, with_regions=True, streaming=streaming)
    assert set(dataset) == {"train", "validation", "test"}
    rows = {row["defect_type"]: row for row in dataset["test"]}
    logical, structural = rows["logical_anomalies"], rows["structural_anomalies"]
    np.testing.assert_array_equal(mask_of(logical), (blob(1, 1) | blob(12, 20)) * 255)
    np.testing.assert_array_equal(mask_of(structural), blob(4, 4) * 255)
    assert logical["region_names"] == ["missing", "scratch"]
    assert logical["region_saturation_areas"] == [10, 8]  # 10 pixels; half of 16 pixels
    np.testing.assert_array_equal(np.asarray(logical["region_masks"][1]), blob(12, 20) * 255)
    assert (rows["good"]["mask"], rows["good"]["region_masks"]) == (None, [])


def test_saturation_rules_are_read_by_pixel_value_and_never_exceed_the_region(tmp_path):
    rules = read_saturation_rules(draw_loco(tmp_path / "loco") / "pushpins" / "defects_config.json")
    assert rules == {255: SaturationRule("missing", 10, False), 254: SaturationRule("scratch", 0.5, True)}
    assert SaturationRule("missing", 400, relative=False).area(16) == 16
    assert SaturationRule("missing", 0.01, relative=True).area(16) == 1


def test_crack_forest_reads_matlab_ground_truth_where_there_is_any(tmp_path):
    root = DRAWN["crack_forest"](tmp_path / "cfd")
    (root / "groundTruth" / "002.mat").unlink()
    dataset = load_anomaly_dataset("crack_forest", root)
    assert set(dataset) == {"test"}
    first, unknown, last = dataset["test"]
    for index, row in ((1, first), (3, last)):
        assert (row["image_id"], row["label"], row["defect_type"]) == (f"image/{index:03d}.jpg", 1, "crack")
        np.testing.assert_array_equal(mask_of(row), blob(index, 8) * 255)
    assert (unknown["label"], unknown["mask"], unknown["defect_type"]) == (None, None, None)


# Streams, nodes, cache


@pytest.mark.parametrize("name", DRAWN)
def test_streaming_equals_prepared(name, tmp_path):
    root = DRAWN[name](tmp_path / name)
    prepared, streamed = (load_anomaly_dataset(name, root, streaming=streaming) for streaming in (False, True))
    assert set(prepared) == set(streamed)
    for split in prepared:
        assert streamed[split].features == prepared[split].features
        assert [facts(row) for row in streamed[split]] == [facts(row) for row in prepared[split]]


@pytest.mark.parametrize("streaming", [False, True])
def test_nodes_share_all_rows_without_overlap(mvtec, streaming):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec, split="test", streaming=streaming)
    ids = [[row["image_id"] for row in split_dataset_by_node(dataset, rank, 3)] for rank in range(3)]
    assert sorted(sum(ids, [])) == sorted(row["image_id"] for row in dataset)
    assert min(map(len, ids)) >= 10 // 3


def test_new_and_changed_files_are_noticed_by_the_cache_and_others_are_not(mvtec):
    before = load_builder("mvtec_ad", mvtec).hash
    (mvtec / "notes.txt").write_text("not data")
    assert load_builder("mvtec_ad", mvtec / ".").hash == before
    assert len(grid(mvtec, "train")) == 3
    draw_picture(mvtec / "grid" / "train" / "good" / "003.png")
    assert len(grid(mvtec, "train")) == 4
    path = draw_mask(mvtec / "grid" / "ground_truth" / "bent" / "000_mask.png", blob(15, 15))
    os.utime(path, ns=(1, 1))
    changed = next(row for row in grid(mvtec) if row["image_id"] == "grid/test/bent/000.png")
    np.testing.assert_array_equal(mask_of(changed), blob(15, 15) * 255)


def test_changed_code_that_opens_pictures_is_noticed_by_the_cache(mvtec, tmp_path, monkeypatch):
    before = load_builder("mvtec_ad", mvtec).hash
    code = shutil.copy(images.__file__, tmp_path / "images.py")
    monkeypatch.setattr(images, "__file__", code)
    assert load_builder("mvtec_ad", mvtec).hash == before
    (tmp_path / "images.py").write_text("MASK_THRESHOLD = 0.5")
    assert load_builder("mvtec_ad", mvtec).hash != before


def test_a_cache_that_cannot_be_written_says_where_it_may_go(mvtec, tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "/nobody/.cache")

    monkeypatch.setattr(MVTecAD, "download_and_prepare", denied)
    with pytest.raises(PermissionError, match="cannot be written .*Set HF_HOME or HF_DATASETS_CACHE .*cache'"):
        load_anomaly_dataset("mvtec_ad", mvtec)


# Refusals


def change_file(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def twice(source, *copies):
    for copy in copies:
        copy.write_bytes(source.read_bytes())


GRID = {"category": "grid"}
MVTEC_FAULTS = [
    (None, "`category` must be one of bottle, .*, got 'bottel'. Did you mean 'bottle'", {"category": "bottel"}),
    (None, "must hold the folder of 'wood', got .* with bottle, grid", {"category": "wood"}),
    (lambda r: (r / "wood" / "train").mkdir(parents=True), "Category 'wood' must hold pictures", {"category": "wood"}),
    (lambda r: (r / "grid" / "test" / "glue").mkdir(), "must not be empty, got none in .*glue'", GRID),
    (
        lambda r: draw_mask(r / "grid/ground_truth/bent/001_mask.png", blob(1, 1, (12, 16))),
        r"must have the size of its picture, got \(12, 16\) for a picture of \(24, 32\).*001_mask.png",
        GRID,
    ),
    (
        lambda r: draw_mask(r / "grid/ground_truth/bent/001_mask.png", blob(1, 1, SIZE[::-1])),
        "It fits the picture turned by its EXIF orientation",
        GRID,
    ),
    (
        lambda r: draw_mask(r / "grid/ground_truth/bent/0001_mask.png", blob(1, 1)),
        "Every mask must have its picture, got .*0001_mask' but no picture '0001'.*Did you",
        GRID,
    ),
    (
        lambda r: draw_mask(r / "grid/ground_truth/bend/000_mask.png", blob(1, 1)),
        "got .*bend' but no test/bend. Did you mean 'bent'",
        GRID,
    ),
    (
        lambda r: draw_mask(r / "grid/ground_truth/bent/001_mask.png", blob(1, 1) & False),
        "mask of an anomalous picture must mark something, got an empty one: .*001_mask.png'",
        GRID,
    ),
    (
        lambda r: (r / "grid/ground_truth/bent/001_mask.png").unlink(),
        "defective picture of 'grid' must have a mask, got none for .*001.png'. Expected .*001_mask.png",
        GRID,
    ),
    (lambda r: draw_picture(r / "grid/train/bent/9.png"), "`train` of 'grid' must hold normal pictures only", GRID),
    (lambda r: draw_picture(r / "grid/test/9.png"), "must stand in folders of their kind, got .*9.png", GRID),
    (lambda r: (r / "grid/train/good/001.png").write_bytes(b"no"), "must be a picture, .*001.png' is none", GRID),
]


@pytest.mark.parametrize(("change", "message", "options"), MVTEC_FAULTS, ids=[row[1][-20:] for row in MVTEC_FAULTS])
def test_a_broken_mvtec_tree_says_what_is_wrong(mvtec, change, message, options):
    if change is not None:
        change(mvtec)
    refused(mvtec, message, "mvtec_ad", (ValueError, FileNotFoundError), **options)


def test_a_wrong_folder_is_named_with_the_closest_and_the_layout(mvtec, tmp_path):
    message = "must be a folder that exists, got .*mvtce'. Did you mean 'mvtec'.* Expected layout: <data_dir>"
    refused(tmp_path / "mvtce", message, "mvtec_ad", FileNotFoundError)
    refused(None, "`data_dir` must be the folder that holds the data set, got None", "mvtec_ad")
    refused(mvtec / "grid", "must be the folder that holds the categories, got .*one category. Pass", "mvtec_ad")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "must be a folder, got the file", "mvtec_ad", NotADirectoryError)
    draw_picture(tmp_path / "set" / "pictures" / "1.png")
    message = "must hold at least one of bottle, .*Expected layout"
    refused(tmp_path / "set", message, "mvtec_ad", FileNotFoundError)
    with pytest.raises(ValueError, match="got 'gird'. Did you mean 'grid'"):
        MVTecAD(config_name="gird", data_dir=mvtec)


def test_missing_categories_and_duplicates_across_splits_are_warned_about(mvtec):
    with pytest.warns(UserWarning, match="it lacks: cable, capsule, .*zipper"):
        load_anomaly_dataset("mvtec_ad", mvtec)
    good = mvtec / "grid" / "train" / "good"
    twice(good / "001.png", good / "008.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        grid(mvtec)  # within one split they are no matter
    twice(good / "001.png", mvtec / "grid" / "test" / "good" / "007.png")
    listed = "1 pictures stand .*\n  grid/train/good/001.png = grid/train/good/008.png = grid/test/good/007.png$"
    with pytest.warns(UserWarning, match=listed):
        grid(mvtec)


def test_hidden_files_of_desktop_systems_are_passed_over(mvtec):
    (mvtec / "grid" / "train" / "good" / "._000.png").write_bytes(b"resource fork")
    (mvtec / "grid" / "test" / ".ipynb_checkpoints").mkdir()
    (mvtec / "grid" / "test" / "good" / "Thumbs.db").write_bytes(b"x")
    assert len(grid(mvtec)) == 4


def test_unknown_names_and_options_name_the_closest(mvtec):
    for name, options, message in (
        ("mvtec", {}, "`name` must be one of mvtec_ad, .*got 'mvtec'. Did you mean 'mvtec_ad'"),
        ("visa", {"protokol": "1cls"}, "Options of 'visa' must be among .*got 'protokol'. Did you mean 'protocol'"),
        ("conversations", {"category": "cat"}, "must be one of .there is none., got 'cat'. 'conversations' knows no"),
        ("mvtec_ad", {"split": "validation"}, "validation"),
    ):
        with pytest.raises(ValueError, match=message):
            load_anomaly_dataset(name, mvtec, **options)
    with pytest.raises(ValueError, match="got 'gaer'. Did you mean 'gear'"):
        load_anomaly_dataset("rendered_parts", category="gaer")


HEADER = "object,split,label,image,mask\n"
NORMAL_0 = "candle/Data/Images/Normal/0000.JPG"
VISA_FAULTS = [
    (None, {"protocol": "2cls_few"}, "`protocol` must be one of 1cls, .*got '2cls_few'. Did you mean '2cls_fewshot'"),
    (None, {"category": "pcb5"}, "got 'pcb5'. Did you mean 'pcb"),
    (None, {"category": "fryum"}, "Category 'fryum' must hold pictures, got no row in"),
    (
        lambda r, t: (r / NORMAL_0).rename(r / "candle" / "part"),
        {},
        "must exist, got 1 of 20 missing: .*0000.JPG'. Unpack the whole archive",
    ),
    (lambda r, t: change_file(t, "object,split", "item,split"), {}, "must have the columns object, .*Missing: object"),
    (lambda r, t: change_file(t, NORMAL_0, "../1.JPG"), {}, "must stay inside the data folder, got '../1.JPG'"),
    (
        lambda r, t: t.write_text(f"{HEADER}candle,test,broken,{NORMAL_0},\n"),
        {},
        "`label` must be normal or anomaly .*got 'broken'",
    ),
    (
        lambda r, t: t.write_text(f"{HEADER}candle,test,anomaly,{NORMAL_0},\n"),
        {},
        "Every anomalous picture must have a mask, got none for 'candle",
    ),
    (lambda r, t: t.unlink(), {}, "must hold 'split_csv/1cls.csv'"),
]


@pytest.mark.parametrize(("change", "options", "message"), VISA_FAULTS, ids=[row[2][-20:] for row in VISA_FAULTS])
def test_a_broken_visa_tree_says_what_is_wrong(tmp_path, change, options, message):
    root = draw_visa(tmp_path / "visa")
    if change is not None:
        change(root, root / "split_csv" / "1cls.csv")
    refused(root, message, "visa", (ValueError, FileNotFoundError), **options)


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


def test_broken_crack_forest_trees_say_what_is_wrong(tmp_path):
    import scipy.io

    root = DRAWN["crack_forest"](tmp_path / "cfd")
    refused(root, "`category` must be one of road, got 'roads'", "crack_forest", category="roads")
    truth = {"groundTruth": {"Segmentation": np.full((4, 4), 2), "Boundaries": np.zeros((4, 4))}}
    scipy.io.savemat(root / "groundTruth" / "001.mat", truth)
    refused(root, r"got \(4, 4\) for a picture of \(24, 32\).*001.mat", "crack_forest")
    scipy.io.savemat(root / "groundTruth" / "001.mat", {"other": 1})
    refused(root, "must be a MATLAB file with groundTruth.Segmentation, got .*001.mat' .KeyError", "crack_forest")
    (root / "image" / "001.jpg").unlink()
    refused(root, "Every mask must have its picture, got .*001.mat' but no picture '001'", "crack_forest")
    message = "must hold pictures in 'image' and .mat files in 'groundTruth', got 0 and 0"
    refused(tmp_path, message, "crack_forest", FileNotFoundError)


# Files


def test_several_masks_of_a_picture_are_one(tmp_path):
    draw_mask(tmp_path / "a.png", blob(1, 1), value=1)
    draw_mask(tmp_path / "b.png", blob(9, 9), value=100)
    np.testing.assert_array_equal(read_mask([tmp_path / "a.png", tmp_path / "b.png"]), blob(1, 1) | blob(9, 9))
    draw_mask(tmp_path / "c.png", blob(1, 1, (8, 8)))
    with pytest.raises(ValueError, match=r"must have one size, got \(24, 32\) and \(8, 8\)"):
        read_mask([tmp_path / "a.png", tmp_path / "c.png"])
    with pytest.raises(ValueError, match="must name at least one mask file, got none"):
        read_mask([])


def test_equal_files_have_equal_digests_and_paths_stay_inside(tmp_path):
    for name, content in (("a", b"x" * 3_000_000), ("b", b"x" * 3_000_000), ("c", b"x" * 2_999_999 + b"y")):
        (tmp_path / name).write_bytes(content)
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b") != content_digest(tmp_path / "c")
    assert resolve_inside("/data", "a\\b.png", "here").as_posix() == "/data/a/b.png"
    assert closest("nothing like it", ["bottle"]) == ""


TABLE = "file_name;defect_type\r\nTeil 1.png;Öl, außen\r\n"


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode("cp1252"),
        TABLE.encode("utf-16"),
        b"\xfe\xff" + TABLE.encode("utf-16-be"),
        TABLE.encode("utf-8-sig"),
        b"sep=;\r\n" + TABLE.encode(),
        TABLE.replace(";", "\t").encode(),
        'file_name,defect_type\nTeil 1.png,"Öl, außen"\n'.encode(),
    ],
)
def test_tables_of_excel_are_read(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    (row,) = read_table(tmp_path / "t.csv", ("file_name",))
    assert row[1] == {"file_name": "Teil 1.png", "defect_type": "Öl, außen"}


def test_what_is_no_table_says_how_to_save_it(tmp_path):
    for content in (b"PK\x03\x04\0\0\0\0", TABLE.encode("utf-16-le"), b"\xff\xfe\x00\xd8"):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(ValueError, match="must be a table of text. Save it as CSV UTF-8"):
            read_table(tmp_path / "t.csv")


# Real files


@pytest.mark.real_data
def test_the_real_grid_is_read_as_its_files_are(real_data):
    dataset = load_anomaly_dataset("mvtec_ad", real_data / "mvtec_ad", category="grid")
    assert [len(dataset["train"]), len(dataset["test"])] == [7, 14]
    masked = [row for row in dataset["test"] if row["mask"] is not None]
    assert len(masked) == 11
    for row in masked:
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
    ],
)
def test_real_photographs_have_the_counts_they_are_said_to_have(real_data, name, train, normal, defective, masks):
    builder = AnomalyFolder(data_dir=real_data / "inspection" / name)
    builder.download_and_prepare()
    test = builder.as_dataset(split="test")
    assert len(builder.as_dataset(split="train")) == train
    assert (test["label"].count(0), test["label"].count(1)) == (normal, defective)
    assert sum(row["mask"] is not None for row in test) == masks
