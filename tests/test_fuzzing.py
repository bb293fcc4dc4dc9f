"""Whatever lies in a file, reading it ends in a result or in an error of our own, soon and with little memory."""

# ruff: noqa: PT017 (either outcome is right)

import io
import json
import pathlib
import shutil
import warnings

import cv2
import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from datasets_scripts.anomaly_folder import read_metadata
from datasets_scripts.conversations import Conversations
from modeling_anomalygpt.checkpoints import CheckpointError, load_checkpoint
from modeling_anomalygpt.configuration_anomalygpt import AnomalyGPTConfig
from modeling_anomalygpt.images import PictureError, find_pictures, load_mask, load_picture
from modeling_anomalygpt.memory_bank import best_matches
from modeling_anomalygpt.references import References
from modeling_anomalygpt.results import InspectionResult, ResultsFile, read_results
from modeling_anomalygpt.training.arguments import (
    AnomalyTrainingArguments,
    DataArguments,
    ModelArguments,
    check_recipe,
    read_recipe,
)
from modeling_anomalygpt.training.checkpoints import TrainingError
from tests.fuzzing import PIXELS, bounded_memory, damaged, fuzz, json_values


@pytest.fixture(autouse=True)
def bounded():
    with bounded_memory():
        yield


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


PICTURES = {kind: picture_bytes(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF")}
DEEP = np.random.default_rng(0).integers(0, 65536, (24, 32, 3), dtype=np.uint16)
PICTURES |= {f"deep{suffix}": cv2.imencode(suffix, DEEP)[1].tobytes() for suffix in (".png", ".tif")}


@pytest.mark.parametrize("kind", PICTURES)
@fuzz()
@given(st.data())
def test_a_damaged_picture_is_read_or_refused_as_a_picture_error(tmp_path, kind, data):
    path = tmp_path / f"damaged.{kind.lower().removeprefix('deep.')}"
    path.write_bytes(data.draw(damaged(PICTURES[kind])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for page in [path, *find_pictures([path])[:3]]:
            for read in (load_picture, load_mask):
                try:
                    size = np.asarray(read(page, max_pixels=PIXELS)).shape
                    assert size[0] * size[1] <= PIXELS
                except PictureError as error:
                    assert "\n" not in str(error)


@fuzz()
@given(st.fixed_dictionaries({"imageWidth": st.integers(-1, 99), "imageHeight": st.integers(1, 99), "shapes": st.lists(
    st.fixed_dictionaries({"shape_type": st.sampled_from(("polygon", "circle", "rectangle", "line", None)),
                           "points": st.lists(st.tuples(st.floats(), st.floats())) | json_values}), max_size=3)})
    | json_values)  # fmt: skip
def test_a_labelme_file_of_any_content_is_read_or_refused_as_a_picture_error(tmp_path, content):
    path = tmp_path / "mask.json"
    path.write_text(json.dumps(content))
    try:
        assert load_mask(path, max_pixels=PIXELS).shape == (content["imageHeight"], content["imageWidth"])
    except PictureError as error:
        assert "\n" not in str(error)


@st.composite
def strange_banks(draw) -> bytes:
    """Whole safetensors files of the right names with shapes, types and metadata of any kind."""
    tensors = {}
    for number in range(draw(st.integers(0, 3))):
        shape = draw(st.lists(st.integers(0, 5), max_size=3))
        kind = draw(st.sampled_from((torch.float32, torch.float16, torch.int64, torch.bool)))
        tensors[f"features.{number}"] = torch.ones(shape).to(kind)
        if draw(st.booleans()):
            count = draw(st.integers(0, 5))
            tensors[f"sources.{number}"] = torch.arange(count) * draw(st.integers(-2, 40))
    metadata = {"format": draw(st.sampled_from(("anomalygpt-memory-bank-1", "anomalygpt-references-2")))}
    for name in draw(st.sets(st.sampled_from(("grids", "limit", "threshold", "num_references", "fingerprint")))):
        metadata[name] = draw(st.sampled_from(("[[2, 2]]", "1", "[[2, 2], [1, 2]]", "x", "0.5")) | texts)
    for name in draw(st.sets(st.sampled_from(("normal_scores", "comparability", "copies", "calibration")))):
        metadata[f"note.{name}"] = draw(texts)
    if draw(st.booleans()):
        metadata["references"] = draw(texts)
    return save(tensors, metadata)


texts = json_values.map(json.dumps) | st.text(max_size=20).filter(lambda text: text.isprintable())


@fuzz(2)
@given(damaged(bank_bytes()) | strange_banks())
def test_a_damaged_or_unsound_memory_bank_is_read_or_refused_as_a_value_error(tmp_path, content):
    path = tmp_path / "bank.safetensors"
    path.write_bytes(content)
    try:
        bank = References.load(path).bank
    except ValueError as error:
        assert "memory bank" in str(error) or "must hold references" in str(error)
    else:
        assert all(len(rows) == len(sources) for rows, sources in zip(bank.features, bank.sources, strict=True))
        assert best_matches(bank.features[0], bank.features[0])[1].max() < len(bank.features[0])


@fuzz()
@given(st.dictionaries(st.sampled_from(sorted(AnomalyGPTConfig.__dataclass_fields__)), json_values, max_size=4))
def test_any_configuration_is_built_or_refused_by_name(fields):
    try:
        AnomalyGPTConfig(**fields)
    except (ValueError, TypeError, StrictDataclassError) as error:
        assert str(error)


@fuzz()
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
    again = ResultsFile(path, resume=True)
    again.close()
    assert {result.image for result in read_results(path)} <= {result.image for result in results}


def test_a_results_file_of_endless_brackets_is_read_without_a_crash(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text("[" * 200_000 + "\n")
    assert read_results(path) == []


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@fuzz()
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


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory) -> pathlib.Path:
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("checkpoint") / "model")
    load_checkpoint(folder, device="cpu")  # what is imported on the way counts for no test
    return folder


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"])
@fuzz(0.1)
@given(st.data())
def test_a_checkpoint_with_damaged_words_is_read_or_refused(folder, name, data):
    whole = (folder / name).read_bytes()
    try:
        if data.draw(st.booleans()):
            (folder / name).write_bytes(data.draw(damaged(whole)))
        else:
            fields = json.loads(whole)
            fields = fields if isinstance(fields, dict) else {}
            key = data.draw(st.sampled_from(sorted(fields)) | st.text(max_size=5))
            (folder / name).write_text(json.dumps(fields | {key: data.draw(json_values)}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_checkpoint(folder, device="cpu")
    except CheckpointError as error:
        assert "\n" not in str(error)
    finally:
        (folder / name).write_bytes(whole)


@fuzz(0.2)
@given(st.data())
def test_damaged_weights_are_read_or_refused(folder, data):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    try:
        path.write_bytes(data.draw(damaged(whole[:header])) + whole[header:])
        load_checkpoint(folder, device="cpu")
    except CheckpointError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(whole)


turns = st.lists(
    st.dictionaries(st.sampled_from(("from", "value", "x")), st.sampled_from(("human", "gpt", "a")) | json_values)
    | json_values,
    max_size=4,
)
entries = st.lists(
    st.fixed_dictionaries(
        {"image_name": st.sampled_from(("1.png", "../1.png", "/1.png", "\x00")) | json_values, "conversation": turns}
    )
    | json_values,
    max_size=3,
)


@fuzz()
@given(entries.map(lambda rows: json.dumps(rows).encode()) | st.binary(max_size=60) | st.just(b"[" * 3000))
def test_conversations_of_any_content_are_read_or_refused(tmp_path, content):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "1.png").write_bytes(b"any")
    (tmp_path / "chat.json").write_bytes(content)
    builder = Conversations(cache_dir=str(tmp_path / "cache"), data_dir=str(tmp_path), skip_missing=True)
    try:
        rows = builder._find_rows(tmp_path)
    except (ValueError, FileNotFoundError) as error:
        assert str(error)
    else:
        assert all(pathlib.Path(row["image"]).parent == (tmp_path / "images").resolve() for row in rows)


@pytest.mark.parametrize("ending", ["yaml", "json"])
@fuzz()
@given(
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
    | st.dictionaries(st.text(max_size=8), json_values, max_size=4).map(lambda row: json.dumps(row).encode())
    | st.just(b"[" * 3000)
    | st.just(b"!!python/object/apply:os.mkdir [sprung]")
)
def test_a_recipe_of_any_content_is_read_or_refused(tmp_path, ending, content):
    path = tmp_path / f"recipe.{ending}"
    path.write_bytes(content)
    try:
        check_recipe(read_recipe(str(path)), (ModelArguments, DataArguments, AnomalyTrainingArguments))
    except TrainingError as error:
        assert str(path) in str(error) or "recipe" in str(error)
