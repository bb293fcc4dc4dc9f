"""`anomalygpt evaluate` as a person calls it."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt.cli import main
from modeling_anomalygpt.evaluation.detectors import AnomalyGPTDetector
from modeling_anomalygpt.inspector import AnomalyInspector
from tests.tiny import tiny_pair

REPOSITORY = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model and two categories of own pictures."""
    place = tmp_path_factory.mktemp("evaluation")
    model, processor = tiny_pair()
    model.save_pretrained(place / "model")
    processor.save_pretrained(place / "model")
    rng = np.random.default_rng(0)
    for category in ("nut", "bolt"):
        for folder, count in (("train/good", 5), ("test/good", 4), ("test/scratch", 4)):
            (place / "parts" / category / folder).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(90, 130, (40, 52, 3), dtype=np.uint8)
                if "scratch" in folder:
                    picture[10:14, 5:30] = 255
                    mask = np.zeros((40, 52), np.uint8)
                    mask[10:14, 5:30] = 255
                    truth = place / "parts" / category / "ground_truth/scratch"
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{number}_mask.png")
                Image.fromarray(picture).save(place / "parts" / category / folder / f"{number}.png")
    return place


@pytest.fixture
def call(place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(place / "cache"))

    def call(*words):
        code = main(["evaluate", *(str(word) for word in words)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


DATA = ("--dataset", "anomaly_folder", "--data-dir", "parts", "--model", "model", "--device", "cpu")


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_and_a_summary_come_out_and_are_not_made_twice(place, call):
    words = (*DATA, "--k-shot", 0, 1, "--seeds", 0, 1, "--output", "results.csv")
    code, out, err = call(*words)
    assert code == 0, err
    rows = table(place / "results.csv")
    assert [(row["category"], row["k_shot"], row["seed"]) for row in rows[:3]] == [
        ("bolt", "0", ""), ("bolt", "1", "0"), ("bolt", "1", "1"),
    ]  # fmt: skip
    assert len(rows) == 6
    for row in rows:
        assert row["checkpoint"] == "model"
        assert row["saw_test_pictures"] == "not recorded"
        assert len(row["split_hash"]) == len(row["checkpoint_hash"]) == 16
        assert 0 <= float(row["image_auroc"]) <= 1
        assert row["accuracy_paper"] != ""
        assert "transformers" in row["versions"]
    assert "2 x 2" in out
    assert "6 rows, 6 in results.csv" in out
    before = (place / "results.csv").read_bytes()
    code, again, _ = call(*words)
    assert code == 0
    assert (place / "results.csv").read_bytes() == before
    assert again.splitlines()[:4] == out.splitlines()[:4]


def test_the_published_protocol_has_no_verdict_and_takes_the_maximum_of_the_map(place, call):
    code, _, err = call(*DATA, "--protocol", "paper", "--k-shot", 1, "--category", "nut", "--output", "paper.csv")
    assert code == 0, err
    (row,) = table(place / "paper.csv")
    assert (row["references"], row["seed"], row["protocol"]) == ("nut/train/good/0.png", "0", "paper")
    assert row["balanced_accuracy"] == row["accuracy_verdict"] == ""
    assert row["accuracy_paper"] != ""
    assert row["pixel_auroc"] != ""
    inspector = AnomalyInspector(*tiny_pair())
    detector = AnomalyGPTDetector(inspector, published=True)
    picture = Image.open(place / "parts/nut/test/scratch/0.png")
    detector.learn([Image.open(place / "parts/nut/train/good/0.png")], "nut", "This is a nut.")
    (found,) = detector.detect([picture])
    assert found.score == pytest.approx(found.anomaly_map.max())
    assert found.verdict is None


def test_without_answers_there_is_no_accuracy_by_text(place, call):
    code, _, err = call(*DATA, "--k-shot", 1, "--seeds", 0, "--no-answers", "--limit", 4, "--output", "quick.csv")
    assert code == 0, err
    rows = table(place / "quick.csv")
    assert {row["accuracy_paper"] for row in rows} == {""}
    assert {row["num_pictures"] for row in rows} == {"4"}
    assert "" not in {row["accuracy_log_odds"] for row in rows}


def test_other_methods_stand_in_the_same_table(place, call):
    methods = ("patchcore", "patchcore_few", "padim", "spade", "pixel_difference")
    words = (*DATA, "--category", "nut", "--k-shot", 2, "--seeds", 0, "--methods", *methods, "--output", "methods.csv")
    code, out, err = call(*words)
    assert code == 0, err
    rows = table(place / "methods.csv")
    assert [(row["method"], row["k_shot"]) for row in rows] == [
        ("patchcore", "all"), ("patchcore_few", "2"), ("padim", "2"), ("spade", "2"), ("pixel_difference", "2"),
    ]  # fmt: skip
    assert [row["backbone"] for row in rows] == ["own"] * 4 + [""]
    assert rows[0]["references_hash"] != rows[1]["references_hash"]
    assert all(row["image_auroc"] and row["pixel_auroc"] and not row["accuracy_verdict"] for row in rows)
    assert float(rows[4]["image_auroc"]) == 1
    assert "patchcore_few" in out
    code, _, err = call(*DATA, "--methods", "anomalygpt", "winclip", "--output", "methods.csv")
    assert code == 2
    assert "`--methods` winclip needs a checkpoint with a text tower" in err
    code, _, err = call(*DATA, "--methods", "patchcore", "--backbone", "parts", "--output", "methods.csv")
    assert code == 2
    assert "`--backbone` must be a vision model, got 'parts'" in err


def test_a_checkpoint_that_saw_the_pictures_is_refused_unless_forced(place, call):
    record = {"name": "anomaly_folder", "split": "test", "num_rows": 8, "fingerprint": "?", "labels": "supervised"}
    (place / "model" / "training_data.json").write_text(json.dumps({"datasets": [record]}))
    try:
        words = (*DATA, "--k-shot", 0, "--limit", 2, "--no-answers", "--output", "seen.csv")
        code, _, err = call(*words)
        assert code == 2
        assert (
            err.strip()
            .splitlines()[-1]
            .startswith("anomalygpt evaluate: error: `--model` must not have seen the test pictures, got 'model'")
        )
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
        (("--dataset", "mvtec", "--output", "x.csv"), "`--dataset` must begin with one of mvtec_ad"),
        (
            ("--dataset", "anomaly_folder", "--data-dir", "nowhere", "--output", "x.csv"),
            "`--data-dir` must be a folder",
        ),
        ((*DATA, "--output", "nowhere/x.csv"), "`--output` must be in a folder that exists"),
        ((*DATA, "--output", "x.csv", "--k-shot", "many"), "must be a number of at least 0, or all, got 'many'"),
        ((*DATA, "--output", "x.csv", "--k-shot", "9"), "'bolt': `--k-shot` must be at most 5"),
        ((*DATA, "--output", "x.csv", "--limit", "1"), "`--limit` must be at least 2"),
        ((*DATA, "--output", "x.csv", "--category", "cog"), "cog"),
        (("--dataset", "anomaly_folder", "--output", "x.csv"), "`data_dir` must be"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(place, call, words, message):
    code, out, err = call(*words)
    assert code == 2
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("anomalygpt evaluate: error: ")
    assert message in last
    assert not (place / "x.csv").exists()


def test_the_help_tells_protocols_and_examples(call):
    code, out, _ = call("--help")
    assert code == 0
    for word in ("Protocols:", "torchrun", "--references-from", "not measured again"):
        assert word in out


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(place):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(place / "cache"),
                                "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    words = ("-m", "modeling_anomalygpt.cli", "evaluate", *DATA, "--k-shot", "0", "2", "--seeds", "0")
    launch = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29633")
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
