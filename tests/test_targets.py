"""The table of targets says what was measured, what was not, and what does not hold; the GPU script runs anywhere."""

import json

import pytest

from benchmarks import targets
from tests.clean_process import REPOSITORY, run_python


def rows(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {line[0]: line[1:] for line in lines}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    return tmp_path


def test_without_files_nothing_is_claimed(results):
    assert {tuple(row[1:]) for row in rows(targets.targets_table()).values()} == {("not measured", "")}
    assert len(targets.soak_table().splitlines()) == 2


def test_a_figure_is_judged_by_its_target(results):
    times = {"python alone": 60, "import modeling_anomalygpt": 400, "anomalygpt --help": 180}
    start = {name: {"median_ms": value} for name, value in times.items()}
    original = {"1 thread": {"few_shot_ratio": 99}, "2 threads": {"few_shot_ratio": 7.1, "zero_shot_ratio": 3.9}}
    growth = [{"k": 64, "median_ms": 10.0}, {"k": 256, "median_ms": 40.0}]
    matching = {"2 threads": {"matching": [{"k": 4, "not_run": "the broadcast needs 90 GB"}], "growth": growth}}
    speed = {"start": start, "original": original, "matching": matching}
    (results / "speed.json").write_text(json.dumps(speed))
    found = rows(targets.targets_table())
    assert found["map at ImageBind-Huge size, 1 reference, against the original's steps"] == ["≥ 6 x", "7.1 x", "yes"]
    assert found["the same without references"] == ["≥ 4 x", "3.9 x", "**no**"]
    assert found["`import modeling_anomalygpt` beyond Python alone"] == ["≤ 300 ms", "340 ms", "**no**"]
    assert found["`anomalygpt --help`"] == ["≤ 500 ms", "180 ms", "yes"]
    assert found["first verdict from a cold process"][1] == "not measured"
    assert found["the same: memory"][1] == "not measured"
    assert found["time of 256 references over 64 (linear: 4)"] == ["≤ 5 x", "4 x", "yes"]


@pytest.mark.slow
def test_the_gpu_script_runs_with_tiny_shapes_without_a_gpu(tmp_path):
    code = (
        "import sys; sys.argv[1:] = ['--tiny', '--device', 'cpu', '--output', 'gpu.json']\n"
        "from benchmarks.gpu import main; main()"
    )
    run_python(code, cwd=tmp_path, environment={"OMP_NUM_THREADS": "1"})
    row = json.loads((tmp_path / "gpu.json").read_text())
    assert row["tiny"]
    assert row["card"] == "none (CPU)"
    assert {"inspecting", "answering", "training", "minutes"} <= row.keys()
    assert (REPOSITORY / "benchmarks" / "gpu.sh").read_text().count("timeout 600") == 1
