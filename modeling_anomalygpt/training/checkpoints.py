"""Checkpoints of a training run that are whole or not there at all, and know what they belong to.

A checkpoint is written into a folder that no reader takes for one, forced to the disk, then renamed. Beside what is
trained, optimizer, schedule and random states it holds `training_run.json`, what decides how the run goes on,
`training_data.json`, what the data were, and `checkpoint_files.json`, by which damage is recognised.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import describe_error
from ..evaluation.seen_data import DATA_FILE
from ..files import write_atomically

FACTS_FILE = "training_run.json"
DIGESTS_FILE = "checkpoint_files.json"
STATE_FILE = "trainer_state.json"
UNFINISHED = ".unfinished"


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message is one line that says why and what to do."""


@contextlib.contextmanager
def whole_folder(
    final: str | os.PathLike, staging: str | os.PathLike, is_main: bool, wait: Callable[[], None]
) -> Iterator[None]:
    """Writes in `staging` inside the block; the folder becomes `final` at its end, in one step; an earlier `final` is
    removed just before.

    Both lie on one file system. Of several processes `is_main` moves and removes; `wait` waits for the others.

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
            write_atomically(staging / DIGESTS_FILE, json.dumps(_digests(staging), indent=2))
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
            last = newest_checkpoint(final.parent)
            kept = f"The last checkpoint {last} is whole" if last else "No checkpoint was written before"
            raise TrainingError(
                f"Cannot write {final.name} in {final.parent}: {describe_error(error)}. {kept}; make room and go on "
                "with --resume."
            ) from error
        raise
    wait()


def newest_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint in a folder; folders that were not finished do not count, damage is not looked for."""
    return next(iter(_checkpoints(output_dir)), None)


def last_whole_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint that can be gone on from, `None` where none was written.

    Damaged ones are passed over with a warning that names them.

    Raises:
        TrainingError: If every checkpoint is damaged.
    """
    damaged = []
    for checkpoint in _checkpoints(output_dir):
        damage = damage_of(checkpoint)
        if damage is None:
            for name, what in damaged:
                warnings.warn(f"{name} is damaged ({what}): {checkpoint} is used instead.", stacklevel=2)
            return checkpoint
        damaged.append((os.path.basename(checkpoint), damage))
    if damaged:
        names = "; ".join(f"{name}: {what}" for name, what in damaged)
        raise TrainingError(
            f"Every checkpoint in {output_dir} is damaged ({names}). Start anew with another --output_dir."
        )
    return None


def damage_of(checkpoint: str | os.PathLike) -> str | None:
    """What is wrong with the files of a checkpoint, in words; `None` if each is as it was written.

    Checkpoints of earlier versions, which wrote down no digests, count as intact.
    """
    folder = pathlib.Path(checkpoint)
    if not (folder / STATE_FILE).is_file():
        return f"{STATE_FILE} is missing"
    if not (folder / DIGESTS_FILE).is_file():
        return None
    try:
        written = json.loads((folder / DIGESTS_FILE).read_text(encoding="utf-8"))
        for name, digest in written.items():
            if _digest(folder / name) != digest:
                return f"{name} is not as it was written"
    except FileNotFoundError as error:
        return f"{os.path.basename(error.filename)} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return describe_error(error)
    return None


def is_finished(checkpoint: str | os.PathLike) -> bool:
    """Whether a run has taken all its steps at a checkpoint; not where that cannot be read."""
    try:
        state = json.loads((pathlib.Path(checkpoint) / STATE_FILE).read_text(encoding="utf-8"))
        return 0 < state["max_steps"] <= state["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_facts(folder: str | os.PathLike, facts: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> None:
    """Writes what decides how the run goes on and, where it is known, what the data were."""
    for name, value in ((FACTS_FILE, facts), (DATA_FILE, data)):
        if value is not None:
            write_atomically(pathlib.Path(folder) / name, json.dumps(value, indent=2, sort_keys=True, default=str))


def check_facts(folder: str | os.PathLike, facts: Mapping[str, Any]) -> None:
    """Refuses to go on with a checkpoint of other data, another model or another recipe.

    Raises:
        TrainingError: If a fact differs; names the first.
    """
    path = pathlib.Path(folder) / FACTS_FILE
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    now = json.loads(json.dumps(facts, default=str))
    for group in ("model", "recipe", "data"):  # an option says more than the fingerprint that it changed
        before, after = written.get(group, {}), now.get(group, {})
        for name in dict.fromkeys([*after, *before]):
            if before.get(name) != after.get(name):
                what = f"`{name}`" if group == "recipe" else f"the {group}'s `{name}`"
                raise TrainingError(
                    f"To go on with {folder}, {what} must be {before.get(name)}, got {after.get(name)}. "
                    "Use what the run was started with, or another --output_dir for a new run."
                )


def _checkpoints(output_dir: str | os.PathLike) -> list[str]:
    """Finished checkpoints, the newest first. The state is written last: without it a folder was copied in part."""
    numbered = [
        (int(path.name.removeprefix("checkpoint-")), str(path))
        for path in pathlib.Path(output_dir).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and (path / STATE_FILE).is_file()
    ]
    return [path for _, path in sorted(numbered, reverse=True)]


def _digests(folder: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS_FILE)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_about_the_disk(error: BaseException) -> bool:
    text = str(error)
    return (isinstance(error, OSError) and error.errno is not None) or any(
        words in text for words in ("No space left", "os error 28", "write failed", "PytorchStreamWriter failed")
    )
