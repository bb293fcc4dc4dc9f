"""Kills, full disks, files that change under the reader: nothing finished is lost, nothing half-written is believed.

A full disk is played by a limit on the size of files (`RLIMIT_FSIZE`): writing beyond it fails as on a full disk.
"""

import contextlib
import resource

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


def test_the_command_line_says_that_the_disk_is_full_in_one_line(tmp_path, tiny_folder, capsys):
    query = photograph(tmp_path / "query.png", 0)
    with full_disk(300):
        code = main(["inspect", query, "--model", str(tiny_folder), "--output", str(tmp_path / "out"), "--no-report"])
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


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path):
    with pytest.raises(OSError, match=f"'{tmp_path}/gone/page.html'$"):
        write_atomically(tmp_path / "gone" / "page.html", "text")
