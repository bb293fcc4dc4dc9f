"""Whether a checkpoint has seen the pictures on which it is to be measured, from what its training has written down.

Training writes `training_data.json` beside the weights: name, split, labels and fingerprint of every source. Knows
that file and folders; knows no pictures and no weights.
"""

import json
import os
import pathlib
from collections.abc import Collection
from typing import Any

from transformers.utils import cached_file

from ..checkpoints import adapter_base

DATA_FILE = "training_data.json"
_QUIET = {f"_raise_exceptions_for_{kind}": False for kind in ("gated_repo", "missing_entries", "connection_errors")}


class SeenPicturesError(ValueError):
    """A checkpoint that was trained on the test pictures; the message is one line that says which and what to do."""


def training_record(checkpoint: str | os.PathLike) -> list[dict[str, Any]] | None:
    """The data sets on which a checkpoint, and the checkpoint its adapter belongs to, were trained.

    Returns:
        `list[dict]`: `name`, `split`, `num_rows`, `fingerprint`, `labels` each; `None` where nothing is written down.

    Raises:
        ValueError: If the file is damaged.
    """
    record, source = None, str(checkpoint)
    while source is not None:
        file = cached_file(source, DATA_FILE, **_QUIET)
        if file is not None:
            try:
                record = (record or []) + json.loads(pathlib.Path(file).read_text(encoding="utf-8"))["datasets"]
            except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file!r} must hold the record of a training, got something else ({error}). Copy it again."
                ) from error
        source = adapter_base(source)
    return record


def seen_pictures(record: Collection[dict[str, Any]], dataset: str, fingerprints: Collection[str]) -> str | None:
    """Which source of a training held the test pictures.

    Args:
        record (`list[dict]`): From [`training_record`].
        dataset (`str`): Name of the data set that is evaluated.
        fingerprints (`set[str]`): Of its test split and of the categories of it.

    Returns:
        `str`: The source in words; `None` where there is none. A source counts by its fingerprint, or as one of the
        same name that was trained on with real labels: all sets known here have those in their test split alone.
    """
    for source in record:
        same_name = source.get("name") == dataset and source.get("labels") in ("supervised", "defects")
        if source.get("fingerprint") in fingerprints or same_name:
            return f"{source.get('name')} (split {source.get('split')}, labels {source.get('labels')})"
    return None
