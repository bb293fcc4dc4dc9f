"""Inspection as a person does it: keep good references in mind, look at a part, say what is wrong and where.

Owns one model, one processor and the memory bank. Knows nothing of training, data sets or user interfaces.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm

from .bank_notes import load_bank
from .checkpoints import load_checkpoint
from .decision import CONFIDENCE, evidence_limit, normals_needed, supported_false_alarm_rate
from .dialogue import Dialogue, first_turn
from .feedback import FeedbackHistory, without_matches
from .inspection_batches import inspect_in_batches
from .inspection_result import InspectionResult
from .judgement import Judge
from .memory_bank import MemoryBank, PatchFeatures
from .observer import Observer
from .pictures import load_picture
from .prompts import check_language, default_question, describe
from .regions import Region
from .results_file import ResultsFile

MAX_NEW_TOKENS = 128
_TURNS = (0, 90, 180, 270)
# A limit below this would call pictures anomalous that look quite normal, on the word of a few good ones.
_LOWEST_EVIDENCE_LIMIT = -2.0


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
        self.feedback_history = FeedbackHistory()
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
        """Map value from which a pixel belongs to a region: the references' limit, else the checkpoint's."""
        return self._judge("auto", "en").threshold

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
        scores, comparability = self.observer.study(references)
        notes = {"normal_scores": json.dumps(asdict(scores))}
        if all(len(self.observer.boxes(image)) == 1 for turned in references for image in turned):
            sizes = [(turned[0].height, turned[0].width) for turned in references]
            notes |= {"comparability": comparability.to_json(), "copies": json.dumps([len(references[0]), sizes])}
        self.observer.memory_bank = replace(bank, limit=scores.limit, notes=notes)
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
        self.observer.memory_bank = load_bank(path, self.observer.fingerprint()).to(self.model.device)
        self.category, self.description = category, description

    def calibrate(
        self, normals: Sequence[Any], max_false_alarm: float = 0.02, batch_size: int = 8, progress: bool = True
    ) -> dict[str, Any]:
        r"""
        Sets the limits by more good pictures, none of them a reference, so that a false-alarm rate is kept.

        Args:
            normals (`list`):
                Good pictures. 29 / 59 / 149 / 299 of them support a rate of 10 / 5 / 2 / 1 % at 95 % confidence.
            max_false_alarm (`float`, defaults to 0.02):
                The rate asked for; with too few pictures the highest of them is the limit.
            batch_size (`int`, defaults to 8):
                Pictures that go through the model together.
            progress (`bool`, defaults to `True`):
                Whether a progress bar is shown.

        Returns:
            `dict`: `num_normals`, `max_false_alarm`, `supported_false_alarm_rate` (which may be higher than asked
            for), `confidence`, `enough` and `needed` (pictures for the rate asked for).

        Raises:
            RuntimeError: If there are no references.
            ValueError: If no picture can be read, or the rate is not between 0 and 1.
        """
        if self.memory_bank is None:
            raise RuntimeError("The memory bank is empty. Call `set_references` before `calibrate`.")
        needed = normals_needed(max_false_alarm)
        notes = {name: text for name, text in self.memory_bank.notes.items() if name != "calibration"}
        self.observer.memory_bank = replace(self.memory_bank, notes=notes)
        options = {"batch_size": batch_size, "progress": progress, "answer": False}
        scores = [row.pred_score for row in self.inspect_many(normals, use_language=False, **options) if not row.error]
        if not scores:
            raise ValueError("`normals` must hold at least one good picture that can be read, got none.")
        limit = self.memory_bank.limit * max(evidence_limit(scores, max_false_alarm), 1e-3)
        self.observer.memory_bank = replace(self.memory_bank, limit=limit)
        judged = [row for row in self.inspect_many(normals, **options) if not row.error]
        evidences = [row.evidence["evidence"] for row in judged]
        learned = {
            "num_normals": len(judged),
            "max_false_alarm": max_false_alarm,
            "supported_false_alarm_rate": max(supported_false_alarm_rate(len(judged)), max_false_alarm),
            "confidence": CONFIDENCE,
            "enough": len(judged) >= needed,
            "needed": needed,
            "evidence_limit": max(evidence_limit(evidences, max_false_alarm), _LOWEST_EVIDENCE_LIMIT),
        }
        notes = self.memory_bank.notes | {"calibration": json.dumps(learned)}
        self.observer.memory_bank = replace(self.memory_bank, notes=notes)
        return learned

    def feedback(self, result: InspectionResult, is_normal: bool, picture: Any = None) -> None:
        r"""
        Tells whether a verdict was right; the next ones follow. `audit_file` of [`FeedbackHistory`] keeps a record.

        Args:
            result ([`InspectionResult`]):
                Of the picture.
            is_normal (`bool`):
                `True`: the part is good, its patches join the bank. `False`: it has a defect; good patches that look
                like what stands out most in it are taken out.
            picture (*optional*):
                The picture again, where the result names no file.

        Raises:
            RuntimeError: If there are no references.
            ValueError: If there is no picture.
        """
        picture = result.image if picture is None else picture
        if picture is None:
            raise ValueError("`picture` must be given for a result that names no file, got None.")
        if self.memory_bank is None:
            raise RuntimeError("The memory bank is empty. Call `set_references` before `feedback`.")
        before, seen = self.memory_bank, self.observer.build_bank([load_picture(picture)], as_queries=True)
        after = before.extend(seen) if is_normal else without_matches(before, seen)
        row = {"image": result.image, "verdict": result.verdict, "is_normal": is_normal}
        self.feedback_history.record(before, after, row)
        self.observer.memory_bank = after

    def undo_feedback(self) -> None:
        """Takes the last feedback back; `RuntimeError` where there is none."""
        self.observer.memory_bank = self.feedback_history.undo()

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
        stream = inspect_in_batches(
            pictures,
            partial(self._inspect_batch, **options),
            partial(_failed, options=options),
            {} if rows is None else rows.finished,
            batch_size,
        )
        with bar:
            for result in stream:
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
        look = self.observer.look(images, category, localization)
        turns = first_turn(question, description, language)
        answers, log_odds = [""] * len(batch), [None] * len(batch)
        if use_language:
            longest = MAX_NEW_TOKENS if answer else 1
            answers, log_odds = self.dialogue.answer([turns] * len(batch), look.image_tokens, language, longest)
        seconds = (time.perf_counter() - start) / len(batch)
        judge = self._judge(localization, language)
        results = []
        for index, (picture, image) in enumerate(batch):
            words, patches, doubts = answers[index] if answer else "", look.patches[index], look.doubts[index]
            judgement = judge.judge(look.maps[index], log_odds[index], doubts, mm_per_pixel, look.relit[index])
            regions = [self._with_nearest_good(region, patches, image) for region in judgement.regions]
            results.append(
                InspectionResult(
                    image=str(picture) if isinstance(picture, str | os.PathLike) else None,
                    verdict=judgement.verdict,
                    pred_score=judgement.pred_score,
                    log_odds=log_odds[index],
                    answer=words,
                    regions=regions if judge.calibrated else judgement.regions,
                    anomaly_map=look.maps[index],
                    evidence=judgement.evidence,
                    question=question,
                    category=category,
                    language=language,
                    seconds=seconds,
                    conversation=[*turns, {"role": "assistant", "content": words}] if words else [],
                    image_tokens=look.image_tokens[index : index + 1].clone() if use_language else None,
                )
            )
        return results

    def _judge(self, localization: str, language: str) -> Judge:
        config = self.model.config
        return Judge(self.memory_bank, localization, config.relative_maps, config.region_threshold, language)

    def _with_nearest_good(self, region: Region, patches: PatchFeatures | None, image: Image.Image) -> Region:
        x, y = (round(value) for value in region.centroid)
        return replace(region, nearest_good=self.observer.nearest_good(patches, (image.height, image.width), x, y))


def _failed(picture: Any, line: str, options: dict[str, Any]) -> InspectionResult:
    return InspectionResult(
        image=str(picture) if isinstance(picture, str | os.PathLike) else None,
        verdict="error",
        error=line,
        category=options["category"],
        question=options["question"],
        language=options["language"],
    )


__all__ = ["AnomalyInspector"]
