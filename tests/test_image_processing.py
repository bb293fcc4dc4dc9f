"""Pictures in, maps back: against the original's outputs, hand-worked geometry and naive second implementations."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers.image_utils import ChannelDimension

from modeling_anomalygpt.image_processing_anomalygpt import GEOMETRIES, AnomalyGPTImageProcessor, place

ONE_GREY_LEVEL = 0.0151


def gradient(height, width):
    """A picture whose red is the column, green the row (in 0..255) and blue constant."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 255 // max(width - 1, 1), rows * 255 // max(height - 1, 1), 0 * rows + 90], -1).astype(
        np.uint8
    )


# ---- parity with the original -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [(2, 100_000), (100_000, 2)])
def test_a_picture_too_oblong_to_be_cut_is_refused_in_one_line_before_it_is_resized(size):
    processor = AnomalyGPTImageProcessor(geometry="center_crop")
    with pytest.raises(ValueError, match=r"`images` must be less oblong .+'center_crop', got .+ Cut the picture"):
        processor(np.zeros((*size, 3), np.uint8))
    assert processor(np.zeros((*size, 3), np.uint8), geometry="letterbox")["pixel_values"][0].shape == (3, 224, 224)


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


def test_sizes_and_maps_of_different_number_are_refused():
    with pytest.raises(ValueError, match=r"one map for each of the 2 `original_sizes`, got \(1, 4, 4\)"):
        AnomalyGPTImageProcessor().post_process_anomaly_map(np.zeros((1, 4, 4)), [(3, 3), (4, 4)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"geometry": "stretch"}, "`geometry` must be one of square, center_crop, letterbox"),
        ({"size": {"shortest_edge": 224}}, "`size` must have a 'height' and 'width' from 1 to 4096"),
        ({"mask_threshold": 1.5}, "`mask_threshold` must be between 0 and 1, got 1.5"),
    ],
)
def test_wrong_settings_are_refused_when_the_processor_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        AnomalyGPTImageProcessor(**arguments)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("do_convert_rgb", False), ("do_center_crop", True), ("crop_size", 8), ("do_pad", True), ("pad_size", 32),
        ("data_format", "channels_last"), ("device", "cuda"), ("image_seq_length", 5),
    ],
)  # fmt: skip
def test_an_option_of_transformers_that_would_be_ignored_is_refused_with_those_that_are_not(option, value):
    message = rf"`{option}` must be .+, got .+ Leave it out: `size` and `geometry`"
    with pytest.raises(ValueError, match=message):
        AnomalyGPTImageProcessor(**{option: value})
    with pytest.raises(ValueError, match=message):
        AnomalyGPTImageProcessor()(gradient(6, 5), **{option: value})


def test_options_of_transformers_may_say_what_is_always_done():
    processor = AnomalyGPTImageProcessor(do_convert_rgb=True, do_center_crop=False, size=8)
    said = {"data_format": ChannelDimension.FIRST, "device": torch.device("cpu"), "do_pad": False, "crop_size": None}
    torch.testing.assert_close(
        processor(gradient(6, 5), return_tensors="pt", **said), processor(gradient(6, 5), return_tensors="pt")
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("resample", 0), ("do_rescale", False), ("rescale_factor", 1 / 100), ("do_normalize", False),
        ("image_mean", [0.5] * 3), ("image_std", 0.5), ("size", 12), ("geometry", "center_crop"),
    ],
)  # fmt: skip
def test_every_other_option_changes_the_pixels(option, value):
    picture = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    usual, changed = (
        AnomalyGPTImageProcessor(**({"size": 16, "geometry": "letterbox"} | options))(picture, return_tensors="np")
        for options in ({}, {option: value})
    )
    assert not np.array_equal(usual["pixel_values"], changed["pixel_values"])


def test_masks_and_settings_that_do_not_fit_their_pictures_are_refused():
    processor = AnomalyGPTImageProcessor()
    with pytest.raises(ValueError, match="got a mask of 5 x 6 for a picture of 6 x 5"):
        processor(gradient(6, 5), masks=np.zeros((5, 6), bool))
    with pytest.raises(ValueError, match="one mask for each of the 2 pictures, got 1"):
        processor([gradient(6, 5)] * 2, masks=[None])
    with pytest.raises(ValueError, match="must have the size 224 x 224 when `do_resize` is False, got 6 x 5"):
        processor(gradient(6, 5), do_resize=False)
    with pytest.raises(ValueError, match="`input_data_format` must be channels_first or channels_last, got 'first'"):
        processor(gradient(6, 5), input_data_format="first")


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
