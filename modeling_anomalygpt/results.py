"""Any number of pictures through one function in batches: read ahead, one row each, no failure takes others along.

Knows pictures, batches and rows; knows no model.
"""

import datetime
import json
import os
import pathlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import Image

from .checkpoints import CheckpointError
from .errors import describe_error
from .files import append_json_line, json_line, write_atomically
from .images import PictureError, load_picture, split_page
from .regions import Region
from .wording import MeasuredFacts

VERDICTS = ("normal", "anomalous", "uncertain", "unknown", "error")
"""All that a row may say."""


@dataclass
class InspectionResult:
    """Result of [`AnomalyInspector.inspect`].

    Args:
        image (`str`, *optional*): Path of the picture, as it was given; `None` for pictures from memory.
        verdict (`str`): `"normal"`, `"anomalous"`, `"uncertain"`, `"unknown"` (nothing says what is normal: there is
            no reference) or `"error"` (the picture could not be inspected).
        pred_score (`float`, *optional*): Highest value of the map as a ratio to what good pictures reach (1.0 =
            threshold) where the evidence has a `threshold`; else the maximum of the map, in [0, 1].
        log_odds (`float`, *optional*): Natural logarithm of P(yes) / P(no) at the first word of the answer; above 0
            means anomalous. `None` without a language model, or where it speaks of what was measured.
        answer (`str`): What the language model says: of what was measured, or, with `answering="paper"` in the
            configuration, of what it sees.
        regions (`list[Region]`): Anomalous regions in pixels of the original picture; empty when the verdict is
            `"normal"` or `"unknown"`.
        anomaly_map (`np.ndarray` of shape `(height, width)`, *optional*): float32 in [0, 1], in pixels of the original
            picture.
        evidence (`dict`): On what the verdict stands: kind of map, number of references, peak (on the map's scale),
            threshold of regions, share of the picture in the region of interest, threshold, decision score,
            probability of yes, reasons in words, traits (see [`DomainGate.compare`]).
        question, category, language (`str`): What was asked, about what, in which language.
        seconds (`float`): Time for this picture (a batch's time divided by its size).
        error (`str`, *optional*): One line that says why there is no result.
        conversation (`list[dict]`): The messages so far; grows with [`AnomalyInspector.ask`].
        image_tokens (`torch.Tensor`, *optional*): What the language model sees of the picture, kept for further
            questions; not written to files.
        source (`dict`, *optional*): Size and time of modification of the file when it was read, see [`source_of`].
        setup (`dict[str, str]`): Fingerprints of model, references and options, in rows of a results file.
        judged_image (`PIL.Image.Image`, *optional*): The pixels that were judged, mode RGB, for the report: the file
            may change; not written to files.
        facts ([`MeasuredFacts`], *optional*): What was measured, for the language model; not written to files.
        time (`str`, *optional*): When it was written to a results file, by this machine's clock, with the offset of
            its zone: `"2026-03-29T06:00:12+02:00"`.
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
    source: dict[str, int] | None = field(default=None, repr=False)
    setup: dict[str, str] = field(default_factory=dict, repr=False)
    judged_image: Image.Image | None = field(default=None, repr=False)
    facts: MeasuredFacts | None = field(default=None, repr=False)
    time: str | None = None

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
            "source": self.source,
            "setup": self.setup,
            "time": self.time,
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


_OF_A_PART = ("references", "category", "description", "mm_per_pixel")


class ResultsFileError(RuntimeError):
    """A results file that cannot be continued; the message is one line that says why and what to do."""


class ResultsFile:
    """Appends results to a JSON-lines file and gives back those of an earlier, interrupted run.

    Every row names the file it is of (size and times) and the set-up (model, references, options) that
    made it. One process at a time writes it; [`ResultsFile.close`] lets the next one.

    Args:
        path (`str` or `os.PathLike`): The file; its folder must exist.
        resume (`bool`): Whether finished results in it are kept. Otherwise the file starts empty.
        setup (`dict[str, str]`, *optional*): Fingerprints by name; results that were made with another one are
            refused.
        log (`bool`, defaults to `False`): Whether the file is a log: all of its lines stay as they are, also several
            of one name (each is of another picture) and those of pictures that are gone. Where `setup` names a stored
            part, its earlier versions (references, category, description, scale) are no other set-up.

    Attributes:
        setup (`dict[str, str]`): What further rows say of their set-up.

    Raises:
        ResultsFileError: If another process writes the file, **or** its results are of another set-up.
    """

    def __init__(
        self, path: str | os.PathLike, resume: bool, setup: Mapping[str, str] | None = None, log: bool = False
    ):
        self.path = pathlib.Path(path)
        self.setup = dict(setup or {})
        self._earlier: dict[str, InspectionResult] = {}
        # Not of one thread: whoever opens the file need not be who closes it.
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ResultsFileError(
                f"{str(path)!r} is being written by another process. Wait for it, or give another output."
            ) from error
        try:
            if log and self.path.exists():
                _end_last_line(self.path)
                for row in each_result(self.path):
                    self._refuse_another_setup(row, log)
                return
            if resume and self.path.exists():
                self._earlier = {row.image: row for row in read_results(self.path) if row.image and row.error is None}
                for row in self._earlier.values():
                    self._refuse_another_setup(row)
                self._earlier = {
                    name: row for name, row in self._earlier.items() if source_of(name) in (None, row.source)
                }
            # Rewritten rather than appended to: a last line cut off by a kill must not swallow the next one.
            write_atomically(self.path, b"".join(json_line(row.to_dict()) for row in self._earlier.values()))
        except BaseException:
            self.close()
            raise

    def finished(self, image: Any) -> InspectionResult | None:
        """The result of a file that is there already and has not changed since; `None` otherwise."""
        row = self._earlier.get(str(image)) if isinstance(image, str | os.PathLike) else None
        return row if row is not None and row.source == source_of(image) else None

    def append(self, result: InspectionResult) -> None:
        """Writes one finished result; it survives the end of this process."""
        result.setup = self.setup
        result.time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        append_json_line(self.path, result.to_dict())

    def close(self) -> None:
        """Lets other processes write the file."""
        self._lock.release()

    def _refuse_another_setup(self, row: InspectionResult, log: bool = False) -> None:
        changed = [name for name, value in self.setup.items() if row.setup.get(name) != value]
        if log and "part" in self.setup and "part" not in changed:
            changed = [name for name in changed if name not in _OF_A_PART]
        if changed:
            raise ResultsFileError(
                f"{str(self.path)!r} was made with another {', '.join(changed)}. "
                "Resume with the same, or give another output."
            )


def source_of(image: Any) -> dict[str, int] | None:
    """Size in bytes and times of modification and change (nanoseconds) of a picture's file; `None` without a file.

    Programs set the time of modification as they like, and cameras write files of one size; the time of change is the
    file system's own (on Windows that of creation).
    """
    if not isinstance(image, str | os.PathLike):
        return None
    try:
        status = os.stat(split_page(image)[0])
    except (OSError, ValueError):
        return None
    return {"bytes": status.st_size, "modified": status.st_mtime_ns, "changed": status.st_ctime_ns}


def read_results(path: str | os.PathLike) -> list[InspectionResult]:
    """Reads all whole lines of a results file, the last of each picture; what was cut off or damaged is left out."""
    results: dict[Any, InspectionResult] = {}
    for number, result in enumerate(each_result(path)):
        key = result.image if result.image is not None else number
        results.pop(key, None)
        results[key] = result
    return list(results.values())


def each_result(path: str | os.PathLike) -> Iterator[InspectionResult]:
    """The results of all whole lines of a file, one by one; what was cut off or damaged is left out."""
    with open(path, "rb") as file:  # bytes are split at b"\n" alone: names may hold other line ends
        for line in file:
            if (result := result_of_line(line)) is not None:
                yield result


def result_of_line(line: bytes) -> InspectionResult | None:
    """The result of one line of a results file; `None` where it is cut off or damaged."""
    try:
        result = InspectionResult.from_dict(json.loads(line.decode("utf-8-sig", "replace")))  # Notepad's mark
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return result if _is_sound(result) else None


def _end_last_line(path: pathlib.Path) -> None:
    """Ends a last row that was saved without a line end, takes away half a row: neither must swallow the next one."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept:
            start = max(0, kept - 65536)
            file.seek(start)
            found = file.read(kept - start).rfind(b"\n")
            kept = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        file.seek(kept)
        if kept < end and result_of_line(file.read()) is None:  # left by a kill
            file.truncate(kept)
        elif kept < end:
            file.write(b"\n")


def _is_sound(result: InspectionResult) -> bool:
    """Whether every value is of the kind that a report and a table can show."""
    texts = (result.verdict, result.answer, result.question, result.category, result.language)
    numbers = (result.pred_score, result.log_odds)
    source = {} if result.source is None else result.source
    return (
        all(isinstance(text, str) for text in texts)
        and result.verdict in VERDICTS
        and all(text is None or isinstance(text, str) for text in (result.image, result.error, result.time))
        and all(value is None or isinstance(value, int | float) for value in numbers)
        and isinstance(result.seconds, int | float)
        and isinstance(result.evidence, dict)
        and isinstance(reasons := result.evidence.get("reasons", []), list)
        and all(isinstance(one, dict) and isinstance(one.get("text"), str) for one in reasons)
        and all(map(_is_sound_region, result.regions))
        and isinstance(result.setup, dict)
        and isinstance(source, dict)
        and all(isinstance(value, int) for value in source.values())
    )


def _is_sound_region(region: Region) -> bool:
    numbers = [*region.box, *region.centroid, region.area_pixels, region.peak_score, region.mean_score]
    numbers += [value for point in region.outline for value in point]
    sizes, nearest = (region.width_mm, region.height_mm, region.area_mm2), region.nearest_good
    return (
        all(isinstance(value, int | float) for value in numbers)
        and all(value is None or isinstance(value, int | float) for value in sizes)
        and (len(region.box), len(region.centroid)) == (4, 2)
        and all(len(point) == 2 for point in region.outline)
        and all(type(place) is int and 0 <= place <= 2 for place in (region.row, region.column))
        and (nearest is None or (isinstance(nearest, dict) and isinstance(nearest.get("reference"), int)))
    )


_THREADS = 2


def read_ahead(things: Iterable[Any], read: Callable[[Any], Any], ahead: int) -> Iterator[Any]:
    """What `read` makes of each thing, in order, while up to `ahead` further ones are being read.

    Pillow lets other threads run while it decodes, so decoding costs next to no time beside a model. Things are taken
    from the iterable only as they are needed; an error of `read` is raised where its result would have come.

    Args:
        things (iterable): Paths, say.
        read (`Callable`): Must be safe to call from several threads.
        ahead (`int`): Results held beyond the one asked for, at least 1; bounds the memory.

    Yields: What `read` returned.

    Raises:
        ValueError: If `ahead` is below 1.

    Example:
    ```python
    >>> list(read_ahead("abc", str.upper, ahead=2))
    ['A', 'B', 'C']

    ```
    """
    if ahead < 1:
        raise ValueError(f"`ahead` must be at least 1, got {ahead}. Call `read` itself to read one by one.")
    waiting: deque = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read_ahead")
    try:
        for thing in things:
            waiting.append(pool.submit(read, thing))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


Loaded = tuple[Any, Image.Image]
_Read = tuple[Any, Image.Image, dict[str, int] | None]


def inspect_in_batches(
    pictures: Iterable[Any],
    inspect: Callable[[list[Loaded]], list[InspectionResult]],
    failed: Callable[[Any, str], InspectionResult],
    finished: Callable[[Any], InspectionResult | None] | None,
    batch_size: int,
    load: Callable[[Any], Image.Image] = load_picture,
) -> Iterator[InspectionResult]:
    """One result for each picture, in order.

    The next pictures are decoded while the model works. Where a batch does not fit into memory, it is halved and the
    smaller size is kept, with a warning; a batch that fails for another reason is tried picture by picture.

    Args:
        pictures (iterable): Paths, PIL pictures or arrays, read as they are needed.
        inspect (`Callable`): Makes results of a batch of `(picture, image)`.
        failed (`Callable`): Makes the row of a picture that cannot be inspected, from the picture and a line.
        finished (`Callable`, *optional*): Gives the result of a picture that is there already; it is marked with
            `evidence["resumed"]`.
        batch_size (`int`): At least 1.
        load (`Callable`): Opens a picture.

    Yields: [`InspectionResult`]
    """
    size = [batch_size]

    def read(picture: Any) -> InspectionResult | _Read:
        known = finished(picture) if finished is not None else None
        if known is not None:
            known.evidence = known.evidence | {"resumed": True}
            return known
        source = source_of(picture)  # before it is read: what is written meanwhile is inspected again at a resume
        try:
            return picture, load(picture), source
        except (PictureError, OSError) as error:
            return failed(picture, describe_error(error))

    def taken() -> Iterator[Any]:
        """Files are read by other threads; an array may be a camera's buffer and is read before the next is taken."""
        for picture in pictures:
            yield picture if isinstance(picture, str | os.PathLike) else read(picture)

    def read_file(taken: Any) -> InspectionResult | _Read:
        return read(taken) if isinstance(taken, str | os.PathLike) else taken

    slots = read_ahead(taken(), read_file, ahead=batch_size + 1)
    while batch := list(islice(slots, size[0])):
        loaded = [slot[:2] for slot in batch if not isinstance(slot, InspectionResult)]
        inspected = iter(_inspected(loaded, inspect, failed, size) if loaded else [])
        for slot in batch:
            if isinstance(slot, InspectionResult):
                yield slot
            else:
                result = next(inspected)
                result.source = slot[2]
                yield result


def _inspected(
    loaded: list[Loaded],
    inspect: Callable[[list[Loaded]], list[InspectionResult]],
    failed: Callable[[Any, str], InspectionResult],
    size: list[int],
) -> list[InspectionResult]:
    try:
        return inspect(loaded)
    except (RuntimeError, MemoryError, CheckpointError, PictureError) as error:
        out_of_memory = _is_out_of_memory(error)
        if len(loaded) == 1:
            line = "Not enough memory for this picture. Use a smaller picture or `tile`."
            return [failed(loaded[0][0], line if out_of_memory else describe_error(error))]
    half = len(loaded) // 2 if out_of_memory else 1
    if out_of_memory and half < size[0]:
        warnings.warn(f"Not enough memory for {len(loaded)} pictures at a time; going on with {half}.", stacklevel=2)
        size[0] = half
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    parts = [loaded[start : start + half] for start in range(0, len(loaded), half)]
    return [result for part in parts for result in _inspected(part, inspect, failed, size)]


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
