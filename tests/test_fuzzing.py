"""Whatever lies in a file, reading it ends in a result or in an error of our own.

`ANOMALYGPT_FUZZ=5000` raises the number of inputs of each test (`make fuzz`).
"""

import io
import json
import os
import pathlib
import warnings

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from datasets_scripts.own_metadata import read_metadata
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.inspection_result import InspectionResult
from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.pictures import MAX_PIXELS, PictureError, load_mask, load_picture
from modeling_anomalygpt.results_file import ResultsFile, read_results

fuzz = settings(
    max_examples=int(os.environ.get("ANOMALYGPT_FUZZ", "60")),
    deadline=None,
    derandomize="ANOMALYGPT_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def picture_bytes(kind: str) -> bytes:
    """A small intact picture of a format."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("P" if kind == "GIF" else "RGB").save(buffer, kind)
    return buffer.getvalue()


def bank_bytes() -> bytes:
    metadata = {
        "format": "anomalygpt-memory-bank-1", "fingerprint": "x", "num_references": "1", "grids": "[[2, 2]]",
    }  # fmt: skip
    tensors = {"features.0": torch.eye(4), "sources.0": torch.arange(4)}
    return save(tensors, metadata)


PICTURES = {kind: picture_bytes(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")}


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """Intact bytes with some changed, some cut out, some put in, or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        what = draw(st.sampled_from(("change", "cut", "insert", "end")))
        if what == "change" and data:
            data[place] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[place : place + draw(st.integers(1, 9))]
        elif what == "insert":
            data[place:place] = draw(st.binary(max_size=9))
        else:
            del data[place:]
    return bytes(data)


@pytest.mark.parametrize("kind", PICTURES)
@fuzz
@given(st.data())
def test_a_damaged_picture_is_read_or_refused_as_a_picture_error(tmp_path, kind, data):
    path = tmp_path / f"damaged.{kind.lower()}"
    path.write_bytes(data.draw(damaged(PICTURES[kind])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (load_picture, load_mask):
            try:
                size = np.asarray(read(path)).shape
                assert size[0] * size[1] <= MAX_PIXELS
            except PictureError as error:
                assert "\n" not in str(error)


@fuzz
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_picture(tmp_path, content):
    path = tmp_path / "bytes.png"
    path.write_bytes(content)
    with pytest.raises(PictureError):
        load_picture(path)


@fuzz
@given(st.data())
def test_a_damaged_memory_bank_is_read_or_refused_as_a_value_error(tmp_path, data):
    path = tmp_path / "bank.safetensors"
    path.write_bytes(data.draw(damaged(bank_bytes())))
    try:
        bank = MemoryBank.load(path)
    except ValueError as error:
        assert "memory bank" in str(error) or "memory_bank" in str(error)
    else:
        assert all(len(rows) == len(sources) for rows, sources in zip(bank.features, bank.sources, strict=True))


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(AnomalyGPTConfig.__dataclass_fields__)), json_values, max_size=4))
def test_any_configuration_is_built_or_refused_by_name(fields):
    try:
        AnomalyGPTConfig(**fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        assert str(error)


@fuzz
@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(InspectionResult.__dataclass_fields__)), json_values, max_size=6)
        | json_values,
        max_size=5,
    ),
    st.binary(max_size=40),
)
def test_a_results_file_of_any_lines_is_read_without_a_crash(tmp_path, rows, ending):
    path = tmp_path / "results.jsonl"
    path.write_bytes("\n".join(json.dumps(row) for row in rows).encode() + b"\n" + ending)
    results = read_results(path)
    assert all(isinstance(result, InspectionResult) for result in results)
    again = ResultsFile(path, resume=True).finished
    assert set(again) <= {result.image for result in results}


def test_a_results_file_of_endless_brackets_is_read_without_a_crash(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("[" * 200_000 + "\n")
    assert read_results(path) == []


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@fuzz
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(("file_name", "mask_file_name", "label", "category", "defect_type", "split", "other")),
            st.sampled_from(("a.png", "../a.png", "/etc/passwd", "good", "1", "", "train", "\x00")) | json_values,
            max_size=5,
        ),
        max_size=4,
    ),
    st.binary(max_size=30),
)
def test_metadata_of_any_content_is_read_or_refused_by_our_own_errors(tmp_path, name, rows, ending):
    folder = pathlib.Path(tmp_path) / "own"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(PICTURES["PNG"])
    if name.endswith("jsonl"):
        text = "\n".join(json.dumps(row) for row in rows)
    else:
        columns = sorted({key for row in rows for key in row}) or ["file_name"]
        text = "\n".join([",".join(columns), *(",".join(str(row.get(key, "")) for key in columns) for row in rows)])
    (folder / name).write_bytes(text.encode("utf-8", "replace") + b"\n" + ending)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            records = read_metadata(folder / name, "part")
        except (ValueError, FileNotFoundError) as error:
            assert str(error)
        else:
            inside = [pathlib.Path(record.image).resolve().is_relative_to(folder) for record in records]
            assert all(inside)
