"""What was measured, in words: nothing is invented, nothing left open."""

from dataclasses import replace

import pytest

from modeling_anomalygpt.conversations.checking import contradictions
from modeling_anomalygpt.regions import DEFECT_KINDS
from modeling_anomalygpt.wording import FIELDS, MeasuredFacts, facts_in_words, fill_in, number_in_words
from tests.conversations.drawn_facts import region, some_facts


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
    assert fill_in("@kind", both, "zh") == "左上角 变形和右侧 破损或裂纹"
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
    assert fill_in("@share", MeasuredFacts("anomalous", (region(0, 0, 2, 2),), (900, 900), 2), "en") == "< 0.1 %"


@pytest.mark.parametrize(("count", "english", "chinese"), [(1, "one", "一"), (2, "two", "两"), (12, "12", "12")])
def test_numbers_are_words_up_to_nine(count, english, chinese):
    assert (number_in_words(count, "en"), number_in_words(count, "zh")) == (english, chinese)


def test_names_are_filled_in_as_they_were_given():
    for name in ("M8x40 hex bolt", "齿轮箱", "@places", "Über-Teil"):
        facts = some_facts(1)[0].__class__("normal", ratio=0.5, category=name)
        assert fill_in("It is called @name here.", facts, "en") == f"It is called {name} here."
