"""What was measured, in words: nothing is invented, nothing left open."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modeling_anomalygpt.conversations.checking import contradictions
from modeling_anomalygpt.regions import DEFECT_KINDS, regions_of_mask
from modeling_anomalygpt.wording import FIELDS, MeasuredFacts, facts_in_words, fill_in, number_in_words, reaches
from tests.conversations.drawn_facts import region


@pytest.mark.parametrize("language", ["en", "zh"])
def test_facts_in_words_tell_pictures_apart_that_are_to_be_answered_differently(language):
    one, two = region(0, 0), region(2, 1)
    many = [
        MeasuredFacts("normal", ratio=0.4),
        MeasuredFacts("normal", ratio=0.9),
        MeasuredFacts("unknown"),
        MeasuredFacts("anomalous", (one,), ratio=3),
        MeasuredFacts("anomalous", (one,), ratio=1.1),
        MeasuredFacts("anomalous", (two,), ratio=3),
        MeasuredFacts("anomalous", (replace(two, kind="surface"),), ratio=3),
        MeasuredFacts("anomalous", (one, two), ratio=3),
        MeasuredFacts("uncertain", (one,), ratio=1),
        MeasuredFacts("uncertain", (one,), ratio=1, reasons={"blur": {}}),
        MeasuredFacts("normal", ratio=0.4, category="bolt"),
        MeasuredFacts("normal", ratio=0.4, description="This is a bolt."),
    ]
    texts = [facts_in_words(facts, language) for facts in many]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_field_is_filled_and_what_is_not_known_says_so(language):
    facts = MeasuredFacts(
        "anomalous", (region(0, 0), replace(region(1, 2), kind="missing")), (90, 90), 1.7,
        {"rotated": {"degrees": 90}}, 3, "bolt", "A bolt.",
    )  # fmt: skip
    for name in FIELDS:
        said = fill_in(f"<@{name}>", facts, language)
        assert "@" not in said
        assert said != "<>", name
    bare = MeasuredFacts("anomalous", (region(0, 0),), (90, 90), 1.7)
    unknown = {fill_in(f"@{name}", bare, language) for name in ("millimetres", "description", "kind")}
    assert len(unknown) == 3
    assert "" not in unknown
    normal = MeasuredFacts("normal", ratio=0.5)
    for name in ("size", "sizes", "share", "worst", "largest", "others", "shape"):
        assert contradictions(fill_in(f"<@{name}>", normal, language), normal) == []
        assert fill_in(f"@{name}", normal, language) != ""
    assert fill_in("a @nothing b", facts, language) == "a  b"


def test_a_kind_is_said_with_its_place_where_there_are_several():
    dented, broken = replace(region(0, 0), kind="deformed"), replace(region(1, 2), kind="broken")
    assert fill_in("@kind", MeasuredFacts("anomalous", (dented,)), "en") == "a deformation"
    both = MeasuredFacts("anomalous", (dented, region(2, 2), broken))
    assert fill_in("@kind", both, "en") == "a deformation at the top left and a break or crack at the right"
    assert fill_in("@kind", both, "zh") == "左上角的变形和右侧的破损或裂纹"
    assert fill_in("@kind", MeasuredFacts("anomalous", (region(0, 0),)), "en") == "something that I cannot name"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_kind_has_words_of_its_own(language):
    said = {
        fill_in("@kind", MeasuredFacts("anomalous", (replace(region(0, 0), kind=kind),)), language)
        for kind in DEFECT_KINDS
    }
    assert len(said) == len(DEFECT_KINDS)
    assert "" not in said


def test_a_share_that_is_hardly_any_is_not_called_none():
    assert (
        fill_in("@share", MeasuredFacts("anomalous", (region(0, 0, 2, 2),), (900, 900), 2), "en") == "less than 0.1 %"
    )


@pytest.mark.parametrize(
    ("ratio", "english", "chinese"),
    [
        (2.12, "2.1 times", "2.1 倍"), (99.4, "99 times", "99 倍"), (99.7, "100 times", "100 倍"),
        (123.4, "123 times", "123 倍"), (0.00003, "less than 0.01 times", "不到 0.01 倍"),
        (0.0123, "0.012 times", "0.012 倍"),
        (1.02, "1.02 times", "1.02 倍"), (0.996, "0.996 times", "0.996 倍"), (1.2, "1.2 times", "1.2 倍"),
    ],
)  # fmt: skip
def test_numbers_are_written_without_an_exponent(ratio, english, chinese):
    facts = MeasuredFacts("anomalous", ratio=ratio)
    assert (fill_in("@ratio", facts, "en"), fill_in("@ratio", facts, "zh")) == (english, chinese)


def test_a_large_part_and_a_region_over_all_of_the_picture_have_plain_numbers():
    whole = regions_of_mask(np.ones((90, 90), bool), mm_per_pixel=1500 / 90)
    facts = MeasuredFacts("anomalous", tuple(whole), (90, 90), 3)
    assert fill_in("@share, @millimetres", facts, "en") == "100 %, 1500 x 1500 mm"
    assert fill_in("@share, @size", facts, "zh") == "100 %, 90 x 90 像素（1500 x 1500 毫米）"
    small = replace(whole[0], width_mm=0.0123456, height_mm=99.96)
    assert fill_in("@millimetres", MeasuredFacts("anomalous", (small,)), "en") == "0.0123 x 100 mm"


def drawn(width: int, *points: tuple[int, int]) -> MeasuredFacts:
    canvas = Image.new("L", (200, 200))
    ImageDraw.Draw(canvas).line(points, fill=255, width=width)
    return MeasuredFacts("anomalous", tuple(regions_of_mask(np.asarray(canvas))), (200, 200), 2)


def test_a_scratch_is_long_and_narrow_whatever_its_direction():
    for end in ((160, 20), (150, 80), (133, 133), (20, 160)):
        assert fill_in("@shape", drawn(3, (20, 20), end), "en") == "long and narrow"
    for end in ((60, 40), (50, 50)):
        assert fill_in("@shape", drawn(25, (20, 20), end), "zh") == "较集中"


def test_without_an_outline_the_box_tells_the_shape():
    (scratch,) = drawn(3, (20, 20), (133, 133)).regions
    bare = replace(scratch, outline=())
    flat = replace(bare, box=(0, 0, 50, 20))
    assert fill_in("@shape", MeasuredFacts("anomalous", (bare,)), "en") == "compact"
    assert fill_in("@shape", MeasuredFacts("anomalous", (flat,)), "en") == "long and narrow"


@pytest.mark.parametrize(("count", "english", "chinese"), [(1, "one", "一"), (2, "two", "两"), (12, "12", "12")])
def test_numbers_are_words_up_to_nine(count, english, chinese):
    assert (number_in_words(count, "en"), number_in_words(count, "zh")) == (english, chinese)


def test_names_are_filled_in_as_they_were_given():
    for name in ("M8x40 hex bolt", "齿轮箱", "@places", "Über-Teil"):
        facts = MeasuredFacts("normal", ratio=0.5, category=name)
        assert fill_in("It is called @name here.", facts, "en") == f"It is called {name} here."


def test_an_article_before_a_name_is_not_said_twice():
    for name in ("a bolt", "The bolt", "an bolt"):
        assert fill_in("the @name", MeasuredFacts("normal", category=name), "en") == "the bolt"
    for name in ("a", "anode", "theremin"):
        assert fill_in("the @name", MeasuredFacts("normal", category=name), "en") == f"the {name}"


def test_of_a_place_that_a_large_region_covers_in_part_nobody_says_that_nothing_is_wrong_there():
    canvas = np.zeros((300, 300), bool)
    canvas[90:290, 90:290] = True
    facts = MeasuredFacts("anomalous", tuple(regions_of_mask(canvas)), (300, 300), 2)
    assert fill_in("There is @bottomright.", facts, "en") == "There is part of an anomaly at the bottom right."
    assert fill_in("@right。", facts, "zh") == "右侧三分之一处有异常的一部分。"
    assert fill_in("There is @center.", facts, "en") == "There is an anomaly at the center."
    assert fill_in("There is @topleft.", facts, "en") == "There is nothing wrong at the top left."
    undecided = replace(facts, verdict="uncertain")
    assert fill_in("@bottomright", undecided, "en") == "part of an anomaly at the bottom right"


def test_what_a_region_reaches_is_what_its_pixels_say():
    rng = np.random.default_rng(5)
    places = [(row, column) for row in (0, 1, 2, None) for column in (0, 1, 2, None)][:-1]
    for _ in range(60):
        canvas = Image.new("L", (240, 180))
        corners = [tuple(map(int, rng.integers((0, 0), (240, 180)))) for _ in range(3)]
        ImageDraw.Draw(canvas).polygon(corners, fill=255)
        mask = np.asarray(canvas) > 0
        regions = regions_of_mask(mask)
        if len(regions) != 1 or mask.sum() < 1000:  # of slivers a coarse picture tells less
            continue
        for row, column in places:
            rows, columns = (slice(None) if one is None else slice(one * side, one * side + side)
                             for one, side in ((row, 60), (column, 80)))  # fmt: skip
            there = mask[rows, columns]
            share = max(there.mean(), there.sum() / mask.sum())
            if abs(share - 0.1) > 0.03:
                assert reaches(regions[0], (row, column), (180, 240)) == (share > 0.1), (corners, row, column)


def test_a_picture_that_is_a_reference_is_never_called_clear_and_why_it_is_undecided_comes_before_how_it_lies():
    assert not MeasuredFacts("normal", ratio=0.0, reasons={"is_reference": {}}).clear
    aligned = {"aligned": {"degrees": 30, "compared": 0.9}}
    blurred = MeasuredFacts("uncertain", ratio=0.3, reasons={**aligned, "blur": {}})
    assert blurred.condition == "blur"
    assert "too close" not in fill_in("@reason", blurred, "en")
    assert MeasuredFacts("normal", reasons=aligned).condition == "rotated"
