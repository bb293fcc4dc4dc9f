"""What people say about verdicts, kept: a good picture joins the bank, a missed defect leaves it; all can be undone.

Knows memory banks and the audit file; runs no model.
"""

import datetime
import json
import os
import pathlib
from dataclasses import replace
from typing import Any

import torch

from .memory_bank import MemoryBank, best_matches, unit_length

# Share of a missed picture's patches, those that stand out most, whose nearest good patches are taken out.
_STANDING_OUT = 0.02


def without_matches(bank: MemoryBank, missed: MemoryBank) -> MemoryBank:
    r"""
    The bank without the good patches that made a defect look good.

    Args:
        bank ([`MemoryBank`]):
            The good patches.
        missed ([`MemoryBank`]):
            Patches of one picture with a defect that was called normal.

    Returns:
        [`MemoryBank`]: Without the nearest matches of those 2 % of the picture's patches that stand out most.
    """
    kept = []
    for good, bad in zip(bank.features, missed.features, strict=True):
        best, rows = best_matches(unit_length(bad).to(good), good)
        count = max(1, int(_STANDING_OUT * len(bad)))
        keep = torch.ones(len(good), dtype=torch.bool, device=good.device)
        keep[rows[best.argsort()[:count]]] = False
        kept.append(keep if keep.any() else ~keep)
    return replace(
        bank,
        features=tuple(layer[keep] for layer, keep in zip(bank.features, kept, strict=True)),
        sources=tuple(layer[keep] for layer, keep in zip(bank.sources, kept, strict=True)),
    )


class FeedbackHistory:
    r"""
    The banks before each piece of feedback, and the file that tells what was said.

    Args:
        audit_file (`str` or `os.PathLike`, *optional*):
            JSON-lines file; a line for each change, appended at once. `None`: nothing is written.
    """

    def __init__(self, audit_file: str | os.PathLike | None = None):
        self.audit_file = None if audit_file is None else pathlib.Path(audit_file)
        self._earlier: list[MemoryBank] = []

    def __len__(self) -> int:
        return len(self._earlier)

    def record(self, before: MemoryBank, after: MemoryBank, row: dict[str, Any]) -> None:
        """Notes a change: writes its line first, so that no change goes unrecorded."""
        changed = sum(map(len, after.features)) - sum(map(len, before.features))
        self._write({**row, "patches": changed})
        self._earlier.append(before)

    def undo(self) -> MemoryBank:
        """The bank before the last change.

        Raises:
            RuntimeError: If there is nothing to undo.
        """
        if not self._earlier:
            raise RuntimeError("There is no feedback to undo. Give some with `feedback(result, is_normal)` first.")
        self._write({"undo": True})
        return self._earlier.pop()

    def _write(self, row: dict[str, Any]) -> None:
        if self.audit_file is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, **row}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self.audit_file.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


__all__ = ["FeedbackHistory", "without_matches"]
