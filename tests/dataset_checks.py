"""What the tests of all data sets share: a cache of their own, rows as comparable values, refusal by message."""

import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest

from datasets_scripts import load_anomaly_dataset


@pytest.fixture(name="private_cache")
def make_private_cache(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not the whole data set.*")
        yield


def mask_of(row) -> np.ndarray:
    return np.asarray(row["mask"])


def facts(row) -> tuple:
    """Everything in a row, as comparable values."""
    pictures = {name: np.asarray(row[name]).tobytes() for name in ("image", "mask") if row.get(name) is not None}
    return tuple(repr(pictures.get(name, value)) for name, value in row.items())


def refused(data_dir: Path | None, message: str, name: str, error: type[Exception] = ValueError, **options) -> None:
    """Check that a tree is refused with this message, prepared and streaming."""
    with pytest.raises(error, match=message):
        load_anomaly_dataset(name, data_dir, **options)
    with pytest.raises(error, match=message):
        [list(rows) for rows in load_anomaly_dataset(name, data_dir, streaming=True, **options).values()]
