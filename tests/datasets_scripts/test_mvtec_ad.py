"""The MVTec builder and what all share: schema, streams, nodes, cache, checks; and (where named) real files."""

import os
import warnings

import numpy as np
import pytest
from datasets.distributed import split_dataset_by_node
from PIL import Image

from datasets_scripts.anomaly_folder import AnomalyFolder
from datasets_scripts.loading import DATASET_NAMES, load_anomaly_dataset, load_builder
from datasets_scripts.mvtec_ad import MVTEC_AD_CATEGORIES, MVTecAD

from ..dataset_checks import facts, make_mvtec, make_private_cache, mask_of, refused  # noqa: F401 (fixtures)
from ..drawn_trees import SIZE, blob, draw_crack_forest, draw_loco, draw_mask, draw_mvtec, draw_picture, draw_visa

pytestmark = pytest.mark.usefixtures("private_cache")

COLUMNS = ["image", "mask", "label", "category", "defect_type", "image_id", "split"]


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


# ---------------------------------------------------------------- broken trees


def broken(data_dir, message, error=ValueError, **options):
    refused(data_dir, message, "mvtec_ad", error, **options)


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
    broken(mvtec, "must be a picture, .*train/good/001.png' is none", category="grid")


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


def test_unknown_names_and_options_name_the_closest(mvtec):
    with pytest.raises(ValueError, match="`name` must be one of mvtec_ad, .*got 'mvtec'. Did you mean 'mvtec_ad'"):
        load_anomaly_dataset("mvtec", mvtec)
    with pytest.raises(ValueError, match="Options of 'visa' must be among .*got 'protokol'. Did you mean 'protocol'"):
        load_anomaly_dataset("visa", mvtec, protokol="1cls")
    with pytest.raises(ValueError, match="got 'gaer'. Did you mean 'gear'"):
        load_anomaly_dataset("rendered_parts", category="gaer")
    with pytest.raises(ValueError, match="must be one of .there is none., got 'cat'. 'conversations' knows no others"):
        load_anomaly_dataset("conversations", mvtec, category="cat")
    with pytest.raises(ValueError, match="validation"):
        load_anomaly_dataset("mvtec_ad", mvtec, split="validation")
    assert "rendered_parts" in DATASET_NAMES


def test_rendered_parts_load_by_name_without_a_folder():
    dataset = load_anomaly_dataset("rendered_parts", category="gear", num_train=2, num_test=2, size=64)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 2, "test": 2}
    assert dataset["train"].column_names == COLUMNS
    assert set(dataset["test"]["category"]) == {"gear"}


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
