"""Checkpoints of a training run that are whole or not there at all, and know what they belong to.

A checkpoint is written into a folder that no reader takes for one, forced to the disk, then renamed. Beside what is
trained, optimizer, schedule and random states it holds `training_run.json`, what decides how the run goes on, and
`training_data.json`, what the data were.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ..evaluation.seen_data import DATA_FILE
from ..files import write_atomically

FACTS_FILE = "training_run.json"
UNFINISHED = ".unfinished"
# Written last by the trainer: a folder without it was copied or cut short by hand.
_LAST_WRITTEN = "trainer_state.json"


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message is one line that says why and what to do."""


@contextlib.contextmanager
def whole_folder(final: str | os.PathLike, staging: str | os.PathLike, is_main: bool, wait: Any) -> Iterator[None]:
    r"""
    Writes in `staging` inside the block; the folder becomes `final` at its end, in one step.

    Args:
        final (`str` or `os.PathLike`):
            Where the folder is to be; one that is there is replaced.
        staging (`str` or `os.PathLike`):
            Where the block writes; on the same file system.
        is_main (`bool`):
            Whether this process moves and removes.
        wait (`Callable`):
            Waits for the other processes.

    Raises:
        TrainingError: If the disk is full or cannot be written; nothing remains of the new folder then.
    """
    final, staging = pathlib.Path(final), pathlib.Path(staging)
    if is_main:
        shutil.rmtree(staging, ignore_errors=True)
    wait()
    try:
        yield
        wait()
        if is_main:
            for path in staging.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            if final.exists():
                shutil.rmtree(final)
            os.replace(staging, final)
    except Exception as error:
        if is_main:
            shutil.rmtree(staging, ignore_errors=True)
        if _is_about_the_disk(error):
            last = get_last_checkpoint(str(final.parent)) if final.parent.is_dir() else None
            kept = f"The last checkpoint {last} is whole" if last else "No checkpoint was written before"
            reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
            raise TrainingError(
                f"Cannot write {final.name} in {final.parent}: {reason}. {kept}; make room and go on with --resume."
            ) from error
        raise
    wait()


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint in a folder; folders that were not finished do not count."""
    folder = pathlib.Path(output_dir)
    if not folder.is_dir():
        return None
    found = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and (path / _LAST_WRITTEN).is_file()
    ]
    return str(max(found)[1]) if found else None


def write_facts(folder: str | os.PathLike, facts: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> None:
    """Writes what decides how the run goes on and, where it is known, what the data were."""
    for name, value in ((FACTS_FILE, facts), (DATA_FILE, data)):
        if value is not None:
            write_atomically(pathlib.Path(folder) / name, json.dumps(value, indent=2, sort_keys=True, default=str))


def read_facts(folder: str | os.PathLike) -> dict[str, Any]:
    """Reads what [`write_facts`] wrote; empty where there is nothing."""
    path = pathlib.Path(folder) / FACTS_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_facts(folder: str | os.PathLike, facts: Mapping[str, Any]) -> None:
    r"""
    Refuses to go on with a checkpoint of other data, another model or another recipe.

    Args:
        folder (`str` or `os.PathLike`):
            A checkpoint.
        facts (`dict[str, Any]`):
            Of the run that wants to go on.

    Raises:
        TrainingError: If a fact differs; names the first.
    """
    written = read_facts(folder)
    now = json.loads(json.dumps(facts, default=str))
    for group in ("model", "data", "recipe"):
        before, after = written.get(group, {}), now.get(group, {})
        for name in dict.fromkeys([*after, *before]):
            if before.get(name) != after.get(name):
                what = f"`{name}`" if group == "recipe" else f"the {group}'s `{name}`"
                raise TrainingError(
                    f"To go on with {folder}, {what} must be {before.get(name)}, got {after.get(name)}. "
                    "Use what the run was started with, or another --output_dir for a new run."
                )


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name any JSON-ready value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_about_the_disk(error: BaseException) -> bool:
    text = str(error)
    return (isinstance(error, OSError) and error.errno is not None) or any(
        words in text for words in ("No space left", "os error 28", "write failed", "PytorchStreamWriter failed")
    )


__all__ = [
    "DATA_FILE",
    "FACTS_FILE",
    "UNFINISHED",
    "TrainingError",
    "check_facts",
    "fingerprint",
    "last_whole_checkpoint",
    "read_facts",
    "whole_folder",
    "write_facts",
]
