"""What one inspection found: the numbers, the words and the picture of where; ready for JSON."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .regions import Region


@dataclass
class InspectionResult:
    r"""
    Result of [`AnomalyInspector.inspect`].

    Args:
        image (`str`, *optional*):
            Path of the picture, as it was given; `None` for pictures from memory.
        verdict (`str`):
            `"normal"`, `"anomalous"` or `"uncertain"`; `"error"` where the picture could not be inspected.
        pred_score (`float`, *optional*):
            Highest value of the map as a ratio to what good pictures reach (1.0 = their limit) where the evidence has
            a `limit`; else the maximum of the map, in [0, 1].
        log_odds (`float`, *optional*):
            Natural logarithm of P(yes) / P(no) at the first word of the answer; above 0 means anomalous. `None`
            without a language model.
        answer (`str`):
            What the language model says.
        regions (`list[Region]`):
            Anomalous regions in pixels of the original picture; empty when the verdict is `"normal"`.
        anomaly_map (`np.ndarray` of shape `(height, width)`, *optional*):
            float32 in [0, 1], in pixels of the original picture.
        evidence (`dict`):
            On what the verdict stands: kind of map, number of references, peak (on the map's scale), threshold of
            regions, limit, probability of yes, reasons in words.
        question, category, language (`str`):
            What was asked, about what, in which language.
        seconds (`float`):
            Time for this picture (a batch's time divided by its size).
        error (`str`, *optional*):
            One line that says why there is no result.
        conversation (`list[dict]`):
            The turns so far; grows with [`AnomalyInspector.ask`].
        image_tokens (`torch.Tensor`, *optional*):
            What the language model sees of the picture, kept for further questions; not written to files.
    """

    image: str | None
    verdict: str
    pred_score: float | None = None
    log_odds: float | None = None
    answer: str = ""
    regions: list[Region] = field(default_factory=list)
    anomaly_map: np.ndarray | None = field(default=None, repr=False)
    evidence: dict[str, Any] = field(default_factory=dict)
    question: str = ""
    category: str = "object"
    language: str = "en"
    seconds: float = 0.0
    error: str | None = None
    conversation: list[dict[str, str]] = field(default_factory=list, repr=False)
    image_tokens: torch.Tensor | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """One row of `results.jsonl`: everything but the map and the tensors."""
        return {
            "image": self.image,
            "verdict": self.verdict,
            "pred_score": _rounded(self.pred_score),
            "log_odds": _rounded(self.log_odds),
            "answer": self.answer,
            "regions": [region.to_dict() for region in self.regions],
            "seconds": _rounded(self.seconds),
            "error": self.error,
            "evidence": self.evidence,
            "question": self.question,
            "category": self.category,
            "language": self.language,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "InspectionResult":
        """Reads such a row back; the map is not in it."""
        fields = {name: value for name, value in row.items() if name in cls.__dataclass_fields__}
        fields["regions"] = [_region(region) for region in row.get("regions", [])]
        return cls(**fields)


def _region(row: dict[str, Any]) -> Region:
    lists = {"box": tuple(row["box"]), "centroid": tuple(row["centroid"])}
    return Region(**(row | lists | {"outline": tuple(tuple(point) for point in row["outline"])}))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


__all__ = ["InspectionResult"]
