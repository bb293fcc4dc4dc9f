"""Kills, full disks, files that change under the reader: nothing finished is lost, nothing half-written is believed.

A full disk is played by a limit on the size of files (`RLIMIT_FSIZE`): writing beyond it fails as on a full disk.
"""

import contextlib
import json
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.cli import main
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
from modeling_anomalygpt.results import InspectionResult, ResultsFile, read_results
from tests.tiny import tiny_pair


@contextlib.contextmanager
def full_disk(room: int):
    """Files cannot grow beyond `room` bytes; Python ignores the signal and raises `OSError`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def bank(seed: int, patches: int = 4) -> MemoryBank:
    vectors = torch.randn(1, patches * patches, 8, generator=torch.Generator().manual_seed(seed))
    return MemoryBank.build((PatchFeatures(vectors, (patches, patches)),), "encoder")


def photograph(path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def row(name: str) -> InspectionResult:
    return InspectionResult(name, "normal", 0.1, -1.0, "No.")


# Full disk


def test_a_full_disk_leaves_the_earlier_file_and_no_rest(tmp_path):
    page, path = tmp_path / "report.html", tmp_path / "bank.safetensors"
    write_atomically(page, "first")
    bank(0).save(path)
    before = path.read_bytes()
    with full_disk(10_000):
        with pytest.raises(OSError, match="File too large"):
            write_atomically(page, "x" * 50_000)
        with pytest.raises(OSError, match="File too large"):
            bank(1, patches=32).save(path)
    assert (page.read_text(), path.read_bytes()) == ("first", before)
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "bank.safetensors"}


def test_results_written_before_the_disk_was_full_are_read_again(tmp_path):
    path = tmp_path / "results.jsonl"
    rows = ResultsFile(path, resume=False)
    rows.append(row("first.png"))
    with full_disk(path.stat().st_size + 40), pytest.raises(OSError, match="File too large"):
        rows.append(row("second.png"))
    assert [result.image for result in read_results(path)] == ["first.png"]
    rows.close()
    rows = ResultsFile(path, resume=True)
    rows.append(row("third.png"))
    rows.close()
    assert [result.image for result in read_results(path)] == ["first.png", "third.png"]


def test_the_command_line_says_that_the_disk_is_full_in_one_line(tmp_path, capsys):
    query = photograph(tmp_path / "query.png", 0)
    with full_disk(300):
        code = main(["inspect", query, "--output", str(tmp_path / "out"), "--no-report"])
    err = capsys.readouterr().err
    assert code == 2
    assert [line for line in err.splitlines() if "error" in line][-1].startswith("anomalygpt inspect: error: ")
    assert "Traceback" not in err


# Folders that cannot be written, files that change


def test_a_picture_that_is_replaced_or_cut_off_meanwhile_gets_its_own_row(tmp_path):
    files = [photograph(tmp_path / f"{number}.png", number) for number in range(4)]

    def changing():
        yield files[0]
        (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
        yield files[1]
        (tmp_path / "2.png").unlink()
        yield files[2]
        photograph(tmp_path / "3.png", 9)
        yield files[3]

    results = list(AnomalyInspector(*tiny_pair()).inspect_many(changing(), progress=False, answer=False))
    assert [result.image for result in results] == files
    assert [result.error is None for result in results] == [True, False, False, True]
    assert "damaged" in results[1].error


# Kills

SAVES_BANKS = """
import sys, torch
from modeling_anomalygpt.memory_bank import MemoryBank, PatchFeatures
number = 0
while True:
    vectors = torch.full((1, 4096, 64), float(number % 7 + 1))
    MemoryBank.build((PatchFeatures(vectors, (64, 64)),), f"encoder {number}").save(sys.argv[1])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.slow
def test_a_kill_while_a_bank_is_saved_leaves_a_whole_one(tmp_path):
    path = tmp_path / "bank.safetensors"
    for pause in (0.0, 0.003, 0.011):
        process = subprocess.Popen([sys.executable, "-c", SAVES_BANKS, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        loaded = MemoryBank.load(path)
        assert loaded.features[0].shape == (4096, 64)
        assert loaded.fingerprint.startswith("encoder ")


@pytest.mark.slow
def test_a_killed_inspection_goes_on_and_ends_as_an_uninterrupted_one(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(30):
        photograph(pictures / f"{number:02d}.png", number)
    good = photograph(tmp_path / "good.png", 100)
    command = [sys.executable, "-m", "modeling_anomalygpt.cli", "inspect", str(pictures), "--references", good]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [*command, "--output", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    rows = killed / "results.jsonl"
    while process.poll() is None and not (rows.exists() and len(read_results(rows)) >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = len(read_results(rows))
    assert 3 <= finished < 30
    subprocess.run([*command, "--output", str(killed), "--resume"], check=False, capture_output=True)
    subprocess.run([*command, "--output", str(whole)], check=False, capture_output=True)

    def found(folder):
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        return [{key: line[key] for key in ("image", "verdict", "pred_score", "answer")} for line in lines]

    assert found(killed) == found(whole)
    assert (killed / "report.html").exists()
    shutil.rmtree(tmp_path)


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    with pytest.raises(OSError, match=f"'{tmp_path}/gone/page.html'$"):
        write_atomically(tmp_path / "gone" / "page.html", "text")
