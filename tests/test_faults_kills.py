"""Killed at the worst moment: between the writing of a file and its renaming, and in the middle of a conversion.

The process is forked, and the child kills itself (SIGKILL: nothing is cleaned up) where the test says.
"""

import os
import signal

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.conversion import streams as checkpoint_streams
from modeling_anomalygpt.memory_bank import MemoryBank
from modeling_anomalygpt.processing_anomalygpt import AnomalyGPTProcessor
from modeling_anomalygpt.report.report import InspectionReport
from modeling_anomalygpt.results import ResultsFile, read_results
from tests.published_files import run, write_published_files
from tests.tiny import tiny_pair

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed(call) -> None:
    """Runs `call` in a forked child that must kill itself on the way."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends with another signal than the one expected
        try:
            call()
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the child ended with code {os.waitstatus_to_exitcode(status)}"
    assert os.WTERMSIG(status) == signal.SIGKILL


def dies(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def dies_before_renaming(monkeypatch, ending: str) -> None:
    """The process dies instead of renaming the first file whose name ends so."""
    rename = os.replace

    def replace(source, target, **options):
        if str(target).endswith(ending):
            dies()
        return rename(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(3)]


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


def write_report(folder, files, pair) -> None:
    folder.mkdir(exist_ok=True)
    inspector = AnomalyInspector(*pair)
    report = InspectionReport(folder, inspector.region_threshold, len(files), save_maps=True)
    for number, result in enumerate(inspector.inspect_many(files, progress=False, answer=False)):
        report.add(result, str(number))
    report.write()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, files, pair):
    """A report that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "report"
    write_report(folder, files, pair)
    return folder


@pytest.mark.parametrize("ending", ["overlays/1.png", "maps/2.npy", "results.csv", "report.html"])
def test_a_kill_while_a_report_is_written_leaves_whole_files_and_the_next_run_all_of_them(
    tmp_path, files, pair, whole, monkeypatch, ending
):
    folder = tmp_path / "report"
    with monkeypatch.context() as patch:
        dies_before_renaming(patch, ending)
        killed(lambda: write_report(folder, files, pair))
    for left in folder.rglob("*"):
        if left.suffix in (".png", ".npy"):
            assert left.read_bytes() == (whole / left.relative_to(folder)).read_bytes(), left
    assert not (folder / "report.html").exists()
    write_report(folder, files, pair)
    size = (whole / "report.html").stat().st_size
    assert (folder / "report.html").stat().st_size == pytest.approx(size, rel=0.01)
    assert {f.name for f in folder.rglob("*") if f.suffix != ".tmp"} == {f.name for f in whole.rglob("*")}


def test_a_kill_while_a_bank_is_replaced_leaves_the_earlier_one(tmp_path, pair, monkeypatch):
    inspector = AnomalyInspector(*pair)
    inspector.set_references([np.full((40, 40, 3), 90, np.uint8)])
    inspector.save_references(tmp_path / "bank.safetensors")
    before = (tmp_path / "bank.safetensors").read_bytes()
    inspector.set_references([np.full((40, 40, 3), 200, np.uint8)])
    with monkeypatch.context() as patch:
        dies_before_renaming(patch, "bank.safetensors")
        killed(lambda: inspector.save_references(tmp_path / "bank.safetensors"))
    assert (tmp_path / "bank.safetensors").read_bytes() == before
    inspector.save_references(tmp_path / "bank.safetensors")
    assert MemoryBank.load(tmp_path / "bank.safetensors").num_references == 1


def test_a_kill_while_old_results_are_tidied_loses_none(tmp_path, files, pair, monkeypatch):
    """`--resume` rewrites the file of results, to cut off half a line; killed there, all is still there."""
    path = tmp_path / "results.jsonl"
    inspector = AnomalyInspector(*pair)
    list(inspector.inspect_many(files[:2], progress=False, answer=False, results_file=path))
    with path.open("ab") as file:
        file.write(b'{"image": "half')
    with monkeypatch.context() as patch:
        dies_before_renaming(patch, "results.jsonl")
        killed(lambda: ResultsFile(path, resume=True))
    assert [row.image for row in read_results(path)] == files[:2]
    rows = list(inspector.inspect_many(files, progress=False, answer=False, results_file=path, resume=True))
    assert [row.image for row in read_results(path)] == files
    assert [bool(row.evidence.get("resumed")) for row in rows] == [True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["weights", "words", "renaming"])
def test_a_killed_conversion_leaves_no_folder_that_looks_finished(tmp_path, monkeypatch, moment):
    published = write_published_files(tmp_path / "published")
    with monkeypatch.context() as patch:
        if moment == "weights":
            patch.setattr(checkpoint_streams.SafetensorsWriter, "finish", dies)
        elif moment == "words":
            patch.setattr(AnomalyGPTProcessor, "save_pretrained", dies)
        else:
            patch.setattr(os, "replace", dies)
            patch.setattr(os, "rename", dies)
        killed(lambda: run(published, tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    run(published, tmp_path / "out")
    run(published, tmp_path / "whole")
    for file in (tmp_path / "whole").iterdir():
        if file.suffix == ".safetensors":
            assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()
    assert {one.name for one in (tmp_path / "out").iterdir()} == {one.name for one in (tmp_path / "whole").iterdir()}
