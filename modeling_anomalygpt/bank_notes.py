"""What a memory bank keeps as notes, checked where a bank enters: later nobody can say which file was wrong.

Knows the notes of [`AnomalyInspector`]; knows no model and no pictures.
"""

import json
import math
import os
from typing import Any

from .memory_bank import MemoryBank


def load_bank(path: str | os.PathLike, fingerprint: str) -> MemoryBank:
    """Reads a memory bank of this encoder ([`MemoryBank.load`]) and checks its notes."""
    bank = MemoryBank.load(path, fingerprint)
    check_notes(bank)
    return bank


def check_notes(bank: MemoryBank) -> None:
    r"""
    Refuses a bank whose notes are not those that an inspector writes.

    Args:
        bank ([`MemoryBank`]):
            From a file, perhaps of a stranger. Notes of other names are let pass; nobody reads them.

    Raises:
        ValueError: If a note is no JSON or holds something else; names the note.

    Example:
    ```python
    >>> import torch
    >>> bank = MemoryBank((torch.eye(4),), (torch.arange(4),), ((2, 2),), 1, notes={"calibration": "[]"})
    >>> check_notes(bank)
    Traceback (most recent call last):
    ValueError: `memory_bank` must have a note 'calibration' that an inspector wrote, got '[]'. Make the bank again.

    ```
    """
    checks = {
        "normal_scores": _are_scores,
        "comparability": _is_comparability,
        "copies": _are_copies,
        "calibration": _is_calibration,
    }
    for name, check in checks.items():
        if name not in bank.notes:
            continue
        try:
            sound = check(json.loads(bank.notes[name]), bank)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            sound = False
        if not sound:
            raise ValueError(
                f"`memory_bank` must have a note {name!r} that an inspector wrote, got {bank.notes[name]!r:.60}. "
                "Make the bank again."
            )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_scores(row: Any, bank: MemoryBank) -> bool:
    return isinstance(row["crossed"], list) and all(map(_is_number, row["crossed"]))


def _is_comparability(row: Any, bank: MemoryBank) -> bool:
    vectors, width = row["vectors"], bank.features[-1].shape[1]
    return (
        isinstance(vectors, list)
        and len(vectors) > 0
        and all(isinstance(one, list) and len(one) == width and all(map(_is_number, one)) for one in vectors)
        and isinstance(row["light"], list)
        and len(row["light"]) == 2
        and all(map(_is_number, (row["farthest"], row["sharpness"], *row["light"])))
    )


def _are_copies(row: Any, bank: MemoryBank) -> bool:
    copies, sizes = row
    return (
        type(copies) is int
        and copies >= 1
        and isinstance(sizes, list)
        and copies * len(sizes) <= bank.num_references  # feedback adds pictures
        and all(len(size) == 2 and all(type(side) is int and side > 0 for side in size) for size in sizes)
    )


def _is_calibration(row: Any, bank: MemoryBank) -> bool:
    names = ("num_normals", "supported_false_alarm_rate", "confidence", "evidence_limit")
    return row == {} or all(_is_number(row[name]) for name in names)


__all__ = ["check_notes", "load_bank"]
