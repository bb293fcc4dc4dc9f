"""Who judges behind a service: one inspector in this process, or several processes that share the bank.

Each process maps the part's file, so the patches lie in memory once, however many processes read them; each has a
copy of the model. Pictures and rows go between them, never maps.
"""

import contextlib
import datetime
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch

from ..errors import describe_error
from ..images import several_pictures
from ..inspector import AnomalyInspector, InspectionOptions, failed_result
from ..results import InspectionResult
from .parts import PartChooser, PartFollower


class Judge:
    """Judges one picture after the other in a thread of its own, whoever calls: each thread that ever ran the model
    would keep some 25 MB.

    Args:
        inspector ([`AnomalyInspector`] or [`PartChooser`]): Judges.
        follower ([`PartFollower`], *optional*): Takes over what the part learns meanwhile.
    """

    def __init__(self, inspector: AnomalyInspector | PartChooser, follower: PartFollower | None = None):
        self._inspector, self._follower = inspector, follower
        self._setup: dict[str, str] = {}
        self._thread = ThreadPoolExecutor(1)

    def inspect(self, content: bytes, options: InspectionOptions) -> InspectionResult:
        """The result of a picture, from the bytes of its file; without what is not written to files."""
        return self._thread.submit(lambda: _as_row(self._inspect(content, options))).result()

    def chat(
        self, content: bytes, options: InspectionOptions, messages: Sequence[dict[str, str]]
    ) -> tuple[InspectionResult, str]:
        """Looks at a picture and answers the last of the messages, which belong to what is said about it first.

        Args:
            content (`bytes`): The file of the picture.
            options ([`InspectionOptions`]): How it is judged.
            messages (`Sequence[dict[str, str]]`): `role` (`"user"` or `"assistant"`) and `content`; the last is a
                user's question.

        Returns:
            `tuple(InspectionResult, str)`: The answer is empty where the picture cannot be talked about; the result
            says why.
        """
        return self._thread.submit(self._chat, content, options, messages).result()

    def close(self) -> None:
        """Ends after what is being judged."""
        self._thread.shutdown(cancel_futures=True)

    def _chat(
        self, content: bytes, options: InspectionOptions, messages: Sequence[dict[str, str]]
    ) -> tuple[InspectionResult, str]:
        result = self._inspect(content, options)
        if result.image_tokens is None:
            return _as_row(result), ""
        result.conversation = [*result.conversation, *messages[:-1]]
        inspector = getattr(self._inspector, "inspector", self._inspector)
        answer = inspector.ask(result, messages[-1]["content"])
        return _as_row(result), answer

    def _inspect(self, content: bytes, options: InspectionOptions) -> InspectionResult:
        if self._follower is not None:
            if line := self._follower.renew():
                sys.stderr.write(f"anomalygpt serve: {line}\n")
                sys.stderr.flush()
                self._setup = {}
            options = self._follower.options(options)
        completed = options.completed(getattr(self._inspector, "references", None))
        if found := several_pictures(content):
            line = f"`picture` must be one picture, got a file with {found}. Split it; use `anomalygpt inspect`."
            return failed_result(None, line, completed)
        (result,) = self._inspector.inspect_many([content], options, progress=False)
        result.setup = self._known_setup(options) | {name: str(value) for name, value in asdict(completed).items()}
        result.time = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        return result

    def _known_setup(self, options: InspectionOptions) -> dict[str, str]:
        """Model and references, by which a stored answer can be told from those of other versions of the part."""
        if not self._setup:
            chooser = isinstance(self._inspector, PartChooser)
            references = None if chooser else self._inspector.references
            completed = options.completed(references)
            self._setup = self._inspector.setup(options) if chooser else self._inspector.setup(references, completed)
        return self._setup


def _as_row(result: InspectionResult) -> InspectionResult:
    return replace(result, anomaly_map=None, image_tokens=None, judged_image=None)


class Workers:
    """As [`Judge`], by several processes; one that dies is replaced, and what it was judging is judged again.

    Args:
        number (`int`): Of processes.
        load (`Callable`): Makes the [`Judge`] of a process, in it; must be picklable.

    Raises:
        RuntimeError: If a process cannot begin.
    """

    def __init__(self, number: int, load: Callable[[], Judge]):
        self._number, self._load, self._changing = number, load, threading.Lock()
        self._pool = self._started()
        try:
            for ready in [self._pool.submit(os.getpid) for _ in range(number)]:
                ready.result()
        except BrokenProcessPool:
            raise RuntimeError("A worker could not begin; its own lines say why. Try --workers 1.") from None

    def inspect(self, content: bytes, options: InspectionOptions) -> InspectionResult:
        """As [`Judge.inspect`]."""
        return self._call("inspect", content, options)

    def chat(
        self, content: bytes, options: InspectionOptions, messages: Sequence[dict[str, str]]
    ) -> tuple[InspectionResult, str]:
        """As [`Judge.chat`]."""
        return self._call("chat", content, options, list(messages))

    def close(self) -> None:
        """Ends the processes after what they are judging."""
        self._pool.shutdown(cancel_futures=True)

    def _started(self) -> ProcessPoolExecutor:
        # Not forked: a copy of a process whose torch has threads may stand still.
        context = multiprocessing.get_context("spawn")
        begin = partial(_begin, self._load, max(1, (os.cpu_count() or 1) // self._number))
        return ProcessPoolExecutor(self._number, context, begin)

    def _call(self, name: str, *arguments: Any) -> Any:
        pool = self._pool
        try:
            return pool.submit(_do, name, arguments).result()
        except BrokenProcessPool:  # all that was under way is judged again, once: it may be what ends a process
            with self._changing:
                if self._pool is pool:
                    self._pool = self._started()
            return self._pool.submit(_do, name, arguments).result()


_judge: Judge | None = None
_IDLE = 3.0  # seconds without work after which a process that was asked to end does so
_last_work = [0.0]  # when work last began or ended; infinity while there is some


def _begin(load: Callable[[], Judge], threads: int) -> None:
    """Makes the judge of this process, which ends with the service, however that ends, and not by Ctrl-C.

    A service manager sends SIGTERM to all processes at once: what the service has accepted is still judged.
    """
    global _judge
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_end_when_idle, daemon=True).start())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _judge = load()
    except Exception as error:
        sys.stderr.write(f"anomalygpt serve: error: {describe_error(error)}\n")
        sys.stderr.flush()
        os._exit(2)


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        multiprocessing.parent_process().join()
    os._exit(1)


def _end_when_idle() -> None:
    _last_work[0] = max(_last_work[0], time.monotonic())
    while time.monotonic() - _last_work[0] < _IDLE:
        time.sleep(0.1)
    os._exit(1)


def _do(name: str, arguments: tuple[Any, ...]) -> Any:
    _last_work[0] = math.inf
    try:
        return getattr(_judge, name)(*arguments)
    finally:
        _last_work[0] = time.monotonic()


__all__ = ["Judge", "Workers"]
