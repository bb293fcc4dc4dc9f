"""Evaluation of detectors on labelled pictures: every method, category, number of references and seed gives one row.

Rows that are in the table already, with the same references, are not measured again. Under `torchrun` or `accelerate
launch` each process takes every n-th picture; what they collect is joined before a metric is computed, so the numbers
are those of one process.
Knows rows of data sets and metrics; knows no layouts and no words of the command line.
"""

import functools
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm

from ..conversations.word_metrics import WordMetrics
from ..data.examples import chosen_rows
from ..data.fingerprint import split_fingerprint
from ..data.sources import ANOMALOUS, NORMAL, SourceRows, labelled_example
from ..results import read_ahead
from .detectors import Detection, Detector
from .metrics import ImageMetrics, PixelMetrics
from .protocols import Protocol
from .tables import METRICS, EvaluationRows

ALL = "all"
"""Instead of a number of references: every good picture there is."""

_DECODED_AHEAD = 4


class EvaluationError(ValueError):
    """An evaluation that cannot be done; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What is measured.

    Args:
        protocol ([`Protocol`]): How.
        k_shots (`list[int | str]`): Numbers of references, 0 for none, `"all"` for all.
        seeds (`list[int]`): Draw the references.
        references_from (`str`, defaults to `"train"`): Split of the references. Those from `"test"` are not measured
            on.
        limit (`int`, *optional*): At most so many pictures of each category, half of them anomalous where there are
            enough.
        facts (`dict[str, str]`): Columns that are the same in every row of [`EvaluationRows`].

    Raises:
        ValueError: If a number is out of range.
    """

    protocol: Protocol
    k_shots: Sequence[int | str]
    seeds: Sequence[int]
    references_from: str = "train"
    limit: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for k_shot in self.k_shots:
            if k_shot != ALL and not (isinstance(k_shot, int) and k_shot >= 0):
                raise ValueError(
                    f"`--k-shot` must be numbers of at least 0 or {ALL!r}, got {k_shot!r}. Usual are 1, 2 and 4."
                )
        for seed in self.seeds:
            if seed < 0:
                raise ValueError(f"`--seeds` must be at least 0, got {seed}. Count from 0.")
        if not self.k_shots or not self.seeds:
            raise ValueError("`--k-shot` and `--seeds` must each hold a number, got none. Name one or more.")
        if self.limit is not None and self.limit < 2:
            raise ValueError(f"`--limit` must be at least 2, one picture of each kind, got {self.limit}. Raise it.")
        if self.references_from not in ("train", "test"):
            raise ValueError(
                f"`--references-from` must be train or test, got {self.references_from!r}. Choose one of them."
            )

    def cells(self, shots: Sequence[int | str]) -> list[tuple[int | str, int]]:
        """Numbers of references and seeds of a method that can take these; nothing is drawn for none and for all."""
        cells = []
        for k_shot in (ALL,) if tuple(shots) == (ALL,) else dict.fromkeys(self.k_shots):
            takes = k_shot in shots or (isinstance(k_shot, int) and k_shot > 0 and "some" in shots)
            drawn = k_shot not in (0, ALL)
            cells += [(k_shot, seed) for seed in (dict.fromkeys(self.seeds) if drawn else (0,)) if takes]
        return cells


def evaluate(
    plan: EvaluationPlan,
    detectors: Sequence[Detector],
    test: Any,
    train: Any,
    rows: EvaluationRows,
) -> list[dict[str, str]]:
    """Measures every cell of the plan that is not in the table yet, with a progress bar on stderr.

    Args:
        plan ([`EvaluationPlan`]): What.
        detectors (`list[Detector]`): Methods.
        test (`datasets.Dataset`): Labelled pictures.
        train (`datasets.Dataset`, *optional*): Good pictures, for references; not needed where they come from `test`
            or there are none.
        rows ([`EvaluationRows`]): The table; the first process writes.

    Returns:
        `list[dict[str, str]]`: The rows of the plan, those measured before included.

    Raises:
        EvaluationError: If a category has one class only, **or** too few good pictures, **or** none that is no
            reference.
        PictureError: If a picture cannot be read; none is left out.
    """
    for detector in detectors:
        if not plan.cells(detector.shots):
            raise EvaluationError(
                f"`--k-shot` must hold a number of references that {detector.name} takes ({_takes(detector.shots)}), "
                f"got {' '.join(map(str, plan.k_shots))}. Add one, or leave the method out."
            )
    state = PartialState()
    tables = {"test": SourceRows(test, "test", ("image", "label"))}
    if train is not None:
        tables["train"] = SourceRows(train, "train")
    categories = sorted(set(tables["test"].categories))
    known = {category: _Category(plan, tables, category) for category in categories}
    cells = [
        (detector, known[category], k_shot, seed)
        for detector in detectors
        for category in categories
        for k_shot, seed in plan.cells(detector.shots)
    ]
    done, waiting = {}, []
    for number, cell in enumerate(cells):
        _, category, k_shot, seed = cell
        category.pictures(plan, category.references(plan, k_shot, seed))  # refuses before anything is measured
        row = rows.find(_key(plan, *cell))
        if row is None:
            waiting.append(number)
        else:
            done[number] = row
    state.wait_for_everyone()  # all have read the table before the first process changes it
    total = sum(len(cells[number][1].chosen) for number in waiting)
    with tqdm(total=total, desc="evaluating", unit="picture", disable=not state.is_main_process) as bar:
        for number in waiting:
            detector, category, k_shot, seed = cells[number]
            bar.set_postfix_str(f"{detector.name} {category.name} {k_shot}-shot seed {seed}")
            measured = _measure(plan, detector, category, k_shot, seed, bar)
            if measured is not None:
                done[number] = rows.add(_facts(plan, detector) | _key(plan, *cells[number]) | measured)
    return [done[number] for number in sorted(done)]


class _Category:
    """The pictures of one category: those to measure on, and those to take references from."""

    def __init__(self, plan: EvaluationPlan, tables: dict[str, SourceRows], name: str):
        self.name, self.rows = name, tables["test"]
        members = [index for index, category in enumerate(self.rows.categories) if category == name]
        labelled = [index for index in members if self.rows.labels[index] in (NORMAL, ANOMALOUS)]
        labels = [self.rows.labels[index] for index in labelled]
        if len(set(labels)) < 2:
            raise EvaluationError(
                f"{name!r} must have good and anomalous test pictures, got {labels.count(NORMAL)} and "
                f"{labels.count(ANOMALOUS)}. No metric is defined without both; leave it out with --category."
            )
        self.split_hash = split_fingerprint(self.rows.dataset.select(members))
        self.chosen = [labelled[number] for number in chosen_rows(labels, plan.limit, seed=0)]
        self.source = tables.get(plan.references_from)
        self.good: list[int] = []
        self.hash_of = functools.cache(lambda taken: split_fingerprint(self.source.dataset.select(taken)))
        if self.source is not None:
            self.good = [
                index
                for index, (category, label) in enumerate(zip(self.source.categories, self.source.labels, strict=True))
                if category == name and label == NORMAL
            ]

    def references(self, plan: EvaluationPlan, k_shot: int | str, seed: int) -> list[int]:
        """Rows of the references in their split."""
        if k_shot == ALL:
            if not self.good:
                raise EvaluationError(
                    f"{self.name!r} must have good pictures for references, got none. Leave it out with --category."
                )
            return self.good
        try:
            return [self.good[number] for number in plan.protocol.references(len(self.good), k_shot, seed)]
        except ValueError as error:
            raise EvaluationError(f"{self.name!r}: {error}") from error

    def pictures(self, plan: EvaluationPlan, taken: Sequence[int]) -> list[int]:
        """Rows of the test split to measure on: none of the references."""
        barred = set(taken) if plan.references_from == "test" else set()
        left = [index for index in self.chosen if index not in barred]
        if all(self.rows.labels[index] == ANOMALOUS for index in left):
            raise EvaluationError(
                f"{self.name!r} must have good test pictures that are no references, got none: all to measure on are "
                "taken. Lower --k-shot, raise --limit, or use --references-from train."
            )
        return left


def _takes(shots: Sequence[int | str]) -> str:
    """`"1 or more, all"`."""
    return ", ".join("1 or more" if shot == "some" else str(shot) for shot in shots)


def _facts(plan: EvaluationPlan, detector: Detector) -> dict[str, Any]:
    """Columns that say what made a row; a method with weights of its own names those."""
    return {**plan.facts, **getattr(detector, "facts", {})}


def _key(
    plan: EvaluationPlan, detector: Detector, category: _Category, k_shot: int | str, seed: int
) -> dict[str, Any]:
    protocol, taken = plan.protocol, category.references(plan, k_shot, seed)
    return {
        "dataset": protocol.dataset,
        "category": category.name,
        "split_hash": category.split_hash,
        "limit": plan.limit,
        "method": detector.name,
        "backbone": getattr(detector, "backbone_name", None),
        "protocol": protocol.label,
        "k_shot": k_shot,
        "seed": seed if k_shot not in (0, ALL) else None,
        "references_from": plan.references_from if k_shot != 0 else None,
        "references_hash": category.hash_of(tuple(taken)) if taken else None,
        "checkpoint_hash": _facts(plan, detector).get("checkpoint_hash"),
        "answers": getattr(detector, "answers", None),
    }


def _measure(
    plan: EvaluationPlan, detector: Detector, category: _Category, k_shot: int | str, seed: int, bar: Any
) -> dict[str, Any] | None:
    """Metrics of one cell; `None` in all processes but the first."""
    state, start = PartialState(), time.perf_counter()
    taken = category.references(plan, k_shot, seed)
    references = (plan.protocol.picture(category.source.picture(index)) for index in taken)
    detector.learn(references, *plan.protocol.words(category.name))
    chosen = category.pictures(plan, taken)
    collected = _Collected()
    for label, mask, detection in _detections(
        plan, detector, category.rows, chosen[state.process_index :: state.num_processes]
    ):
        collected.add(label, mask, detection)
        bar.update(state.num_processes)
    first, *others = gather_object([collected])
    if not state.is_main_process:
        return None
    for other in others:
        first.merge(other)
    metrics = first.compute()
    row = {name: metrics[name] for name in METRICS if name in metrics}
    if taken:
        names = [category.source.image_ids[index] for index in taken]
        row["references"] = ";".join(names) if len(names) <= 32 else f"all {len(names)} good pictures"
    return row | {
        "num_pictures": int(metrics["num_pictures"]),
        "num_anomalous": int(metrics["num_anomalous"]),
        "num_masks": first.pixels.num_maps,
        "seconds": round(time.perf_counter() - start, 2),
        "num_processes": state.num_processes,
    }


def _detections(
    plan: EvaluationPlan, detector: Detector, rows: SourceRows, indices: Sequence[int]
) -> Iterator[tuple[int, np.ndarray | None, Detection]]:
    """Label, mask and detection of each picture; pictures are decoded ahead and held only until they are detected."""
    known: deque[tuple[int, np.ndarray | None]] = deque()

    def read(index: int) -> tuple[Image.Image, int, np.ndarray | None]:
        example = labelled_example(rows[index], rows.image_ids[index], rows.name)
        mask = None if example.mask is None else plan.protocol.mask(example.mask)
        return plan.protocol.picture(example.picture), int(bool(example.anomalous)), mask

    def pictures() -> Iterator[Image.Image]:
        for picture, label, mask in read_ahead(indices, read, _DECODED_AHEAD):
            known.append((label, mask))
            yield picture

    for detection in detector.detect(pictures()):
        yield *known.popleft(), detection


class _Collected:
    """Metrics of what a process has measured; joined exactly with those of others."""

    def __init__(self) -> None:
        self.images, self.pixels, self.words = ImageMetrics(), PixelMetrics(), WordMetrics()
        self.anomalous_pixels = False

    def add(self, label: int, mask: np.ndarray | None, detection: Detection) -> None:
        optional = {
            "verdicts": detection.verdict,
            "log_odds": detection.log_odds,
            "answers": detection.answer,
            "ratios": detection.ratio,
            "evidence": detection.evidence,
        }
        given = {name: [value] for name, value in optional.items() if value is not None}
        self.images.update([label], [detection.score], **given)
        if mask is not None:
            self.pixels.update(mask, detection.anomaly_map)
            self.anomalous_pixels |= bool(mask.any())
            if detection.answer is not None:
                self.words.update([mask], [detection.answer])

    def merge(self, other: "_Collected") -> None:
        self.images.merge(other.images)
        self.pixels.merge(other.pixels)
        self.words.merge(other.words)
        self.anomalous_pixels |= other.anomalous_pixels

    def compute(self) -> dict[str, float]:
        metrics = self.images.compute()
        if self.anomalous_pixels:
            metrics |= self.pixels.compute()
        return metrics | (self.words.compute() if self.words else {})
