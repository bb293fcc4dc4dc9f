"""The model that serves all visitors, and what it does for one of them: inspection, conversation, batch.

Everything here has a limit, so that one visitor of a public page cannot keep the others out.
"""

import concurrent.futures
import contextlib
import contextvars
import copyreg
import hashlib
import json
import math
import os
import pathlib
import platform
import re
import shutil
import tempfile
import threading
import time
import unicodedata
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

try:  # on ZeroGPU this must come before torch; elsewhere the package is absent or does nothing
    import spaces
except ImportError:
    spaces = None

import numpy as np
import torch
import transformers
from gradio.utils import get_upload_folder
from PIL import Image

from modeling_anomalygpt import __version__
from modeling_anomalygpt.encoder import PoseError
from modeling_anomalygpt.errors import describe_error
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.images import (
    PictureError,
    bit_depth,
    distinct_names,
    load_picture,
    picture_pages,
    stored_size,
)
from modeling_anomalygpt.inspector import AnomalyInspector, InspectionOptions
from modeling_anomalygpt.line.parts import Part, PartStore
from modeling_anomalygpt.report.overlays import draw_overlay
from modeling_anomalygpt.report.page import report_words
from modeling_anomalygpt.report.report import InspectionReport, regions_in_words
from modeling_anomalygpt.results import InspectionResult

from . import drawing
from .views import LONGEST_SIDE, UNSEEN_FRAMES, comparison, reduced, why_unknown, words_of

MAX_FILE_SIZE = "25mb"  # larger uploads are refused while they arrive
MAX_PIXELS = 50_000_000  # of a picture after decoding, against decompression bombs
MAX_REFERENCES = 32
MAX_REFERENCE_PIXELS = 400_000_000  # of all good pictures together, rotated copies included
MIN_TILE = 32  # pixels a side, as on the command line
MAX_TILES = 48  # of a picture
MAX_REFERENCE_TILES = 64  # of all good pictures together; time grows with the product of both
MAX_BATCH = 300
MAX_BATCH_TILES = 3000
MAX_CATEGORY, MAX_DESCRIPTION, MAX_QUESTION = 80, 400, 600  # characters
MAX_QUESTIONS = 40  # about one picture; the language model reads all of them again for each answer
MAX_WAITING = 64  # requests in the queue; further ones are refused
MAX_OWN_WAITING = 16  # of them, of one address
MAX_SESSIONS = 400  # the one unused for the longest time is forgotten first
SESSION_SECONDS = FILE_SECONDS = 2 * 3600  # sessions unused, files kept for so long are deleted
LONGEST_WAIT = 300  # seconds for the model, before the visitor is told that it is busy
LONGEST_TURN = 180  # seconds of the model for one picture or answer
MAX_KEPT_BYTES = 2**30  # of the good pictures' features in all sessions
GPU_SECONDS = 60
_LOOK_UP_SECONDS = 0.5  # how often it is seen whether a visitor is still there

# A request, no question about what is marked or shown.
_HIGHLIGHT = re.compile(
    r"^\W*((can|could|would|will) you\s+)?((please|pls|just|now)\s+)*"
    r"(high-?light|mark|outline|circle|overlay|point out"
    r"|(show|display|draw)\b.*\b(where|anomal|defect|flaw|map|heat-?map|region|place))"
    r"|^\W*(the )?(heat[- ]?map|overlay)( please)?\W*$"
    r"|^(请|麻烦|帮|给|能|可以|可否|把|将|在图)[^是]*(标出|标记|标注|标示|高亮|圈出|框出|圈起|框起|显示|热图|叠加图)"
    r"|^(标出|标记|标注|标示|高亮|圈出|框出|圈起|框起|(显示|看看?).*(异常|缺陷|区域|位置|热图|叠加图))|^(热图|叠加图)\W*$",
    re.IGNORECASE,
)


class BusyError(RuntimeError):
    """The model was in use by others for too long, or the visitor has too many requests waiting."""


class StoppedError(RuntimeError):
    """The visitor has gone, or the work took longer than one turn may."""


class RefusedError(ValueError):
    """Something that cannot be done for the visitor; the message is one sentence in the visitor's language."""


# The shared model


def on_gpu(function: Callable) -> Callable:
    """Runs a function on a borrowed GPU in a Space with ZeroGPU (https://huggingface.co/docs/hub/spaces-zerogpu)."""
    return function if spaces is None else spaces.GPU(duration=GPU_SECONDS)(function)


class Engine:
    """Model and processor, shared by light inspectors that each own nothing but their references.

    One request uses the model at a time. Of those that wait, the visitor who has used it least goes first. Work whose
    visitor has gone ends before the next forward pass.

    Args:
        inspector ([`AnomalyInspector`]): Whose model and processor are shared.
        name (`str`, *optional*): What the model is called; `None` for the embedded checkpoint.

    Attributes:
        parts ([`PartStore`], *optional*): Stored parts that may be chosen; none on a public page.
        results (`pathlib.Path`, *optional*): Folder of a shift's results that are shown; none on a public page.
    """

    def __init__(self, inspector: AnomalyInspector, name: str | None = None):
        self.model, self.processor, self.name = inspector.model, inspector.processor, name
        self.parts: PartStore | None = None
        self.results: pathlib.Path | None = None
        self._part: tuple[Any, Part | None] = (None, None)  # the one read last, after what names its file
        self.sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="model")
        self._changed = threading.Condition()
        self._waiting: list[_Turn] = []
        self._holder: _Turn | None = None
        self._used: dict[str, float] = {}

        def check(*_: Any) -> None:
            if (turn := self._holder) is not None and (turn.stopped.is_set() or time.monotonic() > turn.end):
                raise StoppedError

        for part in (self.model.model.vision_tower, self.model.model.language_model):
            part.register_forward_pre_hook(check)

    @classmethod
    def load(cls, model: str | None = None) -> "Engine":
        """Loads a folder, a Hub id or, by default, the embedded checkpoint."""
        engine = cls(AnomalyInspector.from_pretrained(model), model)
        if os.environ.get("SPACES_ZERO_GPU"):
            engine.travel_by_name()
        return engine

    def inspector(self, tile: int | None = None) -> AnomalyInspector:
        """A new inspector without references, for one session."""
        return AnomalyInspector(self.model, self.processor, tile=tile)

    def part(self, name: str) -> Part:
        """The newest version of a stored part; `PartError` where it cannot be used."""
        return self.part_and_file(name)[1]

    def part_and_file(self, name: str) -> tuple[tuple[Any, ...], Part]:
        """As [`Engine.part`], after what names its file: the number of a version that was taken back is used again."""
        path = self.parts.path(name)
        status = path.stat()
        file, (known, part) = (str(path), status.st_mtime_ns, status.st_ino), self._part  # others may change it
        if file != known:
            part = self.parts.read(name)
            self._part = file, part
        return file, part

    @contextlib.contextmanager
    def turn(self, visitor: str = "") -> Iterator["_Turn"]:
        """Joins those who wait for the model: it is this request's when the iteration over what is given has ended.

        Raises:
            BusyError: If the visitor has too many requests waiting, **or** (on waiting) after `LONGEST_WAIT` seconds.
        """
        turn = _Turn(self, visitor)
        with self._changed:
            if sum(other.visitor == visitor for other in self._waiting) >= MAX_OWN_WAITING:
                raise BusyError("Too many requests of this visitor are waiting.")
            self._waiting.append(turn)
        try:
            yield turn
        finally:
            with self._changed:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                if self._holder is turn:
                    self._holder = None
                    self._used[visitor] = self._used.get(visitor, 0.0) + LONGEST_TURN - (turn.end - time.monotonic())
                if not self._waiting:  # nobody was kept waiting: old use is forgotten
                    self._used.clear()
                self._changed.notify_all()

    def _granted(self, turn: "_Turn") -> bool:
        """Whether the model is this turn's, after at most `_LOOK_UP_SECONDS`."""

        def is_next() -> bool:
            first = min(self._waiting, key=lambda one: self._used.get(one.visitor, 0.0))
            return self._holder is None and first is turn

        with self._changed:
            if not self._changed.wait_for(is_next, _LOOK_UP_SECONDS):
                return False
            self._waiting.remove(turn)
            self._holder, turn.end = turn, time.monotonic() + LONGEST_TURN
            return True

    def run(self, visitor: str, function: Callable[[], Any]) -> Generator[None, None, Any]:
        """Runs a function in the visitor's turn; yields now and then, and ends the work when it is closed."""
        with self.turn(visitor) as turn:
            yield from turn
            work = self._worker.submit(contextvars.copy_context().run, function)
            try:
                while not concurrent.futures.wait([work], _LOOK_UP_SECONDS).done:
                    yield
            finally:
                turn.stopped.set()
                concurrent.futures.wait([work])
        return work.result()

    def keep_within_budget(self) -> None:
        """Lets the features of sessions go, those unused for the longest time first; they are learned again."""
        sessions = sorted(self.sessions, key=lambda session: session.used)
        total = sum(session.num_bytes for session in sessions)
        for session in sessions[:-1]:
            if total <= MAX_KEPT_BYTES:
                break
            total -= session.num_bytes
            session.inspector, session.learned, session.tile = self.inspector(), None, None

    def travel_by_name(self) -> None:
        """Makes inspectors cross into ZeroGPU's worker process without their weights, which it holds already."""
        _PARTS["model"], _PARTS["processor"] = self.model, self.processor
        for name, part in _PARTS.items():
            copyreg.pickle(type(part), lambda _, name=name: (_part, (name,)))


class _Turn:
    """One request's place in the line for the model; iterating waits."""

    def __init__(self, engine: Engine, visitor: str):
        self.engine, self.visitor, self.end = engine, visitor, 0.0
        self.stopped = threading.Event()

    def __iter__(self) -> Iterator[None]:
        last = time.monotonic() + LONGEST_WAIT
        while not self.engine._granted(self):
            if time.monotonic() > last:
                raise BusyError("The model is busy with other requests. Try again in a minute.")
            yield


_PARTS: dict[str, Any] = {}


def _part(name: str) -> Any:
    return _PARTS[name]


@on_gpu
def learn_and_inspect(
    inspector: AnomalyInspector, learn: dict[str, Any] | None, image: Image.Image | None, options: InspectionOptions
) -> tuple[AnomalyInspector, InspectionResult | None]:
    """Learns references (`learn` is for `set_references`) and inspects a picture (`options` are for `inspect`).

    Returns:
        `tuple(AnomalyInspector, InspectionResult)`: The inspector is another object where a worker process did it.
    """
    if learn is not None:
        inspector.set_references(**learn)
    return inspector, None if image is None else inspector.inspect(image, options)


@on_gpu
def find_foreground(inspector: AnomalyInspector, images: list[Image.Image], bits: int | None) -> np.ndarray:
    """Tells the part on good pictures from the ground, see [`AnomalyInspector.find_foreground`]."""
    return inspector.find_foreground(images, bits)


@on_gpu
def stream_answer(inspector: AnomalyInspector, result: InspectionResult, question: str) -> Iterator[str]:
    """The pieces of an answer about an inspected picture, as they come."""
    yield from inspector.ask(result, question, stream=True)


# A visitor


class Session:
    """One visitor's state. Nothing in it is reachable from another session.

    Pictures and maps are kept as files. Its folder lies inside the page's cache under a random name, so that files in
    it are served without being copied beside it, and it is deleted with the session, however that ends.
    """

    def __init__(self, engine: Engine):
        self.inspector, self.tile, self.learned = engine.inspector(), None, None
        self.visitor, self.used = "", time.monotonic()
        self.picture: str | None = None
        self.references: list[str] = []  # that it was compared with
        self.size = self.shown_size = (0, 0)
        self.files: dict[str, str] = {}  # picture, map and overlay as they are shown
        self.result: InspectionResult | None = None  # without its map
        self.messages: list[dict[str, Any]] = []
        self.batch: Batch | None = None
        self.points: list[tuple[int, int]] = []
        self.rows: dict[int, tuple] = {}  # of a shift, as they are listed, by number
        self.row: int | None = None  # the one that is shown
        self.begun = False  # whether anything was inspected, to whatever end
        self.paints = False  # whether the editor was opened
        self.drawn_on: str | None = None  # digest of the good picture that lies in it
        root = pathlib.Path(get_upload_folder())
        root.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="session-", dir=root, ignore_cleanup_errors=True)
        self._count = 0
        engine.sessions.add(self)

    @property
    def folder(self) -> pathlib.Path:
        """The session's own folder."""
        return pathlib.Path(self._folder.name)

    @property
    def num_bytes(self) -> int:
        """Size of what the good pictures have left in memory."""
        references = self.inspector.references
        if references is None:
            return 0
        region = 0 if references.roi is None else references.roi.nbytes
        return region + sum(layer.numel() * layer.element_size() for layer in references.bank.features)

    def new_file(self, name: str) -> pathlib.Path:
        """A path in the session's folder that was not used before, so that no browser shows an old file for it."""
        self._count += 1
        stem, dot, suffix = name.rpartition(".")
        return self.folder / f"{stem}_{self._count}{dot}{suffix}"

    def show(self, path: str, references: Sequence[str], image: Image.Image, result: InspectionResult) -> None:
        """Keeps a result: its numbers in memory, its pictures as files of the size of the page."""
        for file in self.files.values():
            pathlib.Path(file).unlink(missing_ok=True)
        threshold = float(result.evidence.get("region_threshold") or self.inspector.region_threshold)
        small, heat = comparison(image, result.anomaly_map, threshold)
        overlay = draw_overlay(image, result.anomaly_map, result.regions, threshold, max_side=LONGEST_SIDE)
        self.files = {}
        for name, shown in (("picture", small), ("map", heat), ("overlay", overlay)):
            self.files[name] = str(self.new_file(f"{name}.png"))
            shown.save(self.files[name], compress_level=1)
        result.anomaly_map = result.judged_image = None
        self.picture, self.references, self.result = path, list(references), result
        self.size, self.shown_size = image.size, small.size
        first = [_message("user", result.question), _message("assistant", result.answer)]
        self.messages = first if result.answer else []

    def forget(self) -> None:
        """Deletes the folder and lets everything go."""
        self._folder.cleanup()
        self.result = self.learned = self.batch = None
        self.references, self.messages, self.files = [], [], {}


# What was uploaded and typed


def open_picture(path: str, language: str = "en", bits: int | None = None) -> Image.Image:
    """Opens an uploaded picture in RGB, or refuses it by its name, never by its folder."""
    with _named(path, language):
        return load_picture(path, bits, MAX_PIXELS)


def picture_to_show(path: str, language: str = "en", bits: int | None = None) -> Image.Image:
    """As [`open_picture`]; where `bits` are unknown, as deep as the picture itself shows, so that it is not black."""
    return open_picture(path, language, bits or depth_of(path, language))


def depth_of(path: str, language: str = "en") -> int | None:
    """How many bits an uploaded picture shows to have, see [`bit_depth`]; or refuses it by its name."""
    with _named(path, language):
        return bit_depth([path], MAX_PIXELS)


@contextlib.contextmanager
def _named(path: str, language: str) -> Iterator[None]:
    words, name = words_of(language), shown_name(path)
    try:
        yield
    except FileNotFoundError as error:
        raise RefusedError(words["file_gone"].format(name=name)) from error
    except (PictureError, OSError) as error:
        reason = str(error).replace(str(path), name)
        raise RefusedError(words["bad_picture"].format(name=name, reason=reason)) from error


def shown_name(path: str | os.PathLike, longest: int = 60) -> str:
    """A file's name without its folder and without control characters, shortened in the middle."""
    name = "".join(letter for letter in pathlib.Path(path).name if unicodedata.category(letter)[0] != "C")
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[-longest // 2 + 1 :]}"


def clean_text(text: str | None, longest: int) -> str:
    """A visitor's text on one line, without control characters, cut to its limit."""
    letters = "".join(" " if unicodedata.category(letter)[0] == "C" else letter for letter in str(text or ""))
    return re.sub(r"\s+", " ", letters).strip()[:longest]


def reason_in_words(error: BaseException, language: str) -> str:
    """Why something failed, in one sentence for the visitor, without folders of the server."""
    words = words_of(language)
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, BusyError):
        return words["busy"]
    if isinstance(error, StoppedError):
        return words["too_long"].format(seconds=LONGEST_TURN)
    return words["failed"].format(reason=re.sub(r"(/[^\s'\"]+)+/", "", describe_error(error)))


@dataclass(frozen=True)
class Settings:
    """How a picture is inspected, as typed and chosen on the page; empty texts, 0 and `None` are "not given"."""

    category: str = ""
    description: str = ""
    question: str = ""
    language: str = "en"
    localization: str = "auto"
    use_language: bool = True
    rotations: bool = False
    align: bool = False
    presence: bool = False
    tile: int | None = None
    mm_per_pixel: float | None = None
    part: str = ""
    roi: np.ndarray | None = field(default=None, compare=False)  # what was painted on the first good picture, reduced

    def options(self) -> InspectionOptions:
        """The options of [`AnomalyInspector.inspect`]."""
        return InspectionOptions(
            category=clean_text(self.category, MAX_CATEGORY) or (None if self.part else "object"),
            description=clean_text(self.description, MAX_DESCRIPTION) or None,
            question=clean_text(self.question, MAX_QUESTION) or None,
            language=self.language,
            localization=self.localization,
            use_language=bool(self.use_language),
            mm_per_pixel=self.mm_per_pixel or None,
        )

    def num_tiles(self, path: str) -> int:
        """Tiles of an uploaded picture, from its header alone; `tile_boxes` would list them, were they millions."""
        if not self.tile:
            return 1
        overlap = int(self.tile) // 4
        return math.prod(max(1, -(-(side - overlap) // (int(self.tile) - overlap))) for side in _size(path))


def _size(path: str) -> tuple[int, int]:
    try:
        height, width = stored_size(path)
    except (OSError, ValueError):
        return 1, 1  # `open_picture` says what is wrong with it
    return width, height


def check_work(pictures: Sequence[str], references: Sequence[str], settings: Settings) -> None:
    """Refuses what would take too long or too much memory with a `RefusedError`, before anything is decoded."""
    words, tile = words_of(settings.language), settings.tile

    def refuse(key: str, **values: Any) -> None:
        raise RefusedError(words[key].format(**values))

    if settings.localization in ("reference", "mean") and not references and not settings.part:
        refuse("needs_references")
    if settings.roi is not None and settings.rotations:
        refuse("region_and_rotations")
    if settings.align and settings.rotations:
        refuse("align_and_rotations")
    if settings.presence and (settings.rotations or settings.tile):
        refuse("presence_needs_whole")
    if settings.presence and len(references) == 1:
        refuse("presence_needs_two")
    if len(references) > MAX_REFERENCES:
        refuse("too_many_references", limit=MAX_REFERENCES, count=len(references))
    copies = 4 if settings.rotations else 1
    pixels = copies * sum(width * height for width, height in map(_size, references))
    if pixels > MAX_REFERENCE_PIXELS:
        refuse("too_many_pixels", limit=MAX_REFERENCE_PIXELS // 10**6, count=pixels // 10**6)
    if not tile:
        return
    if tile < MIN_TILE:
        refuse("small_tiles", limit=MIN_TILE, count=int(tile))
    if (count := copies * sum(map(settings.num_tiles, references))) > MAX_REFERENCE_TILES:
        refuse("too_many_reference_tiles", tile=int(tile), limit=MAX_REFERENCE_TILES, count=count)
    counts = [settings.num_tiles(path) for path in pictures]
    for path, count in zip(pictures, counts, strict=True):
        if count > MAX_TILES:
            refuse("too_many_tiles", tile=int(tile), name=shown_name(path), limit=MAX_TILES, count=count)
    if sum(counts) > MAX_BATCH_TILES:
        refuse("too_many_batch_tiles", tile=int(tile), limit=MAX_BATCH_TILES, count=sum(counts))


# Inspection


def inspect_picture(
    engine: Engine, session: Session, picture: str | None, references: Sequence[str], settings: Settings
) -> Iterator[None]:
    """Inspects an uploaded picture, given by its path like the good ones; the session holds the result in the end.

    Yields: `None`: Now and then; closing the iterator ends the inspection.

    Raises:
        RefusedError: If something is missing, unusable or too much; in the visitor's language.
    """
    session.result, session.messages = None, []
    if not picture:
        raise RefusedError(words_of(settings.language)["no_picture"])
    references, settings = with_part(engine, references, settings)
    check_work([picture], references, settings)

    def work() -> None:
        result = _learn(engine, session, references, settings, picture)
        _name_unseen_frames(picture, result, settings.language)
        session.show(picture, references, result.judged_image, result)

    yield from engine.run(session.visitor, work)
    engine.keep_within_budget()


def with_part(engine: Engine, references: Sequence[str], settings: Settings) -> tuple[Sequence[str], Settings]:
    """Good pictures and settings as a stored part has them, where one is chosen and may be."""
    if engine.parts is None or not settings.part:
        return references, replace(settings, part="")
    facts = engine.part(settings.part).facts
    own = dict.fromkeys(("rotations", "align", "presence"), False)
    own |= {"category": "", "description": "", "roi": None, "tile": facts.tile}
    return [], replace(settings, **own, mm_per_pixel=settings.mm_per_pixel or facts.mm_per_pixel)


def _learn(
    engine: Engine, session: Session, references: Sequence[str], settings: Settings, picture: str | None
) -> InspectionResult | None:
    """Makes the session's inspector know exactly these references or a part; inspects the picture if there is one."""
    file, part = engine.part_and_file(settings.part) if settings.part else (None, None)
    options, tile = settings.options(), settings.tile or None
    digests = tuple(digest_of(path, settings.language) for path in references)
    learn = {"category": options.category, "description": options.description}
    learn |= {name: bool(getattr(settings, name)) for name in ("rotations", "align", "presence")}
    region = None if settings.roi is None else (settings.roi.shape, settings.roi.tobytes())
    wanted = file or ((digests, tile, region, *learn.values()) if references else (tile,))
    session.used, is_known = time.monotonic(), wanted == session.learned
    if not is_known:
        session.inspector, session.learned = engine.inspector(tile), None
        if part:
            part.check(session.inspector, engine.name)
            part.use(session.inspector)
    to_learn, bits = None, session.inspector.bits
    if references and not is_known:
        images, bits = _open_good(references, settings.language)
        to_learn = learn | {"images": images, "bits": bits, "roi": _full_size(settings, images[0])}
    image = None if picture is None else open_picture(picture, settings.language, bits)
    try:
        session.inspector, result = learn_and_inspect(session.inspector, to_learn, image, options)
    except PoseError as error:
        raise RefusedError(words_of(settings.language)["no_pose"]) from error
    session.learned = wanted
    return result


def _open_good(references: Sequence[str], language: str) -> tuple[list[Image.Image], int | None]:
    """The good pictures, and how many bits they show to have together."""
    depths = [depth_of(path, language) for path in references]
    bits = max((depth for depth in depths if depth is not None), default=None)
    return [open_picture(path, language, bits) for path in references], bits


def _name_unseen_frames(path: str, result: InspectionResult, language: str) -> None:
    """Adds a reason where a file holds more than what was inspected of it: further pages, frames."""
    frames: dict[str, str] = {}
    if len(picture_pages(path, frames)) > 1 or frames:
        reason = {"kind": UNSEEN_FRAMES, "text": words_of(language)["unseen_frames"]}
        result.evidence = result.evidence | {"reasons": [*result.evidence.get("reasons", []), reason]}


# Region of interest


def digest_of(path: str, language: str = "en") -> str:
    """Names the content of an uploaded file, or refuses one that is no longer kept."""
    with _named(path, language):
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def new_canvas(session: Session, references: Sequence[str], language: str) -> tuple[bool, Image.Image | None]:
    """Whether another picture is to be painted on than before, and that one: the first good one, reduced."""
    digest = digest_of(references[0], language) if references else None
    if digest == session.drawn_on:
        return False, None
    session.drawn_on = None
    canvas = reduced(picture_to_show(references[0], language), drawing.SIDE)[0] if references else None
    session.drawn_on = digest
    return True, canvas


def with_region(
    settings: Settings, session: Session, references: Sequence[str], painted: np.ndarray | None
) -> Settings:
    """The settings with what was painted, if that was on the first of these good pictures.

    Raises:
        RefusedError: If the drawing did not arrive: without it everything would count.
    """
    if painted is None or not references or digest_of(references[0], settings.language) != session.drawn_on:
        return settings
    if painted is drawing.LOST:
        raise RefusedError(words_of(settings.language)["region_lost"])
    return replace(settings, roi=painted)


def find_region(
    engine: Engine, session: Session, references: Sequence[str], language: str
) -> Iterator[np.ndarray | None]:
    """Finds where the good pictures show the part; to be looked at.

    Yields: `np.ndarray` of shape `(height, width)`: Boolean, in the pixels of the first picture; before it `None`, now
        and then.

    Raises:
        RefusedError: If there is no good picture, one is unusable, **or** part and ground cannot be told apart.
    """
    words = words_of(language)
    if not references:
        raise RefusedError(words["region_needs_reference"])
    check_work([], references, Settings(language=language))

    def work() -> np.ndarray:
        images, bits = _open_good(references, language)
        try:
            return find_foreground(engine.inspector(), images, bits)
        except ValueError as error:
            raise RefusedError(words["region_not_found"]) from error

    yield (yield from engine.run(session.visitor, work))


def _full_size(settings: Settings, first: Image.Image) -> np.ndarray | None:
    """The painted region in the pixels of the first good picture."""
    if settings.roi is None:
        return None
    height, width = settings.roi.shape
    if abs(width / height / (first.width / first.height) - 1) > 0.05:
        raise RefusedError(words_of(settings.language)["region_of_another"])
    return np.asarray(Image.fromarray(settings.roi).resize(first.size, Image.Resampling.NEAREST))


# Conversation


def asks_for_overlay(question: str) -> bool:
    """Whether a question wants to see the places rather than to read of them.

    Example:
    ```python
    >>> [asks_for_overlay(text) for text in ("Highlight the anomalies", "请标出异常", "Where is the anomaly?")]
    [True, True, False]

    ```
    """
    return bool(_HIGHLIGHT.search(question))


def reply(engine: Engine, session: Session, question: str, language: str) -> Iterator[str]:
    """Answers a question about the inspected picture; `language` is that of refusals, the answer follows the question.

    Yields: `str`: The answer so far; `session.messages` hold it as well, at their end.

    Raises:
        RefusedError: If nothing was inspected, asked, or the conversation is too long.
    """
    words, question, answer = words_of(language), clean_text(question, MAX_QUESTION), ""
    with engine.turn(session.visitor) as turn:
        for _ in turn:  # also for an inspection of this visitor that is still running
            yield answer
        result = session.result
        if result is None:
            raise RefusedError(words["inspect_first"])
        if result.verdict == "unknown":
            raise RefusedError(why_unknown(result, language))
        if not question:
            raise RefusedError(words["no_question"])
        if sum(message["role"] == "user" for message in session.messages) >= MAX_QUESTIONS:
            raise RefusedError(words["too_many_turns"].format(limit=MAX_QUESTIONS))
        if asks_for_overlay(question):
            yield _answer_with_overlay(session, question)
            return
        if result.image_tokens is None:
            raise RefusedError(words["no_language_model"])
        turns, shown = [*result.conversation, _message("user", question)], _message("assistant", "")
        session.messages += [turns[-1], shown]
        for piece in stream_answer(session.inspector, result, question):
            answer += piece
            shown["content"] = answer
            yield answer
    if not answer:
        shown["content"] = answer = "…"
        yield answer
    # Where a worker process answered, the conversation has grown only there.
    result.conversation = [*turns, _message("assistant", answer)]


def _answer_with_overlay(session: Session, question: str) -> str:
    words, count = words_of("zh" if re.search(r"[\u4e00-\u9fff]", question) else "en"), len(session.result.regions)
    text = words[("nothing_to_highlight", "highlighted_one", "highlighted_many")[min(count, 2)]].format(count=count)
    # A copy: the conversation shows it also after the next inspection.
    path = session.new_file("highlighted.png")
    shutil.copyfile(session.files["overlay"], path)
    image = {"path": str(path), "alt_text": text}
    said = [_message("user", question), _message("assistant", text)]
    session.messages += [*said, _message("assistant", image)]
    session.result.conversation = [*session.result.conversation, *said]  # "Pardon?" may follow
    return text


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


# Batch


@dataclass
class Batch:
    """A batch of one session: its report so far, and the name of each picture's files."""

    report: InspectionReport
    names: list[str]

    def overlay(self, row: int) -> str | None:
        """Path of the overlay of one row, where there is one."""
        path = self.report.folder / "overlays" / f"{self.names[row]}.png"
        return str(path) if path.exists() else None


def inspect_batch(
    engine: Engine, session: Session, files: Sequence[str], references: Sequence[str], settings: Settings
) -> Iterator[list[InspectionResult] | None]:
    """Inspects many pictures, one after the other; other visitors get their turn between two of them.

    Yields: `list[InspectionResult]`: All results so far, a bad picture gives a row with its error; or `None` in
        between.

    Raises:
        RefusedError: If there is no picture, or too much, or a reference cannot be used.
    """
    words = words_of(settings.language)
    files = [page for file in files for page in picture_pages(file)]
    if not files:
        raise RefusedError(words["no_batch"])
    if len(files) > MAX_BATCH:
        raise RefusedError(words["batch_too_long"].format(limit=MAX_BATCH, count=len(files)))
    references, settings = with_part(engine, references, settings)
    options = settings.options()
    check_work(files, references, settings)
    yield from engine.run(session.visitor, partial(_learn, engine, session, references, settings, None))
    engine.keep_within_budget()
    if session.batch is not None:
        shutil.rmtree(session.batch.report.folder, ignore_errors=True)
    inspector, report = session.inspector, _report(engine, session, len(files), references, settings)
    session.batch = Batch(report, distinct_names([shown_name(path) for path in files]))

    def work(path: str, name: str) -> None:
        image = open_picture(path, settings.language, inspector.bits)
        _, result = learn_and_inspect(inspector, None, image, options)
        result.image = shown_name(path)
        _name_unseen_frames(path, result, settings.language)
        report.add(result, name, image)

    for path, name in zip(files, session.batch.names, strict=True):
        try:
            yield from engine.run(session.visitor, partial(work, path, name))
        except Exception as error:
            reason = reason_in_words(error, settings.language)
            row = InspectionResult(shown_name(path), "error", error=reason, category=options.category or "object")
            report.add(row, name, None)
        yield report.results


def write_downloads(report: InspectionReport) -> list[str]:
    """Writes `results.json`, `results.csv` and `report.html` of the batch so far; returns their paths."""
    page = report.write()
    rows = json.dumps([result.to_dict() for result in report.results], ensure_ascii=False, indent=1)
    write_atomically(report.folder / "results.json", rows)
    return [str(report.folder / "results.json"), str(report.folder / "results.csv"), str(page)]


def batch_heads(language: str) -> list[str]:
    """Heads of [`batch_rows`]."""
    words = words_of(language)
    return [words[key] for key in ("picture", "verdict", "score", "where", "answer")]


def batch_rows(results: Sequence[InspectionResult], language: str) -> list[list[Any]]:
    """The rows of the table: picture, verdict, score, places, answer."""
    words = words_of(language)
    return [
        [
            result.image,
            words.get(f"verdict_{result.verdict}", result.verdict),
            None if result.pred_score is None else round(result.pred_score, 3),
            regions_in_words(result.regions, language, limit=3),
            result.error or result.answer,
        ]
        for result in results
    ]


def _report(
    engine: Engine, session: Session, count: int, references: Sequence[str], settings: Settings
) -> InspectionReport:
    words, options = report_words(settings.language), settings.options()
    folder = session.new_file("batch.d").with_suffix("")
    folder.mkdir()
    scale = settings.mm_per_pixel
    setup = {
        words["category"]: options.category or session.inspector.category,
        words["part"]: settings.part,
        words["description"]: options.description or "",
        words["model"]: engine.name or words["embedded"],
        words["scale"]: words["scale_value"].format(mm=f"{scale:g}") if scale else "",
    }
    versions = {"anomalygpt": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    return InspectionReport(
        folder,
        session.inspector.region_threshold,
        num_pictures=count,
        language=settings.language,
        setup={label: value for label, value in setup.items() if value},
        versions=versions | {"Python": platform.python_version()},
        references=references,
        bits=session.inspector.bits,
    )
