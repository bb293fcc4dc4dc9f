"""The labels that all synthesis methods share, against filters of whole pictures."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from modeling_anomalygpt.synthesis.anomaly import changed_pixels, disk_median, majority, separate_regions
from tests.references.nsa_naive import disk


@pytest.mark.parametrize("dtype", [np.uint16, np.float64, np.uint8])
def test_disk_median_equals_the_filter_of_the_whole_picture(dtype):
    rng = np.random.default_rng(0)
    for size in [(40, 31), (12, 90), (3, 4)]:
        values = rng.integers(0, 250, size).astype(dtype)
        where = rng.random(size) < 0.5
        expected = ndimage.median_filter(values, footprint=disk(5), mode="nearest")[where]
        np.testing.assert_array_equal(disk_median(values, where), expected)


def test_disk_median_of_no_pixel_is_empty():
    assert disk_median(np.zeros((20, 20)), np.zeros((20, 20), bool)).shape == (0,)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_majority_equals_the_median_of_a_mask(size):
    mask = np.random.default_rng(size).random((37, 51)) < 0.5
    expected = cv2.medianBlur(mask.astype(np.uint8), size) > 0
    np.testing.assert_array_equal(majority(mask, size), expected)


def test_changed_pixels_drop_specks_and_stay_in_the_shape():
    before = np.zeros((40, 40, 3), np.uint8)
    after = before.copy()
    after[5:20, 5:20] = 90
    after[30, 30] = 90  # a speck
    after[12, 12] = 0  # a pinhole
    shape = np.zeros((40, 40), bool)
    shape[:, :15] = shape[25:, :] = True
    changed = changed_pixels(before, after, shape)
    assert changed[12, 12]
    assert not changed[30, 30]
    assert not changed[~shape].any()


def test_regions_below_the_smallest_area_are_left_out():
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[10, 10] = True
    assert [region.sum() for region in separate_regions(mask, min_area=2)] == [16]
