"""The fingerprint of a split follows its contents, not its cache, its folder or its machine."""

import shutil

import datasets

from datasets_scripts import load_anomaly_dataset
from modeling_anomalygpt.data.fingerprint import PICTURES_READ, split_fingerprint
from tests.inspection_rows import conversation_rows, grey_picture, inspection_rows


def folder_of_pictures(root):
    for name in ("train/good/a", "train/good/b", "test/good/c", "test/dent/d"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey_picture(ord(name[-1])).save(path)
    return root


def test_another_folder_and_another_cache_give_the_same_name_and_a_changed_picture_another(tmp_path):
    first = folder_of_pictures(tmp_path / "one" / "part")
    second = tmp_path / "elsewhere" / "part"
    shutil.copytree(first, second)

    def name(root, cache):
        return split_fingerprint(
            load_anomaly_dataset("anomaly_folder", root, split="train", cache_dir=tmp_path / cache)
        )

    before = name(first, "cache1")
    assert name(second, "cache2") == before
    assert len(before) == 16
    grey_picture(3).save(first / "train/good/a.png")
    assert name(first, "cache1") != before


def test_rows_labels_order_and_words_enter():
    rows = inspection_rows(3, 1)
    names = {
        split_fingerprint(rows),
        split_fingerprint(rows.select([0, 1, 2])),
        split_fingerprint(rows.select([1, 0, 2, 3])),
        split_fingerprint(rows.map(lambda row: {"label": 0})),
        split_fingerprint(rows.map(lambda row: {"defect_type": "dent"})),
        split_fingerprint(rows.map(lambda row: {"mask": None})),
        split_fingerprint(conversation_rows(3)),
        split_fingerprint(conversation_rows(3).map(lambda row: {"messages": row["messages"] * 2})),
    }
    assert len(names) == 8
    assert split_fingerprint(rows) == split_fingerprint(inspection_rows(3, 1))


def test_large_sets_are_read_in_part():
    count = PICTURES_READ * 2
    features = datasets.Features({"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    stored = [{"bytes": str(index).encode(), "path": None} for index in range(count)]

    def name(changed):
        rows = [dict(one) for one in stored]
        if changed is not None:
            rows[changed]["bytes"] = b"other"
        return split_fingerprint(datasets.Dataset.from_dict({"image": rows}, features=features))

    assert name(0) != name(None) != name(count - 1)
    assert sum(name(index) == name(None) for index in (1, 3, 5)) >= 1
