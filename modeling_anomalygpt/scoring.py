"""Calibrate, score, decide: from a map, the language model's log-odds and the references to a verdict.

Numbers only: no model, no words, no files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .references import References
from .regions import Region, find_regions

CONFIDENCE = 0.95
# `false_alarm_weight` for what a user prefers: a miss that costs twice a false alarm, 1.3 times (as for the choice of
# `threshold_factor`), half of one. Each is what cost least on ten sets (docs/experiments.md).
PREFERENCES = {"catch": 0.905, "balance": 1.0, "pass": 1.22}
# Where the map of an anomalous picture stays below the threshold, its region reaches down to this part of the peak.
_PART_OF_PEAK = 0.6
# What a calibration says of the threshold.
_SUPPORT = ("num_normals", "supported_false_alarm_rate", "num_stopped", "confidence", "decision_threshold")


def decision_score(score: float | None, log_odds: float | None, decision: Mapping[str, float]) -> float:
    """Map and language model as one number: above 0 speaks for an anomaly.

    Args:
        score (`float`, *optional*): Highest value of the map over the threshold; `None` without references.
        log_odds (`float`, *optional*): Natural logarithm of P(yes) / P(no); `None` without a language model. Held
            within `max_language`, so that it cannot outvote a clear map.
        decision (`Mapping[str, float]`): The `decision` group of the configuration.

    Returns:
        `float`: `map_weight * log(score) + language_weight * log_odds`, plus the logarithm of what a miss costs
        against a false alarm.

    Example:
    ```python
    >>> weights = {"map_weight": 2.0, "language_weight": 1 / 16, "max_language": 4.0, "false_alarm_weight": 1.0}
    >>> decision_score(1.0, 2.0, weights), decision_score(1.0, -400.0, weights)
    (0.125, -0.25)

    ```
    """
    by_map = 0.0 if score is None else decision["map_weight"] * math.log(max(score, 1e-3))
    most = decision["max_language"]
    by_language = 0.0 if log_odds is None else max(-most, min(most, log_odds))
    return by_map + decision["language_weight"] * by_language - math.log(decision["false_alarm_weight"])


def decide(score: float, threshold: float = 0.0, margin: float = 0.0, out_of_domain: bool = False) -> str:
    """The verdict.

    Args:
        score (`float`): See [`decision_score`].
        threshold (`float`, defaults to 0): What the decision score of good pictures reaches, see [`Calibration`].
        margin (`float`, defaults to 0): Nearer to the threshold than this nothing is decided.
        out_of_domain (`bool`, defaults to `False`): Whether the picture cannot be compared with the references.

    Returns:
        `str`: `"normal"`, `"anomalous"` or `"uncertain"`.
    """
    if out_of_domain or abs(score - threshold) < margin:
        return "uncertain"
    return "normal" if score < threshold else "anomalous"


def supported_false_alarm_rate(num_normals: int) -> float:
    """Which false-alarm rate holds at 95 % confidence when the threshold is the highest of so many good pictures.

    The chance that all `n` stay below the threshold that a share `r` of all good pictures exceeds is `(1 - r) ** n`
    (order statistics; Wilks 1941, https://doi.org/10.1214/aoms/1177731788).

    Args:
        num_normals (`int`): Independent good pictures.

    Returns:
        `float`: In (0, 1]; 1 without any.

    Example:
    ```python
    >>> [round(supported_false_alarm_rate(number), 3) for number in (1, 4, 29, 59, 149, 299)]
    [0.95, 0.527, 0.098, 0.05, 0.02, 0.01]

    ```
    """
    return 1.0 if num_normals < 1 else 1 - (1 - CONFIDENCE) ** (1 / num_normals)


def normals_needed(false_alarm_rate: float) -> int:
    """Good pictures of which the highest is a threshold for this false-alarm rate, at 95 % confidence.

    Args:
        false_alarm_rate (`float`): In (0, 1).

    Returns:
        `int`

    Raises:
        ValueError: If the rate is outside its range.

    Example:
    ```python
    >>> [normals_needed(rate) for rate in (0.10, 0.05, 0.02, 0.01)]
    [29, 59, 149, 299]

    ```
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"`false_alarm_rate` must be between 0 and 1, got {false_alarm_rate}. 0.02 is usual.")
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - false_alarm_rate) - 1e-9)


def false_alarm_threshold(scores: Sequence[float], false_alarm_rate: float) -> float:
    """The threshold that good pictures exceed at most at this rate, as far as so many can tell.

    It is the lowest order statistic that holds at 95 % confidence; with too few pictures the highest,
    which supports [`supported_false_alarm_rate`] only.

    Args:
        scores (`list[float]`): Of independent good pictures.
        false_alarm_rate (`float`): In (0, 1).

    Returns:
        `float`

    Raises:
        ValueError: If there is no score, **or** the rate is outside its range.
    """
    if not len(scores):
        raise ValueError("`scores` must hold at least one good picture, got none.")
    normals_needed(false_alarm_rate)  # refuses what is out of range
    ordered = sorted(scores, reverse=True)
    count, tail, num_above = len(ordered), 0.0, 0
    # The (e+1)-th highest holds while P(at most e of n exceed the true threshold) stays within 1 - CONFIDENCE.
    while num_above < count:
        # Logarithms: of some thousand pictures the binomial coefficients are too large for a float.
        ways = math.lgamma(count + 1) - math.lgamma(num_above + 1) - math.lgamma(count - num_above + 1)
        above, below = num_above * math.log(false_alarm_rate), (count - num_above) * math.log1p(-false_alarm_rate)
        tail += math.exp(ways + above + below)
        if tail > 1 - CONFIDENCE:
            break
        num_above += 1
    return ordered[max(0, num_above - 1)]


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, log_odds))))


@dataclass(frozen=True)
class Score:
    """One picture, scored.

    Args:
        verdict (`str`): `"normal"`, `"anomalous"`, `"uncertain"`, or `"unknown"` where nothing says what is normal.
        pred_score (`float`): Highest value of the map; a ratio to the threshold (1.0 = threshold) where references
            calibrate it.
        evidence (`dict`): The numbers behind the verdict, see [`InspectionResult`].
        reasons (`list[tuple[str, dict]]`): Kinds of reasons and the numbers in them, see [`reason_in_words`].
    """

    verdict: str
    pred_score: float
    evidence: dict[str, Any]
    reasons: list[tuple[str, dict[str, float]]]


@dataclass(frozen=True)
class Scorer:
    """Scores pictures by one set of references.

    Args:
        references ([`References`], *optional*): Their threshold makes scores comparable.
        localization (`str`): Kind of map, see [`AnomalyGPTModel.get_image_features`].
        decision (`Mapping[str, float]`): The `decision` group of the configuration.
    """

    references: References | None
    localization: str
    decision: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """`"few_shot"`, `"text_guided"` or `"mean"`."""
        by_reference = self.references is not None and self.localization != "text"
        return "text_guided" if not by_reference else "mean" if self.localization == "mean" else "few_shot"

    @property
    def calibrated(self) -> bool:
        """Whether scores are ratios to what is normal on this part."""
        return self.kind == "few_shot" and self.references.bank.threshold is not None

    @property
    def region_threshold(self) -> float:
        """Map value from which a pixel belongs to a region."""
        if not self.calibrated:
            return self.decision["region_threshold"]
        return 0.5 if self.decision["normalised_maps"] else min(self.references.bank.threshold, 0.999)

    def pred_score(self, anomaly_map: np.ndarray) -> float:
        """Highest value of the map; as a ratio to the threshold (1.0 = threshold) where it is calibrated."""
        peak = float(anomaly_map.max())
        if not self.calibrated:
            return peak
        if not self.decision["normalised_maps"]:
            return peak / self.references.bank.threshold
        return (peak / max(1 - peak, 1e-6)) ** (1 / self.decision["map_contrast"])

    def score(
        self,
        anomaly_map: np.ndarray,
        log_odds: float | None = None,
        out_of_domain_reasons: Sequence[str] = (),
        remarks: Sequence[str] = (),
    ) -> Score:
        """Scores one picture and decides.

        Args:
            anomaly_map (`np.ndarray` of shape `(height, width)`): In [0, 1], in the picture's own pixels.
            log_odds (`float`, *optional*): Of the language model.
            out_of_domain_reasons (`list[str]`): See [`DomainGate`].
            remarks (`list[str]`): See [`EncodedImage`].

        Returns:
            [`Score`]
        """
        pred_score = self.pred_score(anomaly_map)
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        evidence = {
            "localization": self.kind,
            "num_references": 0 if self.kind == "text_guided" else self.references.num_pictures,
            "peak": {"x": int(column), "y": int(row), "score": round(float(anomaly_map[row, column]), 6)},
            "region_threshold": round(self.region_threshold, 6),
        }
        if self.references is not None and self.references.roi is not None:
            evidence["region_of_interest"] = round(float(self.references.roi.mean()), 4)
        if log_odds is not None:
            evidence["yes_probability"] = round(_probability(log_odds), 6)
        if self.calibrated:
            calibration = self.references.calibration
            # A calibrated threshold keeps a rate of false alarms; what they cost has no say in it.
            decision = self.decision if calibration is None else {**self.decision, "false_alarm_weight": 1.0}
            total = decision_score(pred_score, log_odds, decision)
            threshold = 0.0 if calibration is None else calibration.decision_threshold
            margin = self.decision["undecided_margin"]
            verdict = decide(total, threshold, margin, bool(out_of_domain_reasons))
            evidence |= {"threshold": round(self.references.bank.threshold, 6), "decision_score": round(total, 4)}
            if calibration is None:  # a rate only where the threshold is an order statistic
                evidence["num_normals"] = self.references.num_compared
            else:
                evidence |= {name: getattr(calibration, name) for name in _SUPPORT}
        elif self.decision["needs_references"]:
            verdict = "unknown"
        else:  # the language model's word, or the checkpoint's threshold
            above = pred_score >= self.region_threshold if log_odds is None else log_odds > 0
            verdict = "anomalous" if above else "normal"
        reasons = self._reasons(verdict, pred_score, log_odds, list(out_of_domain_reasons), remarks)
        return Score(verdict, pred_score, evidence, reasons)

    def regions(self, anomaly_map: np.ndarray, verdict: str, mm_per_pixel: float | None) -> list[Region]:
        """Regions at the threshold, none of a normal picture; below it, the place that stands out most."""
        if verdict in ("normal", "unknown"):
            return []
        find = partial(
            find_regions,
            anomaly_map,
            mm_per_pixel=mm_per_pixel,
            extent=self.decision["region_extent"],
            connection=self.decision["region_connection"],
        )
        peak = float(anomaly_map.max())
        reached = max(self.region_threshold, self.decision["region_peak"] * peak)
        regions = find(threshold=reached)
        if peak <= 0 or (regions and regions[0].peak_score >= peak):
            return regions
        if regions:  # what stands out most is named first, however small it is
            return [find(threshold=reached, min_area=1)[0], *regions]
        return find_regions(anomaly_map, _PART_OF_PEAK * peak, min_area=1, mm_per_pixel=mm_per_pixel)[:1]

    def _reasons(
        self,
        verdict: str,
        pred_score: float,
        log_odds: float | None,
        out_of_domain: list[str],
        remarks: Sequence[str],
    ) -> list[tuple[str, dict[str, float]]]:
        if verdict == "unknown":
            return [("no_references" if self.references is None else "not_compared", {})]
        known = ["is_reference"] if "is_reference" in remarks else []
        reasons: list[tuple[str, dict[str, float]]] = [(kind, {}) for kind in (*known, *out_of_domain)]
        if verdict == "uncertain" and not out_of_domain:
            reasons.append(("close", {}))
        if self.calibrated:
            reasons.append(("map_above" if pred_score >= 1 else "map_below", {"ratio": pred_score}))
        if "absent" in remarks and verdict != "normal":
            reasons.append(("absent", {}))
        if log_odds is not None:
            says_yes = log_odds > 0
            differs = verdict in ("normal", "anomalous") and says_yes != (verdict == "anomalous")
            kind = f"language{'_alone' if differs else ''}_{'yes' if says_yes else 'no'}"
            reasons.append((kind, {"probability": _probability(log_odds)}))
        if self.calibrated and self.references.calibration is None and self.references.num_compared < 4:
            reasons.append(("few_references", {"count": self.references.num_compared}))
        if "exposure_matched" in remarks and "exposure" not in out_of_domain:
            reasons.append(("exposure_matched", {}))
        return reasons


__all__ = [
    "CONFIDENCE",
    "PREFERENCES",
    "Score",
    "Scorer",
    "decide",
    "decision_score",
    "false_alarm_threshold",
    "normals_needed",
    "supported_false_alarm_rate",
]
