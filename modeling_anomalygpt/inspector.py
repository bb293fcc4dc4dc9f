"""Inspection as a person does it: keep good references in mind, look at a part, say what is wrong and where.

Owns one model, one processor and the memory bank. Knows nothing of training, data sets or user interfaces.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .checkpoints import CheckpointError, first_line, load_checkpoint
from .dialogue import Dialogue, first_turn
from .inspection_result import InspectionResult
from .memory_bank import MemoryBank
from .observer import Observer
from .pictures import PictureError, load_picture
from .prompts import check_language, default_question, describe
from .regions import Region, find_regions
from .results_file import ResultsFile

MAX_NEW_TOKENS = 128
_TURNS = (0, 90, 180, 270)

# The language model may see an anomaly where the map stays below the threshold: its region reaches down to this part
# of the peak.
_PART_OF_PEAK = 0.6


class AnomalyInspector:
    r"""
    Inspects pictures with one checkpoint and, if given, with good references.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]):
            In evaluation mode.
        processor ([`AnomalyGPTProcessor`]):
            Its processor.
        tile (`int`, *optional*):
            Side in pixels of the tiles into which larger pictures (queries and references alike) are split.

    Example:
    ```python
    inspector = AnomalyInspector.from_pretrained()
    inspector.set_references(["good_1.png", "good_2.png"], category="bolt")
    result = inspector.inspect("query.png")
    print(result.verdict, result.answer, inspector.ask(result, "Where is the defect?"))
    ```
    """

    def __init__(self, model: torch.nn.Module, processor: Any, tile: int | None = None):
        self.model = model
        self.processor = processor
        self.observer = Observer(model, processor, tile)
        self.dialogue = Dialogue(model, processor)
        self.category = "object"
        self.description: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        quantization_config: Any = None,
        tile: int | None = None,
    ) -> "AnomalyInspector":
        """Loads a folder, a Hub id or, by default, the embedded checkpoint; see [`load_checkpoint`]."""
        return cls(*load_checkpoint(model, device, dtype, quantization_config), tile=tile)

    @property
    def num_references(self) -> int:
        """Pictures (tiles, rotated copies) in the memory bank."""
        return 0 if self.memory_bank is None else self.memory_bank.num_references

    @property
    def region_threshold(self) -> float:
        """Map value from which a pixel belongs to a region; the checkpoint's."""
        return self.model.config.region_threshold

    @property
    def memory_bank(self) -> MemoryBank | None:
        """Good patches of the references; `None` before there are any."""
        return self.observer.memory_bank

    def set_references(
        self,
        pictures: Sequence[Any],
        category: str = "object",
        description: str | None = None,
        rotations: bool = False,
        max_patches: int | None = None,
    ) -> None:
        r"""
        Learns what good looks like; replaces earlier references.

        Args:
            pictures (`list`):
                One or more good pictures: paths, PIL pictures or arrays.
            category (`str`, defaults to `"object"`):
                What they show, in any words.
            description (`str`, *optional*):
                A sentence that says how a good one looks; `None`: the known one of the category, or none.
            rotations (`bool`, defaults to `False`):
                Whether copies turned by 90, 180 and 270 degrees are added, for parts that lie in any direction.
            max_patches (`int`, *optional*):
                Keep at most so many patches a layer (greedy k-centre), to bound time and memory.

        Raises:
            PictureError: If a picture cannot be used; names it.
            ValueError: If there is no picture.
        """
        pictures = list(pictures)
        if not pictures:
            raise ValueError("`pictures` must hold at least one good picture, got none. One is enough to start.")
        bank, references = None, []
        for picture in tqdm(pictures, desc="references", disable=len(pictures) < 9, leave=False):
            image = load_picture(picture)
            references.append([image.rotate(angle, expand=True) for angle in _TURNS[: 4 if rotations else 1]])
            part = self.observer.build_bank(references[-1])
            bank = part if bank is None else bank.extend(part)
        bank = bank if max_patches is None else bank.reduce(max_patches)
        scores = self.observer.normal_scores(references)
        self.observer.memory_bank = replace(
            bank, limit=scores.limit, notes={"normal_scores": json.dumps(asdict(scores))}
        )
        self.category, self.description = category, description

    def save_references(self, path: str | os.PathLike) -> None:
        """Writes the memory bank to a safetensors file."""
        if self.memory_bank is None:
            raise RuntimeError("The memory bank is empty. Call `set_references` before `save_references`.")
        self.memory_bank.save(path)

    def load_references(
        self, path: str | os.PathLike, category: str = "object", description: str | None = None
    ) -> None:
        """Reads a memory bank; one that another encoder or geometry made is refused."""
        bank = MemoryBank.load(path, self.observer.fingerprint())
        self.observer.memory_bank = bank.to(self.model.device)
        self.category, self.description = category, description

    def inspect(self, picture: Any, **options: Any) -> InspectionResult:
        r"""
        Inspects one picture.

        Args:
            picture (path, `PIL.Image.Image` or `np.ndarray`):
                The picture.
            options:
                See [`AnomalyInspector.inspect_many`].

        Returns:
            [`InspectionResult`]

        Raises:
            PictureError: If the picture cannot be used.
        """
        options = self._checked(options)
        return self._inspect_batch([(picture, load_picture(picture))], **options)[0]

    def inspect_many(
        self,
        pictures: Iterable[Any],
        batch_size: int = 1,
        progress: bool = True,
        results_file: str | os.PathLike | None = None,
        resume: bool = False,
        **options: Any,
    ) -> Iterator[InspectionResult]:
        r"""
        Inspects any number of pictures, in order, one result each; a bad picture gives a row with its error.

        Args:
            pictures (iterable of paths, `PIL.Image.Image` or `np.ndarray`):
                Read as they are needed.
            batch_size (`int`, defaults to 1):
                Pictures that go through the model together.
            progress (`bool`, defaults to `True`):
                Whether a progress bar is shown on stderr.
            results_file (`str` or `os.PathLike`, *optional*):
                JSON-lines file to which each result is appended at once.
            resume (`bool`, defaults to `False`):
                Whether pictures already in `results_file` are taken from it; such results have no map.
            question (`str`, *optional*):
                What is asked; `None`: whether there is any anomaly.
            language (`str`, defaults to `"en"`):
                `"en"` or `"zh"`.
            category, description (`str`, *optional*):
                `None`: those of the references.
            localization (`str`, defaults to `"auto"`):
                `"auto"`: by the references where there are any, else by the state vectors; or `"text"`,
                `"reference"`, `"mean"`.
            answer (`bool`, defaults to `True`):
                Whether the answer is generated; without it the language model still gives its log-odds.
            use_language (`bool`, defaults to `True`):
                Whether the language model is asked at all. Without it the map decides: a peak at or above the
                checkpoint's region threshold is anomalous.
            mm_per_pixel (`float`, *optional*):
                Scale, for sizes in millimetres.

        Yields:
            [`InspectionResult`]
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        options = self._checked(options)
        rows = ResultsFile(results_file, resume) if results_file is not None else None
        total = len(pictures) if hasattr(pictures, "__len__") else None
        bar = tqdm(total=total, desc="inspecting", unit="picture", disable=not progress)
        stream = iter(pictures)
        with bar:
            while batch := list(islice(stream, batch_size)):
                for result in self._results(batch, rows, options):
                    if rows is not None and "resumed" not in result.evidence:
                        rows.append(result)
                    bar.update()
                    yield result

    def ask(
        self, result: InspectionResult, question: str, stream: bool = False, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str | Iterator[str]:
        r"""
        Asks a further question about an inspected picture; the turns so far are part of it.

        Args:
            result ([`InspectionResult`]):
                From [`AnomalyInspector.inspect`] of this process.
            question (`str`):
                In English or Chinese.
            stream (`bool`, defaults to `False`):
                Whether the answer comes piece by piece.
            max_new_tokens (`int`, defaults to 128):
                Longest answer.

        Returns:
            `str`, or an iterator of its pieces when `stream`. The turn is added to `result.conversation`.

        Raises:
            ValueError: If the question is empty **or** the result holds no picture any more.
        """
        if not question.strip():
            raise ValueError("`question` must hold words, got an empty text.")
        if result.image_tokens is None:
            raise ValueError("`result` must hold what the model saw, got one from a file or an error. Inspect again.")
        turns = [*result.conversation, {"role": "user", "content": question}]
        pieces = self._ask(result, turns, max_new_tokens)
        return pieces if stream else "".join(pieces)

    def _ask(self, result: InspectionResult, turns: list[dict[str, str]], max_new_tokens: int) -> Iterator[str]:
        answer = ""
        for piece in self.dialogue.stream(turns, result.image_tokens, max_new_tokens):
            answer += piece
            yield piece
        result.conversation = [*turns, {"role": "assistant", "content": answer}]

    def _checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options with their defaults; refused here, before the first picture is read."""
        defaults = {
            "question": None, "language": "en", "category": None, "description": None, "localization": "auto",
            "answer": True, "use_language": True, "mm_per_pixel": None,
        }  # fmt: skip
        unknown = sorted(set(options) - set(defaults))
        if unknown:
            raise TypeError(f"Options must be among {', '.join(defaults)}, got {', '.join(unknown)}.")
        options = defaults | options
        check_language(options["language"])
        if options["mm_per_pixel"] is not None and not options["mm_per_pixel"] > 0:
            raise ValueError(f"`mm_per_pixel` must be above 0, got {options['mm_per_pixel']}.")
        if options["localization"] in ("reference", "mean") and self.memory_bank is None:
            raise RuntimeError(
                f"The memory bank is empty, but localization={options['localization']!r} needs references. "
                "Call `set_references` with one or more good pictures first."
            )
        options["category"] = options["category"] or self.category
        options["question"] = options["question"] or default_question(options["language"])
        if options["description"] is None:
            known = options["category"] != "object" or self.description is not None
            options["description"] = (
                describe(options["category"], options["language"], self.description) if known else None
            )
        return options

    def _results(
        self, batch: list[Any], rows: ResultsFile | None, options: dict[str, Any]
    ) -> Iterator[InspectionResult]:
        """Results of a batch in order: taken from the file, inspected, or errors."""
        finished = {} if rows is None else rows.finished
        slots: list[InspectionResult | None] = []
        loaded = []
        for picture in batch:
            known = finished.get(str(picture)) if isinstance(picture, str | os.PathLike) else None
            if known is not None:
                known.evidence = known.evidence | {"resumed": True}
            else:
                try:
                    loaded.append((picture, load_picture(picture)))
                except (PictureError, OSError) as error:
                    known = _failed(picture, error, options)
            slots.append(known)
        try:
            inspected = iter(self._inspect_batch(loaded, **options) if loaded else [])
        except (RuntimeError, MemoryError, CheckpointError) as error:
            inspected = iter(self._one_by_one(loaded, error, options))
        for slot in slots:
            yield next(inspected) if slot is None else slot

    def _one_by_one(self, loaded: list, error: BaseException, options: dict[str, Any]) -> list[InspectionResult]:
        """After a failed batch: each picture alone, so that one bad picture or too large a batch loses nothing."""
        if len(loaded) == 1:
            return [_failed(loaded[0][0], error, options)]
        results = []
        for pair in loaded:
            try:
                results += self._inspect_batch([pair], **options)
            except (RuntimeError, MemoryError, CheckpointError) as own_error:
                results.append(_failed(pair[0], own_error, options))
        return results

    @torch.inference_mode()
    def _inspect_batch(
        self,
        batch: list[tuple[Any, Image.Image]],
        question: str,
        language: str,
        category: str,
        description: str | None,
        localization: str,
        answer: bool,
        use_language: bool,
        mm_per_pixel: float | None,
    ) -> list[InspectionResult]:
        start = time.perf_counter()
        images = [image for _, image in batch]
        maps, image_tokens = self.observer.look(images, category, localization)
        turns = first_turn(question, description, language)
        answers, log_odds = [""] * len(batch), [None] * len(batch)
        if use_language:
            longest = MAX_NEW_TOKENS if answer else 1
            answers, log_odds = self.dialogue.answer([turns] * len(batch), image_tokens, language, longest)
        seconds = (time.perf_counter() - start) / len(batch)
        results = []
        for (picture, _), anomaly_map, tokens, words, odds in zip(
            batch, maps, image_tokens, answers, log_odds, strict=True
        ):
            score = float(anomaly_map.max())
            anomalous = odds > 0 if odds is not None else score >= self.region_threshold
            words = words if answer else ""
            results.append(
                InspectionResult(
                    image=str(picture) if isinstance(picture, str | os.PathLike) else None,
                    verdict="anomalous" if anomalous else "normal",
                    pred_score=score,
                    log_odds=odds,
                    answer=words,
                    regions=self._regions(anomaly_map, mm_per_pixel) if anomalous else [],
                    anomaly_map=anomaly_map,
                    evidence=self._evidence(anomaly_map, odds, localization),
                    question=question,
                    category=category,
                    language=language,
                    seconds=seconds,
                    conversation=[*turns, {"role": "assistant", "content": words}] if words else [],
                    image_tokens=tokens.unsqueeze(0).clone() if use_language else None,
                )
            )
        return results

    def _regions(self, anomaly_map: np.ndarray, mm_per_pixel: float | None) -> list[Region]:
        """Regions at the checkpoint's threshold; where the map stays below it, the place that stands out most."""
        regions = find_regions(anomaly_map, self.region_threshold, mm_per_pixel=mm_per_pixel)
        peak = float(anomaly_map.max())
        if regions or peak <= 0:
            return regions
        return find_regions(anomaly_map, _PART_OF_PEAK * peak, min_area=1, mm_per_pixel=mm_per_pixel)[:1]

    def _evidence(self, anomaly_map: np.ndarray, log_odds: float | None, localization: str) -> dict[str, Any]:
        row, column = np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)
        by_reference = self.memory_bank is not None and localization != "text"
        evidence = {
            "localization": "text_guided" if not by_reference else "mean" if localization == "mean" else "few_shot",
            "num_references": self.num_references,
            "peak": {"x": int(column), "y": int(row), "score": round(float(anomaly_map[row, column]), 6)},
            "region_threshold": self.region_threshold,
        }
        if log_odds is not None:
            evidence["yes_probability"] = round(float(1 / (1 + np.exp(-log_odds))), 6)
        return evidence


def _failed(picture: Any, error: BaseException, options: dict[str, Any]) -> InspectionResult:
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
    text = "Not enough memory for this picture. Use a smaller picture or `tile`." if memory else first_line(error)
    return InspectionResult(
        image=str(picture) if isinstance(picture, str | os.PathLike) else None,
        verdict="error",
        error=text,
        category=options["category"],
        question=options["question"],
        language=options["language"],
    )


__all__ = ["AnomalyInspector"]
