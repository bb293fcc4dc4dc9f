"""Files that appear whole or not at all: written under a temporary name in the same folder, then renamed."""

import contextlib
import os
import pathlib


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
    temporary = path.with_name(f".{path.name[:80]}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


__all__ = ["write_atomically"]
