"""The conversations builder on a drawn miniature of PandaGPT's instruction data, whole and broken."""

import json

import datasets
import numpy as np
import pytest

from datasets_scripts.conversations import PANDAGPT_FILE, Conversations
from datasets_scripts.loading import load_anomaly_dataset
from datasets_scripts.publishing import data_card, save_parquet

from ..dataset_checks import facts, make_private_cache, refused  # noqa: F401 (fixtures)
from ..drawn_trees import draw_conversations, draw_picture

pytestmark = pytest.mark.usefixtures("private_cache")


@pytest.fixture
def panda(tmp_path):
    return draw_conversations(tmp_path / "panda")


def rewrite(root, change) -> None:
    path = root / PANDAGPT_FILE
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))


def broken(root, message, error=ValueError, **options) -> None:
    refused(root, message, "conversations", error, **options)


def test_conversations_become_messages_with_their_picture(panda):
    dataset = load_anomaly_dataset("conversations", panda)
    assert set(dataset) == {"train"}
    rows = list(dataset["train"])
    names = ("000000/000000000001", "000001/000000000002", "000002/000000000001")
    assert [row["image_id"] for row in rows] == [f"{name}.jpg" for name in names]
    said = ("What is it?", "A cat.", "Why?", "Fur.")
    roles = ("user", "assistant") * 2
    assert rows[0]["messages"] == [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    assert [row["messages"][0]["content"] for row in rows] == ["What is it?", "Where?", "How many?"]
    assert np.array_equal(np.asarray(rows[0]["image"]), np.asarray(rows[2]["image"]))


def test_a_changed_answer_is_noticed_by_the_cache(panda):
    load_anomaly_dataset("conversations", panda)
    rewrite(panda, lambda entries: entries[1]["conversation"][1].update(value="There it is."))
    rows = load_anomaly_dataset("conversations", panda, split="train")
    assert rows[1]["messages"][1]["content"] == "There it is."


def test_pictures_may_stand_beside_the_file_and_the_file_may_have_any_name(tmp_path):
    draw_picture(tmp_path / "chat" / "part" / "1.png")
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    (tmp_path / "chat" / "mine.json").write_text(json.dumps([{"image_name": "part/1.png", "conversation": turns}]))
    assert len(load_anomaly_dataset("conversations", tmp_path / "chat", split="train")) == 1
    (tmp_path / "chat" / "other.json").write_text("[]")
    broken(tmp_path / "chat", "`json_file` must name a .json .*there: mine.json, other.json", FileNotFoundError)
    assert len(load_anomaly_dataset("conversations", tmp_path / "chat", split="train", json_file="mine.json")) == 1


def test_a_byte_order_mark_is_not_a_part_of_the_file(panda):
    path = panda / PANDAGPT_FILE
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(load_anomaly_dataset("conversations", panda, split="train")) == 3


def test_missing_pictures_are_counted_or_skipped(panda):
    (panda / "images" / "000000000002.jpg").unlink()
    broken(panda, "must exist, got 1 of 3 missing: .*000000000002.jpg", FileNotFoundError)
    assert len(load_anomaly_dataset("conversations", panda, split="train", skip_missing=True)) == 2
    (panda / "images" / "000000000001.jpg").unlink()
    broken(panda, "At least one picture of .* must exist", FileNotFoundError, skip_missing=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[1].pop("image_name"), r"Entries must have `image_name` and `conversation`, got .*entry 1\)"),
        (lambda e: e[1].update(image_name="../x.jpg"), "must stay inside the data folder, got '../x.jpg'"),
        (lambda e: e[1].update(conversation=[]), r"`conversation` must be a list of turns, got \[\] .*entry 1"),
        (
            lambda e: e[1]["conversation"].reverse(),
            "Turns must alternate, human first, got 'gpt' where user was due .*entry 1",
        ),
        (lambda e: e[1]["conversation"].pop(), "must end with an answer, got 1 turns .*entry 1"),
        (lambda e: e[1]["conversation"][1].update(value="  "), "must not be empty, got '  ' .*entry 1, turn 1"),
        (lambda e: e[1]["conversation"][0].pop("value"), "Turns must have `from` and `value`, got .*entry 1, turn 0"),
        (lambda e: e.clear(), r"must be a list of conversations, got \[\]"),
    ],
)
def test_bad_entries_are_refused_with_their_number(panda, change, message):
    rewrite(panda, change)
    broken(panda, message)


def test_bad_files_are_refused(panda):
    (panda / PANDAGPT_FILE).write_text("[{]")
    broken(panda, "must be JSON, got an error at line 1")
    (panda / PANDAGPT_FILE).unlink()
    broken(panda, "got None; there: none", FileNotFoundError)


def test_the_builder_class_works_directly_and_its_rows_go_to_the_hub(panda, tmp_path):
    builder = Conversations(data_dir=panda, cache_dir=str(tmp_path / "own"))
    builder.download_and_prepare()
    dataset = builder.as_dataset()
    expected = [facts(row) for row in dataset["train"]]
    assert "license: cc-by-nc-4.0" in data_card("conversations", dataset)
    save_parquet(dataset, tmp_path / "hub", "conversations")
    panda.rename(tmp_path / "moved")
    assert [facts(row) for row in datasets.load_dataset(str(tmp_path / "hub"), split="train")] == expected
