"""One picture judged: its map, the language model's odds and the references' limit become verdict, regions, evidence.

Knows maps in the picture's own pixels and memory banks; runs no model and reads no files.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .decision import (
    CONFIDENCE,
    Reason,
    decide,
    evidence_of,
    normals_needed,
    reason,
    supported_false_alarm_rate,
)
from .memory_bank import MemoryBank
from .regions import Region, find_regions

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


__all__ = ["Judge", "Judgement"]
