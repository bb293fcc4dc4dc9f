"""What the Space shows, by hand: words, cards, pictures of regions, the scale."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from modeling_anomalygpt.regions import find_regions
from modeling_anomalygpt.results import InspectionResult
from spaces_app import app, views
from spaces_app.engine import Session
from spaces_app.views import words_of

MARKUP = "<img src=x onerror=alert(1)>"


def result_with(**changes) -> InspectionResult:
    anomaly_map = np.zeros((30, 30), dtype=np.float32)
    anomaly_map[2:8, 20:28] = 0.9
    evidence = {"localization": "few_shot", "num_references": 1, "region_threshold": 0.5, "yes_probability": 0.88}
    fields = {
        "image": None, "verdict": "anomalous", "pred_score": 0.9, "log_odds": 2.0, "answer": "Yes.",
        "regions": find_regions(anomaly_map), "anomaly_map": anomaly_map, "evidence": evidence,
    }  # fmt: skip
    return InspectionResult(**(fields | changes))


# Words


def test_both_languages_have_the_same_words_and_placeholders():
    english, chinese = words_of("en"), words_of("zh")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        texts = [text, chinese[key]] if isinstance(text, str) else ["\n".join(text), "\n".join(chinese[key])]
        assert set(re.findall(r"{(\w+)}", texts[0])) == set(re.findall(r"{(\w+)}", texts[1])), key
        assert texts[1].strip(), key


def test_every_word_is_used():
    source = "".join(path.read_text(encoding="utf-8") for path in views.HERE.glob("*.py"))
    built = ("verdict_", "localization_", "evidence_", "ask_", "batch_", "category_", "defect_")
    unused = [
        key
        for key in words_of("en")
        if not re.search(rf"[\"']{key.removesuffix('_hint')}(_hint)?[\"']", source) and not key.startswith(built)
    ]
    assert not unused


def test_the_examples_are_there():
    examples = views.example_pictures()
    assert len(examples) == 6
    for _, good, category, defect in examples:
        assert len(good) == 4
        assert {f"category_{category}", f"defect_{defect}"} <= words_of("zh").keys()


# HTML


def test_no_text_from_outside_acts_as_markup():
    evidence = {MARKUP: MARKUP, "reasons": [{"kind": "map", "text": MARKUP}], "localization": "few_shot"}
    result = result_with(answer=MARKUP, verdict=MARKUP, evidence=evidence)
    cards = views.verdict_card(result, "en") + views.evidence_table(result, "en") + views.error_card(MARKUP, "en")
    assert "<img" not in cards
    assert html.escape(MARKUP) in cards


def test_texts_of_the_conversation_are_escaped_where_they_are_shown():
    session = Session.__new__(Session)
    session.messages = [{"role": "user", "content": MARKUP}, {"role": "assistant", "content": {"path": "a.png"}}]
    shown = app.shown_messages(session, "a < b")
    assert [message["content"] for message in shown] == [html.escape(MARKUP), {"path": "a.png"}, "a &lt; b"]
    assert session.messages[0]["content"] == MARKUP


def test_reasons_of_the_inspector_are_shown_and_replace_our_own():
    reasons = [{"kind": "map", "text": "Score 1.3 times the limit."}, "Plain reason."]
    result = result_with(pred_score=1.3, evidence={"reasons": reasons, "threshold": 0.2, "confidence": 0.9})
    card = views.verdict_card(result, "en")
    for text in ("Score 1.3 times the limit.", "Plain reason.", "limit 1"):
        assert text in card
    assert "width:65.0%" in card, "1.3 on a scale of 0 to twice the limit"
    assert "Confidence" in views.evidence_table(result, "en")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_without_a_verdict_the_page_asks_for_a_good_picture_and_shows_no_score(language):
    result = result_with(verdict="unknown", pred_score=1.8e-28, answer="No, there is no anomaly in the image.")
    card, words = views.verdict_card(result, language), words_of(language)
    assert words["verdict_unknown"] in card
    assert words["unknown"] in card
    for absent in ("ag-normal", "ag-meter", "1.8e-28", "no anomaly", words["verdict_normal"] + "<"):
        assert absent not in card
    assert views.batch_summary([result], language).endswith(("1 without a verdict.", "无结论 1 张。"))


def test_sizes_are_in_millimetres_when_the_scale_is_known():
    regions = find_regions(result_with().anomaly_map, mm_per_pixel=0.5)
    table = views.regions_table(result_with(regions=regions), "en")
    for text in ("4.00 × 3.00", "12.00", "Size (mm)"):
        assert text in table
    assert "8 × 6" in views.regions_table(result_with(), "en")
    assert words_of("en")["no_regions"] in views.regions_table(result_with(regions=[]), "en")
    assert "4.00 × 3.00 mm" in views.region_card(regions[0], 1, "en")


# Pictures


def test_masks_lie_on_their_regions():
    masks, colours = views.annotations(result_with().regions, (30, 30), 1.0, "en")
    ((mask, label),) = masks
    assert label == "1 · top right"
    assert list(colours) == [label]
    ys, xs = np.nonzero(mask)
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == (20, 2, 27, 7)


def test_the_slider_changes_only_what_the_map_marks():
    image = Image.new("RGB", (30, 30), (90, 90, 90))
    left, right = (np.asarray(one) for one in views.comparison(image, result_with().anomaly_map, 0.5))
    assert (left[20:, :10] == right[20:, :10]).all()
    assert (left[4, 24] != right[4, 24]).any()


def test_a_regions_crop_holds_its_place():
    image = Image.new("RGB", (300, 300), (0, 0, 0))
    image.paste((250, 10, 10), (20, 2, 28, 8))
    crop = np.asarray(views.region_crop(image, result_with().regions[0]))
    assert crop.shape == (420, 420, 3)
    assert (crop[..., 0] > 200).any()


def test_the_most_similar_good_place_is_shown_at_the_regions_scale():
    """The good picture is twice as large; a square of it with the region's size there fills half of the crop."""
    good = Image.new("RGB", (600, 600), (0, 0, 0))
    good.paste((250, 10, 10), (300, 200, 400, 300))
    nearest = {"reference": 0, "box": [0.55, 0.4, 0.62, 0.43]}  # a patch; its middle is 351, 249
    region = replace(result_with().regions[0], box=(100, 100, 150, 150), nearest_good=nearest)
    crop = np.asarray(views.nearest_good_crop(region, (300, 300), good))
    assert crop.shape == (420, 420, 3)
    assert abs((crop[..., 0] > 125).sum(axis=0).max() - 210) <= 4
    outside = replace(region, nearest_good=nearest | {"box": [0.9, 0.4, 1.2, 0.5]})
    assert views.nearest_good_crop(outside, (300, 300), good) is None


# Scale


@pytest.mark.parametrize(
    ("points", "length", "factor", "scale"),
    [
        ([(10, 10), (10, 60)], 25.0, 1.0, 0.5),
        ([(10, 10), (10, 60)], 25.0, 0.25, 0.125),  # 50 px of a quarter's size are 200 px
        ([(10, 10)], 25.0, 1.0, None),
        ([(10, 10), (10, 60)], None, 1.0, None),
        ([(3, 3), (3, 3)], 25.0, 1.0, None),
    ],
)
def test_two_clicks_on_a_known_length_give_the_scale(points, length, factor, scale):
    assert views.millimetres_per_pixel(points, length, factor) == scale
    assert ("0.5 mm" in views.scale_note(points, length, scale, "en")) == (scale == 0.5)


def test_large_pictures_are_reduced_for_clicking():
    shown, factor = views.reduced(Image.new("RGB", (3200, 100)), 1600)
    assert (shown.size, factor) == ((1600, 50), 0.5)
    marked = views.draw_points(Image.new("RGB", (100, 100)), [(10, 10), (90, 90)])
    assert np.asarray(marked)[50, 50].max() > 0
