"""Conversations against the mask: an independent reading of thousands of answers, in both languages."""

import re
import string

import numpy as np
import pytest
from scipy import ndimage

from modeling_anomalygpt.conversations.facts import kind_of
from modeling_anomalygpt.conversations.instructions import TOPICS, Facts, conversation, fixed_turn
from modeling_anomalygpt.conversations.phrases import load_phrases
from modeling_anomalygpt.conversations.word_metrics import parse_count, parse_positions, parse_presence
from modeling_anomalygpt.prompts import describe
from modeling_anomalygpt.regions import regions_of_mask

PLACES = {
    "en": ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"],
    "zh": ["左上角", "上方", "右上角", "左侧", "中央", "右侧", "左下角", "下方", "右下角"],
}
DIGITS = {
    "en": ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    "zh": ["", "一", "两", "三", "四", "五", "六", "七", "八", "九"],
}
KIND_WORDS = {
    language: {kind: {words[1], words[2]} for kind, words in load_phrases(language)["kinds"].items()}
    for language in ("en", "zh")
}


def draw_case(rng: np.random.Generator) -> tuple[np.ndarray, Facts]:
    height, width = (int(side) for side in rng.integers(48, 160, 2))
    mask = np.zeros((height, width), bool)
    if rng.random() < 0.65:
        for _ in range(int(rng.integers(1, 7)) if rng.random() < 0.5 else 1):
            h, w = rng.integers(3, 25, 2)
            y, x = rng.integers(0, height - 3), rng.integers(0, width - 3)
            mask[y : y + h, x : x + w] = True
        if rng.random() < 0.03:
            mask[2::8, 2::8] = True
    kinds = [["scratch"], ["crack", "hole"], [], ["blended_patch"], ["bent_wire"], ["oil"], ["rust"], ["combined"]]
    defect_types = kinds[int(rng.integers(len(kinds)))] if mask.any() else ["good"]
    category = str(rng.choice(["bottle", "carpet", "pcb1", "oil_pump", "object", "candle", "printed_label", "齿轮箱"]))
    scale = 0.05 if rng.random() < 0.4 else None
    return mask, Facts(category, mask.shape, regions_of_mask(mask, min_area=1), defect_types, mm_per_pixel=scale)


def true_regions(mask: np.ndarray) -> list[tuple[int, set[int], int, tuple[int, int]]]:
    """Area, cells touched, cell of the centroid (or of most pixels), (width, height), of each region by SciPy."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    height, width = mask.shape
    regions = []
    for index in range(1, count + 1):
        ys, xs = np.nonzero(labels == index)
        pixels = np.bincount(3 * (3 * (ys + 0.5) / height).astype(int) + (3 * (xs + 0.5) / width).astype(int))
        cells = set(np.flatnonzero(pixels).tolist())
        cell = 3 * int(3 * (ys.mean() + 0.5) / height) + int(3 * (xs.mean() + 0.5) / width)
        cell = cell if cell in cells else int(pixels.argmax())
        regions.append((len(ys), cells, cell, (np.ptp(xs) + 1, np.ptp(ys) + 1)))
    return regions


def named_cells(text: str, language: str) -> set[int]:
    found = set()
    for place in sorted(PLACES[language], key=len, reverse=True):
        pattern = rf"\b{place}\b" if language == "en" else place
        if re.search(pattern, text):
            found.add(PLACES[language].index(place))
            text = re.sub(pattern, "#", text)
    return found


def numbers(text: str, language: str) -> list[int]:
    if language == "zh":
        return [DIGITS["zh"].index(digit) for digit in re.findall("([一两三四五六七八九])处(?!以上)", text)]
    words = re.findall(rf"\b({'|'.join(DIGITS['en'][1:])})\b(?= (?:anomal|defect|at |fault|{KIND_PLURALS}))", text)
    return [DIGITS["en"].index(word) for word in words]


KIND_PLURALS = "|".join(words[1] for words in load_phrases("en")["kinds"].values())


def contradictions(
    question: str, answer: str, mask: np.ndarray, regions: list, facts: Facts, language: str
) -> list[str]:
    """What an answer says that the mask does not. Knows nothing of how the answer was made."""
    faults = []
    question = question.removeprefix(describe(facts.category, language))
    lower = answer.lower()
    cells = {cell for _, _, cell, _ in regions}
    named = named_cells(lower, language)
    yes = lower.startswith(("yes", "是"))
    no = lower.startswith(("no,", "否"))
    if yes and not regions:
        faults.append("says yes of a good picture")
    if named - cells:
        faults.append("names a place without an anomaly")
    asks_of_something = named_cells(question.lower(), language) or any(
        words & set(re.findall(r"[\w ]+", question.lower())) or any(w in question for w in words)
        for words in KIND_WORDS[language].values()
    )
    thing = any(
        t.split()[-1] in question for t in (*load_phrases("en")["absent_things"], *load_phrases("zh")["absent_things"])
    )
    half = "half" in question or re.search("半", question)
    if no and regions and not (asks_of_something or thing or half):
        faults.append("says no of an anomalous picture")
    if half and named:
        (_, touched, _, _), height, width = regions[0], *mask.shape
        side = re.search("left|right|upper|lower", question.split("half")[0].split()[-1]) if language == "en" else None
        words = side[0] if side else re.search("([左右上下])半", question)[1]
        ys, xs = np.nonzero(mask)
        inside = {
            "left": xs.max() + 1 <= width / 2, "右": xs.min() >= width / 2, "左": xs.max() + 1 <= width / 2,
            "right": xs.min() >= width / 2, "upper": ys.max() + 1 <= height / 2, "上": ys.max() + 1 <= height / 2,
            "lower": ys.min() >= height / 2, "下": ys.min() >= height / 2,
        }[words]  # fmt: skip
        if bool(inside) != yes:
            faults.append("wrong half")
    elif (yes or no) and named_cells(question.lower(), language) and regions:
        asked = named_cells(question.lower(), language)
        touched = set().union(*(region[1] for region in regions))
        if yes and not asked <= cells:
            faults.append("yes to a place without an anomaly")
        if no and asked & touched:
            faults.append("no to a place with a part of an anomaly")
    said = [] if "more than nine" in lower or "九处以上" in lower else numbers(lower, language)
    if (
        said
        and (named <= cells and len(said) == 1 and said[0] != len(regions))
        and not ("the one at" in lower or re.search("最大|另一处|那一处|是一处", answer))
    ):
        faults.append(f"counts {said[0]}, there are {len(regions)}")
    if len(said) > 1 and sum(said) != len(regions):
        faults.append("the parts do not add up")
    if ("more than nine" in lower or "九处以上" in lower) and len(regions) <= 9:
        faults.append("more than nine")
    kinds = {kind_of(name) for name in facts.defect_types} if regions else set()
    denied = re.sub(r"there is no [\w ]+|(?:see )?no [\w ]+|没有[\u4e00-\u9fff]+", "", lower)
    for kind, words in KIND_WORDS[language].items():
        if kind not in kinds and any(re.search(rf"\b{w}\b" if language == "en" else w, denied) for w in words):
            faults.append(f"names {kind}")
    sizes = re.search(r"([\d.]+) x ([\d.]+) ?(mm|pixels|像素|毫米)", answer)
    if sizes:
        scale = facts.mm_per_pixel if sizes[3] in ("mm", "毫米") else 1
        largest = max(area for area, *_ in regions)
        candidates = [size for area, _, _, size in regions if area == largest]
        if not any(
            abs(float(sizes[1]) - w * scale) <= 0.06 * w * scale
            and abs(float(sizes[2]) - h * scale) <= 0.06 * h * scale
            for w, h in candidates
        ):
            faults.append("wrong size")
    share = re.search(r"(\d+) ?%", answer)
    if share:
        true = 100 * mask.mean()
        less = re.search("less than|不到", lower)
        if (less and true >= 1) or (not less and abs(int(share[1]) - true) > max(0.5, 2.5 * (true > 9.5))):
            faults.append("wrong share")
    if not regions and re.search(
        "replaced;|would replace|needed:|highlighted|marked|很可能需要|我建议|已标|已在", lower
    ):
        faults.append("acts on a good picture")
    largest_asked = re.search("largest|biggest|最大", question) and named
    if largest_asked and len(named) == 1 and named != {max(regions)[2]}:
        faults.append("wrong largest")
    return faults


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_answer_contradicts_the_mask(language):
    rng = np.random.default_rng(int(language == "zh"))
    for _ in range(600):
        mask, facts = draw_case(rng)
        messages = conversation(facts, rng, language, max_turns=6)
        regions = true_regions(mask)
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            faults = contradictions(question["content"], answer["content"], mask, regions, facts, language)
            assert not faults, (faults, question["content"], answer["content"])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_reading_notices_answers_that_belong_to_another_mask(language):
    rng = np.random.default_rng(9)
    cases = [draw_case(rng) for _ in range(200)]
    noticed = total = 0
    for (_, facts), (mask, _) in zip(cases, cases[1:], strict=False):
        if facts.anomalous == bool(mask.any()) and not facts.anomalous:
            continue
        question, answer = fixed_turn(facts, "presence", language)
        total += 1
        noticed += bool(contradictions(question, answer, mask, true_regions(mask), facts, language))
    assert noticed > 0.85 * total


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_are_whole_sentences_in_their_language(language):
    rng = np.random.default_rng(7)
    for _ in range(300):
        _, facts = draw_case(rng)
        for message in conversation(facts, rng, language, max_turns=6):
            text = message["content"]
            assert text[-1] in ".?。？"
            assert not re.search(r"[{}]|  | [.,;?]|\.\.|None(?! of)", text), text
            assert not re.match("[a-z]", text.removeprefix("oil pump")) or language == "zh", text
            if language == "en" and "齿轮箱" not in text:
                assert text.isascii()
            assert message["role"] == "user" or len(text) < 220


@pytest.mark.parametrize("language", ["en", "zh"])
def test_canonical_answers_read_back_give_the_facts(language):
    rng = np.random.default_rng(11)
    names = np.array(PLACES["en"])
    for _ in range(400):
        mask, facts = draw_case(rng)
        regions = true_regions(mask)
        places = {str(names[cell]) for _, _, cell, _ in regions}
        answer = fixed_turn(facts, "presence", language)[1]
        assert parse_presence(answer) is bool(regions)
        assert parse_positions(answer) == places
        assert parse_count(answer) == min(len(regions), 10)
        assert parse_positions(fixed_turn(facts, "where", language)[1]) == places
        assert parse_count(fixed_turn(facts, "count", language)[1]) == min(len(regions), 10)


def test_every_topic_occurs_and_follow_ups_refer_to_what_was_said():
    rng = np.random.default_rng(4)
    phrases = load_phrases("en")["questions"]
    patterns = {
        topic: re.compile("|".join(re.sub(r"\\\{\w+\\\}", ".+", re.escape(phrase)) + "$" for phrase in options))
        for topic, options in phrases.items()
    }
    others, seen = 0, set()
    for _ in range(800):
        mask, facts = draw_case(rng)
        texts = [message["content"] for message in conversation(facts, rng, "en", max_turns=6)]
        seen |= {topic for text in texts[::2] for topic, pattern in patterns.items() if pattern.search(text)}
        for index, question in enumerate(texts):
            if index % 2 == 0 and question in phrases["other"]:
                others += 1
                assert texts[index - 2] in phrases["largest"]
                (_, _, first, _), (_, _, second, _) = sorted(true_regions(mask), reverse=True)
                assert parse_positions(texts[index - 1]) == {PLACES["en"][first]}
                assert parse_positions(texts[index + 1]) == {PLACES["en"][second]}
    assert others > 0
    assert seen == set(phrases)


def test_an_anomalous_picture_without_a_mask_is_never_placed_or_counted():
    rng = np.random.default_rng(6)
    for language in ("en", "zh"):
        for _ in range(300):
            facts = Facts("cookies", (64, 64), defect_types=["crack"], anomalous=True)
            for message in conversation(facts, rng, language, max_turns=6)[1::2]:
                assert not parse_positions(message["content"]), message
                assert not re.search(r"%| x |two|两处", message["content"])
    assert parse_presence(fixed_turn(Facts("cookies", (64, 64), anomalous=True), "presence")[1]) is True


def test_worked_examples_of_one_several_and_none():
    mask = np.zeros((90, 90), bool)
    assert fixed_turn(Facts("tile", mask.shape))[1] == "No, there is no anomaly in the image."
    mask[3:9, 70:80] = True
    facts = Facts("tile", mask.shape, regions_of_mask(mask), ["crack"], mm_per_pixel=0.5)
    assert fixed_turn(facts, "presence")[1] == "Yes, there is an anomaly in the image, at the top right."
    assert fixed_turn(facts, "presence", "zh")[1] == "是，图像中有一处异常，位于右上角。"
    assert fixed_turn(facts, "size")[1] == "It is about 5 x 3 mm."
    assert fixed_turn(facts, "share")[1] == "Less than 1 % of the image."
    assert fixed_turn(facts, "kind")[1] == "It is a crack."
    assert "replaced" in fixed_turn(facts, "replace")[1]
    mask[15:20, 62:70] = True
    facts = Facts("tile", mask.shape, regions_of_mask(mask))
    assert fixed_turn(facts, "presence")[1] == "Yes, there are two anomalies in the image, both at the top right."
    assert fixed_turn(facts, "presence", "zh")[1] == "是，图像中有两处异常，都位于右上角。"
    mask[40:45, 40:45] = mask[80:85, 40:45] = True
    facts = Facts("tile", mask.shape, regions_of_mask(mask))
    assert fixed_turn(facts, "where")[1] == "They are at the top right, the center and the bottom."
    assert fixed_turn(facts, "where", "zh")[1] == "它们在右上角、中央和下方。"


def test_a_description_is_said_in_its_own_language_only():
    rng = np.random.default_rng(8)
    facts = Facts("hinge", (64, 64), description="a hinge with three screws")
    english = " ".join(conversation(facts, rng, "en")[0]["content"] for _ in range(60))
    chinese = " ".join(conversation(facts, rng, "zh")[0]["content"] for _ in range(60))
    assert "This is a hinge with three screws." in english
    assert "three screws" not in chinese


def test_both_languages_have_the_same_phrases_with_the_same_fields():
    def fields(text):
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for english, chinese in (
        (load_phrases("en")["questions"], load_phrases("zh")["questions"]),
        (load_phrases("en")["answers"], load_phrases("zh")["answers"]),
    ):
        assert english.keys() == chinese.keys()
        for key in english:
            assert isinstance(english[key], type(chinese[key])), key
            if isinstance(english[key], list):
                assert len(set(english[key])) == len(english[key])
                assert len(set(chinese[key])) == len(chinese[key])
                assert fields(english[key][0]) == fields(chinese[key][0]), key
    assert set(load_phrases("en")["questions"]) - set(TOPICS) == {"size_mm"}
    assert load_phrases("en")["kinds"].keys() == load_phrases("zh")["kinds"].keys()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("print_error", "print"), ("missing_part", "missing"), ("colour_change", "color"), ("good", None),
        ("metal_contamination", "contamination"), ("thread_top", None), ("foreign_texture", "patch"), ("003", None),
        ("Broken-Large", "break"), ("rust", "rust"), ("structural_anomalies", None), ("cut_lead", "cut"),
    ],
)  # fmt: skip
def test_names_of_data_sets_lead_to_kinds(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    ("answer", "presence", "places", "count"),
    [
        ("YES: a scratch, upper-left.", True, {"top left"}, 1),
        ("No.", False, set(), 0),
        ("Not sure", None, set(), None),
        ("有两处，左上和中间", True, {"top left", "center"}, 2),
        ("There are 14 of them", None, set(), 10),
        ("Yes, it lies in the left half", True, set(), None),
        ("没有异常", False, set(), 0),
        ("", None, set(), None),
    ],
)
def test_free_answers_are_read(answer, presence, places, count):
    assert parse_presence(answer) is presence
    assert parse_positions(answer) == places
    assert parse_count(answer) == count
    assert places <= set(PLACES["en"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Facts("a", (0, 5)), r"`image_size` must be \(height, width\), got \(0, 5\)"),
        (lambda: Facts("a", (5, 5), mm_per_pixel=0), "`mm_per_pixel` must be positive, got 0"),
        (lambda: Facts("a", (5, 5), regions_of_mask(np.ones((5, 5))), anomalous=False), "got False and 1 regions"),
        (lambda: conversation(Facts("a", (5, 5)), np.random.default_rng(0), "fr"), "`language` must be .* got 'fr'"),
        (lambda: conversation(Facts("a", (5, 5)), np.random.default_rng(0), max_turns=0), "at least 1, got 0"),
        (lambda: fixed_turn(Facts("a", (5, 5)), "weather"), "`topic` must be one of presence, .* got 'weather'"),
    ],
)
def test_wrong_arguments_are_refused_with_their_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
