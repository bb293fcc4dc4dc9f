"""Questions about measured facts and their answers: complete, true, and none of the measured ones trained on."""

import itertools
import json
import pathlib
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from modeling_anomalygpt.conversations.checking import contradictions, tells
from modeling_anomalygpt.conversations.grounded import (
    Question,
    case_of,
    draw_question,
    grounded_answer,
    load_answers,
    load_questions,
    named_place,
)
from modeling_anomalygpt.conversations.word_metrics import parse_count, parse_positions, parse_presence
from modeling_anomalygpt.prompts import default_question
from modeling_anomalygpt.regions import regions_of_mask
from modeling_anomalygpt.wording import FIELDS, MeasuredFacts, lies_at
from tests.conversations.drawn_facts import region, some_facts

LANGUAGES = ("en", "zh")
FREE, FRESH = (
    json.loads((pathlib.Path(__file__).parent / f"{name}_questions.json").read_text(encoding="utf-8"))
    for name in ("free", "fresh")
)


def plain(question: str) -> str:
    return question.casefold().strip(" ?.!？。！")


def test_both_languages_have_the_same_topics_and_cases_and_the_fields_there_are():
    english, chinese = load_answers("en"), load_answers("zh")
    assert english.keys() == chinese.keys() == load_questions("en").keys() == load_questions("zh").keys()
    for topic, cases in english.items():
        assert cases.keys() == chinese[topic].keys(), topic
        for language in LANGUAGES:
            for answer in load_answers(language)[topic].values():
                assert set(re.findall("@([a-z]+)", answer)) <= {*FIELDS, "at"}, answer  # "at": the place asked about


@pytest.mark.parametrize("language", LANGUAGES)
def test_questions_are_many_each_of_one_topic_and_in_their_language(language):
    trained, kept = load_questions(language), load_questions(language, held_back=True)
    counts = Counter(plain(text) for table in (trained, kept) for texts in table.values() for text in texts)
    assert counts.total() > 2500
    assert counts.most_common(1)[0][1] == 1
    assert min(map(len, kept.values())) >= 5
    texts = [re.sub(r"\{\w+\}", "", text) for table in (trained, kept) for one in table.values() for text in one]
    assert np.mean([text.isascii() == (language == "en") for text in texts]) > 0.99  # some ask for another language


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_question_that_measures_freely_is_one_of_the_training(language):
    known = {plain(text) for held in (False, True) for one in load_questions(language, held).values() for text in one}
    assert not known & {plain(row["question"]) for row in (*FREE[language], *FRESH[language])}
    assert sum(map(len, FREE.values())) >= 200
    topics = {topic for row in FREE[language] for topic in row["topics"]}
    assert topics == set(load_answers(language)) >= {topic for row in FRESH[language] for topic in row["topics"]}


@pytest.mark.parametrize("language", LANGUAGES)
def test_over_hundreds_of_pictures_no_answer_of_any_topic_contradicts_the_facts(language):
    rng, seen = np.random.default_rng(3), set()
    for facts in some_facts(300):
        for topic in load_questions(language):
            question = draw_question(rng, topic, facts, language)
            answer = grounded_answer(question, facts, language)
            assert contradictions(answer, facts) == [], (topic, answer)
            assert "{" not in question.text
            seen.add((topic, case_of(question, facts)))
    assert {(topic, case) for topic, cases in load_answers(language).items() for case in cases} == seen


@pytest.mark.parametrize("language", LANGUAGES)
def test_answers_about_another_picture_are_found_to_contradict(language):
    rng, many = np.random.default_rng(4), some_facts(300, seed=9)
    told = ("presence", "good", "where", "count", "describe", "advice", "why", "compare", "summary", "doubt")
    for good in [facts for facts in many if facts.verdict == "normal"][:40]:
        bad = next(facts for facts in many[int(rng.integers(200)) :] if facts.verdict == "anomalous")
        for topic in told:
            question = draw_question(rng, topic, good, language)
            assert contradictions(grounded_answer(question, bad, language), good), topic
            assert contradictions(grounded_answer(question, good, language), bad), topic


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_main_answer_says_presence_places_and_number_as_they_are(language):
    question = Question(default_question(language), "presence")
    for facts in some_facts(200, seed=2):
        answer = grounded_answer(question, facts, language)
        if facts.verdict in ("normal", "anomalous"):
            assert parse_presence(answer) == (facts.verdict == "anomalous")
            assert parse_count(answer) == min(len(facts.regions), 10)
            assert parse_positions(answer) == {one.position for one in facts.regions}
        else:
            assert parse_presence(answer) is not True


@pytest.mark.parametrize(
    ("asked", "cell", "expected"),
    [
        ("top left", (0, 0), True), ("top", (0, 0), True), ("left", (0, 0), True), ("left", (1, 0), True),
        ("right", (0, 0), False), ("center", (1, 1), True), ("center", (0, 1), False), ("top left", (0, 1), False),
        ("bottom", (2, 2), True),
    ],
)  # fmt: skip
def test_a_side_means_all_of_its_cells_and_a_corner_itself(asked, cell, expected):
    assert lies_at(region(*cell), named_place(asked)) == expected


def test_only_whether_there_is_an_anomaly_is_answered_with_yes_or_no():
    """Questions of the other topics ask one way or the other: "Is that all?", "Anything else?"."""
    begins = re.compile(r"(yes|no|not at all|probably)\b(?! place)|是，|否，|不是|不好|可能")
    for language in LANGUAGES:
        said = {
            (topic, case): answer
            for topic, cases in load_answers(language).items()
            for case, answer in cases.items()
            if begins.match(answer.casefold()) and topic != "presence"
        }
        assert said == {}, language


@pytest.mark.parametrize("number", [1, 2, 3])
def test_whatever_number_is_asked_about_the_number_found_is_told(number):
    question = Question(f"More than {number}?", "number_check", number=number)
    assert grounded_answer(question, TWO, "en") == "The number I found is two."
    assert grounded_answer(question, TWO, "zh") == "我发现了两处。"


def test_light_that_was_evened_out_is_told_and_hinders_nothing():
    matched = replace(ONE, reasons={"exposure_matched": {}})
    assert "evened it out" in grounded_answer(Question("Sharp?", "quality"), matched, "en")
    for topic in ("retake", "same_part", "rotated"):
        assert grounded_answer(Question("?", topic), matched, "en") == grounded_answer(Question("?", topic), ONE, "en")
    undecided = replace(matched, verdict="uncertain")
    assert "too close to call" in grounded_answer(Question("?", "presence"), undecided, "en")


def test_by_hand_two_places_of_a_scaled_part():
    mask_one, mask_two = region(0, 0), region(2, 2, width=30)
    facts = MeasuredFacts("anomalous", (mask_one, mask_two), (90, 90), 2.12, num_references=4, category="bolt")
    said = {
        "where": "There are two: at the top left and bottom right.",
        "size": "Their sizes: 20 x 10 pixels at the top left, 30 x 10 pixels at the bottom right.",
        "share": "Together they cover 6.2 % of the picture.",
        "largest": "The largest one is at the bottom right.",
        "worst": "The most conspicuous one is at the top left.",
        "object": "It is called bolt here; I have that from you.",
        "references": "I compared it with 4 good pictures.",
    }
    for topic, expected in said.items():
        assert grounded_answer(Question("?", topic), facts, "en") == expected
    place = Question("Anything at the top?", "place_check", (0, None))
    expected = "There is an anomaly in the top third: what I found is at the top left and bottom right."
    assert grounded_answer(place, facts, "en") == expected
    place = replace(place, place=(0, 2))
    expected = "There is nothing wrong at the top right: what I found is at the top left and bottom right."
    assert grounded_answer(place, facts, "en") == expected
    assert grounded_answer(place, facts, "zh") == "右上角没有异常：我发现的在左上角和右下角。"
    before = Question("Pardon?", "again", before=Question("Largest?", "largest"))
    assert grounded_answer(before, facts, "en") == said["largest"]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("There is an anomaly at the top left: what I found is at the top left.", []),
        ("There is nothing wrong at the top left: what I found is at the top left.", ["place"]),
        ("There is an anomaly in the left third: what I found is at the top left.", []),
        ("There is an anomaly in the right third: what I found is at the top left.", ["place"]),
        ("There is nothing wrong at the top: what I found is at the top left.", []),
        ("There is nothing wrong in the top third: what I found is at the top left.", ["place"]),
        ("左上角没有异常：我发现的在左上角。", ["place"]),
        ("右侧三分之一处没有异常：我发现的在左上角。", []),
        ("左侧三分之一处没有异常：我发现的在左上角。", ["place"]),
        ("There is nothing wrong at the center: what I found is at the bottom.", ["place"]),
    ],
)
def test_what_is_said_of_one_place_is_compared_with_what_was_found_there(answer, wrong):
    assert contradictions(answer, MeasuredFacts("anomalous", (region(0, 0),), (90, 90), 2.0)) == wrong
    assert "verdict" in contradictions(answer, MeasuredFacts("normal", ratio=0.5))


ONE = MeasuredFacts("anomalous", (region(0, 0),), (90, 90), 2.0, num_references=2)
TWO, CLOSE = replace(ONE, regions=(region(0, 0), region(2, 2))), replace(ONE, ratio=1.2)
UNDECIDED, UNKNOWN = replace(ONE, verdict="uncertain"), MeasuredFacts("unknown")
ABOUT_THE_PICTURE = ("quality", "retake", "same_part", "rotated")


@pytest.mark.parametrize(
    ("subject", "told", "true", "topics"),
    [
        ("verdict", UNDECIDED, ONE, ("presence", "where", "size", "advice", "summary")),
        ("verdict", ONE, UNDECIDED, ("presence", "good", "count", "advice", "summary")),
        ("verdict", UNKNOWN, ONE, ("presence", "where", "count", "quality")),
        ("verdict", ONE, UNKNOWN, ("presence", "good", "count", "summary")),
        ("sure", CLOSE, ONE, ("sure",)),
        ("sure", ONE, CLOSE, ("sure",)),
        ("sure", UNDECIDED, CLOSE, ("sure",)),
        ("sure", CLOSE, UNDECIDED, ("sure",)),
        ("count", ONE, TWO, ("count", "ordinal", "else", "worst", "largest", "summary")),
        ("count", TWO, ONE, ("presence", "where", "count", "kind", "else", "describe", "summary")),
        *(
            ("picture", *pair, ABOUT_THE_PICTURE)
            for kind in ("blur", "exposure", "unlike", "rotated")
            for pair in itertools.permutations((ONE, replace(ONE, reasons={kind: {"degrees": 90}})))
        ),
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_true_of_another_picture_alone_is_found(language, subject, told, true, topics):
    for topic in topics:
        answer = grounded_answer(Question("?", topic), told, language)
        assert subject in contradictions(answer, true), (topic, answer)
        assert contradictions(answer, told) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_that_something_is_unknown_contradicts_where_it_is_known(language):
    scaled, kind = (
        replace(region(0, 0), **known) for known in ({"width_mm": 2.0, "height_mm": 1.0}, {"kind": "broken"})
    )
    known = {
        "object": ("told", replace(ONE, category="bolt")),
        "description": ("told", replace(ONE, description="There is no anomaly.")),
        "millimetres": ("told", replace(ONE, regions=(scaled,))),
        "kind": ("kind", replace(ONE, regions=(kind,))),
        "kind_check": ("kind", replace(ONE, regions=(kind,))),
    }
    for topic, (subject, facts) in known.items():
        assert contradictions(grounded_answer(Question("?", topic), ONE, language), facts) == [subject]
        assert contradictions(grounded_answer(Question("?", topic), facts, language), facts) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_true_answer_tells_what_was_asked_and_that_of_another_picture_does_not(language):
    rng, many = np.random.default_rng(6), [one for one in some_facts(300) if one.verdict in ("normal", "anomalous")]
    for topic in ("where", "count", "size", "kind"):
        for facts in many:
            assert tells(grounded_answer(Question("?", topic), facts, language), topic, facts), (topic, facts)
            other = many[int(rng.integers(len(many)))]
            if len(other.regions) != len(facts.regions) and topic != "kind":
                assert not tells(grounded_answer(Question("?", topic), other, language), topic, facts)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Yes, there are two anomalies in the image, at the top left and bottom right.", {"where", "count"}),
        ("是，图像中有两处异常，位于左上角和右下角。", {"where", "count"}),
        ("Their sizes: 20 x 10 pixels at the top left, 20 x 10 pixels at the bottom right.", {"where", "size"}),
        ("The most conspicuous one is at the top left.", set()),
        ("You are welcome.", set()),
        ("I cannot name the kinds. I can tell that three places differ, at the top left and bottom right.", set()),
        ("I cannot name the kinds. I can tell that two places differ, at the top left.", {"count", "kind"}),
    ],
)
def test_by_hand_an_answer_to_another_question_tells_what_it_holds(answer, told):
    assert {topic for topic in ("where", "count", "size", "kind") if tells(answer, topic, TWO)} == told


def test_a_part_whose_name_holds_a_place_is_no_contradiction():
    facts = MeasuredFacts("anomalous", (region(0, 0),), (90, 90), 2.0, category="bottom right bracket")
    assert contradictions("It is called bottom right bracket here; I have that from you.", facts) == []
    assert contradictions("The bottom right bracket differs at the top.", facts) == ["place"]


@pytest.mark.parametrize(
    ("facts", "subject", "answers"),
    [
        (
            UNKNOWN, "picture",
            ("The picture is as sharp and as bright as the good ones.", "This picture will do."),
        ),
        (UNKNOWN, "compared", ("I compared it with 0 good pictures.", "我与 0 张良品图片作了比较。")),
        (ONE, "told", ("It is called object here; I have that from you.", "它叫物体，这是您告诉我的。")),
        (ONE, "told", ("This I was told: nothing", "我得到的描述是：没有描述")),
        (
            UNDECIDED, "verdict",
            ("There is only one, at the top left.", "It is at the top left.", "除了左上角这一处，没有发现别的异常。"),
        ),
        (MeasuredFacts("normal", ratio=0.4), "count", ("The number I found is two.", "我发现了两处。")),
        (MeasuredFacts("normal", ratio=0.4), "verdict", ("The number I found is one.", "我发现了一处。")),
        (replace(ONE, category="can"), "verdict", ("I cannot decide that from this picture.",)),
        (
            replace(ONE, regions=(region(1, 0),), category="top"), "place",
            ("It is at the top.",),
        ),
        (
            replace(ONE, reasons={"exposure_matched": {}}), "picture",
            ("The picture is as sharp and as bright as the good ones.", "图片的清晰度和亮度都与良品图片一样。"),
        ),
        (
            ONE, "picture",
            ("The light is not that of the good pictures; I evened it out before comparing.", "比较之前已经校正。"),
        ),
        (replace(ONE, ratio=0.5), "ratio", ("It differs less than 0.01 times as much.", "不到 0.01 倍")),
    ],
)  # fmt: skip
def test_false_statements_written_by_hand_are_found(facts, subject, answers):
    for answer in answers:
        assert subject in contradictions(answer, facts), answer


def test_of_a_region_in_several_cells_both_nothing_and_all_of_it_are_false_at_its_edge():
    canvas = np.zeros((300, 300), bool)
    canvas[90:290, 90:290] = True
    facts = MeasuredFacts("anomalous", tuple(regions_of_mask(canvas)), (300, 300), 2.0)
    for place, english, chinese in (
        ((2, 2), "at the bottom right", "右下角"),
        ((None, 2), "in the right third", "右侧三分之一处"),
    ):
        asked = Question("Is it fine there?", "place_check", place)
        for language in LANGUAGES:
            assert contradictions(grounded_answer(asked, facts, language), facts) == []
        for said in ("nothing wrong", "an anomaly"):
            assert contradictions(f"There is {said} {english}: what I found is at the center.", facts) == ["place"]
        for said in ("没有异常", "有异常"):
            assert contradictions(f"{chinese}{said}：我发现的在中央。", facts) == ["place"]
    assert contradictions("There is part of an anomaly at the top left: what I found is at the center.", facts) == [
        "place"
    ]
