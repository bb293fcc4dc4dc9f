"""Watching: each picture judged once, in order, and moved where its row says, whatever happens in between."""

import contextlib
import errno
import functools
import json
import os
import pathlib
import shutil
import signal
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import AnomalyInspector, cli
from modeling_anomalygpt.cli import watch as cli_watch
from modeling_anomalygpt.files import write_atomically
from modeling_anomalygpt.images import load_picture
from modeling_anomalygpt.inspector import InspectionOptions, failed_result
from modeling_anomalygpt.line import camera as camera_module
from modeling_anomalygpt.line import incoming as incoming_module
from modeling_anomalygpt.line import watch as watch_module
from modeling_anomalygpt.line.camera import Camera
from modeling_anomalygpt.line.drift import Drift
from modeling_anomalygpt.line.incoming import Incoming
from modeling_anomalygpt.line.watch import Shift, StoppedError, watch
from modeling_anomalygpt.results import InspectionResult, ResultsFileError, each_result, source_of
from tests.test_faults import full_disk
from tests.test_faults_kills import dies, killed

VERDICTS = ("normal", "anomalous", "uncertain")


class Judge:
    """Judges by the brightness of the first pixel; does something else while it judges, where a test says so."""

    references, part, meanwhile = None, "bolt", staticmethod(lambda path: None)

    def setup(self, references, options):
        return {"model": "m", "references": "r1", "part": self.part}

    def inspect_many(self, images, options, progress):
        for path in images:
            source = source_of(path)
            try:
                level = load_picture(path).getpixel((0, 0))[0]
            except (OSError, ValueError) as error:
                yield failed_result(path, str(error), options)
                continue
            self.meanwhile(path)
            yield InspectionResult(path, VERDICTS[level % 3], float(level), source=source)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(incoming_module, "_SETTLED", 0.05)
    monkeypatch.setattr(watch_module, "_LONGEST_WAIT", 0.2)
    (tmp_path / "in").mkdir()
    (tmp_path / "shift").mkdir()
    return tmp_path


def draw(path, level):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (8, 8), (level, 0, 0)).save(path, "PNG")
    return path


class Line:
    """A shift in a folder with what it said; judges what lies in `in` until nothing is left."""

    def __init__(self, place, move=True, judge=None, overlays=False):
        self.place, self.move, self.said, self.stop = place, move, [], threading.Event()
        self.overlays = overlays
        self.targets = tuple(str(place / name) for name in ("ok", "ng", "unsure")) if move else None
        self.judge = judge or Judge()

    @contextlib.contextmanager
    def open(self):
        targets, folder = self.targets, self.place / "shift"
        say = self.said.append
        shift = Shift(folder, self.judge, InspectionOptions(), targets, self.stop, say, overlays=self.overlays)
        incoming = None
        try:
            incoming = Incoming(self.place / "in", [folder, *(targets or ())], shift.is_done, self.said.append)
            yield incoming, shift
        finally:
            shift.close()
            if incoming is not None:
                incoming.close()

    def run(self):
        """Judges until nothing has come for a while and nothing waits; the results of this run."""
        results = []
        with self.open() as (incoming, shift):
            for result in watch(incoming, shift, self.stop, self.said.append):
                if result is not None:
                    results.append(result)
                elif incoming.lag[0] == 0 and not incoming.lag[2]:
                    return results
        return results

    def rows(self):
        return list(each_result(self.place / "shift" / "results.jsonl"))


def names(rows):
    return [pathlib.Path(row.evidence.get("incoming") or row.image).name for row in rows]


def assert_consistent(line, expected):
    """One row each, in order; every picture where its row says; nothing left, nothing twice."""
    rows = line.rows()
    assert names(rows) == expected
    assert all(pathlib.Path(row.image).is_file() for row in rows)
    if line.move:
        assert len({row.image for row in rows}) == len(rows)
        folder = dict(zip(VERDICTS, ("ok", "ng", "unsure"), strict=True))
        assert all(pathlib.Path(row.image).parent.name == folder.get(row.verdict, "unsure") for row in rows)
        moved = [path for name in folder.values() for path in (line.place / name).rglob("*") if path.is_file()]
        assert len(moved) == len(rows)
        assert not list((line.place / "in").iterdir())


@pytest.mark.parametrize("move", [True, False])
def test_what_lies_there_comes_first_by_time_then_by_name_and_is_moved_by_its_verdict(place, move):
    for name, level, modified in (("z.png", 0, 5), ("b10.png", 1, 7), ("b9.png", 2, 7), ("a.png", 3, 9)):
        os.utime(draw(place / "in" / name, level), (modified, modified))
    (place / "in" / "notes.txt").write_text("no picture")
    draw(place / "in" / ".hidden.png", 0)
    draw(place / "in" / ".thumbnails" / "1.png", 0)
    line = Line(place, move)
    assert names(line.run()) == ["z.png", "b9.png", "b10.png", "a.png"]
    (place / "in" / "notes.txt").unlink()
    (place / "in" / ".hidden.png").unlink()
    shutil.rmtree(place / "in" / ".thumbnails")
    assert_consistent(line, ["z.png", "b9.png", "b10.png", "a.png"])
    assert Line(place, move).run() == [], "a further run judges nothing again"


def append_half(self, result):
    with self.path.open("ab") as file:
        file.write(b'{"image": "half')
    dies()


MOMENTS = {
    "while it is judged": (Judge, "inspect_many", lambda real: lambda *_, **__: dies()),
    "before the row": (watch_module.ResultsFile, "append", lambda real: dies),
    "in the middle of the row": (watch_module.ResultsFile, "append", lambda real: append_half),
    "after the row": (watch_module.ResultsFile, "append", lambda real: lambda *a: (real(*a), dies())),
    "after the name to move to is kept": (watch_module.os, "symlink", lambda real: lambda *a: (real(*a), dies())),
    "before the folder is made": (pathlib.Path, "mkdir", lambda real: dies),
    "before it is moved": (watch_module.os, "replace", lambda real: dies),
    "after it is moved": (watch_module.os, "replace", lambda real: lambda *a: (real(*a), dies())),
}


@pytest.mark.parametrize(
    ("moment", "move"),
    [*((moment, True) for moment in MOMENTS), ("in the middle of the row", False), ("after the row", False)],
)
def test_a_kill_at_any_moment_loses_no_picture_and_judges_none_twice(place, monkeypatch, move, moment):
    for number in range(5):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    owner, name, make = MOMENTS[moment]
    real, calls = getattr(owner, name), []

    def third_time(*arguments, **options):
        calls.append(1)
        return (make(real) if len(calls) == 3 else real)(*arguments, **options)

    line = Line(place, move)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, third_time)
        killed(line.run)
    again = Line(place, move)
    again.run()
    assert_consistent(again, [f"{number}.png" for number in range(5)])


def test_a_picture_is_read_only_when_its_writer_has_closed_it(place):
    line = Line(place)
    with line.open() as (incoming, shift):
        content = draw(place / "whole.png", 4).read_bytes()
        with (place / "in" / "slow.png").open("wb") as file:
            file.write(content[:40])
            file.flush()
            draw(place / "in" / "quick.png", 0)
            assert incoming.next(5, line.stop).endswith("quick.png")
            assert incoming.next(0.4, line.stop) is None
            file.write(content[40:])
        path = incoming.next(5, line.stop)
        assert shift.judge(path, incoming.folder).pred_score == 4


def test_an_empty_file_that_is_still_open_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_SETTLED_UNKNOWN", 0.2)
    line = Line(place)
    with line.open() as (incoming, shift):
        content = draw(place / "whole.png", 4).read_bytes()
        with (place / "in" / "stalled.png").open("wb") as file:
            assert incoming.next(0.5, line.stop) is None
            file.write(content)
        path = incoming.next(5, line.stop)
        assert shift.judge(path, incoming.folder).pred_score == 4


def no_lease(*_):
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def test_where_every_lease_is_refused_a_picture_that_rests_is_taken_after_a_while(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_SETTLED_REFUSED", (0.5, 60.0))
    monkeypatch.setattr(incoming_module.fcntl, "fcntl", no_lease)
    line = Line(place)
    with line.open() as (incoming, _):
        start = time.monotonic()
        draw(place / "in" / "a.png", 0)
        assert (incoming.next(2, line.stop) or "").endswith("a.png")
        assert time.monotonic() - start > 0.5


def test_where_leases_are_granted_a_writer_that_stalls_is_waited_for_longer(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_SETTLED_REFUSED", (0.0, 60.0))
    line = Line(place)
    with line.open() as (incoming, _):
        draw(place / "in" / "a.png", 0)
        assert incoming.next(2, line.stop).endswith("a.png")
        with (place / "in" / "b.png").open("wb") as file:
            file.write(b"half")
            file.flush()
            assert incoming.next(0.6, line.stop) is None


def test_no_lease_is_taken_where_its_end_would_end_the_process(place, monkeypatch):
    before, asked = signal.signal(signal.SIGIO, signal.SIG_DFL), []
    monkeypatch.setattr(incoming_module, "_SETTLED_UNKNOWN", 0.3)
    monkeypatch.setattr(incoming_module.fcntl, "fcntl", lambda *words: asked.append(words))
    draw(place / "in" / "a.png", 0)
    seen = []

    def take():
        incoming = Incoming(place / "in", [], lambda *_: False, print)
        seen.append(incoming.next(2, threading.Event()))
        incoming.close()

    try:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGIO, before)
    assert seen == [str(place / "in" / "a.png")]
    assert asked == []


def test_a_folder_that_goes_and_comes_back_is_named_once_each(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_LOOK_AGAIN", 0.1)
    line = Line(place)
    incoming = Incoming(place / "in", [], lambda *_: False, line.said.append)
    try:
        os.rename(place / "in", place / "away")
        assert incoming.next(0.5, line.stop) is None
        os.rename(place / "away", place / "in")
        assert incoming.next(0.5, line.stop) is None
    finally:
        incoming.close()
    gone, back = line.said
    assert gone.endswith("/in' is gone; it is looked for again every 0 seconds.")
    assert back.endswith("/in' is there again.")


def test_links_are_left_out(place):
    draw(place / "real" / "a.png", 0)
    os.symlink("../real/a.png", place / "in" / "a.png")
    draw(place / "in" / "b.png", 0)
    assert names(Line(place).run()) == ["b.png"]
    assert os.readlink(place / "in" / "a.png") == "../real/a.png"


def test_where_the_system_does_not_say_who_writes_a_file_it_must_rest_for_a_while(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_LEASE", None)
    monkeypatch.setattr(incoming_module, "_SETTLED_UNKNOWN", 0.4)
    line = Line(place)
    with line.open() as (incoming, _):
        content = draw(place / "whole.png", 4).read_bytes()
        start = time.monotonic()
        for part in (content[:40], content[40:50], content[50:]):
            with (place / "in" / "slow.png").open("ab") as file:
                file.write(part)
            time.sleep(0.2)
        assert incoming.next(5, line.stop).endswith("slow.png")
        assert time.monotonic() - start > 0.8


def test_files_that_come_by_any_way_are_seen_in_the_order_in_which_they_were_finished(place):
    line = Line(place)
    with line.open() as (incoming, shift):
        write_atomically(place / "in" / "a.png", draw(place / "1.png", 1).read_bytes())
        time.sleep(0.05)
        os.rename(draw(place / "2.png", 2), place / "in" / "b.png")
        time.sleep(0.05)
        os.link(draw(place / "3.png", 3), place / "in" / "c.png")
        time.sleep(0.05)
        draw(place / "in" / "below" / "d.png", 4)
        draw(place / "more" / "e.png", 5)
        time.sleep(0.5)
        os.rename(place / "more", place / "in" / "more")
        seen = []
        for _ in range(5):
            seen.append(incoming.next(15, line.stop))
            shift.judge(seen[-1], incoming.folder)
    order = ["a.png", "b.png", "c.png", "below/d.png", "more/e.png"]
    assert [os.path.relpath(path, place / "in") for path in seen] == order


def test_more_pictures_than_are_kept_in_memory_all_come_in_order(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_MOST_WAITING", 4)
    monkeypatch.setattr(watch_module, "_WORTH_A_REMARK", 3)
    for number in range(15):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    line = Line(place)
    line.run()
    assert_consistent(line, [f"{number}.png" for number in range(15)])
    assert "More than 3 pictures wait, the oldest for" in line.said[0]
    assert line.said[-1] == "No picture waits any more."


def test_what_came_later_does_not_overtake_what_overflowed(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_MOST_WAITING", 2)
    for number in range(4):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    incoming = Incoming(place / "in", [], lambda *_: False, print)
    seen = []
    for number in range(5):
        seen.append(incoming.next(5, threading.Event()))
        os.unlink(seen[-1])
        draw(place / "in" / f"later_{number}.png", number)
        time.sleep(0.2)  # for the news of it
    incoming.close()
    assert [os.path.basename(path) for path in seen] == ["0.png", "1.png", "2.png", "3.png", "later_0.png"]


def test_a_stalled_copy_does_not_keep_what_overflowed_waiting(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_MOST_WAITING", 2)
    monkeypatch.setattr(incoming_module, "_LOOK_AGAIN", 0.5)
    for number in range(4):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    line = Line(place)
    with (place / "in" / "0.png").open("ab"), line.open() as (incoming, shift):
        os.utime(place / "in" / "0.png", (0, 0))
        for number in (1, 2, 3):
            path = incoming.next(5, line.stop)
            assert path.endswith(f"{number}.png")
            shift.judge(path, incoming.folder)


@pytest.mark.parametrize("output", [".", "in/shift"])
def test_the_output_may_lie_above_or_below_the_watched_folder(place, output):
    draw(place / "in" / "0.png", 0)
    draw(place / "in" / "shift" / "overlays" / "0.png", 0)
    line = Line(place)
    incoming = Incoming(place / "in", [place / output, place / "in"], lambda *_: False, line.said.append)
    try:
        paths = [incoming.next(0.4, line.stop) for _ in range(3)]
    finally:
        incoming.close()
    assert len([path for path in paths if path]) == (2 if output == "." else 1)


def test_a_picture_that_is_done_is_no_more_than_asked_for_at_each_look(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_LOOK_AGAIN", 0.2)
    for number in range(20):
        draw(place / "in" / f"{number}.png", number)
    resolved, real = [], os.path.realpath
    line, asked = Line(place), []
    monkeypatch.setattr(os.path, "realpath", lambda path, **options: resolved.append(path) or real(path, **options))
    incoming = Incoming(place / "in", [place / "in" / "ok"], lambda *one: not asked.append(one), line.said.append)
    try:
        assert incoming.next(0.5, line.stop) is None
    finally:
        incoming.close()
    looks = len(asked) // 20
    assert looks >= 2
    assert len(asked) == 20 * looks
    assert len(resolved) < 20


def test_a_camera_that_uses_one_name_again_loses_no_picture(place):
    for move in (True, False):
        line = Line(place, move)
        for level in (3, 4, 6):
            draw(place / "in" / "frame.png", level)
            assert [row.pred_score for row in line.run()] == [level]
        (place / "in" / "frame.png").unlink(missing_ok=True)
    rows = line.rows()
    assert [row.pred_score for row in rows] == [3, 4, 6] * 2
    assert [pathlib.Path(row.image).name for row in rows[:3]] == ["frame.png", "frame.png", "frame_2.png"]


def test_a_picture_that_is_written_anew_while_it_is_judged_is_judged_again_and_moved_once(place):
    judge = Judge()
    judge.meanwhile = lambda path: (setattr(judge, "meanwhile", lambda path: None), draw(pathlib.Path(path), 5))
    draw(place / "in" / "a.png", 3)
    line = Line(place, judge=judge)
    line.run()
    assert [(row.pred_score, pathlib.Path(row.image).parent.name) for row in line.rows()] == [(3, "in"), (5, "unsure")]


def test_what_cannot_be_read_gets_a_row_and_ends_nothing(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_SETTLED_UNKNOWN", 0.3)
    (place / "in" / "0.png").write_bytes(b"junk")
    (place / "in" / "1.png").write_bytes(b"")
    pages = [Image.new("L", (8, 8), level) for level in (0, 9)]
    pages[0].save(place / "in" / "2.tif", save_all=True, append_images=pages[1:])
    pages[0].save(place / "in" / "3.gif", save_all=True, append_images=pages[1:])
    os.mkfifo(place / "in" / "4.png")
    draw(place / "in" / "5.png", 0)
    line = Line(place)
    results = sorted(line.run(), key=lambda row: row.evidence["incoming"])
    assert [row.verdict for row in results] == ["error", "error", "error", "error", "normal"]
    assert "has 2 pages. Split it" in results[2].error
    assert "has several frames. Split it" in results[3].error
    assert all(pathlib.Path(row.image).exists() for row in line.rows())


def test_a_tiff_of_several_pages_is_judged_once_and_its_row_is_read_back(place):
    pages = [Image.new("L", (8, 8), level) for level in (0, 9)]
    pages[0].save(place / "in" / "0.tif", save_all=True, append_images=pages[1:])
    line = Line(place, move=False)
    assert names(line.run()) == ["0.tif"]
    assert names(line.rows()) == ["0.tif"]
    assert line.run() == []


@pytest.mark.parametrize("links", [True, False])
def test_two_watchers_that_move_to_the_same_folders_take_different_names(place, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "symlink", refused)
    other = place / "other"
    for folder in ("in", "shift"):
        (other / folder).mkdir(parents=True)
    first, second = Line(place), Line(other)
    second.targets = first.targets
    draw(place / "in" / "frame.png", 3)
    draw(other / "in" / "frame.png", 6)
    real = watch_module.ResultsFile.append

    def meanwhile(*arguments):
        monkeypatch.setattr(watch_module.ResultsFile, "append", real)
        second.run()
        real(*arguments)

    monkeypatch.setattr(watch_module.ResultsFile, "append", meanwhile)
    first.run()
    rows = first.rows() + second.rows()
    assert [pathlib.Path(row.image).name for row in rows] == ["frame.png", "frame_2.png"]
    assert [load_picture(row.image).getpixel((0, 0))[0] for row in rows] == [3, 6]
    assert not any(pathlib.Path(row.image).is_symlink() for row in rows)


def refused(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_pictures_may_be_moved_to_folders_below_the_watched_one(place):
    draw(place / "in" / "a.png", 3)
    line = Line(place)
    line.targets = tuple(str(place / "in" / name) for name in ("ok", "ng", "unsure"))
    line.run()
    assert [row.image for row in line.rows()] == [str(place / "in" / "ok" / "a.png")]
    assert line.run() == []


def test_a_file_that_has_taken_the_name_of_a_picture_is_not_replaced(place, monkeypatch):
    monkeypatch.setattr(incoming_module, "_LOOK_AGAIN", 0.2)
    real = watch_module.ResultsFile.append

    def taken(rows, result):
        real(rows, result)
        monkeypatch.setattr(watch_module.ResultsFile, "append", real)
        pathlib.Path(result.image).unlink()
        draw(pathlib.Path(result.image), 6)

    draw(place / "in" / "a.png", 3)
    line = Line(place)
    monkeypatch.setattr(watch_module.ResultsFile, "append", taken)
    line.run()
    assert load_picture(place / "ok" / "a.png").getpixel((0, 0))[0] == 6
    assert load_picture(place / "ok" / "a_2.png").getpixel((0, 0))[0] == 3
    assert line.rows()[-1].image == str(place / "ok" / "a_2.png")
    assert line.said == [
        f"'{place}/in/a.png' cannot be moved, '{place}/ok/a.png' is another file by now; it is judged again."
    ]


@pytest.mark.parametrize("disk", ["same", "other"])
def test_a_name_as_long_as_names_can_be_is_moved_also_when_it_comes_again(place, monkeypatch, disk):
    if disk == "other":
        monkeypatch.setattr(os, "replace", other_disk)
    name = "é" * 125 + "x.png"
    line = Line(place)
    for level in (3, 6):
        (place / "in" / name).write_bytes(draw(place / "short.png", level).read_bytes())
        end = threading.Timer(10, line.stop.set)
        end.start()
        assert [row.pred_score for row in line.run()] == [level]
        end.cancel()
    rows = line.rows()
    assert [load_picture(row.image).getpixel((0, 0))[0] for row in rows] == [3, 6]
    assert pathlib.Path(rows[1].image).name == "é" * 100 + "_2.png"


def test_a_name_that_the_other_disk_cannot_have_becomes_a_plain_one(place, monkeypatch):
    codes = {"10:": errno.ENAMETOOLONG, "line:3": errno.EINVAL, "line:4": errno.EILSEQ}

    def strict(real):
        def call(*words, **options):
            for mark, code in codes.items():
                if any(mark in str(word) and "/in/" not in str(word) for word in words):
                    raise OSError(code, "no such name here")
            return real(*words, **options)

        return call

    for owner, name in ((os, "symlink"), (pathlib.Path, "open"), (pathlib.Path, "mkdir")):
        monkeypatch.setattr(owner, name, strict(getattr(owner, name)))
    for number, name in enumerate(("10:00 ü.png", "line:3/a.png", "line:4/a.png")):
        os.utime(draw(place / "in" / name, 0), (number, number))
    line = Line(place)
    end = threading.Timer(5, line.stop.set)
    end.start()
    assert len(line.run()) == 3
    end.cancel()
    moved = [pathlib.Path(row.image) for row in line.rows()]
    assert [path.parent for path in moved] == [place / "ok"] * 3
    assert [path.name[:-12] for path in moved] == ["10_00___", "a_", "a_"]
    assert len(set(moved)) == 3
    assert all(path.is_file() for path in moved)


def test_a_full_disk_stops_the_judging_until_there_is_room(place):
    for number in range(4):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    line = Line(place)
    with line.open() as (incoming, shift):
        shift.judge(incoming.next(5, line.stop), incoming.folder)
        size = shift.path.stat().st_size
        with full_disk(size + 100):
            thread = threading.Thread(target=lambda: shift.judge(incoming.next(5, line.stop), incoming.folder))
            thread.start()
            until(lambda: line.said)
            assert thread.is_alive()
            assert shift.path.stat().st_size == size, "no half of a row is left"
        thread.join(15)
        assert not thread.is_alive()
    assert line.said[0].startswith("Cannot write the result of ")
    assert line.said[0].endswith("File too large. Judging has stopped; it goes on when that can be done.")
    assert line.said[1:] == ["It can be done again; judging goes on."]
    line.run()
    assert_consistent(line, [f"{number}.png" for number in range(4)])


def other_disk(source, target, real=os.replace):
    if "/in/" in str(source):
        raise OSError(errno.EXDEV, "Invalid cross-device link")
    return real(source, target)


def test_pictures_are_moved_to_another_disk_whole_also_after_a_kill_in_between(place, monkeypatch):
    for number in range(2):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    monkeypatch.setattr(os, "replace", other_disk)
    with monkeypatch.context() as patch:
        patch.setattr(watch_module.os, "unlink", lambda path, **_: "/in/0.png" in str(path) and dies())
        killed(Line(place).run)
    assert (place / "in/0.png").exists()
    assert (place / "ok/0.png").exists()
    line = Line(place)
    line.run()
    assert_consistent(line, ["0.png", "1.png"])


def test_a_clock_that_goes_back_is_said_and_changes_nothing(place, monkeypatch):
    for number in range(3):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    judge, now = Judge(), [10_000.0]
    judge.meanwhile = lambda path: now.append(now[-1] - 3600 if "1.png" in path else now[-1] + 1)
    monkeypatch.setattr(watch_module.time, "time", lambda: now[-1])
    line = Line(place, judge=judge)
    line.run()
    assert line.said == ["The clock went back by 3600 seconds; rows stay in the order of judging."]
    assert_consistent(line, ["0.png", "1.png", "2.png"])


def test_a_new_version_of_the_part_goes_on_but_another_part_or_language_is_refused(place):
    line = Line(place)
    facts = {"model": "m", "references": "r1", "part": "bolt", "category": "bolt", "mm_per_pixel": "None"}
    for name, change in (
        ("0.png", {}),
        ("1.png", {"references": "r2", "category": "screw", "description": "long", "mm_per_pixel": "0.1"}),
    ):
        line.judge.setup = lambda *_, facts=facts | change: facts
        draw(place / "in" / name, 0)
        assert names(line.run()) == [name]
    for change, other in (({"references": "r3", "part": "nut"}, "references, part"), ({"language": "zh"}, "language")):
        line.judge.setup = lambda *_, facts=facts | change: facts
        with pytest.raises(ResultsFileError, match=f"was made with another {other}. Resume with the same"):
            line.run()


def test_a_second_watcher_of_one_output_is_refused(place):
    line = Line(place)
    with line.open(), pytest.raises(ResultsFileError, match="is being written by another process"):
        Line(place).run()


class Seer(Judge):
    """With a map whose lower half stands out, as an inspector gives it."""

    def inspect_many(self, images, options, progress):
        for result in super().inspect_many(images, options, progress):
            result.judged_image = load_picture(result.image)
            result.anomaly_map = np.repeat(np.float32([[0], [1]]), 4, 0).repeat(8, 1)
            yield result


def test_overlays_of_anomalous_and_uncertain_pictures_are_kept_and_named_by_their_rows(place):
    for number in range(6):
        os.utime(draw(place / "in" / f"{number}.png", number), (number, number))
    line = Line(place, judge=Seer(), overlays=True)
    line.run()
    rows = line.rows()
    kept = [row.evidence.get("overlay") for row in rows]
    assert [name is not None for name in kept] == [row.verdict != "normal" for row in rows]
    assert sorted(place.glob("shift/overlays/*")) == sorted(place / "shift" / name for name in kept if name)
    for row, name in zip(rows, kept, strict=True):
        if name:
            shown = np.asarray(Image.open(place / "shift" / name))
            assert np.abs(shown[10, 160].astype(int) - np.asarray(load_picture(row.image))[0, 4]).max() <= 1
            assert np.abs(shown[300, 160].astype(int) - np.asarray(load_picture(row.image))[7, 4]).max() > 40


def test_a_kill_between_overlay_and_row_leaves_no_second_overlay(place, monkeypatch):
    draw(place / "in" / "1.png", 1)
    with monkeypatch.context() as patch:
        patch.setattr(watch_module.ResultsFile, "append", dies)
        killed(Line(place, judge=Seer(), overlays=True).run)
    (before,) = place.glob("shift/overlays/*")
    again = Line(place, judge=Seer(), overlays=True)
    again.run()
    assert_consistent(again, ["1.png"])
    assert list(place.glob("shift/overlays/*")) == [before]


@pytest.mark.parametrize(("judge", "what"), [(Judge, "result"), (Seer, "overlay")])
def test_stopped_while_the_disk_is_full_the_next_run_judges_the_picture(place, judge, what):
    draw(place / "in" / "1.png", 1)
    line = Line(place, judge=judge(), overlays=what == "overlay")
    with line.open() as (incoming, shift), full_disk(100):
        path = incoming.next(5, line.stop)
        line.stop.set()
        said = f"Cannot write the {what} of .*; the next run goes on with this picture. Nothing is lost"
        with pytest.raises(StoppedError, match=said):
            shift.judge(path, incoming.folder)
    assert line.rows() == []
    assert not list(place.glob("shift/overlays/*.png"))
    again = Line(place, judge=judge())
    again.run()
    assert_consistent(again, ["1.png"])


# The command


@pytest.fixture
def station(place, tiny_folder, monkeypatch):
    """A folder with a stored part of a tiny model; the words of the command to watch it."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ANOMALYGPT_PARTS", str(place / "parts"))
    shutil.copytree(tiny_folder, place / "model")
    for number in range(3):
        noise(place / "good" / f"{number}.png", number)
    assert cli.main(["parts", "add", "bolt", "good", "--model", "model"]) == 0
    output = ["--output", "shift", "--move-to", "ok", "ng", "unsure"]
    return place, ["watch", "in", "--part", "bolt", "--model", "model", "--no-language", *output]


def noise(path, number, light=1.0):
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3))
    Image.fromarray((light * pixels).astype(np.uint8)).save(path)


def until(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def written(place):
    path = place / "shift" / "results.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def main_until(words, condition):
    """The exit code of the command, which is asked to end as soon as the condition holds."""

    def end():
        until(condition)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    code = cli.main(words)
    ending.join()
    return code


def test_the_command_is_killed_stopped_and_goes_on_and_tells_a_command_of_each_row(station, capsys):
    place, command = station
    for number in range(6):
        noise(place / "in" / f"{number}.png", number)
        os.utime(place / "in" / f"{number}.png", (number, number))
    (place / "note.sh").write_text('#!/bin/sh\necho "$ANOMALYGPT_VERDICT" >> told\n')
    (place / "note.sh").chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            cli.main(command)
        finally:
            os._exit(7)
    until(lambda: written(place) >= 2)
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    for number in range(6, 9):
        noise(place / "in" / f"{number}.png", number)
        os.utime(place / "in" / f"{number}.png", (number, number))

    def is_done():
        if written(place) == 9 and not (place / "in" / "9.png").exists():
            noise(place / "in" / "9.png", 9)
        return written(place) == 10

    capsys.readouterr()
    assert main_until([*command, "--overlays", "--exec", "./note.sh"], is_done) == 0
    out, err = capsys.readouterr()
    assert "Stopped after" in err
    rows = [json.loads(line) for line in (place / "shift/results.jsonl").read_text().splitlines()]
    assert [pathlib.Path(row["evidence"]["incoming"]).name for row in rows] == [
        f"{number}.png" for number in range(10)
    ]
    assert all(pathlib.Path(row["image"]).exists() for row in rows)
    assert not list((place / "in").iterdir())
    for row in rows[-len(out.splitlines()) :]:
        kept = row["evidence"].get("overlay")
        assert kept is None if row["verdict"] == "normal" else (place / "shift" / kept).is_file()
    told = (place / "told").read_text().split()
    assert told == [row["verdict"] for row in rows][-len(told) :]
    assert len(told) == len(out.splitlines()) >= 4
    assert out.splitlines()[-1].split()[1] == "9.png"
    alone = AnomalyInspector.from_pretrained("model")
    alone.set_references([f"good/{number}.png" for number in range(3)], category="bolt")
    assert [row["pred_score"] for row in rows] == [
        pytest.approx(alone.inspect(row["image"], use_language=False).pred_score, abs=1e-5) for row in rows
    ]


def test_a_drift_of_the_light_is_said_once_while_it_is_watched(station, capsys, monkeypatch):
    place, command = station
    monkeypatch.setattr("modeling_anomalygpt.line.drift.Drift", functools.partial(Drift, 30))
    for number in range(70):
        noise(place / "in" / f"{number}.png", number, light=1.0 if number < 30 else 0.7)
        os.utime(place / "in" / f"{number}.png", (number, number))
    assert main_until(command, lambda: written(place) >= 70) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "Drift: the exposure" in line]
    assert len(said) == 1
    assert "Verdicts are not changed" in said[0]


def test_wrong_usage_is_one_line(station, capsys, monkeypatch):
    capsys.readouterr()
    for words, message in (
        (["in", "--part", "bolt"], "the following arguments are required: --output"),
        (["gone", "--part", "bolt", "--output", "x"], "`INCOMING` must be a folder, got 'gone'"),
        (["in", "--output", "x"], "`--part` or `--references` must say what is good"),
        (["in", "--part", "bolt", "--output", "in"], "must be other folders than INCOMING, got 'in'"),
        (["in", "--part", "bolt", "--output", "x", "--webhook", "ftp://x"], "begins with http:// or https://"),
        (["in", "--part", "bolt", "--output", "x", "--webhook", "http://a b/"], "begins with http:// or https://"),
        (["in", "--part", "bolt", "--output", "x", "--webhook", "http://h:99999/"], "begins with http:// or https://"),
        (["in", "--part", "bolt", "--output", "x", "--webhook", "http://u:hush@h/"], "without a user name and a pass"),
        (["in", "--part", "bolt", "--output", "x", "--exec", "nothing_here"], "`--exec` must be a command that can"),
        (["in", "--part", "bolt", "--output", "x", "--exec", "sh 'open"], "`--exec` must be a command that can"),
        (["in", "--part", "bolt", "--output", "x", "--interval", "2"], "`--interval` must be given with --camera"),
        (["in", "--part", "nut", "--output", "x"], "There is no part 'nut'"),
        (["in", "--part", "bolt", "--model", "model", "--output", "x", "--camera", "no.avi"], "must be a camera that"),
    ):
        assert cli.main(["watch", *words]) == 2, words
        err = capsys.readouterr().err
        assert message in err
        assert "hush" not in err
        assert len([line for line in err.splitlines() if "error" in line]) == 1
        assert "Traceback" not in err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["watch", "in", "--part", "bolt", "--output", "x"]) == 2
    assert "pip install 'anomalygpt[line]'" in capsys.readouterr().err


# The camera


@pytest.fixture
def video(tmp_path):
    path = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 32))
    for level in (10, 60, 110, 160):
        writer.write(np.full((32, 32, 3), level, np.uint8))
    writer.release()
    return path


def test_frames_of_a_camera_come_at_the_interval_or_at_the_trigger(place, video):
    said = []
    camera = Camera(video, place / "in", 0.05, said.append)
    assert camera.ended.wait(10)
    camera.close()
    frames = sorted((place / "in").iterdir())
    assert [load_picture(frame).getpixel((5, 5))[0] for frame in frames] == pytest.approx([10, 60, 110, 160], abs=6)
    assert said == ["The camera gives no further frame."]
    shutil.rmtree(place / "in")
    (place / "in").mkdir()
    camera = Camera(video, place / "in", None, said.append)
    for number in (1, 2):
        camera.trigger()
        until(lambda number=number: len(list((place / "in").glob("*.png"))) == number, 10)
    time.sleep(0.2)
    assert len(list((place / "in").glob("*.png"))) == 2
    camera.close()


def test_the_end_of_a_video_ends_the_watching_when_its_frames_are_judged(place, video, monkeypatch, capsys):
    monkeypatch.setattr(cli_watch, "load_inspector", lambda *_: Judge())
    monkeypatch.setattr(cli_watch, "find_references", lambda args: None)
    monkeypatch.setattr(cli_watch, "check_model", lambda *_: None)
    monkeypatch.chdir(place)
    words = ["in", "--model", "m", "--output", "shift", "--camera", video, "--interval", "0.05"]
    assert cli.main(["watch", *words]) == 0
    assert "Stopped after 4 pictures" in capsys.readouterr().err


class Stream:
    """A camera that queues a frame every 10 ms, each brighter than the one before."""

    def __init__(self, source):
        self.start, self.taken = time.monotonic(), 0

    def isOpened(self):
        return True

    def get(self, name):
        return -1.0

    def release(self):
        pass

    def grab(self):
        time.sleep(max(0.0, self.start + 0.01 * self.taken - time.monotonic()))
        self.taken += 1
        return True

    def retrieve(self):
        return True, np.full((8, 8, 3), min(self.taken - 1, 255), np.uint8)


def test_of_a_camera_the_newest_frame_is_taken_also_while_frames_are_written_slowly(place, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Stream)
    slow = [0.0, 0.3, 0.3, 0.3]

    def write(path, content):
        time.sleep(slow.pop(0) if slow else 0)
        write_atomically(path, content)

    monkeypatch.setattr("modeling_anomalygpt.line.camera.write_atomically", write)
    camera = Camera("rtsp://line", place / "in", 0.05, print)
    until(lambda: len(list((place / "in").glob("*.png"))) >= 4, 20)
    camera.close()
    levels = shades(place / "in")
    assert levels[3] - levels[1] >= 40


def test_a_stream_that_breaks_off_is_opened_again_and_that_is_said(place, monkeypatch):
    opened, said = [], []

    class Breaking(Stream):
        def __init__(self, source):
            super().__init__(source)
            opened.append(source)

        def isOpened(self):
            return len(opened) != 2

        def grab(self):
            return super().grab() and (self.taken < 20 or len(opened) > 2)

    monkeypatch.setattr(cv2, "VideoCapture", Breaking)
    monkeypatch.setattr(camera_module, "_OPEN_AGAIN", 0.1)
    camera = Camera("rtsp://line", place / "in", 0.05, said.append)
    until(lambda: len(said) == 2, 5)
    before = len(shades(place / "in"))
    until(lambda: len(shades(place / "in")) > before + 1, 5)
    camera.close()
    assert opened == ["rtsp://line"] * 3
    assert said[0].startswith("The camera gives no frame; it is opened again every")
    assert said[1] == "The camera gives frames again."


def test_grey_frames_are_written_and_frames_that_are_none_are_named(place, monkeypatch):
    shapes, said = [(8, 8), (8, 8, 1), (8, 8, 7)], []

    class Grey(Stream):
        def retrieve(self):
            return True, np.full(shapes.pop(0) if shapes else (8, 8), 77, np.uint8)

    monkeypatch.setattr(cv2, "VideoCapture", Grey)
    camera = Camera("0", place / "in", 0.01, said.append)
    until(lambda: len(list((place / "in").glob("*.png"))) >= 3, 5)
    camera.close()
    assert set(shades(place / "in")) == {77}
    assert len(said) == 1
    assert said[0].startswith("A frame is left out: ")


def test_a_trigger_takes_the_newest_frame_of_a_camera(place, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Stream)
    camera = Camera("0", place / "in", None, print)
    time.sleep(0.3)
    camera.trigger()
    until(lambda: list((place / "in").glob("*.png")), 20)
    camera.close()
    (level,) = shades(place / "in")
    assert level >= 20


def shades(folder):
    return [load_picture(frame).getpixel((5, 5))[0] for frame in sorted(folder.glob("*.png"))]


def test_a_frame_is_kept_until_the_disk_has_room_for_it(place, video):
    said = []
    with full_disk(20):
        camera = Camera(video, place / "in", 0.01, said.append)
        until(lambda: said, 10)
        assert not list((place / "in").glob("*.png"))
    until(lambda: len(list((place / "in").glob("*.png"))) == 4, 20)
    camera.close()
    assert said[0] == "Cannot write a frame: File too large. No further one is taken before it is written."
