"""Inspection as a person does it: keep good references in mind, look at a part, say what is wrong and where.

Owns one model, one processor and the references. Knows nothing of training, data sets or user interfaces.
"""

import datetime
import os
import pathlib
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from .checkpoints import load_checkpoint
from .dialogue import Dialogue, first_turn, language_of
from .encoder import EncodedImage, ImageEncoder, PoseError
from .files import append_json_line
from .images import bit_depth, load_picture
from .memory_bank import MemoryBank, best_matches, unit_length, weights_fingerprint
from .pose import Pose
from .prompts import check_language, default_question, describe, is_known
from .references import Calibration, References, nearest_rotation, same_picture, thumbnail
from .regions import DEFECT_KINDS, Region, core
from .results import InspectionResult, ResultsFile, inspect_in_batches
from .scoring import (
    CONFIDENCE,
    Score,
    Scorer,
    decide,
    decision_score,
    false_alarm_threshold,
    normals_needed,
    supported_false_alarm_rate,
)
from .wording import MeasuredFacts, reason_in_words

MAX_NEW_TOKENS = 128
_ROTATED = 3  # degrees from which on a part is said to be rotated
_MOST_CHANGES = 50  # that can be undone; each keeps the bank before it
# A threshold below this would call pictures anomalous that look quite normal, on the word of a few good ones.
_LOWEST_DECISION_THRESHOLD = -2.0


_LARGEST_SCALE = 1_000_000  # a kilometre a pixel
_KINDS = {
    **dict.fromkeys(("question", "category", "description"), (str, "a text")),
    **dict.fromkeys(("answer", "use_language", "rotations", "align", "presence"), (bool, "True or False")),
    "mm_per_pixel": (int | float, "a number"),
    "max_patches": (int, "a whole number"),
}


def _check_kinds(**values: Any) -> None:
    """Refuses values of another kind than their options take: `"no"` would count as yes."""
    for name, value in values.items():
        kind, words = _KINDS[name]
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise ValueError(f"`{name}` must be {words}, got {str(value)[:60]!r} of type {type(value).__name__}.")


@dataclass(frozen=True)
class InspectionOptions:
    """How pictures are inspected; the same everywhere: inspector, pipeline, command line, Space.

    Args:
        question (`str`, *optional*): What is asked; `None`: whether there is any anomaly.
        language (`str`, defaults to `"en"`): `"en"` or `"zh"`.
        category, description (`str`, *optional*): `None`: those of the references.
        localization (`str`, defaults to `"auto"`): `"auto"`: by the references where there are any, else by the state
            vectors; or `"text"`, `"reference"`, `"mean"`.
        answer (`bool`, defaults to `True`): Whether there is an answer in words.
        use_language (`bool`, defaults to `True`): Whether the language model is asked at all. Without it the map
            decides.
        mm_per_pixel (`float`, *optional*): Scale, for sizes in millimetres.

    Raises:
        ValueError: If the language is unknown, the scale is not above 0 **or** a value is of another kind.
    """

    question: str | None = None
    language: str = "en"
    category: str | None = None
    description: str | None = None
    localization: str = "auto"
    answer: bool = True
    use_language: bool = True
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        check_language(self.language)
        _check_kinds(**{name: value for name, value in vars(self).items() if name in _KINDS})
        if self.mm_per_pixel is not None and not 0 < self.mm_per_pixel <= _LARGEST_SCALE:
            limits = f"above 0 and at most {_LARGEST_SCALE}"
            raise ValueError(f"`mm_per_pixel` must be {limits}, got {self.mm_per_pixel}. Leave it out when unknown.")

    def completed(self, references: References | None) -> "InspectionOptions":
        """These options with what the references know: category, description; and the usual question."""
        if self.localization in ("reference", "mean") and references is None:
            raise RuntimeError(
                f"The memory bank is empty, but localization={self.localization!r} needs references. "
                "Call `set_references` with one or more good pictures first."
            )
        category = self.category or (references.category if references else "object")
        known = references.description if references else None
        description = self.description
        if description is None and (category != "object" or known is not None):
            description = describe(category, self.language, known)
        question = self.question or default_question(self.language)
        return replace(self, category=category, description=description, question=question)


# Share of a missed picture's patches, those that stand out most, whose nearest good patches are taken out.
_STANDING_OUT = 0.02


def without_matches(bank: MemoryBank, missed: MemoryBank) -> MemoryBank:
    """The bank without the good patches that made a defect look good.

    Args:
        bank ([`MemoryBank`]): The good patches.
        missed ([`MemoryBank`]): Patches of one picture with a defect that was called normal.

    Returns:
        [`MemoryBank`]: Without the nearest matches of those 2 % of the picture's patches that stand out most.
    """
    kept = []
    for good, bad in zip(bank.features, missed.features, strict=True):
        best, rows = best_matches(unit_length(bad).to(good), good)
        count = max(1, int(_STANDING_OUT * len(bad)))
        keep = torch.ones(len(good), dtype=torch.bool, device=good.device)
        keep[rows[best.argsort()[:count]]] = False
        kept.append(keep if keep.any() else ~keep)
    left = replace(
        bank,
        features=tuple(layer[keep] for layer, keep in zip(bank.features, kept, strict=True)),
        sources=tuple(layer[keep] for layer, keep in zip(bank.sources, kept, strict=True)),
    )
    return left.requiring_presence() if bank.presence else left


class FeedbackHistory:
    """The references before each piece of feedback, and the file that tells what was said.

    Args:
        audit_file (`str` or `os.PathLike`, *optional*): JSON-lines file; a line for each change, appended at once.
            `None`: nothing is written.
        facts: What else each line says.
    """

    def __init__(self, audit_file: str | os.PathLike | None = None, **facts: Any):
        self.audit_file = None if audit_file is None else pathlib.Path(audit_file)
        self._facts = facts
        self._changes: deque[tuple[References, References]] = deque(maxlen=_MOST_CHANGES)

    def __len__(self) -> int:
        return len(self._changes)

    def record(self, before: References, after: References, row: dict[str, Any]) -> None:
        """Notes a change: writes its line first, so that no change goes unrecorded."""
        changed = sum(map(len, after.bank.features)) - sum(map(len, before.bank.features))
        self.note({**row, "patches": changed})
        self._changes.append((before, after))

    def undo(self, present: References | None) -> References:
        """The references before the last change.

        Args:
            present ([`References`], *optional*): Those in use: what was said about others is no longer undone.

        Raises:
            RuntimeError: If there is nothing to undo.
        """
        if not self._changes or self._changes[-1][1] is not present:
            self._changes.clear()
            raise RuntimeError("There is no feedback to undo. Give some with `feedback(result, is_normal)` first.")
        self.note({"undo": True})
        return self._changes.pop()[0]

    def note(self, row: dict[str, Any]) -> None:
        """Writes a line with the time before it."""
        if self.audit_file is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            append_json_line(self.audit_file, {"time": now, **row, **self._facts})


class AnomalyInspector:
    """Inspects pictures with one checkpoint and, if given, with good references.

    A call works with the references that were set when it began, whatever other threads do meanwhile.

    Args:
        model ([`AnomalyGPTForConditionalGeneration`]): In evaluation mode.
        processor ([`AnomalyGPTProcessor`]): Its processor.
        tile (`int`, *optional*): Side in pixels of the tiles into which larger pictures (queries and references alike)
            are split.

    Attributes:
        part (`str`, *optional*): Name of the stored part whose references these are; rows of results files name it.

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
        self.encoder = ImageEncoder(model, processor, tile)
        self.dialogue = Dialogue(model, processor)
        self.feedback_history = FeedbackHistory()
        self.references: References | None = None
        self.part: str | None = None

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
    def grounded(self) -> bool:
        """Whether the language model speaks of what was measured, after the decision, instead of taking part in it."""
        return self.model.config.answering == "grounded"

    @property
    def num_references(self) -> int:
        """Pictures (tiles, rotated copies) in the memory bank."""
        return 0 if self.references is None else self.references.bank.num_references

    @property
    def region_threshold(self) -> float:
        """Map value from which a pixel belongs to a region: the references' threshold, else the checkpoint's."""
        return Scorer(self.references, "auto", self.model.config.decision).region_threshold

    @property
    def memory_bank(self) -> MemoryBank | None:
        """Good patches of the references; `None` before there are any."""
        return None if self.references is None else self.references.bank

    @property
    def bits(self) -> int | None:
        """Depth in which deep pictures are opened, see [`References`]."""
        return None if self.references is None else self.references.bits

    @property
    def category(self) -> str:
        """What the references show."""
        return "object" if self.references is None else self.references.category

    def set_references(
        self,
        images: Sequence[Any],
        category: str = "object",
        description: str | None = None,
        rotations: bool = False,
        max_patches: int | None = None,
        bits: int | None = None,
        roi: Any = None,
        align: bool = False,
        presence: bool = False,
    ) -> None:
        """Learns what good looks like; replaces earlier references. Copies of one picture count once, with a warning.

        Args:
            images (`list`): One or more good pictures: paths, PIL images or arrays.
            category (`str`, defaults to `"object"`): What they show, in any words.
            description (`str`, *optional*): A sentence that says how a good one looks; `None`: the known one of the
                category, or none.
            rotations (`bool`, defaults to `False`): Whether copies rotated by 90, 180 and 270 degrees are added, for
                parts that lie in any direction.
            max_patches (`int`, *optional*): Keep at most so many patches a layer (greedy k-centre), to bound time and
                memory.
            bits (`int`, *optional*): Depth of pictures of more than 8 bits (12 of a camera that writes 16-bit files);
                found in the references by default, and kept with them.
            roi (path, `PIL.Image.Image` or `np.ndarray`, *optional*): The region of interest, a mask drawn on the
                first picture or a file of labelme, see [`load_roi`]; kept with the references. Outside it nothing
                counts, is marked or said.
            align (`bool`, defaults to `False`): Whether each picture is first rotated and moved into the pose of the
                good ones (of the first one), for rigid parts that lie any way; its map is brought back, and the region
                of interest follows. Needs OpenCV and some 50 ms a picture.
            presence (`bool`, defaults to `False`): Whether what all good pictures show must be found in each picture
                at about the same place, for parts of which a piece may be missing. Needs two good pictures or more.

        Raises:
            PictureError: If a picture cannot be used; names it.
            PoseError: If good pictures cannot be brought into one pose.
            ValueError: If there is no picture, an option is of another kind, the region is of another size than the
                first picture or empty, `rotations` are given with a region or with `align` **or** `presence` is given
                with one picture or with what leaves patches out or turns them: `rotations`, `max_patches`, tiles.
        """
        _check_kinds(
            category=category, description=description, rotations=rotations, max_patches=max_patches, align=align,
            presence=presence,
        )  # fmt: skip
        if roi is not None and rotations:
            raise ValueError(
                "`roi` must be None with `rotations`, got both: a part that lies in any direction has no fixed region."
            )
        if align and rotations:
            raise ValueError(
                "`align` must be False with `rotations`, got both: a part that is aligned needs no copies."
            )
        refused = {"rotations": rotations, "max_patches": max_patches, "tile": self.encoder.tile} if presence else {}
        for name in (name for name, given in refused.items() if given):
            raise ValueError(f"`presence` must be False with `{name}`, got both: it needs whole pictures in one pose.")
        if bits is not None and (type(bits) is not int or not 1 <= bits <= 16):
            raise ValueError(f"`bits` must be a whole number from 1 to 16, got {bits!r:.40}. Leave it out.")
        images = list(images)
        if not images:
            raise ValueError("`images` must hold at least one good picture, got none. One is enough to start.")
        bits = bit_depth(images) if bits is None else bits
        copies: list[int] = []
        # `disable=None` shows the bar on a terminal alone.
        bar = tqdm(images, desc="references", disable=True if len(images) < 9 else None, leave=False)
        distinct = _distinct(bar, copies, bits)
        try:
            references = self.encoder.encode_references(
                distinct, len(images), rotations, max_patches, category, description, bits, roi, align, presence
            )
        except PoseError as error:
            name = _name([one for number, one in enumerate(images) if number not in copies][error.number])
            raise PoseError(
                error.number,
                f"`align` must be given with good pictures of one rigid part, got {name}, "
                f"{'which shows none' if error.number == 0 else 'whose pose cannot be found beside the first'}. "
                "Leave that picture out, or do without.",
            ) from None
        if copies:
            given = tuple(number for number in range(len(images)) if number not in copies)
            references = replace(references, given=given)
        self.references = references
        if copies:
            names = ", ".join(_name(images[number]) for number in copies[:5])
            warnings.warn(f"Copies of other references count once; left out: {names}.", stacklevel=2)

    def find_foreground(self, images: Sequence[Any], bits: int | None = None) -> np.ndarray:
        """Tells the part from the mat or tray on which it lies: a region of interest to look at, then to set.

        Args:
            images (`list`): Good pictures; up to 24 of them are looked at, evenly chosen.
            bits (`int`, *optional*): As in [`AnomalyInspector.set_references`].

        Returns:
            `np.ndarray` of shape `(height, width)`: Boolean, in the pixels of the first picture.

        Raises:
            PictureError: If a picture cannot be used; names it.
            ValueError: If there is no picture **or** part and ground cannot be told apart.
        """
        images = list(images)
        if not images:
            raise ValueError("`images` must hold at least one good picture, got none. One is enough to start.")
        bits = bit_depth(images) if bits is None else bits
        found = self.encoder.find_foreground([load_picture(image, bits) for image in images[:: -(-len(images) // 24)]])
        if found is None:
            raise ValueError(
                "`images` must show a part on a ground that is unlike it, got pictures in which the two cannot be "
                "told apart. Draw the region of interest instead, or do without."
            )
        return found

    def save_references(self, path: str | os.PathLike) -> None:
        """Writes the references to a safetensors file."""
        self._known_references("save_references").save(path)

    def load_references(
        self, path: str | os.PathLike, category: str | None = None, description: str | None = None
    ) -> None:
        """Reads saved references; those that another encoder or geometry made are refused."""
        loaded = References.load(path, self.encoder.fingerprint()).to(self.model.device)
        self.references = replace(
            loaded, category=category or loaded.category, description=description or loaded.description
        )

    def calibrate(
        self, normals: Sequence[Any], max_false_alarm: float = 0.02, batch_size: int = 8, progress: bool = True
    ) -> dict[str, Any]:
        """Sets the threshold by more good pictures, none of them a reference, so that a false-alarm rate is kept.

        Args:
            normals (`list`): Good pictures. 29 / 59 / 149 / 299 of them support a rate of 10 / 5 / 2 / 1 % at 95 %
                confidence.
            max_false_alarm (`float`, defaults to 0.02): The rate asked for; with too few pictures the highest of them
                is the threshold.
            batch_size (`int`, defaults to 8): Pictures that go through the model together.
            progress (`bool`, defaults to `True`): Whether a progress bar is shown.

        Returns:
            `dict`: The fields of [`Calibration`].

        Raises:
            RuntimeError: If there are no references.
            ValueError: If no picture can be read, **or** one is a reference, **or** the rate is not between 0 and 1.
        """
        references = replace(self._known_references("calibrate"), calibration=None)
        if references.bank.threshold is None:
            raise ValueError("`references` must have a threshold, got none. Make them with `set_references`.")
        needed = normals_needed(max_false_alarm)
        images = _distinct_normals(normals, references)
        run = partial(self._inspect_all, images, references=references, batch_size=batch_size, progress=progress)
        alone = run(options=InspectionOptions(answer=False, use_language=False))
        factor = max(false_alarm_threshold([row.pred_score for row in alone], max_false_alarm), 1e-3)
        bank = replace(references.bank, threshold=references.bank.threshold * factor)
        references = replace(references, bank=bank)
        judged = run(options=InspectionOptions(answer=False), references=references)
        decision = {**self.model.config.decision, "false_alarm_weight": 1.0}
        scores = [decision_score(row.pred_score, row.log_odds, decision) for row in judged]
        threshold = max(false_alarm_threshold(scores, max_false_alarm), _LOWEST_DECISION_THRESHOLD)
        margin = self.model.config.decision["undecided_margin"]
        strange = [
            any(reason["kind"] in ("unlike", "exposure", "blur") for reason in row.evidence["reasons"])
            for row in judged
        ]
        calibration = Calibration(
            num_normals=len(judged),
            max_false_alarm=max_false_alarm,
            supported_false_alarm_rate=max(supported_false_alarm_rate(len(judged)), max_false_alarm),
            num_stopped=sum(
                decide(score, threshold, margin, out_of_domain) != "normal"
                for score, out_of_domain in zip(scores, strange, strict=True)
            ),
            confidence=CONFIDENCE,
            enough=len(judged) >= needed,
            needed=needed,
            decision_threshold=threshold,
        )
        self.references = replace(references, calibration=calibration)
        return asdict(calibration)

    def feedback(self, result: InspectionResult, is_normal: bool, image: Any = None) -> None:
        """Tells whether a verdict was right; the next ones follow. `audit_file` of [`FeedbackHistory`] keeps a record.

        Args:
            result ([`InspectionResult`]): Of the picture.
            is_normal (`bool`): `True`: the part is good, its patches join the bank, and pictures as unlike the others,
                as blurred, dark or bright as this one can be compared from now on. `False`: it has a defect; good
                patches that look like what stands out most in it are taken out.
            image (*optional*): The picture again, where the result names no file.

        Raises:
            RuntimeError: If there are no references.
            ValueError: If there is no picture, **or** a good one is known already.
        """
        if image is None:  # what was judged: the file may show another part by now
            image = result.image if result.judged_image is None else result.judged_image
        if image is None:
            raise ValueError("`image` must be given for a result that names no file, got None.")
        before = self._known_references("feedback")
        loaded = load_picture(image, before.bits)
        small = thumbnail(loaded)
        if is_normal and any(same_picture(small, known) for known in before.thumbnails):
            name = _name(result.image or image)
            raise ValueError(f"`image` must be a new good picture, got {name}, which is known already.")
        # Good patches around the region join, as those of references do; a defect lies within it.
        known = replace(before, domain_gate=self.encoder.extended_gate(loaded, before)) if is_normal else before
        seen = self.encoder.encode_as_query(loaded, known, margin=int(is_normal))
        bank = before.bank.extend(seen) if is_normal else without_matches(before.bank, seen)
        after = replace(known, bank=bank, thumbnails=(*before.thumbnails, *([small] if is_normal else [])))
        if not is_normal and before.calibration is not None:  # fewer good patches: more false alarms than were counted
            ended = replace(before.calibration, supported_false_alarm_rate=1.0, enough=False)
            after = replace(after, calibration=ended)
        self.feedback_history.record(
            before, after, {"image": result.image, "verdict": result.verdict, "is_normal": is_normal}
        )
        self.references = after

    def undo_feedback(self) -> None:
        """Takes the last feedback back; `RuntimeError` where there is none."""
        self.references = self.feedback_history.undo(self.references)

    def inspect(self, image: Any, options: InspectionOptions | None = None, **changes: Any) -> InspectionResult:
        """Inspects one picture.

        Args:
            image (path, `PIL.Image.Image` or `np.ndarray`): The picture.
            options ([`InspectionOptions`], *optional*): How it is inspected.
            changes: Fields of [`InspectionOptions`] that replace those of `options`.

        Returns:
            [`InspectionResult`]

        Raises:
            PictureError: If the picture cannot be used.
        """
        references = self.references
        options = replace(options or InspectionOptions(), **changes).completed(references)
        return self._inspect_batch([(image, load_picture(image, _bits(references)))], references, options)[0]

    def inspect_many(
        self,
        images: Iterable[Any],
        options: InspectionOptions | None = None,
        batch_size: int = 1,
        progress: bool = True,
        results_file: str | os.PathLike | None = None,
        resume: bool = False,
        **changes: Any,
    ) -> Iterator[InspectionResult]:
        """Inspects any number of pictures, in order, one result each; a bad picture gives a row with its error.

        Args:
            images (iterable of paths, `PIL.Image.Image` or `np.ndarray`): Read as they are needed.
            options ([`InspectionOptions`], *optional*): How they are inspected.
            batch_size (`int`, defaults to 1): Pictures that go through the model together.
            progress (`bool`, defaults to `True`): Whether a progress bar is shown on stderr.
            results_file (`str` or `os.PathLike`, *optional*): JSON-lines file to which each result is appended at
                once; one process at a time.
            resume (`bool`, defaults to `False`): Whether pictures that `results_file` has and that have not changed
                since are taken from it; such results have no map.
            changes: Fields of [`InspectionOptions`] that replace those of `options`.

        Yields: [`InspectionResult`]

        Raises:
            ResultsFileError: If another process writes `results_file`, **or** it was made with other references,
                another model or other options.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        references = self.references
        options = replace(options or InspectionOptions(), **changes).completed(references)
        rows = None
        if results_file is not None:
            rows = ResultsFile(results_file, resume, self.setup(references, options))
        return self._inspect_stream(images, references, options, batch_size, progress, rows)

    def _inspect_stream(
        self,
        images: Iterable[Any],
        references: References | None,
        options: InspectionOptions,
        batch_size: int,
        progress: bool,
        rows: ResultsFile | None,
    ) -> Iterator[InspectionResult]:
        total = len(images) if hasattr(images, "__len__") else None
        stream = inspect_in_batches(
            images,
            partial(self._inspect_batch, references=references, options=options),
            partial(failed_result, options=options),
            None if rows is None else rows.finished,
            batch_size,
            partial(load_picture, bits=_bits(references)),
        )
        try:
            with tqdm(total=total, desc="inspecting", unit="picture", disable=not progress) as bar:
                for result in stream:
                    if rows is not None and "resumed" not in result.evidence:
                        rows.append(result)
                    bar.update()
                    yield result
        finally:
            if rows is not None:
                rows.close()

    def ask(
        self, result: InspectionResult, question: str, stream: bool = False, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> str | Iterator[str]:
        """Asks a further question about an inspected picture; what was said so far is part of it.

        Args:
            result ([`InspectionResult`]): From [`AnomalyInspector.inspect`] of this process.
            question (`str`): In English or Chinese.
            stream (`bool`, defaults to `False`): Whether the answer comes piece by piece.
            max_new_tokens (`int`, defaults to 128): Longest answer.

        Returns:
            `str`, or an iterator of its pieces when `stream`. Both messages are added to `result.conversation`.

        Raises:
            ValueError: If the question is empty **or** the result holds no picture any more.
        """
        if not question.strip():
            raise ValueError("`question` must hold words, got an empty text.")
        if result.image_tokens is None:
            raise ValueError("`result` must hold what the model saw, got one from a file or an error. Inspect again.")
        messages = [*result.conversation, {"role": "user", "content": question}]
        pieces = self._ask(result, messages, max_new_tokens)
        return pieces if stream else "".join(pieces)

    def _ask(self, result: InspectionResult, messages: list[dict[str, str]], max_new_tokens: int) -> Iterator[str]:
        answer, facts = "", result.facts if self.grounded else None
        for piece in self.dialogue.stream(messages, result.image_tokens, max_new_tokens, facts):
            answer += piece
            yield piece
        result.conversation = [*messages, {"role": "assistant", "content": answer}]

    def _known_references(self, caller: str) -> References:
        if self.references is None:
            raise RuntimeError(f"The memory bank is empty. Call `set_references` before `{caller}`.")
        return self.references

    def setup(self, references: References | None, options: InspectionOptions) -> dict[str, str]:
        """Names what decides about a picture, so that results of another set-up are recognised."""
        model = weights_fingerprint([self.model], (self.encoder.fingerprint(), str(self.model.config.decision)))
        return {
            "model": model,
            "references": "none" if references is None else references.fingerprint(),
            **({} if self.part is None else {"part": self.part}),
            **{name: str(value) for name, value in asdict(options).items()},
        }

    def _inspect_all(
        self,
        images: list[Any],
        references: References,
        options: InspectionOptions,
        batch_size: int,
        progress: bool,
    ) -> list[InspectionResult]:
        """Results without maps and pictures."""
        options, results = options.completed(references), []
        for start in tqdm(range(0, len(images), batch_size), desc="calibrating", disable=not progress):
            batch = [(image, load_picture(image, references.bits)) for image in images[start : start + batch_size]]
            inspected = self._inspect_batch(batch, references, options)
            results += [replace(one, anomaly_map=None, image_tokens=None, judged_image=None) for one in inspected]
        return results

    @torch.inference_mode()
    def _inspect_batch(
        self, batch: list[tuple[Any, Image.Image]], references: References | None, options: InspectionOptions
    ) -> list[InspectionResult]:
        start = time.perf_counter()
        images = [image for _, image in batch]
        encoded = self.encoder.encode(images, references, options.category, options.localization)
        tokens = torch.cat([one.image_tokens for one in encoded])
        # A grounded model is told of a description by the facts.
        description = None if self.grounded else options.description
        messages = first_turn(options.question, description, options.language)
        answers, log_odds = [""] * len(batch), [None] * len(batch)
        speaks = options.use_language and options.answer
        if options.use_language and not self.grounded:
            longest = MAX_NEW_TOKENS if options.answer else 1
            answers, log_odds = self.dialogue.answer([messages] * len(batch), tokens, options.language, longest)
        results = [
            self._judged(source, image, seen, odds, references, options)
            for (source, image), seen, odds in zip(batch, encoded, log_odds, strict=True)
        ]
        if speaks and self.grounded:  # decided first, then told
            known = [result.facts for result in results]
            language = language_of(options.question, options.category)
            answers, _ = self.dialogue.answer([messages] * len(batch), tokens, language, MAX_NEW_TOKENS, known)
        seconds = (time.perf_counter() - start) / len(batch)
        return [
            replace(
                result,
                answer=words if speaks else "",
                conversation=[*messages, {"role": "assistant", "content": words}] if speaks and words else [],
                seconds=seconds,
            )
            for result, words in zip(results, answers, strict=True)
        ]

    def _judged(
        self,
        source: Any,
        image: Image.Image,
        seen: EncodedImage,
        log_odds: float | None,
        references: References | None,
        options: InspectionOptions,
    ) -> InspectionResult:
        """What is decided about a picture, without an answer."""
        scorer = Scorer(references, options.localization, self.model.config.decision)
        score = scorer.score(seen.anomaly_map, log_odds, seen.out_of_domain_reasons, seen.remarks)
        score = self._unless_rotated(score, scorer, image, seen, options)
        if seen.pose is not None:
            score = _with_pose(score, seen.pose)
        regions = scorer.regions(seen.anomaly_map, score.verdict, options.mm_per_pixel)
        if scorer.calibrated:
            regions = [self._looked_at_again(region, seen, references, image) for region in regions]
            if regions and "absent" in seen.remarks:
                regions[0] = replace(regions[0], kind="missing")
        sentences = [
            {"kind": kind, "text": reason_in_words(kind, options.language, **numbers)}
            for kind, numbers in score.reasons
        ]
        return InspectionResult(
            image=str(source) if isinstance(source, str | os.PathLike) else None,
            verdict=score.verdict,
            pred_score=score.pred_score,
            log_odds=log_odds,
            regions=regions,
            anomaly_map=seen.anomaly_map,
            evidence=score.evidence | {"reasons": sentences} | ({"traits": seen.traits} if seen.traits else {}),
            question=options.question,
            category=options.category,
            language=options.language,
            image_tokens=seen.image_tokens.clone() if options.use_language else None,
            judged_image=image,
            facts=_facts(score, regions, scorer, image, options),
        )

    def _unless_rotated(
        self,
        score: Score,
        scorer: Scorer,
        image: Image.Image,
        seen: EncodedImage,
        options: InspectionOptions,
    ) -> Score:
        """The score; `"uncertain"` with the reason where the part is good in another pose than the references'."""
        references = scorer.references
        if score.verdict != "anomalous" or not scorer.calibrated or references.copies > 1 or not seen.patches:
            return score
        if references.roi is not None or seen.pose is not None:  # the one does not rotate, the other has looked
            return score
        angle = nearest_rotation(thumbnail(image), references.thumbnails)
        if not angle:
            return score
        rotated = [image.rotate(angle, expand=True)]
        again = self.encoder.encode(rotated, references, options.category, options.localization)[0]
        if again.out_of_domain_reasons or scorer.score(again.anomaly_map).verdict == "anomalous":
            return score
        reasons = [("rotated", {"degrees": 360 - angle}), *score.reasons]
        return replace(score, verdict="uncertain", reasons=reasons)

    def _looked_at_again(
        self, region: Region, seen: EncodedImage, references: References, image: Image.Image
    ) -> Region:
        """The region with the good patch most like it, and the kind of defect it looks like."""
        x, y = (round(value) for value in region.centroid)
        size = (image.height, image.width)
        if seen.pose is not None:
            (x, y), size = seen.pose.aligned_point(x, y), seen.pose.aligned_size
        nearest = self.encoder.nearest_good(seen.patches, references, size, x, y)
        probabilities = self.kind_probabilities(seen, references, core(region, seen.anomaly_map))
        kind = None
        if probabilities is not None and float(probabilities.max()) >= self.model.config.decision["kind_confidence"]:
            kind = DEFECT_KINDS[int(probabilities.argmax())]
        return replace(region, nearest_good=nearest, kind=kind)

    @torch.inference_mode()
    def kind_probabilities(
        self, seen: EncodedImage, references: References, region: np.ndarray
    ) -> torch.Tensor | None:
        """How likely each of `DEFECT_KINDS` is what lies in a region.

        Args:
            seen ([`EncodedImage`]): The picture.
            references ([`References`]): Those that it was compared with.
            region (`np.ndarray` of shape `(height, width)`): Boolean, in the picture's pixels.

        Returns:
            `torch.Tensor` of shape `(len(DEFECT_KINDS),)`, *optional*; `None` for a model without that head, and where
            the model does not see the region.
        """
        region = region if seen.pose is None else seen.pose.aligned_mask(region)
        head = self.model.model.kind_head
        features = None if head is None else self.encoder.defect_features(seen.patches, references, region)
        return None if features is None else head(features.to(head.hidden.weight)[None])[0].float().softmax(0).cpu()


def _with_pose(score: Score, pose: Pose) -> Score:
    """The score with how the part lies, and how much of the picture was compared in the pose of the good ones."""
    numbers = {"degrees": pose.degrees, "compared": round(pose.compared_share(), 4)}
    kind = "aligned" if min(pose.degrees, 360 - pose.degrees) >= _ROTATED else "shifted"
    reasons = [*score.reasons, (kind, numbers)]
    return replace(score, reasons=reasons, evidence=score.evidence | {"pose": numbers})


def _facts(
    score: Score, regions: list[Region], scorer: Scorer, image: Image.Image, options: InspectionOptions
) -> MeasuredFacts:
    """What a language model is told about a picture."""
    neutral = None if is_known(options.category) else describe(options.category, options.language)
    references = scorer.references
    return MeasuredFacts(
        score.verdict,
        tuple(regions),
        (image.height, image.width),
        score.pred_score if scorer.calibrated else score.pred_score / scorer.region_threshold,
        dict(score.reasons),
        0 if scorer.kind == "text_guided" else references.num_pictures,
        options.category,
        None if options.description == neutral else options.description,
    )


def _bits(references: References | None) -> int | None:
    return None if references is None else references.bits


def _distinct(images: Iterable[Any], copies: list[int], bits: int | None) -> Iterator[Image.Image]:
    """Pictures, read one by one, without copies of one another; the numbers of the copies go into the list."""
    seen: list[bytes] = []
    for number, image in enumerate(images):
        loaded = load_picture(image, bits)
        small = thumbnail(loaded)
        if any(same_picture(small, other) for other in seen):
            copies.append(number)
        else:
            seen.append(small)
            yield loaded


def _distinct_normals(normals: Sequence[Any], references: References) -> list[Any]:
    """Distinct readable pictures; one that is a reference is refused."""
    readable = []
    for image in normals:
        try:
            small = thumbnail(load_picture(image, references.bits))
        except (OSError, ValueError) as error:
            warnings.warn(f"Left out of the calibration: {error}", stacklevel=3)
            continue
        if any(same_picture(small, known) for known in references.thumbnails):
            raise ValueError(
                f"`normals` must hold no reference, got {_name(image)}, which is one or a copy of one. "
                "Good pictures that are compared with themselves tell nothing."
            )
        readable.append((image, small))
    if not readable:
        raise ValueError("`normals` must hold at least one good picture that can be read, got none.")
    distinct: list[tuple[Any, bytes]] = []
    for image, small in readable:
        if not any(same_picture(small, known) for _, known in distinct):
            distinct.append((image, small))
    if left_out := len(readable) - len(distinct):
        warnings.warn(f"{left_out} of {len(readable)} pictures are copies of others and do not count.", stacklevel=3)
    return [image for image, _ in distinct]


def _name(image: Any) -> str:
    return repr(str(image)) if isinstance(image, str | os.PathLike) else f"the {type(image).__name__}"


def failed_result(image: Any, line: str, options: InspectionOptions) -> InspectionResult:
    """The row of a picture that cannot be inspected; the line says why."""
    return InspectionResult(
        image=str(image) if isinstance(image, str | os.PathLike) else None,
        verdict="error",
        error=line,
        category=options.category,
        question=options.question,
        language=options.language,
    )


__all__ = ["AnomalyInspector", "FeedbackHistory", "InspectionOptions", "failed_result", "without_matches"]
