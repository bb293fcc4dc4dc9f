"""What the tests of all data sets share: a cache of their own, rows as comparable values, refusal by message."""

import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest

from datasets_scripts.loading import load_anomaly_dataset

from .drawn_trees import draw_mvtec


@pytest.fixture(name="private_cache")
def make_private_cache(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not the whole data set.*")
        yield


@pytest.fixture(name="mvtec")
def make_mvtec(tmp_path):
    return draw_mvtec(tmp_path / "mvtec")


def mask_of(row) -> np.ndarray:
    return np.asarray(row["mask"])


def facts(row) -> tuple:
    """Everything in a row, as comparable values."""
    mask = None if row["mask"] is None else mask_of(row).tobytes()
    rest = tuple(row[name] for name in ("label", "category", "defect_type", "image_id", "split"))
    return np.asarray(row["image"]).tobytes(), mask, *rest


def refused(data_dir: Path | None, message: str, name: str, error: type[Exception] = ValueError, **options) -> None:
    """Check that a tree is refused with this message, prepared and streaming."""
    for streaming in (False, True):
        with pytest.raises(error, match=message):
            load_anomaly_dataset(name, data_dir, streaming=streaming, **options)
