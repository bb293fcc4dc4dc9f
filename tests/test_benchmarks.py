"""The GPU script runs anywhere; a target that nothing measured is not claimed."""

import json

import pytest

from benchmarks import targets
from tests.clean_process import REPOSITORY, run_python


def test_without_files_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    lines = targets.targets_table().splitlines()[2:]
    assert len(lines) == len(targets.TARGETS)
    assert all(line.endswith("| not measured | |") for line in lines)


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
