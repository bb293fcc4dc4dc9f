"""What is said of a judgement, in English and Chinese: its reasons, and the answer that agrees with it.

Knows verdicts, regions and numbers; knows no model. Travels with a checkpoint, so its words are Python.
"""

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
    cells = list(dict.fromkeys((region.row, region.column) for region in regions))
    names = [POSITION_NAMES[language][row][column] for row, column in cells]
    places = words["comma"].join(names[:-1]) + (words["and"] if names[1:] else "") + "".join(names[-1:])
    form = verdict
    if verdict in ("anomalous", "uncertain"):
        form = f"{verdict}_nowhere" if not regions else verdict
        if verdict == "anomalous" and len(regions) > 1:
            form = "anomalous_many"
    count = _NUMBERS[language][len(regions) - 2] if 2 <= len(regions) <= 9 else str(len(regions))
    answer = words[form].format(places=places, count=count)
    explaining = next((kind for kind in _EXPLAINING if kind in reasons), None)
    if verdict == "uncertain" and explaining in ("unlike", "exposure", "blur"):
        gap = " " if language == "en" else ""
        answer = f"{words['uncertain_nowhere']}{gap}{_REASONS[language][explaining]}"
    return answer


__all__ = ["answer_in_words", "reason_in_words"]
