"""What the Space shows, by hand: words, cards, pictures of regions, the scale."""

import html
import pathlib
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

import spaces_app
from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.results import InspectionResult
from spaces_app.cards import error_card, evidence_table, regions_table, verdict_card
from spaces_app.measure import add_point, draw_points, millimetres_per_pixel, reduced
from spaces_app.region_views import annotations, colours, comparison, nearest_good_crop, region_crop
from spaces_app.words import words_of

MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture
def session():
    class Looked:
        picture = result = None

    return Looked()


def result_with(**changes) -> InspectionResult:
    anomaly_map = np.zeros((30, 30), dtype=np.float32)
    anomaly_map[2:8, 20:28] = 0.9
    fields = {
        "image": None,
        "verdict": "anomalous",
        "pred_score": 0.9,
        "log_odds": 2.0,
        "answer": "Yes.",
        "regions": find_regions(anomaly_map),
        "anomaly_map": anomaly_map,
        "evidence": {
            "localization": "few_shot",
            "num_references": 1,
            "region_threshold": 0.5,
            "yes_probability": 0.88,
        },
    }
    return InspectionResult(**(fields | changes))


# Words


def test_both_languages_have_the_same_words_and_placeholders():
    english, chinese = words_of("en"), words_of("zh")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", chinese[key])), key
        assert chinese[key].strip(), key


def test_every_word_is_used():
    source = "".join(
        path.read_text(encoding="utf-8") for path in pathlib.Path(spaces_app.__file__).parent.glob("*.py")
    )
    source = "\n".join(line for line in source.splitlines() if not re.match(r'    "\w+": ["“]', line))
    built = ("verdict_", "localization_", "evidence_", "ask_", "tab_", "head_")
    unused = [
        key for key in words_of("en") if not re.search(rf"[\"']{key}[\"']", source) and not key.startswith(built)
    ]
    assert not unused


# HTML


def test_no_text_from_outside_acts_as_markup():
    result = result_with(
        answer=MARKUP,
        verdict=MARKUP,
        evidence={MARKUP: MARKUP, "reasons": [{"kind": "map", "text": MARKUP}], "localization": "few_shot"},
    )
    cards = verdict_card(result, "en") + evidence_table(result, "en") + error_card(MARKUP, "en")
    assert "<img" not in cards
    assert html.escape(MARKUP) in cards


def test_reasons_of_the_inspector_are_shown_and_replace_our_own():
    reasons = [{"kind": "map", "text": "Score 1.3 times the limit."}, "Plain reason."]
    result = result_with(pred_score=1.3, evidence={"reasons": reasons, "limit": 0.2, "confidence": 0.9})
    card = verdict_card(result, "en")
    assert "Score 1.3 times the limit." in card
    assert "Plain reason." in card
    assert "limit 1" in card
    assert "width:65.0%" in card, "1.3 on a scale of 0 to twice the limit"
    assert "Confidence" in evidence_table(result, "en")


def test_the_verdict_uncertain_has_its_own_words():
    assert words_of("zh")["verdict_uncertain"] in verdict_card(result_with(verdict="uncertain"), "zh")


def test_sizes_are_in_millimetres_when_the_scale_is_known():
    regions = find_regions(result_with().anomaly_map, mm_per_pixel=0.5)
    table = regions_table(result_with(regions=regions), "en")
    assert "4.00 × 3.00" in table
    assert "12.00" in table
    assert "Size (mm)" in table
    assert "8 × 6" in regions_table(result_with(), "en")
    assert words_of("en")["no_regions"] in regions_table(result_with(regions=[]), "en")


# Pictures


def test_masks_lie_on_their_regions(session):
    session.picture, session.result = Image.new("RGB", (30, 30)), result_with()
    picture, shown = annotations(session, "en")
    (mask, label) = shown[0]
    assert picture.size == (30, 30)
    assert label == "1 · top right"
    assert list(colours(session, "en")) == [label]
    ys, xs = np.nonzero(mask)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (20, 2, 27, 7)


def test_the_slider_changes_only_what_the_map_marks(session):
    session.picture, session.result = Image.new("RGB", (30, 30), (90, 90, 90)), result_with()
    left, right = (np.asarray(image) for image in comparison(session))
    assert (left[20:, :10] == right[20:, :10]).all()
    assert (left[4, 24] != right[4, 24]).any()


def test_a_regions_crop_holds_its_place(session):
    session.picture, session.result = Image.new("RGB", (300, 300), (0, 0, 0)), result_with()
    session.picture.paste((250, 10, 10), (20, 2, 28, 8))
    crop = np.asarray(region_crop(session, session.result.regions[0]))
    assert crop.shape == (420, 420, 3)
    assert (crop[..., 0] > 200).any()


def test_the_most_similar_good_place_is_shown_at_the_regions_scale(session, tmp_path):
    """The good picture is twice as large; a square of it with the region's size there fills half of the crop."""
    session.picture, session.result = Image.new("RGB", (300, 300), (0, 0, 0)), result_with()
    region = replace(session.result.regions[0], box=(100, 100, 150, 150))
    good = Image.new("RGB", (600, 600), (0, 0, 0))
    good.paste((250, 10, 10), (300, 200, 400, 300))
    good.save(tmp_path / "good.png")
    session.references = [str(tmp_path / "good.png")]
    nearest = {"reference": 0, "box": [0.55, 0.4, 0.62, 0.43]}  # a patch; its middle is 351, 249
    crop = np.asarray(nearest_good_crop(session, replace(region, nearest_good=nearest)))
    red = (crop[..., 0] > 125).sum(axis=0).max()
    assert crop.shape == (420, 420, 3)
    assert abs(red - 210) <= 4
    assert nearest_good_crop(session, replace(region, nearest_good=nearest | {"reference": 1})) is None
    assert nearest_good_crop(session, replace(region, nearest_good=nearest | {"box": [0.9, 0.4, 1.2, 0.5]})) is None


# Scale


def test_two_clicks_give_the_scale():
    points = add_point(add_point([], (10, 10)), (10, 60))
    assert millimetres_per_pixel(points, 25.0) == 0.5
    assert millimetres_per_pixel(points, 25.0, factor=0.25) == 0.125, "50 px of a quarter's size are 200 px"
    assert millimetres_per_pixel(points[:1], 25.0) is None
    assert millimetres_per_pixel(points, None) is None
    assert millimetres_per_pixel([(3, 3), (3, 3)], 25.0) is None
    assert add_point(points, (1, 1)) == [(1, 1)]


def test_large_pictures_are_reduced_for_clicking():
    shown, factor = reduced(Image.new("RGB", (3200, 100)))
    assert (shown.size, factor) == ((1600, 50), 0.5)
    marked = draw_points(Image.new("RGB", (100, 100)), [(10, 10), (90, 90)])
    assert np.asarray(marked)[50, 50].max() > 0
