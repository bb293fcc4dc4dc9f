"""Tiles cover the picture, and their maps merge without steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_anomalygpt.inspector import merge_tile_maps, tile_boxes

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
