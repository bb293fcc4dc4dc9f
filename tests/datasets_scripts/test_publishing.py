"""From a loaded data set to parquet files and a data card that need none of this code."""

import datasets
import pytest

from datasets_scripts.loading import load_anomaly_dataset
from datasets_scripts.publishing import data_card, save_parquet

from ..dataset_checks import facts, make_private_cache  # noqa: F401 (fixtures)
from ..drawn_trees import draw_crack_forest, draw_loco, draw_mvtec, draw_visa

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def mvtec(tmp_path):
    return draw_mvtec(tmp_path / "mvtec")


def test_a_saved_folder_is_read_by_plain_load_dataset(mvtec, tmp_path):
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    expected = {split: [facts(row) for row in rows] for split, rows in dataset.items()}
    files = save_parquet(dataset, tmp_path / "hub", "mvtec_ad")
    names = [f"{split}-00000-of-00001.parquet" for split in ("train", "test")]
    assert [file.name for file in files] == [*names, "README.md"]
    mvtec.rename(tmp_path / "moved")  # the pictures travel inside
    for streaming in (False, True):
        loaded = datasets.load_dataset(str(tmp_path / "hub"), streaming=streaming)
        assert {split: [facts(row) for row in rows] for split, rows in loaded.items()} == expected
        assert loaded["train"].features == dataset["train"].features


def test_large_splits_are_saved_in_several_files(mvtec, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets_scripts.publishing._ROWS_PER_GROUP", 4)
    dataset = load_anomaly_dataset("mvtec_ad", mvtec)
    files = save_parquet(dataset, tmp_path / "hub", "mvtec_ad", max_shard_bytes=10)
    assert [file.name for file in files if "test" in file.name] == [f"test-0000{n}-of-00003.parquet" for n in range(3)]
    assert datasets.load_dataset(str(tmp_path / "hub"), split="test")["image_id"][:] == dataset["test"]["image_id"][:]


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
