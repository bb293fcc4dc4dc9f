"""What is said of a judgement, in English and Chinese: its reasons, and the answer that agrees with it.

Knows verdicts, regions and numbers; knows no model. Travels with a checkpoint, so its words are Python.
"""

import re
from collections.abc import Sequence

from .prompts import POSITION_NAMES, check_language
from .regions import Region

_REASONS = {
    "en": {
        "no_references": "Give at least one good picture: without one, nothing says what is normal here.",
        "map_above": "The most conspicuous place differs {ratio:.2f} times as much as good parts do.",
        "map_below": "The most conspicuous place differs only {ratio:.2f} times as much as good parts may.",
        "language_yes": "The language model sees an anomaly ({probability} sure).",
        "language_no": "The language model sees no anomaly (probability of one: {probability}).",
        "language_alone_yes": "The language model alone would say yes ({probability}); the comparison decided.",
        "language_alone_no": "The language model alone would say no (anomaly: {probability}); the comparison decided.",
        "close": "It is too close to call: look at the marked place.",
        "unlike": "The picture is unlike all good pictures: another part, camera or distance?",
        "rotated": "The part lies rotated by {degrees} degrees compared with the good pictures.",
        "exposure": "The picture is much darker or brighter than the good pictures.",
        "exposure_matched": "The picture is darker or brighter than the good ones; it was compared in their light.",
        "blur": "The picture is much less sharp than the good pictures.",
        "few_references": "Only {count} good picture(s) to compare with: more of them make the verdict surer.",
    },
    "zh": {
        "no_references": "请至少提供一张良品图片：没有它就无法知道什么是正常。",
        "map_above": "最可疑处与良品的差异是良品之间差异的 {ratio:.2f} 倍。",
        "map_below": "最可疑处与良品的差异仅为良品允许差异的 {ratio:.2f} 倍。",
        "language_yes": "语言模型认为存在异常（把握 {probability}）。",
        "language_no": "语言模型认为没有异常（异常概率 {probability}）。",
        "language_alone_yes": "语言模型单独会回答“是”（{probability}），以图片比较的结果为准。",
        "language_alone_no": "语言模型单独会回答“否”（异常概率 {probability}），以图片比较的结果为准。",
        "close": "过于接近界限，无法判定：请查看标出的位置。",
        "unlike": "图片与所有良品图片都不相似：是否换了零件、相机或距离？",
        "rotated": "与良品图片相比，零件旋转了 {degrees} 度。",
        "exposure": "图片比良品图片明显更暗或更亮。",
        "exposure_matched": "图片比良品图片更暗或更亮，已换成良品图片的亮度进行比较。",
        "blur": "图片明显不如良品图片清晰。",
        "few_references": "只有 {count} 张良品图片可供比较，图片越多判断越可靠。",
    },
}  # fmt: skip
_ANSWERS = {
    "en": {
        "normal": "No, there is no anomaly in the image.",
        "anomalous": "Yes, there is an anomaly in the image, at the {places}.",
        "anomalous_many": "Yes, there are {count} anomalies in the image, at the {places}.",
        "anomalous_nowhere": "Yes, there is an anomaly in the image.",
        "uncertain": "This cannot be decided from the image; look at the {places}.",
        "uncertain_nowhere": "This cannot be decided from the image.",
        "unknown": "There is no verdict: give at least one good picture to compare with.",
        "and": " and the ",
        "comma": ", the ",
    },
    "zh": {
        "normal": "否，图像中没有异常。",
        "anomalous": "是，图像中有一处异常，位于{places}。",
        "anomalous_many": "是，图像中有{count}处异常，位于{places}。",
        "anomalous_nowhere": "是，图像中有异常。",
        "uncertain": "无法根据图像判定，请查看{places}。",
        "uncertain_nowhere": "无法根据图像判定。",
        "unknown": "无法给出结论：请至少提供一张良品图片进行比较。",
        "and": "和",
        "comma": "、",
    },
}
_NUMBERS = {"en": ("two", "three", "four", "five", "six", "seven", "eight", "nine"), "zh": "两三四五六七八九"}
# Reasons that tell a person more than "undecided" does, in the order in which they are told.
_EXPLAINING = ("unlike", "rotated", "exposure", "blur")


def reason_in_words(kind: str, language: str, **numbers: float) -> str:
    """One reason of a verdict as a sentence.

    Args:
        kind (`str`): As in [`Score`].
        language (`str`): `"en"` or `"zh"`.
        numbers: Those of the reason.

    Example:
    ```python
    >>> reason_in_words("language_alone_no", "en", probability=0.44)
    'The language model alone would say no (anomaly: 44%); the comparison decided.'

    ```
    """
    check_language(language)
    if "probability" in numbers:  # rounded, it never claims certainty
        share = numbers["probability"]
        numbers["probability"] = "> 99%" if share > 0.99 else "< 1%" if share < 0.01 else f"{share:.0%}"
    return _REASONS[language][kind].format(**numbers)


def answer_in_words(verdict: str, regions: Sequence[Region], reasons: Sequence[str], language: str) -> str:
    """The answer to "is there an anomaly?" that agrees with the verdict and the regions.

    Args:
        verdict (`str`): `"normal"`, `"anomalous"`, `"uncertain"` or `"unknown"`.
        regions (`list[Region]`): Of the same picture.
        reasons (`list[str]`): Kinds of reasons, as in [`Score`].
        language (`str`): `"en"` or `"zh"`.

    Returns:
        `str`: One sentence or two.

    Example:
    ```python
    >>> answer_in_words("normal", [], [], "en"), answer_in_words("uncertain", [], ["blur"], "zh")
    ('No, there is no anomaly in the image.', '无法根据图像判定。图片明显不如良品图片清晰。')

    ```
    """
    check_language(language)
    words = _ANSWERS[language]
    form = verdict
    if verdict in ("anomalous", "uncertain"):
        form = f"{verdict}_nowhere" if not regions else verdict
        if verdict == "anomalous" and len(regions) > 1:
            form = "anomalous_many"
    answer = words[form].format(places=_places(regions, language), count=_number(len(regions), language))
    explaining = next((kind for kind in _EXPLAINING if kind in reasons), None)
    if verdict == "uncertain" and explaining in ("unlike", "exposure", "blur"):
        gap = " " if language == "en" else ""
        answer = f"{words['uncertain_nowhere']}{gap}{_REASONS[language][explaining]}"
    return answer


# Plain questions about the judgement, whole: anything else is for the language model.
_DEFECT = r"anomal\w+|defects?|damages?|faults?|flaws?|problems?"
_IT = rf"(it|they|this( part)?|that|the (image|picture|part|piece|regions?|{_DEFECT}))"
_QUESTIONS = {
    "en": {
        "presence": rf"(is|are) there (any|an?|some)? ?(visible )?({_DEFECT})( (in|on) {_IT})?"
        rf"|is {_IT} (anomalous|defective|damaged|broken|faulty)",
        "good": rf"is ({_IT}|everything|all) (ok|okay|good|fine|normal|intact|all right)",
        "where": rf"where( exactly)?( (is|are) {_IT})?|what( is|'s) (its|the|their) (position|location)",
        "count": rf"how many( ({_DEFECT}|regions?))?"
        r"( are there| do you see| are (visible|in it))?( (in|on) the (image|picture|part))?",
        "size": rf"how (large|big|wide|long|tall)( (is|are) {_IT})?|what( is|'s| are) (its|the|their) (size|area)s?",
        "advice": rf"should {_IT} be (replaced|repaired|rejected|scrapped|kept|passed|shipped|reworked)"
        rf"|(can|may|should) (i|we) (use|keep|ship|pass|replace|reject) {_IT}|is it safe to (ship|use|pass)( {_IT})?",
    },
    "zh": {
        "presence": r"(图(像|片|中)*|零件|它)?(里|中|上)?(有没有|是否有|有|存在)(任何)?(异常|缺陷|问题|损坏)(吗|么)?",
        "good": r"(它|零件|这个零件|这)?(正常|合格|完好)(吗|么)",
        "where": r"(它|它们|异常|缺陷|问题)?(具体)?(在|位于)(什么地方|哪里|哪儿|何处|哪个位置|什么位置)",
        "count": r"(一共)?(有)?(几处|几个|多少处|多少个)(异常|缺陷|问题)?",
        "size": r"(它|异常|缺陷)?的?(有)?(多大|大小(是多少|如何)?|尺寸(是多少)?|面积(是多少)?)",
        "advice": r"(这个|该|此)?(零件|它)?(应该|需要|要|可以|能|应当)(被)?"
        r"(更换|报废|返工|放行|出货|使用|保留)(吗|么)?",
    },
}
_FOLLOW_UPS = {
    "en": {
        "none": "There is no anomaly.",
        "where": "It is at the {places}.",
        "where_many": "They are at the {places}.",
        "count": "There is one anomaly.",
        "count_many": "There are {count} anomalies.",
        "size": "The one at the {place} is {width} x {height} pixels{millimetres}.",
        "millimetres": " ({width:.3g} x {height:.3g} mm)",
        "good_normal": "Yes, it looks as good ones do.",
        "good_anomalous": "No, it differs from good ones at the {places}.",
        "advice_normal": "Nothing speaks against it: it differs no more than good parts do.",
        "advice_anomalous": "Do not pass it on as it is: let a person look at the {places} and decide.",
        "advice_uncertain": "Let a person look at it before it goes on.",
    },
    "zh": {
        "none": "没有异常。",
        "where": "在{places}。",
        "where_many": "在{places}。",
        "count": "有一处异常。",
        "count_many": "有{count}处异常。",
        "size": "{place}的一处为 {width} x {height} 像素{millimetres}。",
        "millimetres": "（{width:.3g} x {height:.3g} 毫米）",
        "good_normal": "是，与良品一样。",
        "good_anomalous": "否，{places}与良品不同。",
        "advice_normal": "没有发现不可放行的理由：与良品的差异不超过良品之间的差异。",
        "advice_anomalous": "不要直接放行：请人工查看{places}后决定。",
        "advice_uncertain": "放行之前请人工查看。",
    },
}


def follow_up_in_words(question: str, verdict: str, regions: Sequence[Region], reasons: Sequence[str]) -> str | None:
    """The answer to a plain question about a judgement: whether, where, how many, how large, what to do.

    Args:
        question (`str`): English or Chinese; answered in its own language.
        verdict (`str`): As in [`answer_in_words`].
        regions (`list[Region]`): Of the same picture.
        reasons (`list[str]`): Kinds of reasons, as in [`Score`].

    Returns:
        `str`, *optional*: Agrees with verdict and regions; `None` for any other question.

    Example:
    ```python
    >>> [follow_up_in_words(question, "normal", [], []) for question in ("How many are there?", "Who made it?")]
    ['There is no anomaly.', None]

    ```
    """
    language = "zh" if re.search(r"[\u4e00-\u9fff]", question) else "en"
    plain = re.sub(
        r"^(and|so|then|please|ok|okay|那么?|请问)[\s,，]+|[\s?？!.。！]+$", "", question.strip().casefold()
    )
    topics = [topic for topic, form in _QUESTIONS[language].items() if re.fullmatch(form, plain)]
    if not topics:
        return None
    topic, words = topics[0], _FOLLOW_UPS[language]
    undecided = verdict == "unknown" or (verdict == "uncertain" and topic not in ("size", "advice"))
    nowhere = verdict in ("anomalous", "uncertain") and not regions
    if topic == "presence" or undecided or (nowhere and topic in ("where", "count", "size")):
        return answer_in_words(verdict, regions, reasons, language)
    places, count = _places(regions, language), _number(len(regions), language)
    if topic in ("advice", "good"):
        return words["advice_uncertain" if nowhere else f"{topic}_{verdict}"].format(places=places)
    if verdict == "normal":
        return words["none"]
    if topic == "size":
        return (" " if language == "en" else "").join(_size(region, language) for region in regions)
    return words[topic if len(regions) == 1 else f"{topic}_many"].format(places=places, count=count)


def _size(region: Region, language: str) -> str:
    words, millimetres = _FOLLOW_UPS[language], ""
    if region.width_mm is not None:
        millimetres = words["millimetres"].format(width=region.width_mm, height=region.height_mm)
    place = POSITION_NAMES[language][region.row][region.column]
    return words["size"].format(place=place, width=region.width, height=region.height, millimetres=millimetres)


def _places(regions: Sequence[Region], language: str) -> str:
    words = _ANSWERS[language]
    cells = list(dict.fromkeys((region.row, region.column) for region in regions))
    names = [POSITION_NAMES[language][row][column] for row, column in cells]
    return words["comma"].join(names[:-1]) + (words["and"] if names[1:] else "") + "".join(names[-1:])


def _number(count: int, language: str) -> str:
    return _NUMBERS[language][count - 2] if 2 <= count <= 9 else str(count)


__all__ = ["answer_in_words", "follow_up_in_words", "reason_in_words"]
