"""Overlays: the colour scale by hand-worked numbers, and what is drawn where."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.report.overlays import (
    MAX_SIDE,
    MIN_SIDE,
    blend,
    colour_levels,
    colour_table,
    draw_overlay,
    map_layer,
    scale_labels,
    scale_maximum,
)


def spot(height=400, width=600, score=0.9):
    anomaly_map = np.zeros((height, width), dtype=np.float32)
    anomaly_map[height // 4 : height // 2, width // 2 : width // 2 + 50] = score
    return anomaly_map


def grey(height=400, width=600):
    return Image.new("RGB", (width, height), (100, 100, 100))


def test_the_scale_is_the_same_for_every_picture_with_the_threshold_in_its_middle():
    assert scale_maximum(0.3) == pytest.approx(0.6)
    assert (scale_labels(0.3), scale_labels(0.5)) == (("0", "0.30", "0.60+"), ("0", "0.50", "1.00"))
    assert colour_levels(np.array([[np.nan, 0.0, 0.3, 0.6, 1.0]]), 0.3).tolist() == [[0, 0, 128, 255, 255]]
    faint = colour_levels(np.array([[0.0, 0.12]]), 0.3)
    assert faint.max() == 51, "a faint map must not be stretched to the full scale"


def test_lightness_falls_and_opacity_rises_along_the_scale():
    table = colour_table()
    lightness = [colorsys.rgb_to_hls(*(colour / 255))[1] for colour in table[:, :3]]
    assert (np.diff(lightness) <= 0.005).all()
    assert (np.diff(table[:, 3].astype(int)) >= 0).all()
    assert table[0, 3] == 0
    assert 100 < table[255, 3] < 255, "the photograph must stay visible under the highest score"


def test_blending_is_the_weighted_mean_of_picture_and_colour():
    picture = np.full((1, 2, 3), 200, dtype=np.uint8)
    red, green, blue, alpha = colour_table()[255].astype(float)
    expected = [round(200 * (1 - alpha / 255) + colour * alpha / 255) for colour in (red, green, blue)]
    blended = blend(picture, np.array([[0, 255]], dtype=np.uint8))
    assert blended[0, 0].tolist() == [200, 200, 200]
    assert np.abs(blended[0, 1].astype(int) - expected).max() <= 1


def test_an_overlay_changes_the_picture_only_near_the_regions_and_the_legend_lies_below():
    anomaly_map = spot()
    overlay = np.asarray(draw_overlay(grey(), anomaly_map, find_regions(anomaly_map), 0.3, legend=False))
    assert overlay.shape == (400, 600, 3)
    changed = (overlay != 100).any(axis=2)
    assert changed[110:190, 310:340].all()
    far = np.ones_like(changed)
    far[80:220, 270:370] = False
    assert not changed[far].any()
    full = np.asarray(draw_overlay(grey(), anomaly_map, find_regions(anomaly_map), 0.3))
    np.testing.assert_array_equal(full[:400], overlay)
    assert full.shape[0] > 400, "the legend lies below"


@pytest.mark.parametrize(("size", "longest"), [((30, 20), MIN_SIDE), ((300, 5000), MAX_SIDE), ((2, 2), MIN_SIDE)])
def test_very_small_pictures_are_enlarged_and_very_large_ones_reduced(size, longest):
    anomaly_map = np.zeros(size, dtype=np.float32)
    anomaly_map[0, 0] = 1.0
    overlay = draw_overlay(grey(*size), anomaly_map, find_regions(anomaly_map, min_area=1), 0.3, legend=False)
    assert longest * 0.9 <= max(overlay.size) <= longest
    assert overlay.width / overlay.height == pytest.approx(size[1] / size[0], rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (2000, 2), (2, 2000), (1, 9000), (400, 1), (500, 20), (90, 320)])
def test_a_picture_of_any_form_lies_on_a_legend_that_is_whole(size):
    anomaly_map = np.zeros(size, dtype=np.float32)
    anomaly_map[0, 0] = 1.0
    regions = find_regions(anomaly_map, min_area=1)
    plain = np.asarray(draw_overlay(grey(*size), anomaly_map, regions, 0.3, legend=False))
    full = np.asarray(draw_overlay(grey(*size), anomaly_map, regions, 0.3))
    height, width = plain.shape[:2]
    np.testing.assert_array_equal(full[:height, :width], plain)
    assert (full[:height, width:] == 255).all(), "white beside the picture"
    legend = full[height:]
    assert len(legend) > 40
    assert legend.shape[1] > 120
    assert (legend[:, :2] == 255).all()
    assert (legend[:, -2:] == 255).all(), "no number is cut off"


def test_a_map_layer_is_small_and_holds_colours_with_their_opacity():
    layer = map_layer(spot(), 0.3, max_side=120)
    assert layer.size == (120, 80)
    colours = np.asarray(layer.convert("RGBA"))
    assert colours[5, 5, 3] == 0
    np.testing.assert_allclose(colours[30, 65], colour_table()[252], atol=1)


def test_wrong_arguments_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"`region_threshold` must be in \(0, 1\], got 0.0"):
        scale_maximum(0.0)
    with pytest.raises(ValueError, match=r"`anomaly_map` must have shape \(height, width\), got \(1, 4, 4\)"):
        colour_levels(np.zeros((1, 4, 4)), 0.3)
    with pytest.raises(ValueError, match=r"`anomaly_map` must have the picture's size \(400, 600\), got \(40, 60\)"):
        draw_overlay(grey(), np.zeros((40, 60)), [], 0.3)
