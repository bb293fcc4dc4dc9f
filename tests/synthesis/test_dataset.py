"""The data set wrapper: rows are a function of seed, epoch and index, however they are read."""

import pickle

import datasets
import numpy as np
import pytest
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from datasets_scripts.loading import load_anomaly_dataset
from modeling_anomalygpt.synthesis.dataset import with_synthetic_anomalies
from modeling_anomalygpt.synthesis.synthesizer import SyntheticAnomaly, cut_paste, nsa


def marking(image, source, rng, category=None):
    """A method whose result tells what it was given: the source's colour in a corner, a random size."""
    side = int(rng.integers(3, 12))
    result = image.copy()
    result[:side, :side] = source[-1, -1]
    mask = np.zeros(image.shape[:2], bool)
    mask[:side, :side] = True
    return SyntheticAnomaly(result, mask, mask.astype(np.float32), [mask], f"mark on {category}")


def rows(count=12):
    """Plain pictures, picture i of grey level 10 + i; every fourth of another category, the last one anomalous."""
    made = []
    for index in range(count):
        made.append(
            {
                "image": Image.new("RGB", (48, 40), (10 + index,) * 3),
                "mask": None,
                "label": int(index == count - 1),
                "category": "tile" if index % 4 == 0 else "nut",
                "defect_type": "dent" if index == count - 1 else "good",
                "image_id": f"picture {index}",
                "split": "train",
            }
        )
    return made


@pytest.fixture(scope="module")
def table():
    features = datasets.Features(
        {
            "image": datasets.Image(mode="RGB"),
            "mask": datasets.Image(mode="L"),
            "label": datasets.ClassLabel(names=["normal", "anomalous"]),
            **{name: datasets.Value("string") for name in ("category", "defect_type", "image_id", "split")},
        }
    )
    return datasets.Dataset.from_list(rows(), features=features)


def described(row):
    return np.asarray(row["image"]).tobytes(), row["label"], row["defect_type"]


def identity(batch):
    return batch


def test_changed_rows_carry_the_anomaly_and_what_is_known_of_it(table):
    row = with_synthetic_anomalies(table, marking, seed=1, anomalous_share=1.0)[1]
    mask = np.asarray(row["mask"])
    assert (row["label"], row["defect_type"], row["category"]) == (1, "mark on nut", "nut")
    assert (row["image_id"], row["split"]) == ("picture 1", "train")
    assert (row["image"].mode, row["mask"].mode, row["image"].size, row["mask"].size) == (
        "RGB",
        "L",
        (48, 40),
        (48, 40),
    )
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(row["regions"][0], mask > 0)
    np.testing.assert_array_equal(row["intensity"] > 0.3, mask > 0)
    assert row["normal_image"].getpixel((0, 0)) == (11, 11, 11)
    assert row["image"].getpixel((0, 0)) != (11, 11, 11)


def test_rows_left_normal_have_a_mask_of_zeros(table):
    row = with_synthetic_anomalies(table, marking, anomalous_share=0.0)[2]
    assert (row["label"], row["defect_type"], row["regions"]) == (0, "good", [])
    assert np.asarray(row["mask"]).max() == 0
    assert row["intensity"].shape == (40, 48)
    assert described(row)[0] == np.asarray(row["normal_image"]).tobytes()


def test_rows_with_a_real_anomaly_pass_unchanged(table):
    row = with_synthetic_anomalies(table, marking, anomalous_share=1.0)[11]
    assert (row["label"], row["defect_type"], row["mask"], row["normal_image"]) == (1, "dent", None, None)
    assert row["image"].getpixel((0, 0)) == (21, 21, 21)


def test_sources_are_the_other_normal_pictures_of_the_category(table):
    made = with_synthetic_anomalies(table, marking, seed=3, anomalous_share=1.0)
    seen = {index: set() for index in (0, 1)}
    for epoch in range(60):
        made.set_epoch(epoch)
        for index in seen:
            seen[index].add(made[index]["image"].getpixel((0, 0))[0] - 10)
    assert seen == {0: {4, 8}, 1: {2, 3, 5, 6, 7, 9, 10}}


def test_a_picture_without_company_is_its_own_source():
    made = with_synthetic_anomalies(rows(1)[:1], cut_paste, anomalous_share=1.0)
    assert len(made) == 1
    alone = [{"image": Image.effect_noise((48, 48), 90), "category": "tile"}]
    assert with_synthetic_anomalies(alone, nsa, anomalous_share=1.0)[0]["label"] == 1


def test_rows_depend_on_seed_epoch_and_index_alone(table):
    made = with_synthetic_anomalies(table, marking, seed=5)
    first = [described(made[index]) for index in range(len(made))]
    again = with_synthetic_anomalies(table, marking, seed=5)
    assert [described(again[index]) for index in reversed(range(12))][::-1] == first
    again.set_epoch(1)
    assert [described(again[index]) for index in range(12)] != first
    again.set_epoch(0)
    assert [described(again[index]) for index in range(12)] == first
    other = with_synthetic_anomalies(table, marking, seed=6)
    assert [described(other[index]) for index in range(12)] != first
    assert described(made[-3]) == first[9]
    assert described(made[np.int64(4)]) == first[4]
    copied = pickle.loads(pickle.dumps(made))
    assert [described(copied[index]) for index in range(12)] == first


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_anomalous_rows_is_the_one_asked_for(share):
    pictures = with_synthetic_anomalies(rows(11)[:10], marking, anomalous_share=share)
    labels = []
    for epoch in range(50):
        pictures.set_epoch(epoch)
        labels += [pictures[index]["label"] for index in range(10)]
    assert np.mean(labels) == pytest.approx(share, abs=0.07)


def test_workers_that_stay_alive_follow_the_epoch_and_give_the_same_rows(table):
    made = with_synthetic_anomalies(table, marking, seed=2)
    loader = torch.utils.data.DataLoader(
        made, batch_size=4, num_workers=2, persistent_workers=True, collate_fn=identity
    )
    for epoch in (0, 3):
        made.set_epoch(epoch)
        loaded = [described(row) for batch in loader for row in batch]
        assert loaded == [described(made[index]) for index in range(12)]


def test_streams_give_the_same_rows_each_time_and_other_rows_each_epoch(table):
    made = with_synthetic_anomalies(table.to_iterable_dataset(), marking, seed=4)
    first = [described(row) for row in made]
    assert len(first) == 12
    assert [described(row) for row in made] == first
    made.set_epoch(1)
    assert [described(row) for row in made] != first


def test_streams_draw_by_image_id_whatever_the_order(table):
    def sizes(stream):
        made = with_synthetic_anomalies(stream, marking, seed=4, anomalous_share=1.0)
        return {row["image_id"]: int(np.asarray(row["mask"]).astype(bool).sum()) for row in made if row["regions"]}

    ordered = sizes(table.to_iterable_dataset())
    assert len(ordered) == 11
    shuffled = sizes(table.to_iterable_dataset(num_shards=3).shuffle(seed=3, buffer_size=5))
    # The size is the method's first draw; one draw for the share and at most one for the source come before it.
    assert set(shuffled) == set(ordered)
    assert sum(shuffled[name] == ordered[name] for name in ordered) >= 8


def test_streams_are_dealt_out_to_workers_without_loss_or_repetition(table):
    made = with_synthetic_anomalies(table.to_iterable_dataset(num_shards=4), marking, anomalous_share=1.0)
    loader = torch.utils.data.DataLoader(made, batch_size=None, num_workers=2)
    names = sorted(row["image_id"] for row in loader)
    assert names == sorted(table["image_id"])


def test_a_streaming_builder_may_be_shuffled_and_split_before(tmp_path):
    def stream(rank):
        parts = load_anomaly_dataset(
            "rendered_parts", category="gear", split="train", streaming=True, num_train=4, size=64, cache_dir=tmp_path
        )
        shuffled = parts.shuffle(seed=1, buffer_size=3)
        return with_synthetic_anomalies(split_dataset_by_node(shuffled, rank, 2), cut_paste, anomalous_share=1.0)

    rows = [row for rank in range(2) for row in stream(rank)]
    assert len({row["image_id"] for row in rows}) == 4
    assert all(row["label"] == 1 and np.asarray(row["mask"]).any() for row in rows)


def test_streams_pass_the_epoch_on_to_their_shuffling(table):
    made = with_synthetic_anomalies(
        table.to_iterable_dataset(num_shards=6).shuffle(seed=0, buffer_size=12), marking, anomalous_share=0.0
    )
    orders = []
    for epoch in (0, 1):
        made.set_epoch(epoch)
        orders.append([row["image_id"] for row in made])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_large_pictures_are_shrunk_first_and_small_ones_are_not():
    large = [{"image": Image.effect_noise((300, 200), 80)}, {"image": Image.effect_noise((64, 90), 80)}]
    made = with_synthetic_anomalies(large, cut_paste, short_side=100)
    assert made[0]["image"].size == made[0]["mask"].size == (150, 100)
    assert made[1]["image"].size == (64, 90)


def test_the_data_set_itself_is_not_modified():
    plain = rows(4)
    before = [dict(row) for row in plain]
    made = with_synthetic_anomalies(plain, marking, anomalous_share=1.0)
    assert made[0]["label"] == 1
    assert plain == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": -1}, "`seed` must not be negative, got -1. Use 0"),
        ({"anomalous_share": 1.5}, r"`anomalous_share` must be in \[0, 1\], got 1.5. It is"),
        ({"short_side": 16}, "`short_side` must be at least 32 pixels, got 16. Use"),
    ],
)
def test_wrong_options_are_refused_by_name(options, text):
    with pytest.raises(ValueError, match=text):
        with_synthetic_anomalies(rows(2), marking, **options)


def test_epochs_and_indices_outside_their_range_are_refused():
    made = with_synthetic_anomalies(rows(4), marking)
    with pytest.raises(ValueError, match="`epoch` must not be negative, got -2. Count"):
        made.set_epoch(-2)
    with pytest.raises(IndexError, match=r"`index` must be in \[0, 4\), got 4"):
        made[4]
