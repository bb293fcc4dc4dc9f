"""Regions against `scipy.ndimage`, and against pictures worked out by hand."""

import json

import numpy as np
import pytest
from scipy import ndimage

from modeling_anomalygpt.prompts import POSITION_NAMES
from modeling_anomalygpt.regions import find_regions, position_words, regions_of_mask


def blobs(seed: int, size: tuple[int, int] = (61, 83)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(size), 2.5)
    return ((noise - noise.min()) / (noise.max() - noise.min())).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_regions_agree_with_scipy_in_number_box_area_centroid_and_scores(seed):
    anomaly_map = blobs(seed)
    labels, count = ndimage.label(anomaly_map >= 0.6, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    expected = {}
    for index in range(1, count + 1):
        ys, xs = boxes[index - 1]
        expected[(xs.start, ys.start, xs.stop, ys.stop)] = (
            int((labels == index).sum()),
            ndimage.center_of_mass(labels == index)[::-1],
            ndimage.maximum(anomaly_map, labels, index),
            ndimage.mean(anomaly_map, labels, index),
        )
    regions = find_regions(anomaly_map, 0.6, min_area=1)
    assert {region.box for region in regions} == set(expected)
    for region in regions:
        area, centroid, peak, mean = expected[region.box]
        assert region.area_pixels == area
        np.testing.assert_allclose(region.centroid, centroid, rtol=1e-6)
        np.testing.assert_allclose([region.peak_score, region.mean_score], [peak, mean], rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_regions_come_by_falling_peak_and_small_ones_are_dropped(seed):
    regions = find_regions(blobs(seed), 0.6, min_area=15)
    assert [region.peak_score for region in regions] == sorted((r.peak_score for r in regions), reverse=True)
    assert all(region.area_pixels >= 15 for region in regions)
    everything = find_regions(blobs(seed), 0.6, min_area=1)
    assert [r for r in everything if r.area_pixels >= 15] == regions


@pytest.mark.parametrize("seed", range(3))
def test_the_outline_filled_again_covers_the_region_without_its_holes(seed):
    mask = blobs(seed) >= 0.45
    import cv2

    canvas = np.zeros(mask.shape, np.uint8)
    for region in regions_of_mask(mask, min_area=1):
        cv2.drawContours(canvas, [np.array(region.outline, np.int32)], -1, 1, thickness=cv2.FILLED)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    filled = np.zeros_like(mask)
    for index in range(1, count + 1):
        filled |= ndimage.binary_fill_holes(labels == index)
    np.testing.assert_array_equal(canvas.astype(bool), filled)


@pytest.mark.parametrize("size", [(9, 9), (224, 224), (30, 301), (3, 3)])
def test_each_of_the_nine_cells_has_its_name(size):
    height, width = size
    for row in range(3):
        for column in range(3):
            mask = np.zeros(size, bool)
            mask[(2 * row + 1) * height // 6, (2 * column + 1) * width // 6] = True
            (region,) = regions_of_mask(mask)
            assert (region.row, region.column) == (row, column)
            assert region.position == POSITION_NAMES["en"][row][column]
            assert position_words(region, "zh") == POSITION_NAMES["zh"][row][column]


@pytest.mark.parametrize("seed", range(10))
def test_the_named_cell_always_holds_a_part_of_the_region(seed):
    mask = blobs(seed) >= 0.5
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
    rows, columns = ((ys + 0.5) * 3 / mask.shape[0]).astype(int), ((xs + 0.5) * 3 / mask.shape[1]).astype(int)
    for region in regions_of_mask(mask, min_area=1):
        x, y = region.outline[0]
        assert np.any((labels == labels[y, x]) & (rows == region.row) & (columns == region.column))


def test_a_ring_is_named_by_the_cell_with_most_of_it_not_by_its_empty_middle():
    mask = np.zeros((90, 90), bool)
    mask[5:85, 5:85] = True
    mask[25:65, 25:65] = False  # hollow beyond the middle cell (30 to 60)
    mask[5:30, 0:30] = True  # a thicker corner
    (region,) = regions_of_mask(mask)
    assert region.position == "top left"


def test_a_strip_across_the_whole_top_is_called_top():
    mask = np.zeros((100, 100), bool)
    mask[4:8] = True
    assert regions_of_mask(mask)[0].position == "top"


def test_millimetres_follow_from_the_scale():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:14, 20:30] = 255
    (region,) = regions_of_mask(mask, mm_per_pixel=0.25)
    assert (region.width_mm, region.height_mm, region.area_mm2) == (2.5, 1.0, 2.5)
    assert (region.width, region.height, region.box) == (10, 4, (20, 10, 30, 14))
    assert regions_of_mask(mask)[0].area_mm2 is None


def test_a_mask_with_pixels_never_gives_an_empty_list():
    mask = np.zeros((500, 500), bool)
    assert regions_of_mask(mask) == []
    mask[7, 9] = True
    assert [region.area_pixels for region in regions_of_mask(mask)] == [1]


def test_only_pixels_of_the_given_mask_are_looked_at():
    anomaly_map = np.ones((30, 30), np.float32)
    mask = np.zeros((30, 30), bool)
    mask[3:6, 3:6] = True
    mask[5, 5] = False
    for threshold in (0.5, 0.0):
        (region,) = find_regions(anomaly_map, threshold, mask=mask)
        assert (region.box, region.area_pixels) == ((3, 3, 6, 6), 8)


def test_a_dictionary_of_a_region_survives_json():
    (region,) = find_regions(np.pad(np.full((5, 5), 0.5, np.float32), 4), 0.5, mm_per_pixel=0.1)
    assert json.loads(json.dumps(region.to_dict())) == region.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"anomaly_map": np.zeros((1, 4, 4))}, r"`anomaly_map` must have shape \(height, width\), got \(1, 4, 4\)"),
        ({"anomaly_map": np.full((4, 4), 2.0)}, r"`anomaly_map` must be finite and in \[0, 1\], got values from 2.0"),
        ({"anomaly_map": np.full((4, 4), np.nan)}, r"`anomaly_map` must be finite .* nan"),
        ({"threshold": 1.5}, r"`threshold` must be in \[0, 1\], got 1.5"),
        ({"threshold": float("nan")}, r"`threshold` must be in \[0, 1\], got nan"),
        ({"mask": np.zeros((3, 4))}, r"`mask` must have the map's size \(4, 4\), got \(3, 4\)"),
        ({"mask": np.zeros(3)}, r"`mask` must have shape \(height, width\), got \(3,\)"),
        ({"min_area": 0}, r"`min_area` must be at least 1 pixel, got 0"),
        ({"mm_per_pixel": -1.0}, r"`mm_per_pixel` must be positive, got -1.0"),
    ],
)
def test_wrong_arguments_are_refused_with_their_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_regions(**{"anomaly_map": np.zeros((4, 4)), **arguments})


def test_a_region_that_reaches_the_threshold_extends_over_a_dip_and_weaker_ones_stay_out():
    anomaly_map = np.zeros((20, 40), np.float32)
    anomaly_map[5:10, 2:20] = 0.6
    anomaly_map[5:10, 10] = 0.45
    anomaly_map[15, 30:38] = 0.45
    assert [region.box for region in find_regions(anomaly_map, 0.5)] == [(11, 5, 20, 10), (2, 5, 10, 10)]
    (region,) = find_regions(anomaly_map, 0.5, extent=0.8)
    assert region.box == (2, 5, 20, 10)
    assert find_regions(np.full((4, 4), np.float32(0.7)), 0.7, extent=0.8)[0].area_pixels == 16
    for name in ("extent", "connection"):
        with pytest.raises(ValueError, match=f"`{name}` must be above 0 and at most 1, got 0"):
            find_regions(anomaly_map, **{name: 0})


def test_places_between_which_the_map_dips_are_one_region_that_extends_no_further_down_than_connects_them():
    anomaly_map = np.zeros((20, 40), np.float32)
    anomaly_map[4:11, 1:21] = 0.26
    anomaly_map[5:10, 2:20] = 0.4
    anomaly_map[5:10, 2:8] = 0.6
    anomaly_map[5:7, 14:20] = 0.8
    anomaly_map[12:18, 30:38] = 0.3  # never reaches the threshold
    assert [region.box for region in find_regions(anomaly_map, 0.5)] == [(14, 5, 20, 7), (2, 5, 8, 10)]
    (region,) = find_regions(anomaly_map, 0.5, connection=0.5)
    assert (region.box, region.area_pixels, region.peak_score) == ((2, 5, 20, 10), 18 * 5, np.float32(0.8))
    assert len(find_regions(anomaly_map, 0.5, connection=0.9)) == 2
    alone = np.where(np.arange(40) < 10, anomaly_map, 0)
    assert find_regions(alone, 0.5, connection=0.5)[0].box == (2, 5, 8, 10)
    assert find_regions(alone, 0.5, extent=0.6)[0].box == find_regions(alone, 0.5, extent=0.6, connection=0.9)[0].box
