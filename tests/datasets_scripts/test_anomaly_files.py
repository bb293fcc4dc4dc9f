"""Masks, sizes, paths and digests of files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.anomaly_files import closest, content_digest, read_mask, resolve_inside
from modeling_anomalygpt.images import picture_size

from ..drawn_trees import SIZE, blob, draw_mask


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
    with pytest.raises(ValueError, match="must be a picture, .*c.png' is none"):
        read_mask([tmp_path / "c.png"])


def test_the_size_of_a_picture_follows_its_orientation(tmp_path):
    picture = Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8))
    for suffix in ("jpg", "png", "tif", "webp"):
        for orientation, size in ((1, SIZE), (3, SIZE), (6, SIZE[::-1]), (8, SIZE[::-1])):
            exif = Image.Exif()
            exif[0x0112] = orientation
            picture.save(tmp_path / f"p.{suffix}", exif=exif)
            assert picture_size(tmp_path / f"p.{suffix}") == size, (suffix, orientation)


def test_equal_files_have_equal_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c").write_bytes(b"x" * 2_999_999 + b"y")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b") != content_digest(tmp_path / "c")


def test_paths_inside_stay_as_they_are():
    assert resolve_inside("/data", "a\\b.png", "here") == Path("/data/a/b.png")
    assert closest("nothing like it", ["bottle"]) == ""
