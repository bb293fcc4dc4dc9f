"""Files that appear whole or not at all, and logs of JSON lines that grow and survive the end of the process."""

import contextlib
import json
import os
import pathlib
from typing import Any


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Write a file so that nobody ever sees half of it, also when the process is killed or the disk is full.

    Args:
        path (`str` or `os.PathLike`): Where to; the folder must exist. A file already there is replaced.
        content (`bytes` or `str`): Text is written as UTF-8; what UTF-8 cannot hold (a damaged file name) becomes `?`.

    Raises:
        OSError: If the folder is missing, full or not writable; the earlier file is untouched then.
    """
    path = pathlib.Path(path)
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    temporary = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:80])}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Nobody has asked for the other name.
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def json_line(row: dict[str, Any]) -> bytes:
    r"""One line of a file of JSON lines; damaged file names (lone surrogates) are kept as `\udc..`."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def append_json_line(path: str | os.PathLike, row: dict[str, Any]) -> None:
    """Adds a line to a file of JSON lines, which is made where there is none; it survives the end of this process.

    Half a line that a loss of power has left at the end is ended first; it must not swallow this one.

    Raises:
        OSError: If the disk is full, say; no half of the line is left then, so that the same can be tried again.
    """
    path = pathlib.Path(path)
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab+") as file:
            if before:
                file.seek(-1, os.SEEK_END)
            file.write((b"\n" if file.read(1) not in (b"", b"\n") else b"") + json_line(row))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise


def read_json_lines(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; lines that a kill has cut off or that are damaged are left out."""
    rows = []
    for line in pathlib.Path(path).read_bytes().split(b"\n"):  # U+2028 and the like end no line here
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line.decode("utf-8-sig", "replace")))  # Notepad's mark
    return [row for row in rows if isinstance(row, dict)]
