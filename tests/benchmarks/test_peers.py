"""Beside anomalib: medians and ratios by hand, files of the right kinds, a worker that answers or is named."""

import pathlib
import sys

import pytest
from PIL import Image

from benchmarks import peers

FIGURES = {
    "anomalygpt": {"good": [(0.3, 0.1), (0.1, 0.05), (0.2, 0.06)], "known_part_memory": [(5e8, 5e8)], "learn": []},
    "patchcore": {"good": [(0.2, 0.2), (0.4, 0.2)], "known_part_memory": [(9e8, 9e8)], "learn": []},
    "engine": {"good": [(0.25, 0.1)], "known_part_memory": [(8e8, 8e8)], "learn": []},
    "efficient_ad": {"good": [(0.9, 0.9)], "known_part_memory": [], "learn": []},
}


def test_ratios_are_of_medians_to_the_best_peer_of_each_row():
    results = peers.summarized(FIGURES)
    assert results["methods"]["anomalygpt"]["good"]["median_ms"] == 200
    assert results["methods"]["patchcore"]["known_part_memory"] == {"megabytes": 900}
    good = results["ratios"]["good"]  # .2 of .25 by the clock, .06 of .1 of processor time
    assert good["median_ms"] == {"ratio": 0.8, "peer": "engine"}
    assert good["processor_ms"] == {"ratio": 0.6, "peer": "engine"}
    assert results["ratios"]["known_part_memory"]["megabytes"] == {"ratio": 0.62, "peer": "engine"}
    assert "learn" not in results["ratios"]


def test_the_table_marks_what_is_above_its_limit_and_leaves_gaps_where_nothing_was_measured():
    good, memory = peers.table(peers.summarized(FIGURES)).splitlines()[2:]
    name = peers.ROWS["good"][0]
    assert good == f"| {name} | 60 ms | 200 ms | 100 ms | 900 ms | 0.60 | **0.80** | 0.7 |"
    assert memory.endswith("| 500 MB | 900 MB | 800 MB | - | **0.62** |  | 0.5 |")


def test_pictures_repeat_the_examples_at_1024_pixels(tmp_path):
    good, queries = peers.pictures(tmp_path, 8)
    assert len(good) == 4
    assert len(queries) == 8
    assert pathlib.Path(queries[0]).read_bytes() == pathlib.Path(queries[6]).read_bytes()
    for file in (*good, *queries):
        with Image.open(file) as image:
            assert image.size == (1024, 1024)
    assert sorted(peers.GOOD_QUERIES) == [0, 3]


def test_a_worker_tells_time_and_memory_and_a_failing_one_is_named(tmp_path):
    with peers.Worker("torch", pathlib.Path(sys.executable), tmp_path, threads=1) as worker:
        clock, processor = worker.call("open")
        assert 0 < processor <= worker.lived()[1] < 60
        assert 0 < clock < worker.lived()[0]
        assert worker.peak()[0] > 100e6  # torch is large
        with pytest.raises(SystemExit, match="torch failed in `learn`"):
            worker.call("learn", [])
    assert worker.process.returncode == 1


def test_an_environment_that_lacks_a_package_holds_nothing_that_counts(monkeypatch):
    python = pathlib.Path(sys.executable)
    monkeypatch.setattr(peers, "INSTALLED", {"pytest": ""})
    assert peers.installed(python) == {"pytest": pytest.__version__}
    monkeypatch.setattr(peers, "INSTALLED", {"pytest": "", "no-such-package": ""})
    assert peers.installed(python) == {}
