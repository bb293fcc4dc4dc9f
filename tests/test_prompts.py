"""The prompt ensemble against the original's token ids; every other text by rule."""

import re

import pytest

from datasets_scripts.rendered_parts import FAMILIES
from modeling_anomalygpt import prompts
from modeling_anomalygpt.prompts import DESCRIPTIONS

PUBLISHED = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw", "tile",
    "toothbrush", "transistor", "wood", "zipper", "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1",
    "macaroni2", "pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum", "breakfast_box", "juice_bottle", "pushpins",
    "screw_bag", "splicing_connectors", "crack_forest",
)  # fmt: skip
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.mark.parametrize("category", PUBLISHED)
def test_every_published_category_has_a_description_in_both_languages(category):
    neutral = prompts.describe("no such thing")
    assert prompts.describe(category) != neutral.replace("no such thing", prompts.category_name(category))
    assert prompts.describe(category, "en").endswith(".")
    assert prompts.describe(category, "zh").endswith("。")


def test_every_rendered_family_has_a_description():
    assert {family.replace("_", "") for family in FAMILIES} <= DESCRIPTIONS.keys()


@pytest.mark.parametrize("key", DESCRIPTIONS)
def test_descriptions_are_one_sentence_in_their_own_language(key):
    description = DESCRIPTIONS[key]
    assert key == "".join(letter for letter in key if letter.isalnum()).casefold()
    assert not CHINESE.search(description.en_name + description.en)
    assert CHINESE.search(description.zh_name)
    assert CHINESE.search(description.zh)
    assert description.en.count(".") == 1
    assert description.zh.count("。") == 1
    assert len(description.en) < 120
    assert len(description.zh) < 60


def test_any_name_gets_a_neutral_description():
    assert prompts.describe("oil_pump").startswith("This is a photo of an oil pump; ")
    assert prompts.describe("齿轮箱", "zh").startswith("这是齿轮箱的照片")
    assert "齿轮箱" in prompts.describe("齿轮箱", "en")
    assert prompts.describe("").startswith("This is a photo of an object")
    assert prompts.describe("object", "zh").startswith("这是物体的照片")


def test_your_own_description_is_used_and_ended():
    assert (
        prompts.describe("bottle", description=" a green bolt, never rusty ") == "This is a green bolt, never rusty."
    )
    assert prompts.describe("bottle", description="Is it new?") == "Is it new?"
    assert prompts.describe("bottle", "zh", "绿色螺栓") == "绿色螺栓。"
    assert prompts.describe("bottle", description="  ") == prompts.describe("bottle")


def test_the_opening_question_is_the_description_and_the_question():
    text = prompts.opening_question("bottle", question="How many?")
    assert text == prompts.describe("bottle") + " How many?"
    assert prompts.opening_question("bottle", "zh") == prompts.describe("bottle", "zh") + "图像中有异常吗？"


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("This is a photo of a pipe fryum.", "fryum"),
        ("These are capsules.", "capsule"),
        ("macaroni2 and pcb4", "macaroni"),
        ("Is the metal nut a screw?", "metal nut"),
        ("a screw in wood", "screw"),
        ("图像中有异常吗？", "object"),
        ("A Bottle", "object"),
        ("", "object"),
    ],
)
def test_the_original_takes_the_first_name_of_its_list_that_occurs(text, category):
    assert prompts.original_category(text) == category


def test_another_language_and_a_cell_outside_the_grid_are_refused():
    with pytest.raises(ValueError, match="`language` must be 'en' or 'zh', got 'de'"):
        prompts.default_question("de")
    with pytest.raises(ValueError, match="`row` and `column` must be 0, 1 or 2, got 3 and 1"):
        prompts.position_name(3, 1)
