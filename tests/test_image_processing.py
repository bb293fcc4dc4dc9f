"""Pictures in, maps back: against the original's outputs, hand-worked geometry and naive second implementations."""

import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from modeling_anomalygpt.image_processing_anomalygpt import GEOMETRIES, AnomalyGPTImageProcessor, place
from modeling_anomalygpt.pictures import PictureError, load_mask, load_picture
from modeling_anomalygpt.tiling import merge_tile_maps, tile_boxes

ONE_GREY_LEVEL = 0.0151


def gradient(height, width):
    """A picture whose red is the column, green the row (in 0..255) and blue constant."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 // max(width - 1, 1), rows * 255 // max(height - 1, 1), 0 * rows + 90], -1).astype(
        np.uint8
    )


# ---- parity with the original -------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", ["center_crop", "square"])
def test_pixels_equal_those_of_the_original_within_one_grey_level(golden_dir, geometry):
    expected = load_file(golden_dir / "expected.safetensors")[f"preprocess.{geometry}"]
    files = [golden_dir / "images" / f"{name}.png" for name in ("landscape", "defect", "portrait_gray", "rgba")]
    pixels = AnomalyGPTImageProcessor(geometry=geometry)(files, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(pixels[..., ::7, ::5], expected, rtol=0, atol=ONE_GREY_LEVEL)


def test_pictures_of_the_right_size_are_normalised_exactly_as_the_original_does(golden_dir):
    expected = load_file(golden_dir / "expected.safetensors")["pixel_values"]
    files = [str(golden_dir / "images" / f"{name}.png") for name in ("plain", "spot", "grey", "alpha")]
    for geometry in GEOMETRIES:
        pixels = AnomalyGPTImageProcessor(geometry=geometry)(files, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(pixels[..., ::7, ::5], expected, rtol=0, atol=1e-6)


# ---- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "geometry", "expected"),
    [
        ((200, 320), "square", (224, 224, 0, 0)),
        ((200, 320), "center_crop", (224, 358, 0, -67)),
        ((320, 200), "center_crop", (358, 224, -67, 0)),
        ((200, 320), "letterbox", (140, 224, 42, 0)),
        ((1000, 10), "letterbox", (224, 2, 0, 111)),
        ((3, 3000), "letterbox", (1, 224, 111, 0)),
        ((2, 2), "center_crop", (224, 224, 0, 0)),
    ],
)
def test_places_are_those_worked_out_by_hand(size, geometry, expected):
    assert tuple(place(size, (224, 224), geometry)) == expected


def test_letterbox_margins_have_the_mean_colour_and_the_picture_lies_between():
    processor = AnomalyGPTImageProcessor(geometry="letterbox", size={"height": 32, "width": 32})
    pixels = processor(np.full((10, 20, 3), 255, np.uint8), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixels[:, :8], 0, atol=1e-6)
    np.testing.assert_allclose(pixels[:, 24:], 0, atol=1e-6)
    white = (1 - np.array(processor.image_mean)) / np.array(processor.image_std)
    np.testing.assert_allclose(pixels[:, 8:24].mean(axis=(1, 2)), white, rtol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("size", [(60, 90), (90, 60), (64, 64), (33, 120)])
def test_a_mask_lands_on_the_defect_it_was_drawn_on(geometry, size):
    rng = np.random.default_rng(0)
    picture, mask = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    top, left = rng.integers(size[0] // 4, size[0] // 2), rng.integers(size[1] // 3, size[1] // 2)
    picture[top : top + 12, left : left + 12] = 255
    mask[top : top + 12, left : left + 12] = 255
    processor = AnomalyGPTImageProcessor(geometry=geometry, size={"height": 64, "width": 64}, image_mean=[0.0] * 3)
    inputs = processor(picture, masks=mask, return_tensors="np")
    bright = inputs["pixel_values"][0, 0] * processor.image_std[0] > 0.5
    disagreeing = (bright != (inputs["mask_labels"][0] == 1)).sum()
    assert inputs["mask_labels"].dtype == np.int64
    assert disagreeing <= 0.35 * bright.sum()
    bright_centre, mask_centre = np.argwhere(bright).mean(0), np.argwhere(inputs["mask_labels"][0] == 1).mean(0)
    np.testing.assert_allclose(bright_centre, mask_centre, atol=0.8)


def test_masks_may_be_missing_for_some_pictures_and_soft_masks_are_cut_at_three_tenths():
    processor = AnomalyGPTImageProcessor(size={"height": 4, "width": 4})
    soft = np.zeros((4, 4), np.float32)
    soft[0], soft[1] = 0.31, 0.29
    labels = processor([gradient(4, 4)] * 2, masks=[soft, None], return_tensors="pt")["mask_labels"]
    assert labels[0].tolist() == [[1] * 4] + [[0] * 4] * 3
    assert (labels[1] == -1).all()


def naive_way_back(anomaly_map, picture_size, canvas, geometry):
    """Pixel by pixel, in floating point, written from the definition."""
    at = place(picture_size, canvas, geometry)
    rows, columns = anomaly_map.shape
    cells = []
    for side, (resized, corner, total, count) in enumerate(
        [(at.height, at.top, canvas[0], rows), (at.width, at.left, canvas[1], columns)]
    ):
        first = int(max(corner, 0) * count / total)
        last = int(np.ceil(min(corner + resized, total) * count / total)) - 1
        axis = []
        for pixel in range(picture_size[side]):
            there = (pixel + 0.5) * resized / picture_size[side] + corner
            axis.append(None if not 0 <= there <= total else (np.clip(there * count / total - 0.5, first, last), last))
        cells.append(axis)
    out = np.zeros(picture_size)
    for y, row in enumerate(cells[0]):
        for x, column in enumerate(cells[1]):
            if row is None or column is None:
                continue
            (r, last_r), (c, last_c) = row, column
            r0, c0 = int(r), int(c)
            r1, c1 = min(r0 + 1, last_r), min(c0 + 1, last_c)
            upper = anomaly_map[r0, c0] * (1 - c + c0) + anomaly_map[r0, c1] * (c - c0)
            lower = anomaly_map[r1, c0] * (1 - c + c0) + anomaly_map[r1, c1] * (c - c0)
            out[y, x] = upper * (1 - r + r0) + lower * (r - r0)
    return out


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("picture_size", [(20, 31), (31, 20), (9, 9), (3, 50)])
@pytest.mark.parametrize("map_size", [(16, 16), (7, 7)])
def test_the_way_back_equals_a_naive_loop(geometry, picture_size, map_size):
    anomaly_map = np.random.default_rng(1).random(map_size).astype(np.float32)
    processor = AnomalyGPTImageProcessor(geometry=geometry, size={"height": 16, "width": 16})
    (restored,) = processor.post_process_anomaly_map(torch.from_numpy(anomaly_map)[None], [picture_size])
    assert restored.dtype == np.float32
    np.testing.assert_allclose(
        restored, naive_way_back(anomaly_map, picture_size, (16, 16), geometry), rtol=0, atol=1e-5
    )


def test_the_way_back_of_square_maps_equals_torch_interpolation():
    anomaly_map = torch.rand(1, 1, 24, 24)
    (restored,) = AnomalyGPTImageProcessor().post_process_anomaly_map(anomaly_map[:, 0], [(50, 70)])
    expected = torch.nn.functional.interpolate(anomaly_map, size=(50, 70), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(torch.from_numpy(restored), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(GEOMETRIES), st.integers(8, 90), st.integers(8, 90), st.integers(0, 2**31 - 1))
def test_a_point_goes_there_and_back_to_where_it_was(geometry, height, width, seed):
    rng = np.random.default_rng(seed)
    row, column = rng.uniform(0.35, 0.65) * height, rng.uniform(0.35, 0.65) * width
    at = place((height, width), (64, 64), geometry)
    there = ((row * at.height / height) + at.top, (column * at.width / width) + at.left)
    if not (2 < there[0] < 62 and 2 < there[1] < 62):
        return
    rows, columns = np.mgrid[:64, :64] + 0.5
    spot = np.exp(-(((rows - there[0]) / 3) ** 2 + ((columns - there[1]) / 3) ** 2))
    processor = AnomalyGPTImageProcessor(geometry=geometry, size={"height": 64, "width": 64})
    (back,) = processor.post_process_anomaly_map(spot[None], [(height, width)])
    assert back.shape == (height, width)
    peak = np.unravel_index(back.argmax(), back.shape)
    tolerance = (height / at.height + 1, width / at.width + 1)
    assert abs(peak[0] + 0.5 - row) <= tolerance[0]
    assert abs(peak[1] + 0.5 - column) <= tolerance[1]


def test_letterbox_margins_never_enter_and_what_was_cropped_is_zero():
    hot_margin = np.ones((1, 16, 16), np.float32)
    hot_margin[:, 4:12] = 0.25
    letterbox = AnomalyGPTImageProcessor(geometry="letterbox", size={"height": 16, "width": 16})
    (restored,) = letterbox.post_process_anomaly_map(hot_margin, [(40, 80)])
    np.testing.assert_array_equal(restored, np.float32(0.25))
    crop = AnomalyGPTImageProcessor(geometry="center_crop", size={"height": 16, "width": 16})
    (restored,) = crop.post_process_anomaly_map(np.ones((16, 16)), [(40, 80)])
    assert (restored[:, :20] == 0).all()
    assert (restored[:, 60:] == 0).all()
    np.testing.assert_allclose(restored[:, 20:60], 1)


def test_a_map_of_one_cell_and_half_precision_maps_come_back():
    processor = AnomalyGPTImageProcessor()
    (restored,) = processor.post_process_anomaly_map(torch.full((1, 1, 1), 0.5, dtype=torch.bfloat16), [(3, 4)])
    np.testing.assert_array_equal(restored, np.full((3, 4), 0.5, np.float32))


def test_sizes_and_maps_of_different_number_are_refused():
    with pytest.raises(ValueError, match=r"one map for each of the 2 `original_sizes`, got \(1, 4, 4\)"):
        AnomalyGPTImageProcessor().post_process_anomaly_map(np.zeros((1, 4, 4)), [(3, 3), (4, 4)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"geometry": "stretch"}, "`geometry` must be one of square, center_crop, letterbox"),
        ({"size": {"shortest_edge": 224}}, "`size` must have a positive 'height' and 'width'"),
        ({"mask_threshold": 1.5}, "`mask_threshold` must be between 0 and 1, got 1.5"),
    ],
)
def test_wrong_settings_are_refused_when_the_processor_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        AnomalyGPTImageProcessor(**arguments)


def test_masks_that_do_not_fit_their_pictures_are_refused():
    processor = AnomalyGPTImageProcessor()
    with pytest.raises(ValueError, match="got a mask of 5 x 6 for a picture of 6 x 5"):
        processor(gradient(6, 5), masks=np.zeros((5, 6), bool))
    with pytest.raises(ValueError, match="one mask for each of the 2 pictures, got 1"):
        processor([gradient(6, 5)] * 2, masks=[None])
    with pytest.raises(ValueError, match="must have the size 224 x 224 when `do_resize` is False, got 6 x 5"):
        processor(gradient(6, 5), do_resize=False)


def test_settings_may_change_for_one_call_and_survive_saving(tmp_path):
    processor = AnomalyGPTImageProcessor(geometry="letterbox", size=48, mask_threshold=0.5, image_mean=[0.5, 0.4, 0.3])
    processor.save_pretrained(tmp_path)
    again = AnomalyGPTImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    picture = gradient(30, 50)
    torch.testing.assert_close(
        again(picture, return_tensors="pt")["pixel_values"], processor(picture, return_tensors="pt")["pixel_values"]
    )
    assert again(picture, size={"height": 8, "width": 12}, return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 12)


def test_the_same_picture_gives_the_same_pixels_however_it_is_handed_over(tmp_path):
    picture = gradient(21, 34)
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    processor = AnomalyGPTImageProcessor(size={"height": 16, "width": 16})
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    forms = [str(path), path, Image.open(path), picture, picture / 255, tensor, tensor / 255, picture[None]]
    pixels = processor(forms, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (8, 3, 16, 16)
    for other in pixels[1:]:
        torch.testing.assert_close(other, pixels[0], rtol=0, atol=0)
    first = processor(np.zeros((3, 8, 3), np.uint8), input_data_format="channels_first", return_tensors="np")
    assert first["pixel_values"].shape == (1, 3, 16, 16)


# ---- opening pictures ----------------------------------------------------------------------------------------------


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


# ---- tiles ---------------------------------------------------------------------------------------------------------

sides = st.integers(1, 60)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(1, 40), st.data())
def test_tiles_cover_the_picture_have_one_size_and_overlap_enough(height, width, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    boxes = tile_boxes(height, width, tile, overlap)
    covered = np.zeros((height, width), int)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert (y1 - y0, x1 - x0) == (min(tile, height), min(tile, width))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    for start, end in ((0, 2), (1, 3)):
        spans = sorted({(box[start], box[end]) for box in boxes})
        assert all(left[1] - right[0] >= overlap for left, right in zip(spans, spans[1:], strict=False))


@settings(max_examples=40, deadline=None)
@given(sides, sides, st.integers(2, 40), st.integers(0, 2**31 - 1))
def test_tiles_that_agree_give_back_the_map_they_were_cut_from(height, width, tile, seed):
    whole = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    boxes = tile_boxes(height, width, tile)
    merged = merge_tile_maps([whole[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes], boxes, (height, width))
    np.testing.assert_allclose(merged, whole, rtol=1e-5, atol=1e-6)


def test_tiles_that_disagree_leave_no_step():
    boxes = tile_boxes(40, 100, tile=40, overlap=20)
    levels = np.random.default_rng(0).random(len(boxes))
    merged = merge_tile_maps([np.full((40, 40), level) for level in levels], boxes, (40, 100))
    assert merged.min() >= levels.min() - 1e-6
    assert merged.max() <= levels.max() + 1e-6
    assert np.abs(np.diff(merged, axis=1)).max() < 2 * np.ptp(levels) / 20
    assert np.abs(np.diff(merged, axis=0)).max() < 1e-6


def test_wrong_tiles_are_refused():
    with pytest.raises(ValueError, match="`overlap` must be from 0 to less than `tile` = 8, got 8"):
        tile_boxes(10, 10, 8, 8)
    with pytest.raises(ValueError, match="`tile` must be a positive number of pixels, got 0"):
        tile_boxes(10, 10, 0)
    with pytest.raises(ValueError, match="`height` and `width` must be positive, got 0 and 3"):
        tile_boxes(0, 3, 8)
    with pytest.raises(ValueError, match=r"sizes of their boxes, got \(3, 3\) for the box \(0, 0, 4, 4\)"):
        merge_tile_maps([np.zeros((3, 3))], [(0, 0, 4, 4)], (4, 4))
    with pytest.raises(ValueError, match="must cover the whole picture"):
        merge_tile_maps([np.zeros((4, 4))], [(0, 0, 4, 4)], (4, 5))
    with pytest.raises(ValueError, match="one map for each of the 1 boxes, got 0"):
        merge_tile_maps([], [(0, 0, 4, 4)], (4, 4))
