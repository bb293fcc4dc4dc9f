"""What a person says of a verdict: kept in an audit file, learned by the stored part, taken back."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

from ..inspector import AnomalyInspector, FeedbackHistory
from ..references import References
from ..results import InspectionResult, source_of
from .database import FEEDBACK, standing_feedback
from .parts import AUTO, Part, PartStore


def part_of(result: InspectionResult) -> str | None:
    """The stored part that a row was judged with; `None` where it was none, or none was chosen."""
    name = result.evidence.get("part") or result.setup.get("part")
    return None if name == AUTO else name


def is_as_judged(result: InspectionResult) -> bool:
    """Whether the picture of a row still is the one that was judged; it may have been moved since."""
    now = source_of(result.image)
    return now is not None and all(now[key] == (result.source or {}).get(key) for key in ("bytes", "modified"))


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
    for line in standing_feedback(pathlib.Path(folder)):
        if (line["row"], line.get("image")) == (number, result.image) and _has_learned(store, line):
            raise ValueError(
                f"The verdict of row {number} must not have been corrected, got one that {line['part']!r} has learned "
                f"to be {line['said']!r}. Take that back first: --undo."
            )
    if said == result.verdict:
        confirm(folder, number, result)
    elif name is None:
        _note(folder, number, result, said)
    else:
        part = store.read(name)
        return correct(folder, number, result, said, inspector_of(part), store, part)
    return None


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
        ValueError: If the picture is gone or another one by now, **or** is known as a good one already.
    """
    if not is_as_judged(result):
        found = "no file" if source_of(result.image) is None else "another one"
        raise ValueError(
            f"The picture of row {number} must be as it was judged, got {found}: {result.image!r}. "
            "Put it back to correct its verdict."
        )

    def learned(newest: Part) -> References:  # of the store: it may have learned something else since
        newest.check(inspector, newest.facts.model)
        newest.use(inspector)
        inspector.feedback_history = FeedbackHistory()
        inspector.feedback(result, said == "normal")
        after = inspector.references.to("cpu")
        before, now = (sum(map(len, references.bank.features)) for references in (newest.references, after))
        facts = {"part": part.name, "version": newest.version + 1, "fingerprint": after.fingerprint()}
        _note(folder, number, result, said, patches=now - before, **facts)
        return after

    return store.learn(part.name, learned)


def undo(folder: str | os.PathLike, store: PartStore) -> dict[str, Any]:
    """Takes back what was said last, and the version of the part that came of it.

    Returns:
        `dict`: The line of the audit file that is taken back.

    Raises:
        ValueError: If nothing is left to take back, **or** the part was changed since.
    """
    standing = standing_feedback(pathlib.Path(folder))
    if not standing:
        raise ValueError("`--undo` must have something to take back, got nothing. See feedback.jsonl.")
    last = standing[-1]
    if _has_learned(store, last):
        store.take_back(last["part"], last["version"], last.get("fingerprint"))
    FeedbackHistory(pathlib.Path(folder) / FEEDBACK).note({"undo": True, "of_row": last["row"]})
    return last


def _has_learned(store: PartStore, line: dict[str, Any]) -> bool:
    """Whether the version of a line was stored; it may have been replaced or dropped since."""
    return "version" in line and max(store.versions(line["part"]), default=0) >= line["version"]


def _note(folder: str | os.PathLike, number: int, result: InspectionResult, said: str, **facts: Any) -> None:
    row = {"image": result.image, "verdict": result.verdict, "is_normal": said == "normal", **facts}
    FeedbackHistory(pathlib.Path(folder) / FEEDBACK, row=number, said=said).note(row)


__all__ = ["confirm", "correct", "is_as_judged", "part_of", "say", "undo"]
