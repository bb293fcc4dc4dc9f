"""From evidence to a verdict that can be trusted: numbers in, one of three words and its reasons out.

Two independent pieces of evidence: the language model's log-odds, and the map's highest score as a ratio to what is
normal on this part. Knows scores, log-odds and counts; does not know how they were computed. NumPy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CONFIDENCE = 0.95
# Fitted on good pictures and synthetic defects (benchmarks/README.md, Decisions): how much the logarithm of the ratio
# and a unit of log-odds weigh, and how near to its limit their sum decides nothing.
_RATIO_WEIGHT, _LANGUAGE_WEIGHT, _MOST_LANGUAGE = 2.0, 1 / 16, 4.0
_UNDECIDED = 0.15

_WORDS = {
    "en": {
        "map_above": "The map reaches {ratio:.2f} times what good pictures reach.",
        "map_below": "The map stays at {ratio:.2f} times what good pictures reach.",
        "language_yes": "The language model sees an anomaly (probability {probability}).",
        "language_no": "The language model sees no anomaly (probability of one: {probability}).",
        "close": "The evidence is too close to the limit to decide.",
        "unlike": "The picture is unlike all references: another part, camera or distance?",
        "exposure": "The picture is much darker or brighter than the references.",
        "relit": "The picture is darker or brighter than the references; it was compared in their light.",
        "blur": "The picture is much less sharp than the references.",
        "few_normals": (
            "{count} good pictures support a false-alarm rate of {rate:.0%} at {confidence:.0%} confidence; "
            "{needed} would support 5%."
        ),
    },
    "zh": {
        "map_above": "异常图最高值为良品上限的 {ratio:.2f} 倍。",
        "map_below": "异常图最高值仅为良品上限的 {ratio:.2f} 倍。",
        "language_yes": "语言模型认为存在异常（概率 {probability}）。",
        "language_no": "语言模型认为没有异常（异常概率 {probability}）。",
        "close": "证据过于接近界限，无法判定。",
        "unlike": "图片与所有参考图片都不相似：是否换了零件、相机或距离？",
        "exposure": "图片比参考图片明显更暗或更亮。",
        "relit": "图片比参考图片更暗或更亮，已换成参考图片的亮度进行比较。",
        "blur": "图片明显不如参考图片清晰。",
        "few_normals": (
            "{count} 张良品图片在 {confidence:.0%} 置信度下只能保证 {rate:.0%} 的误报率；{needed} 张可保证 5%。"
        ),
    },
}


@dataclass(frozen=True)
class Reason:
    r"""
    One sentence of a verdict's evidence.

    Args:
        kind (`str`):
            `"map_above"`, `"map_below"`, `"language_yes"`, `"language_no"`, `"close"`, `"unlike"`, `"exposure"`,
            `"blur"`, `"relit"` or `"few_normals"`.
        text (`str`):
            The sentence, in the language asked for.
    """

    kind: str
    text: str


def reason(kind: str, language: str, **numbers: Any) -> Reason:
    """A reason in words, English (`"en"`) or Chinese (`"zh"`)."""
    if "probability" in numbers:  # rounded, it never claims certainty
        share = numbers["probability"]
        numbers["probability"] = "> 99%" if share > 0.99 else "< 1%" if share < 0.01 else f"{share:.0%}"
    return Reason(kind, _WORDS[language][kind].format(**numbers))


def evidence_of(ratio: float | None, log_odds: float | None) -> float:
    r"""
    Both pieces of evidence as one number: above 0 speaks for an anomaly.

    Args:
        ratio (`float`, *optional*):
            Highest score over its limit; `None` without a calibrated map.
        log_odds (`float`, *optional*):
            Natural logarithm of P(yes) / P(no); `None` without a language model. Held within 4, so that it cannot
            outvote a clear map.

    Returns:
        `float`: `2 log(ratio) + log_odds / 16`.

    Example:
    ```python
    >>> evidence_of(1.0, 2.0), evidence_of(1.0, -400.0), evidence_of(2.0, None) > 0.5
    (0.125, -0.25, True)

    ```
    """
    by_map = 0.0 if ratio is None else _RATIO_WEIGHT * math.log(max(ratio, 1e-3))
    bounded = 0.0 if log_odds is None else max(-_MOST_LANGUAGE, min(_MOST_LANGUAGE, log_odds))
    return by_map + _LANGUAGE_WEIGHT * bounded


def decide(evidence: float, limit: float = 0.0, doubts: Sequence[str] = ()) -> str:
    r"""
    The verdict.

    Args:
        evidence (`float`):
            See [`evidence_of`].
        limit (`float`, defaults to 0):
            What the evidence of good pictures reaches, from [`evidence_limit`].
        doubts (`list[str]`):
            Why the picture may not be comparable with the references.

    Returns:
        `str`: `"normal"`, `"anomalous"`, or `"uncertain"` where the evidence is too near to the limit or the picture
        is not comparable.
    """
    if doubts or abs(evidence - limit) < _UNDECIDED:
        return "uncertain"
    return "normal" if evidence < limit else "anomalous"


def supported_false_alarm_rate(num_normals: int, confidence: float = CONFIDENCE) -> float:
    r"""
    Which false-alarm rate holds with this confidence when the limit is the highest of so many good pictures.

    The chance that all `n` stay below the limit that a share `r` of all good pictures exceeds is `(1 - r) ** n`
    (order statistics; Wilks 1941, https://doi.org/10.1214/aoms/1177731788).

    Args:
        num_normals (`int`):
            Independent good pictures.
        confidence (`float`, defaults to 0.95):
            In (0, 1).

    Returns:
        `float`: In (0, 1]; 1 without any.

    Example:
    ```python
    >>> [round(supported_false_alarm_rate(number), 3) for number in (1, 4, 29, 59, 149, 299)]
    [0.95, 0.527, 0.098, 0.05, 0.02, 0.01]

    ```
    """
    return 1.0 if num_normals < 1 else 1 - (1 - confidence) ** (1 / num_normals)


def normals_needed(false_alarm_rate: float, confidence: float = CONFIDENCE) -> int:
    r"""
    Good pictures of which the highest is a limit for this false-alarm rate.

    Args:
        false_alarm_rate (`float`):
            In (0, 1).
        confidence (`float`, defaults to 0.95):
            In (0, 1).

    Returns:
        `int`

    Raises:
        ValueError: If a number is outside its range.

    Example:
    ```python
    >>> [normals_needed(rate) for rate in (0.10, 0.05, 0.02, 0.01)]
    [29, 59, 149, 299]

    ```
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"`false_alarm_rate` must be between 0 and 1, got {false_alarm_rate}. 0.02 is usual.")
    return math.ceil(math.log(1 - confidence) / math.log(1 - false_alarm_rate) - 1e-9)


def evidence_limit(evidences: Sequence[float], false_alarm_rate: float, confidence: float = CONFIDENCE) -> float:
    r"""
    The limit that good pictures exceed at most at this rate, as far as so many can tell.

    It is the lowest order statistic that holds with the confidence asked for; with too few pictures the highest,
    which supports [`supported_false_alarm_rate`] only.

    Args:
        evidences (`list[float]`):
            Of good pictures, see [`evidence_of`].
        false_alarm_rate (`float`):
            In (0, 1).
        confidence (`float`, defaults to 0.95):
            In (0, 1).

    Returns:
        `float`

    Raises:
        ValueError: If there is no evidence, **or** a number is outside its range.
    """
    if not len(evidences):
        raise ValueError("`evidences` must hold at least one good picture, got none.")
    normals_needed(false_alarm_rate, confidence)  # refuses what is out of range
    ordered = sorted(evidences, reverse=True)
    count, tail, exceeding = len(ordered), 0.0, 0
    # The (e+1)-th highest holds while P(at most e of n exceed the true limit) stays within 1 - confidence.
    while exceeding < count:
        tail += (
            math.comb(count, exceeding) * false_alarm_rate**exceeding * (1 - false_alarm_rate) ** (count - exceeding)
        )
        if tail > 1 - confidence:
            break
        exceeding += 1
    return ordered[max(0, exceeding - 1)]


__all__ = [
    "CONFIDENCE",
    "Reason",
    "decide",
    "evidence_limit",
    "evidence_of",
    "normals_needed",
    "reason",
    "supported_false_alarm_rate",
]
