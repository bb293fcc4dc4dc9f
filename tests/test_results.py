"""Batches, reading ahead, results files: order is kept, no failure takes others along, rows are of what was done."""

import json
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.results import (
    InspectionResult,
    ResultsFile,
    ResultsFileError,
    each_result,
    inspect_in_batches,
    read_ahead,
    read_results,
)
from tests.tiny import tiny_pair

PICTURES = [np.full((8, 8, 3), number, np.uint8) for number in range(7)]


def failed(picture, line):
    return InspectionResult(None, "error", error=line)


class Inspect:
    """Remembers the sizes of its batches; fails above a size or on a picture."""

    def __init__(self, most=100, error=None, bad=None):
        self.most, self.error, self.bad, self.sizes = most, error, bad, []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.most:
            raise self.error
        if any(int(np.asarray(image)[0, 0, 0]) == self.bad for _, image in batch):
            raise RuntimeError("odd picture")
        return [InspectionResult(None, "normal", float(np.asarray(image)[0, 0, 0])) for _, image in batch]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: 5 bytes")])
def test_a_batch_that_does_not_fit_is_halved_and_the_smaller_size_kept(error):
    inspect = Inspect(most=2, error=error)
    with pytest.warns(UserWarning, match="Not enough memory for 4 pictures at a time; going on with 2"):
        results = list(inspect_in_batches(PICTURES, inspect, failed, None, batch_size=4))
    assert [result.pred_score for result in results] == list(range(7))
    assert inspect.sizes == [4, 2, 2, 2, 1]


def test_one_picture_that_does_not_fit_gets_a_row_that_says_so():
    inspect = Inspect(most=0, error=MemoryError())
    (result,) = inspect_in_batches(PICTURES[:1], inspect, failed, None, batch_size=1)
    assert result.error == "Not enough memory for this picture. Use a smaller picture or `tile`."


def test_a_picture_that_fails_takes_no_other_along():
    inspect = Inspect(bad=2)
    results = list(inspect_in_batches(PICTURES, inspect, failed, None, batch_size=4))
    assert [result.error for result in results] == [None, None, "odd picture", None, None, None, None]
    assert inspect.sizes == [4, 1, 1, 1, 1, 3]


def test_finished_pictures_are_taken_as_they_are(tmp_path):
    inspect = Inspect()
    finished = {"a.png": InspectionResult("a.png", "anomalous", 0.9)}.get
    results = list(inspect_in_batches(["a.png", str(tmp_path / "b.png")], inspect, failed, finished, batch_size=2))
    assert results[0].verdict == "anomalous"
    assert results[0].evidence == {"resumed": True}
    assert results[1].verdict == "error"
    assert inspect.sizes == []


def test_a_camera_that_reuses_its_buffer_loses_no_frame(tmp_path):
    """Frames are read before the next one is taken, also where many are decoded ahead."""

    def frames():
        buffer = np.zeros((8, 8, 3), np.uint8)
        for number in range(30):
            buffer[:] = number
            yield buffer

    def closed_after_use():
        for number in range(30):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "frame.png")
            with Image.open(tmp_path / "frame.png") as image:
                yield image

    for source in (frames, closed_after_use):
        results = list(inspect_in_batches(source(), Inspect(), failed, None, batch_size=4))
        assert [result.pred_score for result in results] == list(range(30))


# Reading ahead


def test_results_come_in_order_whichever_is_read_first():
    def slow_first(number):
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert list(read_ahead(range(9), slow_first, ahead=4)) == list(range(9))


def test_no_more_than_ahead_are_taken():
    taken = []

    def numbers():
        for number in range(100):
            taken.append(number)
            yield number

    results = read_ahead(numbers(), lambda number: number, ahead=3)
    assert next(results) == 0
    assert len(taken) == 4


def test_an_error_is_raised_in_its_place():
    results = read_ahead([1, 0, 2], lambda number: 1 / number, ahead=2)
    assert next(results) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(ValueError, match=r"`ahead` must be at least 1, got 0\. Call `read` itself"):
        next(read_ahead([1], str, ahead=0))


# Results files


@pytest.fixture
def inspector():
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([noise(100)], category="bolt")
    return inspector


def noise(number):
    return np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def save(path, number):
    Image.fromarray(noise(number)).save(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_picture_that_was_overwritten_is_inspected_again(inspector, tmp_path, suffix):
    """Also by one of the same size whose time was set to that of the old one."""
    names = [save(tmp_path / f"{name}.{suffix}", number) for number, name in enumerate("ab")]
    options = {"results_file": tmp_path / "r.jsonl", "progress": False, "answer": False}
    first = list(inspector.inspect_many(names, **options))
    state = os.stat(names[1])
    save(names[1], 7)
    os.utime(names[1], ns=(state.st_atime_ns, state.st_mtime_ns))
    again = list(inspector.inspect_many(names, resume=True, **options))
    assert [result.evidence.get("resumed", False) for result in again] == [True, False]
    assert again[1].pred_score != pytest.approx(first[1].pred_score)
    assert again[1].pred_score == pytest.approx(inspector.inspect(names[1], answer=False).pred_score)
    rows = read_results(tmp_path / "r.jsonl")
    assert [(row.image, row.pred_score) for row in rows] == [(r.image, round(r.pred_score, 6)) for r in again]


@pytest.mark.parametrize("change", ["references", "category", "language", "model"])
def test_rows_of_another_setup_are_refused_by_name(inspector, tmp_path, change):
    name = save(tmp_path / "a.png", 0)
    options = {"results_file": tmp_path / "r.jsonl", "progress": False, "answer": False}
    list(inspector.inspect_many([name], **options))
    before = (tmp_path / "r.jsonl").read_bytes()
    if change == "references":
        inspector.set_references([noise(101)], category="bolt")
    elif change == "model":
        inspector.model.model.vision_tower.post_layernorm.weight.data += 1
    else:
        options[change] = {"category": "nut", "language": "zh"}[change]
    with pytest.raises(ResultsFileError, match=f"was made with another .*{change}.*Resume with the same"):
        list(inspector.inspect_many([name], resume=True, **options))
    assert (tmp_path / "r.jsonl").read_bytes() == before


def refusal_in_another_process(path) -> str:
    """What a forked process is told that opens the file; nothing where it may."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            ResultsFile(path, resume=True)
        except ResultsFileError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as said:
        return said.read()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_do_not_write_one_file(tmp_path):
    rows = ResultsFile(tmp_path / "r.jsonl", resume=False)
    rows.append(InspectionResult("a.png", "normal"))
    assert "is being written by another process" in refusal_in_another_process(tmp_path / "r.jsonl")
    rows.close()
    assert refusal_in_another_process(tmp_path / "r.jsonl") == ""
    assert [row.image for row in read_results(tmp_path / "r.jsonl")] == ["a.png"]


def test_a_results_file_may_be_closed_by_another_thread_than_opened_it(tmp_path):
    rows = []
    opening = threading.Thread(target=lambda: rows.append(ResultsFile(tmp_path / "r.jsonl", resume=False)))
    opening.start()
    opening.join()
    rows[0].close()
    ResultsFile(tmp_path / "r.jsonl", resume=True).close()


@pytest.mark.parametrize("name", ["teil\udcff.png", "a\u2028b.png", "a\u0085b.png", "a\x0bb.png", "没有.png"])
def test_every_file_name_survives_the_results_file(tmp_path, name):
    rows = ResultsFile(tmp_path / "r.jsonl", resume=False)
    rows.append(InspectionResult(image=name, verdict="normal", answer="没有", category="a\u2028b"))
    rows.close()
    for _ in range(2):
        rows = ResultsFile(tmp_path / "r.jsonl", resume=True)
        assert rows.finished(name).answer == "没有"
        rows.close()


@pytest.mark.parametrize("end", [b"", b"\n", b'\n{"image": "c.p'])
def test_a_log_saved_by_hand_without_a_line_end_loses_no_row(tmp_path, end):
    path = tmp_path / "r.jsonl"
    rows = [json.dumps(InspectionResult(name, "normal").to_dict()).encode() for name in ("a.png", "b.png")]
    path.write_bytes(b"\n".join(rows) + end)
    log = ResultsFile(path, resume=True, log=True)
    log.append(InspectionResult("d.png", "normal"))
    log.close()
    assert [row.image for row in each_result(path)] == ["a.png", "b.png", "d.png"]
    assert path.read_bytes().count(b"\n") == 3


def test_a_byte_order_mark_hides_no_row(tmp_path):
    row = json.dumps(InspectionResult("a.png", "normal").to_dict())
    (tmp_path / "r.jsonl").write_text(row + "\n", encoding="utf-8-sig")
    assert [row.image for row in read_results(tmp_path / "r.jsonl")] == ["a.png"]


REGION = {"box": [0, 0, 9, 9], "centroid": [4.0, 4.0], "area_pixels": 81, "position": "center", "row": 1, "column": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "ok"},
        {"seconds": None},
        {"evidence": {"reasons": ["text"]}},
        {"evidence": {"reasons": [{"kind": "odd"}]}},
        {"evidence": {"reasons": None}},
        {"source": "here"},
        {"source": {"bytes": "9"}},
        *({"regions": [REGION | {"outline": []} | odd]} for odd in (
            {"area_pixels": "300"}, {"box": [0, 0, 9]}, {"outline": [[1]]}, {"row": 3}, {"width_mm": "1"},
            {"peak_score": None}, {"nearest_good": {}},
        )),
    ],
)  # fmt: skip
def test_a_row_that_no_report_could_show_is_left_out(tmp_path, change):
    sound = InspectionResult("a.png", "normal", evidence={"reasons": [{"text": "It is."}]}).to_dict()
    sound |= {"regions": [REGION | {"outline": [[0, 0], [9, 0], [9, 9]]}], "source": {"bytes": 9, "modified": 9}}
    (tmp_path / "r.jsonl").write_text(f"{json.dumps(sound | change)}\n{json.dumps(sound)}\n")
    assert len(list(each_result(tmp_path / "r.jsonl"))) == 1
