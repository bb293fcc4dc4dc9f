"""The data set wrapper: rows are a function of seed, epoch and index, however they are read."""

import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt.synthesis.dataset import with_synthetic_anomalies
from modeling_anomalygpt.synthesis.synthesizer import SyntheticAnomaly, cut_paste, nsa
from tests.inspection_rows import SCHEMA, inspection_rows


def marking(image, source, rng, category=None):
    """A method whose result tells what it was given: the source's colour in a corner, a random size."""
    side = int(rng.integers(3, 12))
    result = image.copy()
    result[:side, :side] = source[-1, -1]  # the top left quarter of the pictures is white
    mask = np.zeros(image.shape[:2], bool)
    mask[:side, :side] = True
    return SyntheticAnomaly(result, mask, mask.astype(np.float32), [mask], f"mark on {category}")


def rows(count=12):
    """Picture i of grey level 10 + i; the first three of another category, the last one anomalous."""
    parts = [inspection_rows(3, 0, "tile"), inspection_rows(count - 4, 1, "nut", 13, masks=False)]
    return list(datasets.concatenate_datasets(parts))


@pytest.fixture(scope="module")
def table():
    return datasets.Dataset.from_list(rows(), features=SCHEMA)


def described(row):
    return np.asarray(row["image"]).tobytes(), row["label"], row["defect_type"]


def identity(batch):
    return batch


def test_changed_rows_carry_the_anomaly_and_what_is_known_of_it(table):
    row = with_synthetic_anomalies(table, marking, seed=1, anomalous_share=1.0)[4]
    mask = np.asarray(row["mask"])
    assert (row["label"], row["defect_type"], row["category"]) == (1, "mark on nut", "nut")
    assert (row["image_id"], row["split"]) == ("nut/1", "train")
    assert (row["image"].mode, row["mask"].mode, row["image"].size) == ("RGB", "L", row["mask"].size)
    assert set(np.unique(mask)) == {0, 255}
    np.testing.assert_array_equal(row["regions"][0], mask > 0)
    np.testing.assert_array_equal(row["intensity"] > 0.3, mask > 0)
    assert row["normal_image"].getpixel((0, 0)) == (255, 255, 255) != row["image"].getpixel((0, 0))


def test_rows_left_normal_have_a_mask_of_zeros_and_rows_with_a_real_anomaly_pass_unchanged(table):
    row = with_synthetic_anomalies(table, marking, anomalous_share=0.0)[2]
    assert (row["label"], row["defect_type"], row["regions"]) == (0, "good", [])
    assert not np.asarray(row["mask"]).any()
    assert not row["intensity"].any()
    assert described(row)[0] == np.asarray(row["normal_image"]).tobytes()
    row = with_synthetic_anomalies(table, marking, anomalous_share=1.0)[11]
    assert (row["label"], row["defect_type"], row["mask"], row["normal_image"]) == (1, "scratch", None, None)
    assert row["image"].getpixel((40, 30)) == (21, 21, 21)


def test_sources_are_the_other_normal_pictures_of_the_category_or_the_picture_itself(table):
    pictures = with_synthetic_anomalies(table, marking, seed=3, anomalous_share=1.0)
    seen = {index: set() for index in (0, 4)}
    for epoch in range(60):
        pictures.set_epoch(epoch)
        for index in seen:
            seen[index].add(pictures[index]["image"].getpixel((0, 0))[0] - 10)
    assert seen == {0: {1, 2}, 4: {3, 5, 6, 7, 8, 9, 10}}
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
    pictures = with_synthetic_anomalies(rows()[:10], marking, anomalous_share=share)
    labels = []
    for epoch in range(50):
        pictures.set_epoch(epoch)
        labels += [pictures[index]["label"] for index in range(10)]
    assert np.mean(labels) == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize("kind", ["tables", "streams"])
def test_workers_that_stay_alive_follow_the_epoch_and_share_the_rows(table, kind):
    source = table if kind == "tables" else table.to_iterable_dataset(num_shards=4)
    pictures = with_synthetic_anomalies(source, marking, seed=2)
    loader = torch.utils.data.DataLoader(
        pictures, batch_size=4, num_workers=2, persistent_workers=True, collate_fn=identity
    )
    seen = []
    for epoch in (0, 3):
        pictures.set_epoch(epoch)
        seen.append([described(row) + (row["image_id"],) for batch in loader for row in batch])
        assert sorted(row[-1] for row in seen[-1]) == sorted(table["image_id"])
        if kind == "tables":
            assert [row[:-1] for row in seen[-1]] == [described(pictures[index]) for index in range(12)]
    assert seen[0] != seen[1]


def test_streams_draw_by_epoch_and_image_id_whatever_the_order(table):
    def sizes(stream, epoch=0):
        made = with_synthetic_anomalies(stream, marking, seed=4, anomalous_share=1.0)
        made.set_epoch(epoch)
        return {row["image_id"]: int(np.asarray(row["mask"]).astype(bool).sum()) for row in made if row["regions"]}

    ordered = sizes(table.to_iterable_dataset())
    assert len(ordered) == 11
    assert sizes(table.to_iterable_dataset()) == ordered != sizes(table.to_iterable_dataset(), epoch=1)
    shuffled = sizes(table.to_iterable_dataset(num_shards=3).shuffle(seed=3, buffer_size=5))
    # The size is the method's first draw; one draw for the share and at most one for the source come before it.
    assert set(shuffled) == set(ordered)
    assert sum(shuffled[name] == ordered[name] for name in ordered) >= 8


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
        with_synthetic_anomalies(rows()[:2], marking, **options)


def test_epochs_and_indices_outside_their_range_are_refused():
    made = with_synthetic_anomalies(rows()[:4], marking)
    with pytest.raises(ValueError, match="`epoch` must not be negative, got -2. Count"):
        made.set_epoch(-2)
    with pytest.raises(IndexError, match=r"`index` must be in \[0, 4\), got 4"):
        made[4]
