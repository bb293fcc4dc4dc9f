"""The table of results: kept, found again, summarised."""

import re
import statistics

import pytest

from modeling_anomalygpt.evaluation.tables import FIELDS, KEY, EvaluationRows, read_rows, summarize


def row(**values):
    return {"dataset": "d", "protocol": "ours", "method": "m", "k_shot": 1} | values


def test_a_row_is_found_again_by_its_key_after_the_file_was_read(tmp_path):
    key = dict.fromkeys(KEY) | row(category="a", seed=0, limit=None)
    table = EvaluationRows(tmp_path / "t.csv")
    assert table.find(key) is None
    table.add(key | {"image_auroc": 0.5, "references": "x;y, z"})
    again = EvaluationRows(tmp_path / "t.csv")
    found = again.find(key)
    assert (found["image_auroc"], found["references"]) == ("0.500000", "x;y, z")
    assert again.find(key | {"seed": 1}) is None
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


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


def test_means_and_spreads_over_seeds_and_categories(tmp_path):
    table = EvaluationRows(tmp_path / "t.csv")
    values = {("a", 0): 0.6, ("a", 1): 0.8, ("b", 0): 0.9, ("b", 1): 1.0}
    for (category, seed), value in values.items():
        table.add(row(category=category, seed=seed, image_auroc=value, miss_rate=1 - value))
    table.add(row(category="a", seed=0, k_shot=4, image_auroc=0.7, pixel_auroc=0.25))
    one, four = summarize(table.rows)
    auroc = one["image_auroc"]
    assert auroc.mean == pytest.approx(0.825)
    assert auroc.seeds == pytest.approx(statistics.stdev([0.75, 0.9]))
    assert auroc.categories == pytest.approx(statistics.stdev([0.7, 0.95]))
    assert (auroc.worst, one["miss_rate"].worst) == (pytest.approx(0.7), pytest.approx(0.3))
    assert one["pixel_auroc"] is None
    assert (one["categories"], one["seeds"]) == (2, 2)
    assert four["pixel_auroc"] == (0.25, None, None, 0.25)
    assert len(FIELDS) == len(set(FIELDS))
