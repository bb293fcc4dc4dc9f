"""Checkpoint folders, recipes and conversations of any content end in a result or in an error of our own."""

# ruff: noqa: PT017 (either outcome is right)

import json
import pathlib
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_scripts.conversations import Conversations
from modeling_anomalygpt.checkpoints import CheckpointError, load_checkpoint
from modeling_anomalygpt.training.arguments import (
    AnomalyTrainingArguments,
    DataArguments,
    ModelArguments,
    check_recipe,
    read_recipe,
)
from modeling_anomalygpt.training.checkpoints import TrainingError
from tests.fuzzing import bounded_memory, damaged, fuzz, json_values
from tests.tiny import tiny_pair


@pytest.fixture(autouse=True)
def bounded():
    with bounded_memory():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in tiny_pair():
        part.save_pretrained(folder)
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
