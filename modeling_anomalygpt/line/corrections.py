"""What a person says of a verdict: kept in an audit file, learned by the stored part, taken back."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

from filelock import FileLock

from ..inspector import AnomalyInspector, FeedbackHistory
from ..references import References
from ..results import InspectionResult, source_of
from .database import FEEDBACK, is_about, standing_feedback
from .parts import AUTO, Part, PartStore

# Nanoseconds to which disks and programs cut times: not at all, Windows and SMB, two for programs, exFAT, HFS+, FAT.
_TIME_UNITS = (1, 100, 10**3, 10**6, 10**7, 10**9, 2 * 10**9)


def part_of(result: InspectionResult) -> str | None:
    """The stored part that a row was judged with; `None` where it was none, or none was chosen."""
    name = result.evidence.get("part") or result.setup.get("part")
    return None if name == AUTO else name


def is_as_judged(result: InspectionResult) -> bool:
    """Whether the picture of a row still is the one that was judged; it may have been moved since."""
    now, judged = source_of(result.image), result.source or {}
    if now is None or now["bytes"] != judged.get("bytes"):
        return False
    apart = abs(now["modified"] - judged.get("modified", 0))
    # A picture written soon after it has another time, but not one that looks cut.
    return any(apart < unit and now["modified"] % unit == 0 for unit in _TIME_UNITS)


def say(
    folder: str | os.PathLike,
    number: int,
    result: InspectionResult,
    said: str,
    store: PartStore,
    inspector_of: Callable[[Part], AnomalyInspector],
) -> Part | None:
    """Notes what a person says of a verdict; a correction is learned by the part that it was judged with.

    Args:
        folder (`str` or `os.PathLike`): Of the results.
        number (`int`), result ([`InspectionResult`]): The row.
        said (`str`): The verdict itself to confirm it, else `"normal"` or `"anomalous"`.
        store ([`PartStore`]): Where the part is.
        inspector_of (`Callable`): The inspector of a part's model; asked for only where something is learned.

    Returns:
        [`Part`]: The new version; `None` where nothing learns: a confirmation, or a row without a stored part.

    Raises:
        ValueError: As of [`confirm`] and [`correct`], **or** if a part has learned another verdict of this row.
    """
    name = part_of(result)
    with _alone(folder):
        before = _said_of(folder, number, result, store)
        if said == result.verdict or name is None:
            if before == said:  # a second click: one `undo` takes it back
                return None
            if said == result.verdict:
                confirm(folder, number, result)
            else:
                _note(folder, number, result, said)
            return None
    part = store.read(name)
    return correct(folder, number, result, said, inspector_of(part), store, part)


def confirm(folder: str | os.PathLike, number: int, result: InspectionResult) -> None:
    """Notes that a verdict is right. The part learns nothing from it.

    Raises:
        ValueError: If there is nothing to confirm: the verdict is neither normal nor anomalous.
    """
    if result.verdict not in ("normal", "anomalous"):
        raise ValueError(
            f"`--confirm` must name a picture that is normal or anomalous, got one that is {result.verdict!r}. "
            "Say which it is with --correct."
        )
    _note(folder, number, result, result.verdict)


def correct(
    folder: str | os.PathLike,
    number: int,
    result: InspectionResult,
    said: str,
    inspector: AnomalyInspector,
    store: PartStore,
    part: Part,
) -> Part:
    """Notes what a picture really shows, and lets the part learn it as a new version.

    Args:
        folder (`str` or `os.PathLike`): Of the results.
        number (`int`), result ([`InspectionResult`]): The row.
        said (`str`): `"normal"`: its patches join the references; `"anomalous"`: good patches that look like what
            stands out most in it are taken out.
        inspector ([`AnomalyInspector`]): Of the part's model.
        store ([`PartStore`]), part ([`Part`]): What learns.

    Returns:
        [`Part`]: The new version.

    Raises:
        ValueError: If the picture is gone or another one by now, **or** is known as a good one already, **or** if a
            part has learned another verdict of this row.
    """
    if not is_as_judged(result):
        found = "no file" if source_of(result.image) is None else "another one"
        raise ValueError(
            f"The picture of row {number} must be as it was judged, got {found}: {result.image!r}. "
            "Put it back to correct its verdict."
        )

    facts: dict[str, Any] = {}

    def learned(newest: Part) -> References:  # of the store: it may have learned something else since
        newest.check(inspector, newest.facts.model)
        newest.use(inspector)
        inspector.feedback_history = FeedbackHistory()
        inspector.feedback(result, said == "normal")
        after = inspector.references.to("cpu")
        before, now = (sum(map(len, references.bank.features)) for references in (newest.references, after))
        facts.update(patches=now - before, fingerprint=after.fingerprint())
        return after

    with _alone(folder):
        _said_of(folder, number, result, store)  # it may have been corrected while the model was loaded
        new = store.learn(part.name, learned)
        try:
            _note(folder, number, result, said, part=new.name, version=new.version, **facts)
        except BaseException:
            with contextlib.suppress(ValueError, OSError):  # somebody may have built on it
                store.take_back(new.name, new.version, facts["fingerprint"])
            raise
    return new


def undo(folder: str | os.PathLike, store: PartStore) -> dict[str, Any]:
    """Takes back what was said last, and the version of the part that came of it.

    Returns:
        `dict`: The line of the audit file that is taken back; `"restored"` says whether the part lost a version.

    Raises:
        ValueError: If nothing is left to take back, **or** the part has learned something else since.
    """
    with _alone(folder):
        standing = standing_feedback(pathlib.Path(folder))
        if not standing:
            raise ValueError("`--undo` must have something to take back, got nothing. See feedback.jsonl.")
        last = standing[-1]
        learned = _has_learned(store, last)
        if learned:
            store.take_back(last["part"], last["version"], last.get("fingerprint"))
        FeedbackHistory(pathlib.Path(folder) / FEEDBACK).note({"undo": True, "of_row": last["row"]})
    return {**last, "restored": learned}


def _alone(folder: str | os.PathLike) -> FileLock:
    """Whoever holds it is the only one who says something of these results: what was read of them holds."""
    return FileLock(pathlib.Path(folder) / f".{FEEDBACK}.lock", timeout=60)


def _said_of(folder: str | os.PathLike, number: int, result: InspectionResult, store: PartStore) -> str | None:
    """What was said of a row last; `ValueError` where a part has learned it."""
    said = None
    for line in standing_feedback(pathlib.Path(folder)):
        if is_about(line, number, result):
            said = line["said"]
            if _has_learned(store, line):
                raise ValueError(
                    f"The verdict of row {number} must not have been corrected, got one that {line['part']!r} has "
                    f"learned to be {said!r}. Take that back first: --undo."
                )
    return said


def _has_learned(store: PartStore, line: dict[str, Any]) -> bool:
    """Whether the part knows what a line taught it: it may have been made anew since."""
    return "version" in line and store.knows(line["part"], line["version"], line.get("fingerprint"))


def _note(folder: str | os.PathLike, number: int, result: InspectionResult, said: str, **facts: Any) -> None:
    row = {"image": result.image, "source": result.source, "verdict": result.verdict, "is_normal": said == "normal"}
    FeedbackHistory(pathlib.Path(folder) / FEEDBACK, row=number, said=said).note(row | facts)


__all__ = ["confirm", "correct", "is_as_judged", "part_of", "say", "undo"]
