"""Pictures of a folder as they are finished being written: each once, in order, however many there are.

The package `watchdog` tells what happens in the folder; a picture is handed out when nobody is writing it any more.
Nothing here looks at the clock on the wall, which may go back.
"""

import contextlib
import logging
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from ..images import PICTURE_SUFFIXES, natural_key
from ..results import source_of

try:  # Linux tells whether a file is open for writing
    import fcntl

    _LEASE = (fcntl.F_SETLEASE, fcntl.F_RDLCK, fcntl.F_UNLCK)
except (ImportError, AttributeError):
    _LEASE = None

# Seconds for which a file must stay as it is: where the system says that nobody writes it, and where it cannot say.
_SETTLED, _SETTLED_UNKNOWN = 0.2, 2.0
# The same where a lease is refused: somebody writes, or a network folder (NFS, SMB) has none to give for this file.
# The second number holds once a lease was granted here.
_SETTLED_REFUSED = (10.0, 60.0)
# Seconds after which a picture that is still being written is named; between two looks at the whole folder while
# there is nothing to do (shared folders of other machines tell no events); between two looks at what is waiting.
_SLOW, _LOOK_AGAIN, _PAUSE = 60.0, 10.0, 0.05
_MOST_WAITING = 1000
_NO_CHANGE = ("opened", "closed_no_write")

State = dict[str, int] | None


@dataclass
class _Waiting:
    state: State
    since: float
    first: float
    named: bool = False


class Incoming(FileSystemEventHandler):
    """What waits in a folder and in those below; links and hidden files and folders are left out.

    What lies there at the beginning comes first, in order of its time of modification, then of its name; what comes
    later in the order in which it was finished. At most 1,000 paths are kept; the rest waits on the disk alone and
    comes next, in the order of the beginning.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        without (iterable of paths): Folders that are left out where they are below it.
        is_done (`Callable`): Whether a picture of this path and this state (see [`source_of`]) was handed out before
            and needs nothing any more.
        say (`Callable`): Takes remarks, one line each.

    Raises:
        ValueError: If there is no such folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        without: Iterable[str | os.PathLike],
        is_done: Callable[[str, State], bool],
        say: Callable[[str], None],
    ):
        self.folder = os.path.abspath(folder)
        if not os.path.isdir(self.folder):
            raise ValueError(f"`INCOMING` must be a folder, got {os.fspath(folder)!r}. Make it, or check the path.")
        root = _with_separator(self.folder)  # a folder that is not below it would leave out all of it
        self._without = tuple(path for path in map(_with_separator, without) if path.startswith(root) and path != root)
        self._is_done, self._say = is_done, say
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._overflown = False
        if _LEASE is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGIO, signal.SIG_IGN)  # sent when a file is opened while it is asked for
        # Other threads cannot ignore the signal, which would end the process.
        self._may_ask = _LEASE is not None and signal.getsignal(signal.SIGIO) == signal.SIG_IGN
        self._granted = self._gone = False
        self._observer = Observer()
        self._observer.schedule(self, self.folder, recursive=True)
        self._observer.start()  # before the first look: what comes in between is seen twice, not never
        self._look()

    def close(self) -> None:
        """Ends the watching."""
        logging.getLogger("watchdog").setLevel(logging.CRITICAL)  # it complains of events that come while it ends
        self._observer.stop()
        self._observer.join(5)

    @property
    def lag(self) -> tuple[int, float, bool]:
        """How many pictures wait, for how many seconds the oldest one does, whether there are more."""
        with self._lock:
            oldest = min((one.first for one in self._waiting.values()), default=time.monotonic())
            return len(self._waiting), time.monotonic() - oldest, self._overflown

    def next(self, timeout: float, stop: threading.Event) -> str | None:
        """The path of the next finished picture; `None` after so many seconds without one, or where `stop` is set."""
        end = time.monotonic() + timeout
        while not stop.is_set():
            if (path := self._finished()) is not None:
                return path
            with self._lock:
                more = self._overflown and not self._waiting
            if more or time.monotonic() - self._looked > _LOOK_AGAIN:
                self._look()
            elif time.monotonic() > end:
                return None
            else:
                stop.wait(_PAUSE)
        return None

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Takes note of what watchdog says."""
        if event.event_type in _NO_CHANGE:
            return
        if event.is_directory:  # one that was moved here: nothing is said of its files
            with self._lock:
                self._overflown |= event.event_type in ("created", "moved")
            return
        source, target = (os.fsdecode(path or "") for path in (event.src_path, event.dest_path))
        path = target or source
        with self._lock:
            known = self._waiting.pop(path, None)
            if target:
                self._waiting.pop(source, None)
            parent, name = os.path.split(path)
            if event.event_type != "deleted" and _is_picture(name) and not self._is_left_out(parent):
                self._note(path, known)
        if event.event_type == "deleted" and known is not None:
            self._say(f"{path!r} was taken away before it was judged.")

    def _note(self, path: str, known: _Waiting | None = None) -> None:
        state, now = source_of(path), time.monotonic()
        if state is None or not os.path.isfile(path) or self._is_done(path, state):
            return
        if os.path.islink(path):  # moved, it would lead elsewhere
            return
        if known is None and (self._overflown or len(self._waiting) >= _MOST_WAITING):
            self._overflown = True  # until the next look: what came earlier must not be overtaken
            return
        self._waiting[path] = _Waiting(state, now, known.first if known else now)

    def _finished(self) -> str | None:
        with self._lock:
            waiting = list(self._waiting.items())
        now = time.monotonic()
        for path, one in waiting:
            if now - one.since < _SETTLED:
                continue
            state = source_of(path)
            if state != one.state:
                one.state, one.since = state, now
                if state is None:
                    self._drop(path, one)
                continue
            written = _is_being_written(path) if self._may_ask else None
            self._granted |= written is False
            if written is False and not state["bytes"]:
                written = None  # its writer may be about to open it again
            rest = {False: _SETTLED, None: _SETTLED_UNKNOWN, True: _SETTLED_REFUSED[self._granted]}[written]
            if now - one.since >= rest:
                self._drop(path, one)
                return path
            if now - one.first > _SLOW and not one.named:
                one.named = True
                self._say(f"{path!r} is still being written; it is judged when it is finished.")
        return None

    def _drop(self, path: str, one: _Waiting) -> None:
        with self._lock:
            if self._waiting.get(path) is one:  # a later event may have put another one there
                del self._waiting[path]

    def _look(self) -> None:
        """Looks through the folder; what is waiting already keeps its place."""
        if self._gone == os.path.isdir(self.folder):
            self._gone = not self._gone
            what = f"gone; it is looked for again every {_LOOK_AGAIN:.0f} seconds" if self._gone else "there again"
            self._say(f"The folder {self.folder!r} is {what}.")
        with self._lock:
            found = []
            for parent, folders, names in os.walk(self.folder):
                folders[:] = [name for name in folders if not self._is_left_out(os.path.join(parent, name))]
                for path in (os.path.join(parent, name) for name in names if _is_picture(name)):
                    if path not in self._waiting and (state := source_of(path)) and not self._is_done(path, state):
                        found.append((state["modified"], natural_key(path), path))
            self._overflown, self._looked = False, time.monotonic()
            for _, _, path in sorted(found):
                self._note(path)
                if self._overflown:
                    break

    def _is_left_out(self, folder: str) -> bool:
        hidden = any(part.startswith(".") for part in pathlib.PurePath(os.path.relpath(folder, self.folder)).parts)
        return hidden or bool(self._without) and _with_separator(folder).startswith(self._without)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith(".")


def _with_separator(folder: str | os.PathLike) -> str:
    return os.path.join(os.path.realpath(folder), "")


def _is_being_written(path: str) -> bool | None:
    """Whether anybody has the file open for writing, or may have; `None` where the system does not say."""
    if _LEASE is None:
        return None
    lease, read, unlock = _LEASE
    with contextlib.suppress(OSError), open(path, "rb") as file:
        try:
            fcntl.fcntl(file, lease, read)
        except BlockingIOError:
            return True
        fcntl.fcntl(file, lease, unlock)
        return False
    return None


__all__ = ["Incoming"]
