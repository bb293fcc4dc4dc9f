"""A shift: pictures judged one after the other, each once, whatever happens in between.

Of a picture first the row is written, which says where the picture goes; then the picture is moved there. Killed
between the two, the next run finds row and picture and only moves it. Killed before the row, the picture is judged by
the next run. Until it is moved, a link to it keeps its new name, which no other watcher can take then.
"""

import contextlib
import errno
import filecmp
import hashlib
import math
import os
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..files import write_atomically
from ..images import distinct_names, several_pictures
from ..inspector import AnomalyInspector, InspectionOptions, failed_result
from ..report.overlays import draw_overlay, encoded
from ..results import InspectionResult, ResultsFile, each_result, source_of
from .incoming import Incoming, State
from .parts import PartChooser, PartFollower

RESULTS, OVERLAYS = "results.jsonl", "overlays"
VERDICT_FOLDERS = {"normal": 0, "anomalous": 1}
"""Which of the three folders `ok`, `ng`, `unsure` a picture goes to; all other verdicts: the last."""

# Seconds between two tries to write where that was impossible, and between two remarks about pictures that wait.
_TRY_AGAIN, _LAG_REMARK = (0.5, 10.0), (30.0, 600.0)
_WORTH_A_REMARK = 10
_LONGEST_WAIT = 0.5  # seconds until the caller hears that nothing came
# Names have at most 255 bytes on most file systems; a number and the suffix come behind.
_STEM_BYTES = 200
# What a disk answers that cannot have a name, however long one waits: too long, `:` on exFAT or SMB, other letters.
_NO_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class StoppedError(RuntimeError):
    """The watching was ended while something could not be written; nothing is lost."""


class Shift:
    """The results of one folder of pictures, and where the pictures go.

    Args:
        folder (`str` or `os.PathLike`): Where `results.jsonl` is written; must exist. Rows that are there stay.
        inspector ([`AnomalyInspector`] or [`PartChooser`]): Judges.
        options ([`InspectionOptions`]): How.
        move_to (`tuple` of three paths, *optional*): Folders for `normal`, `anomalous` and all other pictures.
        stop (`threading.Event`): Ends waiting for a disk that is full.
        say (`Callable`): Takes remarks, one line each.
        part ([`PartFollower`], *optional*): Takes over what a stored part learns meanwhile.
        overlays (`bool`, defaults to `False`): Whether the overlays of anomalous and uncertain pictures are kept, in
            `overlays/`; rows name them in `evidence["overlay"]`.

    Attributes:
        count (`int`): Rows written by this run.

    Raises:
        ResultsFileError: If another process writes the file, **or** its rows were made with another model, other
            references or options; with a stored part, an earlier version of it is no other set-up.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        inspector: AnomalyInspector | PartChooser,
        options: InspectionOptions,
        move_to: tuple[str, str, str] | None,
        stop: threading.Event,
        say: Callable[[str], None],
        part: PartFollower | None = None,
        overlays: bool = False,
    ):
        self.path = pathlib.Path(folder) / RESULTS
        self.count = 0
        self._inspector, self._options = inspector, options
        self._move_to = None if move_to is None else [pathlib.Path(os.path.abspath(path)) for path in move_to]
        self._stop, self._say, self._part, self._overlays = stop, say, part, overlays
        self._rows = ResultsFile(self.path, resume=True, setup=self._setup(), log=True)
        # Judged pictures that are still where they came, and where they are to be moved.
        self._judged: dict[tuple[str, int, int, int], str | None] = {}
        for row in each_result(self.path) if self.path.exists() else ():
            self._remember(row)
        self._judged = {key: target for key, target in self._judged.items() if _key(key[0], source_of(key[0])) == key}

    def close(self) -> None:
        """Lets another process go on."""
        self._rows.close()

    def is_done(self, path: str, state: State) -> bool:
        """Whether this picture was judged and lies where it belongs."""
        return self._judged.get(_key(path, state), "") is None

    def judge(self, path: str, incoming: str) -> InspectionResult | None:
        """Judges a picture, writes its row and moves it; only moves it where an earlier run was killed in between.

        Args:
            path (`str`): The picture.
            incoming (`str`): The folder it came to; what lies in folders below keeps them when it is moved.

        Returns:
            [`InspectionResult`]: `None` where it has a row already, or is gone.

        Raises:
            StoppedError: If the watching is to end while row or picture cannot be written.
        """
        state = source_of(path)
        key = _key(path, state)
        if state is None or key in self._judged:
            if self._judged.get(key) is not None:
                self._until_done(lambda: self._move(key), f"move {path!r}")
            return None
        if self._part is not None and (line := self._part.renew()):
            self._say(line)
            self._options = self._part.options(self._options)
            self._rows.setup = self._setup()
        result = self._inspect(path, state)
        if result is None:
            self._say(f"{path!r} was taken away before it was judged.")
            return None
        target = None
        if self._move_to is not None and source_of(path) == result.source:  # else it is another picture by now
            folder = self._move_to[VERDICT_FOLDERS.get(result.verdict, 2)]
            name = os.path.relpath(path, incoming)
            target = self._until_done(lambda: _keep_name(path, folder, name), f"move {path!r}")
            result.evidence = result.evidence | {"incoming": path}
            result.image = str(target)
        self._until_done(lambda: self._rows.append(result), f"write the result of {path!r}")
        self.count += 1
        self._judged[_key(path, result.source)] = result.image if target else None
        if target:
            self._until_done(lambda: self._move(_key(path, result.source)), f"move {path!r}")
        return result

    def _setup(self) -> dict[str, str]:
        if isinstance(self._inspector, PartChooser):
            return self._inspector.setup(self._options)
        references = self._inspector.references
        return self._inspector.setup(references, self._options.completed(references))

    def _inspect(self, path: str, state: State) -> InspectionResult | None:
        if found := several_pictures(path):
            line = f"`picture` must be one picture, {path!r} has {found}. Split it; use `anomalygpt inspect`."
            options = self._options.completed(getattr(self._inspector, "references", None))
            result = failed_result(path, line, options)
        else:
            (result,) = self._inspector.inspect_many([path], self._options, progress=False)
        if result.error is not None and source_of(path) is None:
            return None
        result.source = result.source or state
        if self._overlays and result.verdict in ("anomalous", "uncertain"):
            self._keep_overlay(path, result)
        result.anomaly_map = result.image_tokens = result.judged_image = None
        return result

    def _keep_overlay(self, path: str, result: InspectionResult) -> None:
        """Writes the picture with its map; before its row, under one name, so that a kill leaves no second one."""
        if result.anomaly_map is None or result.judged_image is None:
            return
        threshold = result.evidence.get("region_threshold", 0.5)
        overlay = draw_overlay(result.judged_image, result.anomaly_map, result.regions, threshold)
        content = encoded(overlay, compress_level=4)
        digest = hashlib.sha256(repr(_key(path, result.source)).encode(errors="surrogateescape")).hexdigest()[:8]
        name = f"{OVERLAYS}/{distinct_names([path])[0]}_{digest}.png"

        def write() -> None:
            (self.path.parent / OVERLAYS).mkdir(exist_ok=True)
            write_atomically(self.path.parent / name, content)

        self._until_done(write, f"write the overlay of {path!r}")
        result.evidence = result.evidence | {"overlay": name}

    def _remember(self, row: InspectionResult) -> None:
        incoming = row.evidence.get("incoming")
        if isinstance(row.source, dict) and row.image:
            key = _key(incoming if isinstance(incoming, str) else row.image, row.source)
            self._judged[key] = row.image if incoming else None

    def _move(self, key: tuple[str, int, int, int]) -> None:
        """Brings a judged picture to its folder; one that is gone, was written anew or lost its new name stays."""
        path, target = key[0], pathlib.Path(self._judged[key])
        is_there = _key(path, source_of(path)) == key
        if is_there and _is_kept(path, target):
            try:
                os.replace(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy(path, target)
                os.unlink(path)
        else:
            if source_of(path) is not None:
                reason = f"cannot be moved, {str(target)!r} is another file by now" if is_there else "was written anew"
                self._say(f"{path!r} {reason}; it is judged again.")
            if _linked(target) == path:
                target.unlink()
        del self._judged[key]

    def _until_done(self, action: Callable[[], Any], what: str) -> Any:
        """Does something on the disk; where that fails, says so once and tries again until it can be done."""
        pause, failed = _TRY_AGAIN[0], None
        while True:
            try:
                made = action()
                break
            except OSError as error:
                line = f"Cannot {what}: {error.strerror or error}."
                if line != failed:
                    self._say(f"{line} Judging has stopped; it goes on when that can be done.")
                failed = line
            if self._stop.wait(pause):
                raise StoppedError(f"{failed} Stopped; the next run goes on with this picture. Nothing is lost.")
            pause = min(2 * pause, _TRY_AGAIN[1])
        if failed:
            self._say("It can be done again; judging goes on.")
        return made


def watch(incoming: Incoming, shift: Shift, stop: threading.Event, say: Callable[[str], None]) -> Iterator[Any]:
    """Judges what comes until `stop` is set; the picture being judged then is finished.

    Args:
        incoming ([`Incoming`]): What comes.
        shift ([`Shift`]): What judges, writes and moves.
        stop (`threading.Event`): The end.
        say (`Callable`): Takes remarks: that pictures come faster than they are judged, that the clock went back.

    Yields: [`InspectionResult`] of each picture, in order; `None` at least twice a second while there is none.
    """
    lag = _Lag(say)
    before = time.time()
    while not stop.is_set():
        path = incoming.next(_LONGEST_WAIT, stop)
        lag.look(*incoming.lag)
        if path is None:
            yield None
            continue
        result = shift.judge(path, incoming.folder)
        if time.time() < before - 1:
            say(f"The clock went back by {before - time.time():.0f} seconds; rows stay in the order of judging.")
        before = time.time()
        if result is not None:
            yield result


class _Lag:
    """Says how many pictures wait for how long, and when none does any more."""

    def __init__(self, say: Callable[[str], None]):
        self._say, self._said, self._pause = say, -math.inf, _LAG_REMARK[0]
        self.behind = False

    def look(self, waiting: int, seconds: float, more: bool) -> None:
        now = time.monotonic()
        if waiting >= _WORTH_A_REMARK and now - self._said > self._pause:
            number = f"More than {waiting}" if more else f"{waiting}"
            self._say(f"{number} pictures wait, the oldest for {seconds:.0f} s.")
            self._pause = min(2 * self._pause, _LAG_REMARK[1]) if self.behind else _LAG_REMARK[0]
            self._said, self.behind = now, True
        elif not waiting and self.behind:
            self._say("No picture waits any more.")
            self.behind = False


def _key(path: str, state: Mapping[str, int] | None) -> tuple[str, int, int, int]:
    state = state or {}
    return path, state.get("bytes", -1), state.get("modified", -1), state.get("changed", -1)


def _keep_name(path: str, folder: pathlib.Path, name: str) -> pathlib.Path:
    """Keeps a name in the folder for a picture; a plain one where the disk of the folder cannot have this one."""
    try:
        return _keep_numbered(path, folder / name)
    except OSError as error:
        if error.errno not in _NO_NAME:
            raise
    wanted, digest = pathlib.Path(name), hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    stem = re.sub(r"[^\w-]", "_", wanted.stem, flags=re.ASCII)[:40]
    return _keep_numbered(path, folder / f"{stem}_{digest}{wanted.suffix}")


def _keep_numbered(path: str, wanted: pathlib.Path) -> pathlib.Path:
    """Keeps the wanted name for a picture, or the first numbered one that is free: cameras use names again."""
    free, number = wanted, 1
    stem = os.fsencode(wanted.stem)[:_STEM_BYTES].decode(errors="ignore")
    while not _keep(path, free):
        number += 1
        free = wanted.with_name(f"{stem}_{number}{wanted.suffix}")
    return free


def _keep(path: str, target: pathlib.Path) -> bool:
    """Makes the target a link to the picture, which no other watcher takes; whether it is one now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(path, target)
    except FileExistsError:
        return _linked(target) == path  # made by this run, or by one that was killed
    except OSError:  # a file system without links
        with contextlib.suppress(FileExistsError):
            target.open("xb").close()
            return True
        return False
    return True


def _is_kept(path: str, target: pathlib.Path) -> bool:
    """Whether the target is kept for the picture, or holds its copy: killed before the picture was taken away."""
    if _keep(path, target):
        return True
    if target.is_symlink() or not target.is_file():
        return False
    return target.stat().st_size == 0 or filecmp.cmp(path, target, shallow=False)


def _linked(target: pathlib.Path) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(target).removeprefix("\\\\?\\")  # as Windows writes it
    return None


def _copy(path: str, target: pathlib.Path) -> None:
    """A copy on another disk that appears whole or not at all."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]  # the name may be as long as names can be
    partial = target.with_name(f".{digest}.partial")
    try:
        shutil.copy2(path, partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


__all__ = ["RESULTS", "VERDICT_FOLDERS", "Shift", "StoppedError", "watch"]
