"""Whatever finds anomalies, as an evaluation sees it: good pictures in, then for each picture a score, a map, a word.

[`AnomalyGPTDetector`] is the inspector behind that; the methods it is compared with are in `baselines`.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..encoder import PoseError
from ..inspector import AnomalyInspector


@dataclass(frozen=True)
class Detection:
    """What a method says about a picture.

    Args:
        score (`float`): Higher means more anomalous.
        anomaly_map (`np.ndarray` of shape `(height, width)`): float32, in the picture's own pixels.
        verdict (`str`, *optional*): `"normal"`, `"anomalous"` or `"uncertain"`.
        log_odds (`float`, *optional*): Natural logarithm of P(yes) / P(no).
        answer (`str`, *optional*): In words.
        ratio (`float`, *optional*): The score over the limit of the references; 1 is the limit.
        evidence (`float`, *optional*): Score and words together; above 0 speaks for an anomaly.
    """

    score: float
    anomaly_map: np.ndarray
    verdict: str | None = None
    log_odds: float | None = None
    answer: str | None = None
    ratio: float | None = None
    evidence: float | None = None


class Detector(Protocol):
    """What is evaluated.

    `name` stands in the table. `shots` are the numbers of references it can take: 0 for none, `"some"` for any from 1
    on, `"all"` for every good picture there is. Where it has them, `backbone_name` and `facts` (columns of
    [`EvaluationRows`]) name weights that are not the checkpoint's.
    """

    name: str
    shots: tuple[int | str, ...]

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """Takes the good pictures, none for none, and the words for them; forgets earlier ones."""

    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """One detection for each picture, in order."""


class AnomalyGPTDetector:
    """An inspector under evaluation.

    Args:
        inspector ([`AnomalyInspector`]): Its references are replaced.
        published (`bool`): Whether the score is the maximum of the map, pictures are seen in their own light and there
            is no verdict, as in the paper.
        answers (`bool`, defaults to `True`): Whether answers are generated.
        batch_size (`int`, defaults to 8): Pictures that go through the model together.
        foreground (`bool`, defaults to `False`): Whether only the part counts where it can be told from its ground,
            see [`AnomalyInspector.find_foreground`].
        align (`bool`, defaults to `False`): Whether pictures are brought into the pose of the good ones where these
            can be brought into one.
        presence (`bool`, defaults to `False`): Whether what all good ones show must be there.
    """

    shots = (0, "some", "all")

    def __init__(
        self,
        inspector: AnomalyInspector,
        published: bool,
        answers: bool = True,
        batch_size: int = 8,
        foreground: bool = False,
        align: bool = False,
        presence: bool = False,
    ):
        self.inspector, self.published, self.answers = inspector, published, answers
        self.foreground, self.align, self.presence = foreground, align, presence
        self.name = "anomalygpt" + "_foreground" * foreground + "_aligned" * align + "_presence" * presence
        if published:
            inspector.model.config.decision = {"match_exposure": False}
        self.options: dict[str, Any] = {"answer": answers, "batch_size": batch_size, "progress": False}

    def learn(self, references: Iterable[Image.Image], category: str, description: str) -> None:
        """See [`Detector`]."""
        references = list(references)
        if references:
            roi = self.inspector.encoder.find_foreground(references) if self.foreground else None
            known: dict[str, Any] = {"category": category, "description": description, "roi": roi}
            known["presence"] = self.presence and len(references) > 1
            if self.presence and len(references) == 1:
                warnings.warn(f"{category}: one good picture does not tell what must be there.", stacklevel=2)
            try:
                self.inspector.set_references(references, align=self.align, **known)
            except PoseError as error:  # no rigid part
                warnings.warn(f"{category}: compared as the parts lie, not aligned. {error}", stacklevel=2)
                self.inspector.set_references(references, **known)
        else:
            self.inspector.references = None
        self.options |= {"category": category, "description": description}

    def detect(self, pictures: Iterable[Image.Image]) -> Iterator[Detection]:
        """See [`Detector`]; a picture that cannot be inspected ends it with a `RuntimeError`."""
        for result in self.inspector.inspect_many(pictures, **self.options):
            if result.error is not None:
                raise RuntimeError(result.error)
            calibrated = "threshold" in result.evidence
            decided = result.verdict != "unknown"  # without references a checkpoint may give no verdict
            yield Detection(
                score=float(result.anomaly_map.max()) if self.published else result.pred_score,
                anomaly_map=result.anomaly_map,
                verdict=result.verdict if decided and not self.published else None,
                log_odds=result.log_odds,
                answer=result.answer if self.answers and decided else None,
                ratio=result.pred_score if calibrated and not self.published else None,
                evidence=result.evidence["decision_score"] if calibrated and not self.published else None,
            )
