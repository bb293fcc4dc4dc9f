"""`anomalygpt evaluate` as a person calls it."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import pytest
from PIL import Image

from modeling_anomalygpt.evaluation.detectors import AnomalyGPTDetector
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import tiny_pair

REPOSITORY = pathlib.Path(__file__).parents[2]
DATA = ("evaluate", "--dataset", "anomaly_folder", "--data-dir", "parts", "--model", "model", "--device", "cpu")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_and_a_summary_come_out_and_are_not_made_twice(place, call):
    words = (*DATA, "--k-shot", 0, 1, "--seeds", 0, 1, "--limit", 4, "--output", "results.csv")
    code, out, err = call(*words)
    assert code == 0, err
    rows = table(place / "results.csv")
    assert [(row["category"], row["k_shot"], row["seed"]) for row in rows[:3]] == [
        ("bolt", "0", ""), ("bolt", "1", "0"), ("bolt", "1", "1"),
    ]  # fmt: skip
    assert len(rows) == 6
    for row in rows:
        assert (row["checkpoint"], row["saw_test_pictures"]) == ("model", "not recorded")
        assert len(row["split_hash"]) == len(row["checkpoint_hash"]) == 16
        assert 0 <= float(row["image_auroc"]) <= 1
        assert row["accuracy_paper"] != ""
        assert "transformers" in row["versions"]
    assert "2 x 2" in out
    assert "6 rows, 6 in results.csv" in out
    before = (place / "results.csv").read_bytes()
    code, again, _ = call(*words)
    assert (code, (place / "results.csv").read_bytes()) == (0, before)
    assert again.splitlines()[:4] == out.splitlines()[:4]


def test_the_published_protocol_has_no_verdict_and_takes_the_maximum_of_the_map(place, call):
    code, _, err = call(*DATA, "--protocol", "paper", "--k-shot", 1, "--category", "nut", "--output", "paper.csv")
    assert code == 0, err
    (row,) = table(place / "paper.csv")
    assert (row["references"], row["seed"], row["protocol"]) == ("nut/train/good/0.png", "0", "paper")
    assert row["balanced_accuracy"] == row["accuracy_verdict"] == ""
    assert "" not in (row["accuracy_paper"], row["pixel_auroc"])
    detector = AnomalyGPTDetector(AnomalyInspector(*tiny_pair()), published=True)
    detector.learn([Image.open(place / "parts/nut/train/good/0.png")], "nut", "This is a nut.")
    (found,) = detector.detect([Image.open(place / "parts/nut/test/scratch/0.png")])
    assert found.score == pytest.approx(found.anomaly_map.max())
    assert found.verdict is None


def test_other_methods_stand_in_the_same_table_and_answers_may_be_left_out(place, call):
    methods = ("anomalygpt", "patchcore", "patchcore_few", "padim", "spade", "pixel_difference")
    words = (*DATA, "--category", "nut", "--k-shot", 2, "--seeds", 0, "--methods", *methods, "--no-answers")
    code, out, err = call(*words, "--limit", 4, "--output", "methods.csv")
    assert code == 0, err
    own, *rows = table(place / "methods.csv")
    assert (own["accuracy_paper"], own["num_pictures"]) == ("", "4")
    assert own["accuracy_log_odds"] != ""
    assert [(row["method"], row["k_shot"]) for row in rows] == [
        ("patchcore", "all"), ("patchcore_few", "2"), ("padim", "2"), ("spade", "2"), ("pixel_difference", "2"),
    ]  # fmt: skip
    assert [row["backbone"] for row in rows] == ["own"] * 4 + [""]
    assert rows[0]["references_hash"] != rows[1]["references_hash"]
    assert all(row["image_auroc"] and row["pixel_auroc"] and not row["accuracy_verdict"] for row in rows)
    assert float(rows[4]["image_auroc"]) == 1
    assert "patchcore_few" in out


def test_a_checkpoint_that_saw_the_pictures_is_refused_unless_forced(place, call):
    record = {"name": "anomaly_folder", "split": "test", "num_rows": 8, "fingerprint": "?", "labels": "supervised"}
    (place / "model" / "training_data.json").write_text(json.dumps({"datasets": [record]}))
    try:
        words = (*DATA, "--k-shot", 0, "--limit", 2, "--no-answers", "--output", "seen.csv")
        code, _, err = call(*words)
        assert code == 2
        last = err.strip().splitlines()[-1]
        assert last.startswith("anomalygpt evaluate: error: `--model` must not have seen the pictures, got 'model'")
        assert not (place / "seen.csv").exists()
        code, _, err = call(*words, "--force")
        assert code == 0, err
        assert {row["saw_test_pictures"] for row in table(place / "seen.csv")} == {
            "yes: anomaly_folder (split test, labels supervised)"
        }
    finally:
        (place / "model" / "training_data.json").unlink()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "--dataset", "mvtec", "--output", "x.csv"), "`--dataset` must begin with one of mvtec_ad"),
        ((*DATA, "--data-dir", "nowhere", "--output", "x.csv"), "must be a folder that exists, got 'nowhere'"),
        ((*DATA, "--output", "nowhere/x.csv"), "`--output` must be in a folder that exists"),
        ((*DATA, "--output", "x.csv", "--k-shot", "many"), "must be a whole number of at least 0, got 'many'; or all"),
        ((*DATA, "--output", "x.csv", "--limit", "1"), "`--limit` must be at least 2"),
        ((*DATA, "--output", "x.csv", "--category", "cog"), "cog"),
        (("evaluate", "--dataset", "anomaly_folder", "--output", "x.csv"), "`data_dir` must be"),
        (
            (*DATA, "--output", "x.csv", "--methods", "padim", "--k-shot", "0"),
            "a number of references that padim takes",
        ),
        ((*DATA, "--output", "x.csv", "--backbone-size", "64"), "`--backbone-size` must come with --backbone"),
        (
            ("evaluate", "--dataset", "anomaly_folder?split=train", *DATA[3:], "--output", "x.csv"),
            "`--references-from` must be test with split=train",
        ),
        ((*DATA, "--output", "x.csv", "--methods", "winclip"), "winclip needs a checkpoint with a text tower"),
        ((*DATA, "--output", "x.csv", "--methods", "spade", "--backbone", "parts"), "must be a vision model, got"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(place, call, words, message):
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("anomalygpt evaluate: error: ")
    assert message in last
    assert not (place / "x.csv").exists()


@pytest.mark.parametrize("references_from", ["train", "test"])
def test_too_many_references_are_refused_before_the_model_is_loaded(call, monkeypatch, references_from):
    monkeypatch.setattr("modeling_anomalygpt.inspector.AnomalyInspector.from_pretrained", None)
    code, _, err = call(*DATA, "--output", "x.csv", "--k-shot", 1, 99, "--references-from", references_from)
    number = 5 if references_from == "train" else 4
    assert (code, f"'bolt': `--k-shot` must be at most {number}" in err) == (2, True), err


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(place):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(place / "cache"),
                                "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    words = ("-m", "modeling_anomalygpt.cli", *DATA, "--k-shot", "0", "2", "--seeds", "0")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    for command in ((*launch, *words, "--output", "two.csv"), (sys.executable, *words, "--output", "one.csv")):
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = table(place / "one.csv"), table(place / "two.csv")
    assert [row["num_processes"] for row in two] == ["2"] * 4
    for alone, both in zip(one, two, strict=True):
        for name in set(alone) - {"seconds", "num_processes"}:
            if "auroc" in name or "aupro" in name or "precision" in name or "f1" in name:
                assert float(alone[name]) == pytest.approx(float(both[name]), abs=1e-4), name
            else:
                assert alone[name] == both[name], name


def test_rows_of_other_layers_are_not_taken_for_those_asked_for(place, call):
    words = (*DATA, "--category", "nut", "--k-shot", 1, "--seeds", 0, "--methods", "padim", "--limit", 4)
    for layers in ((), ("--backbone-layers", "1"), ("--backbone-layers", "1", "2")):
        code, _, err = call(*words, *layers, "--output", "layers.csv")
        assert code == 0, err
    assert [row["backbone"] for row in table(place / "layers.csv")] == ["own", "own 1", "own 1-2"]
