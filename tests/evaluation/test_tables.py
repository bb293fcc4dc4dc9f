"""The table of results and the record of what a checkpoint was trained on: kept, found again, summarised."""

import json
import re
import statistics

import pytest

from modeling_anomalygpt.evaluation.seen_data import seen_pictures, training_record
from modeling_anomalygpt.evaluation.tables import FIELDS, KEY, EvaluationRows, read_rows, result_facts, summarize
from tests.tiny import lively_model

SOURCE = {"name": "visa", "split": "test", "num_rows": 3, "fingerprint": "f1", "labels": "supervised"}


def row(**values):
    return {"dataset": "d", "protocol": "ours-2", "method": "m", "k_shot": 1} | values


def test_a_row_is_found_again_by_its_key_after_the_file_was_read(tmp_path):
    key = dict.fromkeys(KEY) | row(category="a", seed=0, limit=None)
    table = EvaluationRows(tmp_path / "t.csv")
    assert table.find(key) is None
    table.add(key | {"image_auroc": 0.5, "references": "x;y, z"})
    again = EvaluationRows(tmp_path / "t.csv")
    known = again.find(key)
    assert (known["image_auroc"], known["references"]) == ("0.500000", "x;y, z")
    assert again.find(key | {"seed": 1}) is None
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["t.csv"]
    assert len(FIELDS) == len(set(FIELDS))


def test_processes_that_measure_into_one_table_lose_no_row_and_double_none(tmp_path):
    key = dict.fromkeys(KEY) | row(category="a", seed=0)
    one, two = EvaluationRows(tmp_path / "t.csv"), EvaluationRows(tmp_path / "t.csv")
    one.add(key | {"seconds": 1})
    two.add(key | {"seed": 1})
    assert two.add(key | {"seconds": 2})["seconds"] == "1"
    one.add(key | {"seed": 2})
    assert sorted(known["seed"] for known in read_rows(tmp_path / "t.csv")) == ["0", "1", "2"]


def test_a_row_that_another_process_has_replaced_stays_replaced(tmp_path):
    key = dict.fromkeys(KEY) | row(category="a", seed=0)
    EvaluationRows(tmp_path / "t.csv").add(key | {"references_hash": "old"})
    one, two = EvaluationRows(tmp_path / "t.csv"), EvaluationRows(tmp_path / "t.csv")
    one.add(key | {"references_hash": "new"})
    two.add(key | {"seed": 1})
    rows = read_rows(tmp_path / "t.csv")
    assert [(known["seed"], known["references_hash"]) for known in rows] == [("0", "new"), ("1", "")]
    assert two.find(key | {"references_hash": "old"}) is None


def test_a_table_that_excel_has_saved_is_read(tmp_path):
    path = tmp_path / "t.csv"
    EvaluationRows(path).add(dict.fromkeys(KEY) | row(category="a", seed=0))
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert [known["category"] for known in read_rows(path)] == ["a"]


def test_another_table_is_refused_and_left_alone(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=re.escape("`--output` must be a table that this version")):
        EvaluationRows(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,2\n"
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=re.escape("`--output` must be a table")):
        read_rows(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=re.escape("`--output` must be in a folder that exists")):
        EvaluationRows(tmp_path / "no" / "t.csv")


def test_means_spreads_and_the_worst_of_seeds_and_categories(tmp_path):
    table = EvaluationRows(tmp_path / "t.csv")
    for (category, seed), value in {("a", 0): 0.6, ("a", 1): 0.8, ("b", 0): 0.9, ("b", 1): 1.0}.items():
        table.add(row(category=category, seed=seed, image_auroc=value, miss_rate=1 - value))
    table.add(row(category="a", seed=0, k_shot=4, image_auroc=0.7, pixel_auroc=0.25))
    one, four = summarize(table.rows)
    auroc = one["image_auroc"]
    assert auroc.mean == pytest.approx(0.825)
    assert auroc.seeds == pytest.approx(statistics.stdev([0.75, 0.9]))
    assert auroc.categories == pytest.approx(statistics.stdev([0.7, 0.95]))
    assert (auroc.worst, one["miss_rate"].worst) == (pytest.approx(0.7), pytest.approx(0.3))
    assert (one["pixel_auroc"], one["categories"], one["seeds"]) == (None, 2, 2)
    assert four["pixel_auroc"] == (0.25, None, None, 0.25)
    table.add(row(category="a", seed=0, image_auroc=0.1, checkpoint_hash="another"))
    with pytest.raises(ValueError, match="`rows` must hold one row a category and seed, got two of 'a' with seed 0"):
        summarize(table.rows)


def test_another_decision_or_other_weights_are_another_checkpoint():
    model, same = lively_model(), lively_model()
    first = result_facts(model, "mine")["checkpoint_hash"]
    assert result_facts(same, "copy")["checkpoint_hash"] == first
    model.config.decision = {"false_alarm_weight": 3.0}
    assert result_facts(model, "mine")["checkpoint_hash"] != first
    next(iter(same.parameters())).data += 1
    assert result_facts(same, "mine")["checkpoint_hash"] != first


def write_record(folder, *sources):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_data.json").write_text(json.dumps({"datasets": list(sources)}))


def test_an_adapter_has_seen_what_its_checkpoint_has_seen_and_no_record_is_not_nothing_seen(tmp_path):
    assert training_record(tmp_path) is None
    write_record(tmp_path)
    assert training_record(tmp_path) == []
    write_record(tmp_path / "base", SOURCE)
    (tmp_path / "base" / "config.json").write_text("{}")
    write_record(tmp_path / "adapter", SOURCE | {"name": "bolts"})
    settings = {"base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert [one["name"] for one in training_record(tmp_path / "adapter")] == ["bolts", "visa"]
    (tmp_path / "training_data.json").write_text("[1")
    with pytest.raises(ValueError, match=re.escape("must hold the record of a training")):
        training_record(tmp_path)


def test_pictures_are_known_again_by_fingerprint_or_as_real_labels_of_the_same_set():
    good = SOURCE | {"labels": "synthetic", "fingerprint": "f2", "split": "train"}
    assert seen_pictures([good], "visa", {"f1"}) is None
    assert seen_pictures([good, SOURCE], "bolts", {"f1"}) == "visa (split test, labels supervised)"
    assert seen_pictures([SOURCE], "visa", {"f9"}) == "visa (split test, labels supervised)"
    assert seen_pictures([SOURCE], "mvtec_ad", {"f9"}) is None
