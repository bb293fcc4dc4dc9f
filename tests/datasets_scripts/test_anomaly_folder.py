"""Own pictures: every layout that is read, pictures and masks as they really come, every fault that is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.loading import load_anomaly_dataset

from ..dataset_checks import make_private_cache, mask_of, refused  # noqa: F401 (fixtures)
from ..drawn_trees import SIZE, blob, draw_mask, draw_mvtec, draw_picture

pytestmark = pytest.mark.usefixtures("private_cache")


def load(root, split=None, **options):
    return load_anomaly_dataset("anomaly_folder", root, split=split, **options)


# Folders


def test_own_folders_take_any_category_and_defects_without_masks(tmp_path):
    root = draw_mvtec(tmp_path / "own", {"M8 bolt": ("bent", "rusty"), "Gehäuse": ("crack",)})
    for mask in (root / "M8 bolt" / "ground_truth").rglob("*.png"):
        mask.unlink()
    rows = load(root, "test")
    assert set(rows["category"]) == {"M8 bolt", "Gehäuse"}
    assert {row["category"] for row in rows if row["mask"] is not None} == {"Gehäuse"}
    assert len(load(root, "test", category="M8 bolt")) == 6


def test_one_category_takes_the_name_of_its_folder_or_the_one_given(tmp_path, monkeypatch):
    root = draw_mvtec(tmp_path, {"bolt": ("bent",)}) / "bolt"
    assert set(load(root, "test")["category"]) == {"bolt"}
    assert set(load(root, "test", category="hex bolt")["category"]) == {"hex bolt"}
    monkeypatch.chdir(root / "train")
    assert set(load("..", "test")["category"]) == {"bolt"}


def test_defects_alone_unlabelled_pictures_and_every_name_of_normal_are_understood(tmp_path):
    root = tmp_path / "bolt"
    for name in ("test/bent/1.png", "test/2.png", "train/good/3.png", "train/Normal/4.png", "train/OK/5.avif"):
        draw_picture(root / name)
    rows = {row["image_id"]: (row["label"], row["defect_type"]) for split in load(root).values() for row in split}
    assert rows == {
        "test/bent/1.png": (1, "bent"),
        "test/2.png": (None, None),
        "train/good/3.png": (0, "good"),
        "train/Normal/4.png": (0, "good"),
        "train/OK/5.avif": (0, "good"),
    }


def test_masks_may_have_the_picture_name_several_files_or_be_shapes_of_labelme(tmp_path):
    root = tmp_path / "bolt"
    for stem in ("a", "b", "c_mask", "d", "e"):
        draw_picture(root / "test" / "bent" / f"{stem}.jpg")
    truth = root / "ground_truth" / "bent"
    draw_mask(truth / "a.png", blob(1, 1), value=64)
    draw_mask(truth / "b" / "0.png", blob(2, 2))
    draw_mask(truth / "b" / "1.png", blob(9, 9), value=2)
    draw_mask(truth / "c_mask.png", blob(3, 3))
    corners = {"shape_type": "rectangle", "points": [[4, 4], [7, 7]]}
    shapes = json.dumps({"imageHeight": SIZE[0], "imageWidth": SIZE[1], "shapes": [corners]})
    (truth / "d.json").write_text(shapes)
    (root / "test" / "bent" / "e.json").write_text(shapes)
    masks = {Path(row["image_id"]).stem: mask_of(row) > 0 for row in load(root, "test")}
    wanted = {"a": blob(1, 1), "b": blob(2, 2) | blob(9, 9), "c_mask": blob(3, 3), "d": blob(4, 4), "e": blob(4, 4)}
    for stem, mask in wanted.items():
        np.testing.assert_array_equal(masks[stem], mask, err_msg=stem)
    (root / "test" / "bent" / "e.json").write_text('{"annotations": []}')
    refused(root, "must be a file of labelme .*e.json' is none", "anomaly_folder")


def test_what_marks_nothing_or_fits_two_pictures_is_refused(tmp_path):
    draw_picture(tmp_path / "bolt" / "test" / "bent" / "1.png")
    mask = draw_mask(tmp_path / "bolt" / "ground_truth" / "bent" / "1.png", blob(1, 1) & False)
    with pytest.warns(UserWarning, match="empty one: .*1.png.*It counts as a picture without a mask"):
        (row,) = load(tmp_path / "bolt", "test")
    assert (row["label"], row["mask"]) == (1, None)
    draw_mask(mask, blob(1, 1))
    draw_picture(tmp_path / "bolt" / "train" / "bent" / "1.png")
    refused(tmp_path / "bolt", "A mask must fit one picture, got", "anomaly_folder")


def test_an_unknown_layout_shows_what_is_there_and_what_is_expected(tmp_path):
    draw_picture(tmp_path / "set" / "tests" / "1.png")
    message = "in a layout known here, got 'tests' in .*Expected layout: .*train/good.*metadata.jsonl/csv with"
    refused(tmp_path / "set", message, "anomaly_folder", FileNotFoundError)
    draw_mvtec(tmp_path / "set", {"bolt": ("bent",)})
    with pytest.warns(UserWarning, match="are not read: tests"):
        load(tmp_path / "set")
    refused(tmp_path / "set", "`category` must be one of bolt, got 'bold'. Did you", "anomaly_folder", category="bold")


# Pictures that not every program shows alike


def test_deep_pictures_are_scaled_by_the_depth_of_the_training_pictures(tmp_path):
    levels = {"train/good/1.png": 4000, "train/good/2.png": 900, "test/good/1.png": 2048, "test/good/2.png": 60000}
    for name, level in levels.items():
        path = tmp_path / "weld" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full(SIZE, level, np.uint16)).save(path)
    for streaming in (False, True):
        rows = [row for split in load(tmp_path / "weld", streaming=streaming).values() for row in split]
        shown = {row["image_id"]: row["image"].getpixel((0, 0))[0] for row in rows}
        assert shown == {name: min(round(level / 4095 * 255), 255) for name, level in levels.items()}


def test_each_page_is_a_row_with_its_own_mask_and_cut_outs_are_blended(tmp_path):
    pages = [Image.fromarray(np.full(SIZE, level, np.uint8)) for level in (40, 80)]
    masks = [Image.fromarray(blob(row, 3)) for row in (2, 9)]
    for path, images in (("test/bent/s.tif", pages), ("ground_truth/bent/s_mask.tif", masks)):
        (tmp_path / "bolt" / path).parent.mkdir(parents=True, exist_ok=True)
        images[0].save(tmp_path / "bolt" / path, save_all=True, append_images=images[1:])
    cut = np.full((*SIZE, 4), 90, np.uint8)
    cut[:12, :, 3] = 0
    Image.fromarray(cut).save(tmp_path / "bolt" / "test" / "cut.png")
    rows = {row["image_id"]: row for row in load(tmp_path / "bolt", "test")}
    for page, level, place in ((1, 40, 2), (2, 80, 9)):
        row = rows[f"test/bent/s.tif#page={page}"]
        assert row["image"].getpixel((5, 5)) == (level,) * 3
        np.testing.assert_array_equal(mask_of(row) > 0, blob(place, 3))
    assert rows["test/cut.png"]["image"].getpixel((0, 0)) == (128, 128, 128)


# Metadata


def write_metadata(root: Path, rows: list[dict], kind: str, encoding: str = "utf-8-sig", comma: str = ",") -> None:
    root.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [comma.join(columns)] + [comma.join(str(row.get(column, "")) for column in columns) for row in rows]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n", encoding=encoding)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "excel"])
def test_metadata_gives_what_its_rows_say_and_infers_what_it_can(tmp_path, kind):
    root = tmp_path / "own"
    for index in range(6):
        draw_picture(root / "pictures" / f"{index}.png")
    draw_mask(root / "masks" / "2.png", blob(7, 7))
    draw_mask(root / "masks" / "3.png", blob(0, 0) & False)
    rows = [
        {"file_name": "pictures/0.png", "label": "normal", "category": "Mütze", "split": "train"},
        {"file_name": "pictures/1.png", "label": 1, "category": "Mütze", "defect_type": "bent", "split": "test"},
        {"file_name": "pictures/2.png", "mask_file_name": "masks/2.png", "category": "nut", "split": "test"},
        {"file_name": "pictures/3.png", "mask_file_name": "masks/3.png", "split": "val"},
        {"file_name": "pictures/4.png", "defect_type": "rust"},
        {"file_name": "pictures/5.png"},
    ]
    write_metadata(root, rows, kind, *(("cp1252", ";") if kind == "excel" else ()))
    found = {
        row["image_id"][9]: (row["label"], row["category"], row["defect_type"], row["split"], row["mask"] is not None)
        for split in load(root).values()
        for row in split
    }
    assert found == {
        "0": (0, "Mütze", "good", "train", False),
        "1": (1, "Mütze", "bent", "test", False),
        "2": (1, "nut", None, "test", True),
        "3": (0, "own", "good", "validation", True),
        "4": (1, "own", "rust", "train", False),
        "5": (None, "own", None, "train", False),
    }
    np.testing.assert_array_equal(mask_of(load(root, "test", category="nut")[0]), blob(7, 7) * 255)


def test_metadata_may_list_several_masks_and_pages(tmp_path):
    draw_picture(tmp_path / "own" / "1.png")
    draw_mask(tmp_path / "own" / "a.png", blob(1, 1))
    draw_mask(tmp_path / "own" / "b.png", blob(9, 9))
    pages = [Image.fromarray(np.full(SIZE, level, np.uint8)) for level in (40, 80)]
    pages[0].save(tmp_path / "own" / "s.tif", save_all=True, append_images=pages[1:])
    rows = [{"file_name": "1.png", "mask_file_name": ["a.png", "b.png"]}, {"file_name": "s.tif"}]
    write_metadata(tmp_path / "own", rows, "jsonl")
    found = load(tmp_path / "own", "train")
    assert found["image_id"][:] == ["1.png", "s.tif#page=1", "s.tif#page=2"]
    np.testing.assert_array_equal(mask_of(found[0]), (blob(1, 1) | blob(9, 9)) * 255)
    write_metadata(tmp_path / "own", [{"file_name": "s.tif", "mask_file_name": "a.png"}], "jsonl")
    refused(tmp_path / "own", "A mask must fit one page, got 2 .*Name .*s.tif#page=1' and so on", "anomaly_folder")


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
        ({"file_name": "2.png", "split": "tset"}, "must be train, validation or test, got 'tset'.*mean 'test'"),
        ({"file_name": "1.png"}, "named once, got '1.png' in metadata.jsonl, line 1 and metadata.jsonl, line 2"),
        ({"file_name": "9.png"}, "must exist, got 1 of 2 missing: .*9.png"),
        ({"file_name": "2.png", "mask_file_name": 3}, "`mask_file_name` must be a path or a list of paths, got 3"),
        ({"file_name": "2.png", "label": 0, "mask_file_name": "m.png"}, "mask of a normal picture must be empty"),
        ({"file_name": "2.png", "label": 1, "mask_file_name": "empty.png"}, "must mark something, got an empty one"),
    ],
)
def test_bad_metadata_rows_are_refused_with_their_line(tmp_path, row, message):
    root = tmp_path / "own"
    draw_picture(root / "1.png")
    draw_picture(root / "2.png")
    draw_mask(root / "m.png", blob(1, 1))
    draw_mask(root / "empty.png", blob(1, 1) & False)
    write_metadata(root, [{"file_name": "1.png"}, row], "jsonl")
    refused(root, message, "anomaly_folder", (ValueError, FileNotFoundError))


def test_bad_metadata_files_are_refused(tmp_path):
    root = tmp_path / "own"
    draw_picture(root / "1.png")
    for name in ("metadata.csv", "metadata.jsonl"):
        (root / name).write_text("")
    refused(root, "must hold one metadata file, got two", "anomaly_folder")
    (root / "metadata.csv").unlink()
    for text, message in (
        ('{"file_name": "1.png"}\n{"file_name": \n', r"Lines must be JSON objects, got .*metadata.jsonl, line 2"),
        ("\n", "must name at least one picture, got none"),
    ):
        (root / "metadata.jsonl").write_text(text)
        refused(root, message, "anomaly_folder")
    (root / "metadata.jsonl").write_text('{"file_name": "1.png", "lable": "normal"}\n')
    with pytest.warns(UserWarning, match="are not read: lable Did you mean 'label'"):
        load(root)
    (root / "metadata.jsonl").unlink()
    (root / "metadata.csv").write_text("file_name,defect_type\n1.png,scratch, deep\n")
    refused(root, r"as many cells as the header, got more \(metadata.csv, line 2\)", "anomaly_folder")
    (root / "metadata.csv").write_bytes("file_name\nß.png\n".encode("cp437"))
    refused(root, "missing.* If letters are wrong, save the table as CSV UTF-8", "anomaly_folder", FileNotFoundError)
