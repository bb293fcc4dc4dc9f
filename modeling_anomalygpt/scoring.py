"""One picture judged: its map, the language model's odds and the references' limit become verdict, regions, evidence.

Knows maps in the picture's own pixels and memory banks; runs no model and reads no files.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .memory_bank import MemoryBank
from .regions import Region, find_regions

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


# The language model may see an anomaly where the map stays below the threshold: its region reaches down to this part
# of the peak.
_PART_OF_PEAK = 0.6
_USUAL_RATE = 0.05


@dataclass(frozen=True)
class Judgement:
    """Verdict, score, regions and evidence of one picture, as in [`InspectionResult`]."""

    verdict: str
    pred_score: float
    regions: list[Region]
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Judge:
    r"""
    Judges pictures by one set of references.

    Args:
        bank ([`MemoryBank`], *optional*):
            Its limit makes scores comparable; `None` without references.
        localization (`str`):
            Kind of map, see [`AnomalyGPTModel.get_image_features`].
        relative_maps (`bool`):
            Whether few-shot maps are relative to the limit already.
        region_threshold (`float`):
            The checkpoint's, for maps that no reference calibrates.
        language (`str`):
            Of the reasons, `"en"` or `"zh"`.
    """

    bank: MemoryBank | None
    localization: str
    relative_maps: bool
    region_threshold: float
    language: str = "en"

    @property
    def kind(self) -> str:
        """`"few_shot"`, `"text_guided"` or `"mean"`."""
        by_reference = self.bank is not None and self.localization != "text"
        return "text_guided" if not by_reference else "mean" if self.localization == "mean" else "few_shot"

    @property
    def calibrated(self) -> bool:
        """Whether scores are ratios to what is normal on this part."""
        return self.kind == "few_shot" and self.bank.limit is not None

    @property
    def threshold(self) -> float:
        """Map value from which a pixel belongs to a region."""
        if not self.calibrated:
            return self.region_threshold
        return 0.5 if self.relative_maps else min(self.bank.limit, 0.999)

    @property
    def calibration(self) -> dict[str, Any]:
        """What [`AnomalyInspector.calibrate`] has learned; empty before."""
        return json.loads(self.bank.notes.get("calibration", "{}")) if self.calibrated else {}

    @property
    def num_known_good(self) -> int:
        """Good parts that were compared with each other; copies and tiles of one count once."""
        if not self.calibrated:
            return 1
        return max(1, len(json.loads(self.bank.notes.get("normal_scores", '{"crossed": []}'))["crossed"]))

    def score(self, anomaly_map: np.ndarray) -> float:
        """Highest value of the map; as a ratio to the limit (1.0 = limit) where it is calibrated."""
        peak = float(anomaly_map.max())
        if not self.calibrated:
            return peak
        return peak / max(1 - peak, 1e-6) if self.relative_maps else peak / self.bank.limit

    def judge(
        self,
        anomaly_map: np.ndarray,
        log_odds: float | None = None,
        doubts: list[str] | None = None,
        mm_per_pixel: float | None = None,
        relit: bool = False,
    ) -> Judgement:
        r"""
        Judges one picture.

        Args:
            anomaly_map (`np.ndarray` of shape `(height, width)`):
                In [0, 1], in the picture's own pixels.
            log_odds (`float`, *optional*):
                Of the language model.
            doubts (`list[str]`, *optional*):
                From [`Comparability.doubts`].
            mm_per_pixel (`float`, *optional*):
                Scale, for sizes in millimetres.
            relit (`bool`, defaults to `False`):
                Whether the picture was seen in the references' light.

        Returns:
            [`Judgement`]
        """
        score = self.score(anomaly_map)
        ratio = score if self.calibrated else None
        total = evidence_of(ratio, log_odds)
        if ratio is not None:
            verdict = decide(total, self.calibration.get("evidence_limit", 0.0), doubts or ())
        else:  # nothing says what is normal here: the language model's word, or the checkpoint's threshold
            verdict = "anomalous" if (score >= self.threshold if log_odds is None else log_odds > 0) else "normal"
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        evidence = {
            "localization": self.kind,
            "num_references": 0 if self.bank is None else self.bank.num_references,
            "peak": {"x": int(column), "y": int(row), "score": round(float(anomaly_map[row, column]), 6)},
            "region_threshold": round(self.threshold, 6),
        }
        if log_odds is not None:
            evidence["yes_probability"] = round(1 / (1 + math.exp(-max(-50.0, min(50.0, log_odds)))), 6)
        if self.calibrated:
            evidence |= self._support() | {"limit": round(self.bank.limit, 6), "evidence": round(total, 4)}
        reasons = self._reasons(verdict, ratio, log_odds, doubts or [], evidence)
        if relit and "exposure" not in (doubts or []):
            reasons.append(reason("relit", self.language))
        evidence["reasons"] = [vars(one) for one in reasons]
        regions = [] if verdict == "normal" else self._regions(anomaly_map, mm_per_pixel)
        return Judgement(verdict, score, regions, evidence)

    def _support(self) -> dict[str, Any]:
        """How many good pictures stand behind the limit, and which false-alarm rate that can promise."""
        learned = self.calibration
        if learned:
            names = ("num_normals", "supported_false_alarm_rate", "confidence", "evidence_limit")
            return {name: learned[name] for name in names}
        count = self.num_known_good
        rate = round(supported_false_alarm_rate(count), 4)
        return {"num_normals": count, "supported_false_alarm_rate": rate, "confidence": CONFIDENCE}

    def _reasons(
        self,
        verdict: str,
        ratio: float | None,
        log_odds: float | None,
        doubts: list[str],
        evidence: dict[str, Any],
    ) -> list[Reason]:
        found = [reason(doubt, self.language) for doubt in doubts]
        if verdict == "uncertain" and not doubts:
            found.append(reason("close", self.language))
        if ratio is not None:
            found.append(reason("map_above" if ratio >= 1 else "map_below", self.language, ratio=ratio))
        if log_odds is not None:
            kind = "language_yes" if log_odds > 0 else "language_no"
            found.append(reason(kind, self.language, probability=evidence["yes_probability"]))
        if ratio is not None and evidence["supported_false_alarm_rate"] > _USUAL_RATE:
            found.append(
                reason(
                    "few_normals",
                    self.language,
                    count=evidence["num_normals"],
                    rate=evidence["supported_false_alarm_rate"],
                    confidence=evidence["confidence"],
                    needed=normals_needed(_USUAL_RATE),
                )
            )
        return found

    def _regions(self, anomaly_map: np.ndarray, mm_per_pixel: float | None) -> list[Region]:
        """Regions at the threshold; where the map stays below it, the place that stands out most."""
        regions = find_regions(anomaly_map, self.threshold, mm_per_pixel=mm_per_pixel)
        peak = float(anomaly_map.max())
        if regions or peak <= 0:
            return regions
        return find_regions(anomaly_map, _PART_OF_PEAK * peak, min_area=1, mm_per_pixel=mm_per_pixel)[:1]


__all__ = [
    "CONFIDENCE",
    "Judge",
    "Judgement",
    "Reason",
    "decide",
    "evidence_limit",
    "evidence_of",
    "normals_needed",
    "reason",
    "supported_false_alarm_rate",
]
