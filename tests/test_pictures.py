"""Opening pictures and masks: every mode and orientation, and one clear line for everything unusable."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt.image_processing_anomalygpt import GEOMETRIES, AnomalyGPTImageProcessor
from modeling_anomalygpt.images import PictureError, load_mask, load_picture
from tests.test_image_processing import gradient


def test_exif_orientations_are_honoured(tmp_path):
    upright = gradient(40, 60)
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright, 1), 8: np.rot90(upright, -1)}
    stored |= {
        2: upright[:, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
    }
    for orientation, pixels in stored.items():
        for suffix in ("png", "tiff"):
            path = tmp_path / f"{orientation}.{suffix}"
            image = Image.fromarray(np.ascontiguousarray(pixels))
            exif = image.getexif()
            exif[0x0112] = orientation
            image.save(path, exif=exif)
            once = load_picture(path)
            np.testing.assert_array_equal(np.asarray(once), upright, err_msg=path.name)
            np.testing.assert_array_equal(np.asarray(load_picture(once)), upright, err_msg=f"{path.name}, twice")
            np.testing.assert_array_equal(load_mask(path), upright.max(-1) / np.float32(255), err_msg=path.name)


def test_sixteen_bit_grey_is_scaled_by_its_range_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(ramp / 257).astype(np.uint8)
    for suffix in ("png", "tiff"):
        Image.fromarray(ramp).save(tmp_path / f"ramp.{suffix}")
        np.testing.assert_array_equal(np.asarray(load_picture(tmp_path / f"ramp.{suffix}"))[..., 0], expected)
    in_32_bits = Image.fromarray(ramp.astype(np.int32))
    assert in_32_bits.mode == "I"
    for picture in (in_32_bits, ramp, ramp / 65535):
        np.testing.assert_allclose(np.asarray(load_picture(picture)).astype(int)[..., 2], expected.astype(int), atol=1)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "F", "La", "RGBX"]
)
def test_every_mode_becomes_rgb_that_looks_alike(mode):
    grey = np.zeros((12, 12), np.uint8)
    grey[:, 6:] = 255
    source = Image.fromarray(grey).convert("RGB")
    if mode in ("PA", "RGBa", "La"):
        between = {"PA": "P", "RGBa": "RGBA", "La": "LA"}[mode]
        picture = source.convert("L").convert(between).convert(mode)
    else:
        picture = source.convert("L").convert(mode) if mode in ("LA", "F", "1") else source.convert(mode)
    assert picture.mode == mode
    loaded = load_picture(picture)
    assert loaded.mode == "RGB"
    np.testing.assert_allclose(np.asarray(loaded).astype(int)[..., 0], grey, atol=3)


def test_transparency_is_dropped_and_not_blended(golden_dir):
    picture = Image.fromarray(np.dstack([gradient(9, 9), np.zeros((9, 9), np.uint8)]), "RGBA")
    np.testing.assert_array_equal(np.asarray(load_picture(picture)), gradient(9, 9))


def test_a_palette_with_transparency_opens_without_a_warning(tmp_path):
    image = Image.fromarray(gradient(8, 8)).quantize(16)
    image.save(tmp_path / "p.png", transparency=bytes(range(16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_picture(tmp_path / "p.png").size == (8, 8)


def test_the_first_frame_of_an_animation_is_taken_and_its_file_closed(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for name in ("a.gif", "a.tiff"):
            assert load_picture(tmp_path / name).getpixel((3, 3)) == (10, 10, 10)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_each_unusable_file_gives_one_clear_line(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    jpeg = io.BytesIO()
    Image.fromarray(gradient(64, 64)).save(jpeg, "JPEG")
    files = {
        "empty.png": (b"", r"is empty \(0 bytes\)"),
        "text.png": (b"not a picture at all", "is none that Pillow can read"),
        "cut.png": (whole.getvalue()[:3000], "is damaged"),
        "cut.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "is damaged"),
        "header.png": (whole.getvalue()[:20], "must be"),
        "noise.png": (whole.getvalue()[:200] + b"\0" * 500 + whole.getvalue()[700:], "is damaged"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError, match=message) as error:
            load_picture(tmp_path / name)
        assert name in one_line(error)
    with pytest.raises(FileNotFoundError, match="must be an existing file, .*nothing.png' does not exist") as error:
        load_picture(tmp_path / "nothing.png")
    one_line(error)
    with pytest.raises(PictureError, match="is a folder") as error:
        load_picture(tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    "address",
    [
        "http://a.b/c.png",
        "https://a.b/c.png",
        "ftp://a.b/c",
        "s3://a/b.png",
        "file:///a.png",
        "data:image/png;base64,AAAA",
    ],
)
def test_addresses_are_refused_and_not_fetched(address):
    with pytest.raises(PictureError, match="must be a local file, got the address .*Download it before"):
        load_picture(address)


@pytest.mark.parametrize("nonsense", ["", " ", "a\0b", "x" * 5000])
def test_nonsense_paths_give_one_line(nonsense):
    with pytest.raises((PictureError, FileNotFoundError)) as error:
        load_picture(nonsense)
    one_line(error)


def test_gigapixel_pictures_are_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20000, 20000)).save(path)
    with pytest.raises(PictureError, match="at most 178956970 pixels, .*bomb.png' has more"):
        load_picture(path)
    Image.new("1", (10000, 10000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureError, match="at most 1000000 pixels"):
            load_picture(path, max_pixels=1_000_000)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1)])
def test_pictures_of_one_row_or_column_give_one_line(size):
    with pytest.raises(PictureError, match="must be at least 2 x 2 pixels, got") as error:
        load_picture(Image.new("RGB", size))
    one_line(error)
    with pytest.raises(PictureError, match="at least 2 x 2"):
        AnomalyGPTImageProcessor()(np.zeros((*size, 3), np.uint8))


def test_the_smallest_and_the_most_oblong_pictures_pass_in_every_geometry():
    for geometry in GEOMETRIES:
        processor = AnomalyGPTImageProcessor(geometry=geometry, size={"height": 16, "width": 16})
        for size in [(2, 2), (2, 300), (300, 2), (3, 5)]:
            pixels = processor(gradient(*size), return_tensors="np")["pixel_values"]
            assert np.isfinite(pixels).all()
            (back,) = processor.post_process_anomaly_map(np.ones((1, 16, 16)), [size])
            assert back.shape == size


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 6, 2), np.uint8), r"got shape \(5, 6, 2\)"),
        (np.zeros(5), r"got shape \(5,\)"),
        (np.zeros((0, 4, 3)), r"got shape \(0, 4, 3\)"),
        (np.full((4, 4), np.nan), "must have finite values"),
        (np.full((4, 4), -1.0), "must have finite values in 0..255"),
        (np.full((4, 4), 70000), "got 70000 to 70000"),
        (np.array([["a", "b"]]), "of numbers"),
        (object(), "must be a path, a PIL picture or an array, got the object"),
        (None, "got the NoneType"),
    ],
)
def test_unusable_arrays_give_one_line(values, message):
    with pytest.raises(PictureError, match=message) as error:
        load_picture(values)
    one_line(error)


def test_masks_of_every_range_and_kind_are_understood(tmp_path):
    wanted = np.zeros((6, 7), bool)
    wanted[2:4, 1:5] = True
    coloured = np.zeros((6, 7, 3), np.uint8)
    coloured[wanted] = (128, 0, 0)
    palette = Image.fromarray(coloured).quantize(4)
    kinds = [wanted, wanted.astype(np.uint8), wanted * np.uint8(255), wanted * np.uint16(65535), wanted * 1.0]
    kinds += [coloured, palette, Image.fromarray(wanted), torch.from_numpy(wanted)[None], wanted[..., None]]
    for i, kind in enumerate(kinds):
        np.testing.assert_array_equal(load_mask(kind) > 0.3, wanted, err_msg=str(i))
    Image.fromarray(wanted * np.uint16(65535)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), wanted)
