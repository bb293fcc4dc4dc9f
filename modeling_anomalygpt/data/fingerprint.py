"""A name for the contents of a data set that is the same on every machine and in every cache.

`datasets`' own fingerprint depends on how and where a data set was prepared. This one is a SHA-256 over, in order:
the number of rows, `image_id`, `label`, `category` and `defect_type` of all rows, the texts of conversations, and the
encoded pictures (the bytes of the files) of at most 256 rows spread evenly. A picture that is replaced under the same
name in a larger set may thus go unnoticed; a row that is added, left out, renamed or labelled otherwise does not.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np

PICTURES_READ = 256
"""Of so many pictures at most the bytes are read; 256 files of 1 MB take about half a second."""

_WORDS = ("image_id", "label", "category", "defect_type", "messages")


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name any JSON-ready value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def split_fingerprint(dataset: Any) -> str:
    """The fingerprint of one split.

    Args:
        dataset (`datasets.Dataset`): Any rows; pictures in columns of the type `Image` are not decoded.

    Returns:
        `str`: 16 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{len(dataset)}\n".encode())
    columns = [name for name in _WORDS if name in dataset.column_names]
    if columns:
        for rows in dataset.select_columns(columns).with_format(None).iter(batch_size=4096):
            digest.update(json.dumps(rows, sort_keys=True, ensure_ascii=True).encode())
    pictures = [name for name in ("image", "mask") if name in dataset.column_names]
    if pictures and len(dataset):
        count = min(PICTURES_READ, len(dataset))
        chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
        encoded = dataset.select_columns(pictures).select(chosen).with_format("arrow")
        for start in range(0, count, 16):
            for row in encoded[start : start + 16].to_pylist():
                for name in pictures:
                    digest.update(_picture_bytes(row[name]))
    return digest.hexdigest()[:16]


def _picture_bytes(stored: Any) -> bytes:
    """Digest of an encoded picture: its bytes, wherever they lie; nothing of the path, which differs by machine."""
    if not isinstance(stored, dict):
        return hashlib.sha256(repr(stored).encode()).digest()
    content = stored.get("bytes")
    path = stored.get("path")
    if content is None and path is not None and os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    return hashlib.sha256(content or b"").digest()
