"""What is told to others of each row: in order, in the background, again until it is taken, also after a restart.

The rows themselves are the queue: `results.jsonl` holds them, a small file beside it says up to where they have been
delivered. Delivered is delivered at least once: killed between the answer and the note of it, a row goes twice.
"""

import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import shlex
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from ..files import append_json_line, write_atomically

_BACK_OFF = (1.0, 60.0)
_TIMEOUT, _COMMAND_TIMEOUT = 10.0, 60.0
# What a receiver answers when it will never take this row: bad request, gone, too large, not understood.
_NEVER = (400, 410, 413, 415, 422)

Row = dict[str, Any]


class RefusedError(Exception):
    """A row that its receiver does not want; it is not offered again."""


class Outbox(threading.Thread):
    """Delivers the rows of a results file, those that are added while it runs and those that an earlier run left.

    Args:
        rows (`str` or `os.PathLike`): The JSON-lines file. Where nothing was ever delivered, its present rows are not.
        name (`str`): `NAME.json` beside the rows says how far they are delivered, `NAME_refused.jsonl` holds what was
            refused.
        deliver (`Callable`): Delivers one row; `OSError` where that is to be tried again, `RefusedError` where not.
        say (`Callable`): Takes remarks, one line each.

    Raises:
        OSError: If the note cannot be written.
    """

    def __init__(self, rows: str | os.PathLike, name: str, deliver: Callable[[Row], None], say: Callable[[str], None]):
        super().__init__(name=f"outbox {name}", daemon=True)
        self._rows, self.what = pathlib.Path(rows), name
        self._deliver, self._say = deliver, say
        self._note = self._rows.with_name(f"{name}.json")
        self._wake, self._ending = threading.Event(), threading.Event()
        size = self._rows.stat().st_size if self._rows.exists() else 0
        self._at = size
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._at = min(size, int(json.loads(self._note.read_text(encoding="utf-8-sig"))["delivered_bytes"]))
        if not self._note.exists():
            self._write_note()  # where it cannot be written, a kill would lose the rows that come
        self.start()

    def wake(self) -> None:
        """Says that there is a further row."""
        self._wake.set()

    def close(self) -> int:
        """Ends it; what can be delivered within five seconds is. Returns how many rows are left for later."""
        self._ending.set()
        self._wake.set()
        self.join(5)
        try:
            with self._rows.open("rb") as file:
                file.seek(self._at)
                return sum(1 for _ in file)
        except OSError:
            return 0

    def run(self) -> None:
        """Delivers until [`Outbox.close`]."""
        pause, failing = _BACK_OFF[0], False
        while True:
            self._wake.clear()
            line = self._next_line()
            if not line:
                if self._ending.is_set():
                    return
                self._wake.wait()
                continue
            try:
                self._offer(line)
            except (OSError, http.client.HTTPException, ValueError) as error:
                if not failing:
                    reason = " ".join(str(error).split())[:150].rstrip(".")
                    self._say(f"{self.what}: cannot be reached ({reason}); it is tried again, nothing is lost.")
                failing = True
                if self._ending.wait(pause):
                    return
                pause = min(2 * pause, _BACK_OFF[1])
                continue
            if failing:
                self._say(f"{self.what}: reached again.")
            pause, failing = _BACK_OFF[0], False

    def _offer(self, line: bytes) -> None:
        try:
            row = json.loads(line.decode("utf-8-sig", "replace"))  # Notepad's mark
        except ValueError:
            row = None  # a damaged line is of nobody's interest
        if isinstance(row, dict):
            try:
                self._deliver(row)
            except RefusedError as error:
                self._say(f"{self.what}: {error}")
                with contextlib.suppress(OSError):  # not noted is better than offered again
                    append_json_line(self._rows.with_name(f"{self.what}_refused.jsonl"), row)
        self._at += len(line)
        with contextlib.suppress(OSError):
            self._write_note()

    def _next_line(self) -> bytes:
        """The next whole line, or nothing."""
        with contextlib.suppress(OSError), self._rows.open("rb") as file:
            file.seek(self._at)
            line = file.readline()
            return line if line.endswith(b"\n") else b""
        return b""

    def _write_note(self) -> None:
        write_atomically(self._note, json.dumps({"delivered_bytes": self._at}) + "\n")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without the row."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post_to(address: str) -> Callable[[Row], None]:
    """Posts a row as JSON to a web address; the header `Idempotency-Key` is the same when it is sent again."""
    opener = urllib.request.build_opener(_NoRedirect)

    def deliver(row: Row) -> None:
        body = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
        key = hashlib.sha256(body).hexdigest()[:32]
        headers = {"Content-Type": "application/json", "User-Agent": "anomalygpt", "Idempotency-Key": key}
        request = urllib.request.Request(address, body, headers, method="POST")
        try:
            with opener.open(request, timeout=_TIMEOUT) as answer:
                answer.read(65536)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in _NEVER:
                raise RefusedError(f"it refused {row.get('image')!r} ({error.code} {error.reason}).") from error
            raise

    return deliver


def command_words(command: str) -> list[str]:
    """The words of a command; on Windows a backslash is a part of a path.

    Raises:
        ValueError: If a quote is not closed.
    """
    if os.name != "nt":
        return shlex.split(command)
    return [word.strip("\"'") for word in shlex.split(command, posix=False)]


def run_command(command: str) -> Callable[[Row], None]:
    """Runs a command with the row on its standard input and in `ANOMALYGPT_IMAGE`, `_VERDICT` and `_SCORE`.

    A command that fails is not run again for this row.
    """
    words = command_words(command)

    def deliver(row: Row) -> None:
        facts = {"IMAGE": row.get("image"), "VERDICT": row.get("verdict"), "SCORE": row.get("pred_score")}
        said = {f"ANOMALYGPT_{name}": str("" if value is None else value) for name, value in facts.items()}
        try:
            _run(words, json.dumps(row).encode() + b"\n", os.environ | said)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise RefusedError(f"{words[0]!r} failed for {row.get('image')!r}: {error}") from error

    return deliver


def _run(words: list[str], content: bytes, environment: dict[str, str]) -> None:
    """Runs a command; one that hangs is ended with all that it has started."""
    with subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # the lines of the watching stand there
        start_new_session=True,  # Ctrl-C is for the watching alone
    ) as process:
        try:
            process.communicate(content, timeout=_COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)


__all__ = ["Outbox", "RefusedError", "command_words", "post_to", "run_command"]
