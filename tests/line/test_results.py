"""The database follows the lines and can be made anew; what a person says is kept, learned and taken back."""

import base64
import contextlib
import csv
import errno
import io
import json
import os
import pathlib
import re
import shutil
import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import AnomalyInspector, cli
from modeling_anomalygpt.inspector import InspectionOptions
from modeling_anomalygpt.line import corrections
from modeling_anomalygpt.line import database as database_module
from modeling_anomalygpt.line import parts as parts_module
from modeling_anomalygpt.line.corrections import is_as_judged, say, undo
from modeling_anomalygpt.line.database import ResultsDatabase, Wanted, moment, standing_feedback
from modeling_anomalygpt.line.parts import PartFollower, PartStore
from modeling_anomalygpt.line.watch import Shift
from modeling_anomalygpt.line.workers import Judge
from modeling_anomalygpt.results import InspectionResult, ResultsFile, each_result, source_of

HOURS = ("05:59:59", "06:00:00", "06:30:00", "13:00:00", "14:00:00")


def lines(folder, *results, mode="ab"):
    with (folder / "results.jsonl").open(mode) as file:
        for result in results:
            file.write(json.dumps(result.to_dict()).encode() + b"\n")


def result(number, verdict, score=0.5, time="06:00:00"):
    return InspectionResult(f"/line/{number}.png", verdict, score, time=f"2026-03-29T{time}+02:00")


@pytest.fixture
def shift(tmp_path):
    """Five pictures over a morning; the worst is the third."""
    verdicts = (("normal", 0.2), ("anomalous", 1.5), ("anomalous", 3.0), ("uncertain", 1.1), ("error", None))
    lines(tmp_path, *(result(n, *verdicts[n], time) for n, time in enumerate(HOURS)))
    return tmp_path


def opened(folder):
    database = ResultsDatabase(folder)
    try:
        return [row.image[6:7] for _, _, row in database.worst(Wanted())]
    finally:
        database.close()


def call(capsys, *words):
    code = cli.main(["results", *map(str, words)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_counts_by_hour_and_the_worst_first(shift, capsys):
    code, out, _ = call(capsys, shift)
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert rows[0] == ["hour", "normal", "anomalous", "uncertain", "error"]
    assert rows[3] == ["2026-03-29", "06:00", "0", "2", "0", "0"]
    assert rows[6] == ["all", "1", "2", "1", "1"]
    assert [row[2] for row in rows[10:14]] == ["2.png", "1.png", "3.png", "4.png"]
    assert rows[-1] == ["5", "pictures"]


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--since", "06:00"], "2134"),
        (["--since", "06:00", "--until", "14:00"], "213"),
        (["--until", "06:00"], "0"),
        (["--since", "2026-03-29T06:30", "--verdict", "anomalous"], "2"),
        (["--since", "2026-03-30"], ""),
    ],
)
def test_only_the_pictures_that_are_wanted(shift, capsys, words, numbers):
    code, out, _ = call(capsys, shift, *words, "--csv", shift / "x.csv")
    assert code == 0
    if not numbers:
        assert out == f"No picture fits.\n{shift / 'x.csv'}: 0 rows\n"
    table = (shift / "x.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    assert "".join(line[6] for line in table) == numbers


def test_a_spreadsheet_tells_what_was_judged_from_what_was_said(shift, capsys):
    call(capsys, shift, "--correct", "3.png", "anomalous")
    call(capsys, shift, "--confirm", "1.png")
    call(capsys, shift, "--csv", shift / "x.csv")
    with (shift / "x.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [(row["image"][6:7], row["verdict"], row["said"]) for row in csv.DictReader(file)]
    assert rows == [
        ("2", "anomalous", ""), ("1", "anomalous", "anomalous"), ("3", "uncertain", "anomalous"), ("4", "error", ""),
        ("0", "normal", ""),
    ]  # fmt: skip


def test_an_hour_is_the_last_one_a_day_is_no_time_of_day_and_what_would_be_misread_is_refused():
    night = "2026-03-29T05:30:00"
    assert moment("05:00", night) == "2026-03-29T05:00:00"
    assert moment("20260329", night) == moment("2026-03-29", night) == "2026-03-29T00:00:00"
    assert moment("05:00:30", night) == "2026-03-29T05:00:30"
    for text in (
        "noon",
        "2026-03",
        "06:00Z",
        "06:00+02:00",
        "2026-03-29T06:00Z",
        "2026-03-29T06:00+02:00",
        "06",
        "T06",
    ):
        with pytest.raises(
            ValueError, match=re.escape(f"must be like 06:00 or 2026-03-29T06:00, got {text!r}. Quote it; leave")
        ):
            moment(text, night)


def test_the_database_takes_over_only_what_was_added(shift, monkeypatch):
    opened(shift)
    lines(shift, result(5, "anomalous", 9.0))
    with (shift / "results.jsonl").open("ab") as file:
        file.write(b"damaged\n" + b'{"image": "half')
    read = []
    real = database_module.result_of_line
    monkeypatch.setattr(database_module, "result_of_line", lambda line: read.append(line) or real(line))
    assert opened(shift)[0] == "5"
    assert len(read) == 3
    assert sqlite3.connect(shift / "results.db").execute("SELECT COUNT(*) FROM results").fetchone() == (6,)


@pytest.mark.parametrize("change", ["deleted", "damaged", "older", "rewritten", "shorter", "read-only", "locked"])
def test_the_database_is_made_anew_where_it_does_not_fit(shift, change, monkeypatch):
    opened(shift)
    path = shift / "results.db"
    if change == "deleted":
        path.unlink()
    elif change == "damaged":
        path.write_bytes(b"SQLite format 3\0" + b"junk" * 3000)
    elif change == "older":
        monkeypatch.setattr(database_module, "_FORMAT", 99)
    elif change == "rewritten":
        every = list(each_result(shift / "results.jsonl"))
        every[0].verdict = "anomalous"
        lines(shift, *every, mode="wb")
        monkeypatch.setattr(database_module, "_TAIL", 10**6)
        opened(shift)
    elif change == "shorter":
        lines(shift, result(2, "anomalous", 3.0), mode="wb")
    elif change == "read-only":
        real = sqlite3.connect
        monkeypatch.setattr(database_module.sqlite3, "connect", lambda at, **_: real(f"file:{at}?mode=ro", uri=True)
                            if at != ":memory:" else real(at, isolation_level=None))  # fmt: skip
        lines(shift, result(6, "normal", 0.1))
    else:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        real = sqlite3.connect
        monkeypatch.setattr(database_module.sqlite3, "connect", lambda at, **_: real(at, 0, isolation_level=None))
        lines(shift, result(6, "normal", 0.1))
    expected = {"rewritten": "21034", "shorter": "2", "read-only": "213406", "locked": "213406"}
    assert sorted(opened(shift)) == sorted(expected.get(change, "21340"))


def test_wrong_usage_is_one_line(shift, capsys, tmp_path):
    for words, message in (
        ([tmp_path / "none"], "There are no results in"),
        ([shift, "--since", "noon"], "a moment must be like 06:00"),
        ([shift, "--confirm", "9.png"], "`PICTURE` must be one judged picture, got '9.png'; there is none."),
        ([shift, "--confirm", "3.png"], "a picture that is normal or anomalous, got one that is 'uncertain'"),
        ([shift, "--correct", "3.png", "good"], "`--correct` must be given normal or anomalous, got 'good'"),
        ([shift, "--undo"], "`--undo` must have something to take back, got nothing"),
        ([shift, "--undo", "--confirm", "1.png"], "not allowed with argument"),
        ([shift, "--csv", tmp_path / "no" / "a.csv"], "`--csv` must be in a folder that exists"),
        ([shift, "--report", tmp_path / "no" / "a.html"], "`--report` must be in a folder that exists"),
        *(
            ([shift, *said, option, "06:00"], f"`{option}` must stand without --confirm, --correct and --undo")
            for said in (["--undo"], ["--confirm", "1.png"])
            for option in ("--csv", "--report", "--since", "--until")
        ),
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, ""), words
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_a_picture_is_found_by_the_name_it_came_with_and_two_of_one_are_told_apart(shift, capsys):
    for name in ("frame.png", "frame_2.png"):
        lines(shift, InspectionResult(f"/line/ng/{name}", "anomalous", 2.0, evidence={"incoming": "/in/frame.png"}))
    for name in ("frame.png", "/in/frame.png"):
        err = call(capsys, shift, "--confirm", name)[2]
        assert f"got {name!r}; 2 are called so: /line/ng/frame.png, /line/ng/frame_2.png. Give its path" in err
    assert call(capsys, shift, "--confirm", "frame_2.png")[0] == 0
    assert call(capsys, shift, "--confirm", "/line/ng/frame.png")[0] == 0
    lines(shift, InspectionResult("/line/ok/b_7.png", "normal", 0.1, evidence={"incoming": "/in/b.png"}))
    assert call(capsys, shift, "--confirm", "b.png")[1] == "b_7.png: normal is confirmed.\n"


def test_a_picture_of_windows_is_found_by_its_name(shift, capsys):
    lines(shift, InspectionResult("C:\\line\\ok\\0042.jpg", "normal", 0.1))
    assert call(capsys, shift, "--confirm", "0042.jpg")[0] == 0
    assert call(capsys, shift, "--confirm", "ok\\0042.jpg")[0] == 0
    assert "there is none" in call(capsys, shift, "--confirm", "042.jpg")[2]


def test_what_was_said_stays_with_its_picture_where_rows_are_numbered_anew(shift, capsys):
    assert call(capsys, shift, "--confirm", "1.png")[0] == 0
    assert "1 confirmed" in call(capsys, shift)[1]
    lines(shift, *list(each_result(shift / "results.jsonl"))[1:], mode="wb")
    assert "confirmed" not in call(capsys, shift)[1]


def test_what_was_said_goes_with_its_picture_through_resumed_runs_and_to_no_other(tmp_path, capsys):
    pictures = [tmp_path / f"{name}.png" for name in "abc"]

    def run(written, *verdicts):
        for picture in written:
            picture.write_bytes(os.urandom(20))
        rows = ResultsFile(tmp_path / "results.jsonl", resume=True)
        todo = [picture for picture in pictures if rows.finished(picture) is None]
        for picture, verdict in zip(todo, verdicts, strict=True):
            error = "damaged" if verdict == "error" else None
            rows.append(InspectionResult(str(picture), verdict, source=source_of(picture), error=error))
        rows.close()

    def said():
        database = ResultsDatabase(tmp_path)
        rows = {row.image[-5]: (number, said) for number, said, row in database.worst(Wanted())}
        database.close()
        return rows

    run(pictures, "error", "normal", "anomalous")
    for words in (["--confirm", "b.png"], ["--correct", "c.png", "normal"]):
        assert call(capsys, tmp_path, *words)[0] == 0
    run([], "normal")
    assert said() == {"b": (1, "normal"), "c": (2, "normal"), "a": (3, None)}
    for words in (["--confirm", "b.png"], ["--correct", "a.png", "anomalous"]):
        assert call(capsys, tmp_path, *words)[0] == 0
    assert len((tmp_path / "feedback.jsonl").read_text().splitlines()) == 3, "a second click says nothing new"
    run(pictures[:1], "normal")
    assert said() == {"b": (1, "normal"), "c": (2, "normal"), "a": (3, None)}, "another picture of this name"


def test_a_byte_order_mark_hides_nothing_that_was_said(shift, capsys):
    assert call(capsys, shift, "--confirm", "1.png")[0] == 0
    path = shift / "feedback.jsonl"
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert "1 confirmed" in call(capsys, shift)[1]


def test_what_is_said_after_half_a_line_of_an_earlier_one_is_kept(shift, capsys):
    (shift / "feedback.jsonl").write_bytes(b'{"row": 2, "image": "/line/1.p')
    assert call(capsys, shift, "--confirm", "2.png")[0] == 0
    assert call(capsys, shift, "--confirm", "1.png")[0] == 0
    assert "2 confirmed" in call(capsys, shift)[1]
    assert (shift / "feedback.jsonl").read_bytes().count(b"\n") == 3


def test_who_reads_row_by_row_keeps_nobody_from_writing(shift, monkeypatch):
    monkeypatch.setattr(database_module, "_AT_ONCE", 2)
    database = ResultsDatabase(shift)
    rows = database.in_order(Wanted(since="2026-03-29T06:00:00"))
    numbers = [next(rows)[0]]
    lines(shift, result(5, "normal", 0.1, "15:00:00"))
    ResultsDatabase(shift, patient=False).close()
    assert numbers + [number for number, _, _ in rows] == [2, 3, 4, 5, 6]
    database.close()


def test_who_cannot_wait_gives_up_at_once_where_the_database_is_held(shift):
    opened(shift)
    other = sqlite3.connect(shift / "results.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        ResultsDatabase(shift, patient=False)
    other.close()


def test_a_correction_of_a_picture_that_is_like_no_part_is_noted(shift, capsys):
    lines(shift, InspectionResult("/line/far.png", "unknown", setup={"part": "auto"}))
    out = call(capsys, shift, "--correct", "far.png", "anomalous")[1]
    assert out == "far.png: anomalous instead of unknown. Nothing learns it: it was judged without a stored part.\n"


def test_a_correction_without_a_stored_part_is_counted_but_learned_by_nothing(shift, capsys):
    out = call(capsys, shift, "--correct", "3.png", "normal")[1]
    assert out == "3.png: normal instead of uncertain. Nothing learns it: it was judged without a stored part.\n"
    assert call(capsys, shift, "--confirm", "2.png")[0] == 0
    out = call(capsys, shift)[1]
    assert "uncertain, said normal" in out
    assert "5 pictures; 1 confirmed, 1 corrected" in out
    assert call(capsys, shift, "--undo")[1] == "Taken back: /line/2.png was said to be anomalous.\n"
    (shift / "results.db").unlink()
    assert "5 pictures; 0 confirmed, 1 corrected" in call(capsys, shift)[1]
    audit = [json.loads(line) for line in (shift / "feedback.jsonl").read_text().splitlines()]
    assert [(row.get("row"), row.get("said"), row.get("undo")) for row in audit] == [
        (4, "normal", None), (3, "anomalous", None), (None, None, True),
    ]  # fmt: skip


def rows_of_page(path):
    """What the script of a report shows of each picture."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", text, re.DOTALL)[1])["rows"]


def test_a_report_shows_pictures_of_twelve_bits_as_bright_as_they_are(shift, capsys):
    pixels = np.full((40, 60), 2000, np.uint16)
    pixels[0, 0] = 4095
    shown = {}
    for name, image in ("deep", Image.fromarray(pixels)), ("plain", Image.fromarray((pixels >> 4).astype(np.uint8))):
        path = shift / f"{name}.png"
        image.save(path)
        lines(shift, InspectionResult(str(path), "normal", 0.5, source=source_of(path)))
        call(capsys, shift, "--report", shift / "page.html")
        (picture,) = [row["picture"] for row in rows_of_page(shift / "page.html") if row["path"] == str(path)]
        content = base64.b64decode(picture.partition(",")[2])
        shown[name] = np.asarray(Image.open(io.BytesIO(content)).convert("L"), float).mean()
    assert shown["plain"] == pytest.approx(125, abs=3)
    assert shown["deep"] == pytest.approx(shown["plain"], abs=2)


def test_a_report_shows_the_wanted_pictures_worst_first_as_they_were_said_to_be(shift, capsys):
    picture = shift / "here.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(picture)
    source, time = source_of(picture), "2026-03-29T15:00:00"
    for name in (picture, shift / "gone.png"):
        row = InspectionResult(str(name), "uncertain", 1.2, time=time, source=source)
        row.evidence, row.setup = {"num_references": 3}, {} if name == picture else {"part": "bolt <b>"}
        lines(shift, row)
    call(capsys, shift, "--correct", str(picture), "anomalous")
    call(capsys, shift, "--confirm", "1.png")
    code, out, _ = call(capsys, shift, "--since", "06:00", "--report", shift / "page.html")
    assert code == 0
    assert out.endswith(f"{shift / 'page.html'}: 6 pictures\n")
    rows = rows_of_page(shift / "page.html")
    assert [row["path"].rsplit("/", 1)[1] for row in rows] == [
        "2.png", "1.png", "here.png", "gone.png", "3.png", "4.png"
    ]  # fmt: skip
    assert [row["verdict"] for row in rows] == ["anomalous"] * 3 + ["uncertain"] * 2 + ["error"]
    assert [row["picture"] is not None for row in rows] == [False, False, True, False, False, False]
    assert rows[1]["evidence"][0] == "Confirmed by a person"
    assert rows[2]["evidence"][0] == "Said by a person; judged: Uncertain"
    page = (shift / "page.html").read_text(encoding="utf-8")
    assert "<dt>Stored part<dd>bolt &lt;b&gt;" in page
    assert "Good pictures compared with (3)" in page
    assert "<p>3</p>" not in page, "the number stands once"
    assert not (shift / "overlays").exists()


def test_a_last_row_without_a_line_end_counts_and_is_the_same_row_once_it_is_ended(shift):
    path = shift / "results.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert opened(shift) == list("21340")
    assert opened(shift) == list("21340")
    with path.open("ab") as file:
        file.write(b"\n")
    lines(shift, result(5, "normal", 0.1))
    assert opened(shift) == list("213405")
    database = ResultsDatabase(shift)
    assert database.find("5.png")[0] == 6
    database.close()


def test_an_edit_by_hand_that_keeps_the_length_is_seen(shift):
    assert opened(shift) == list("21340")
    path = shift / "results.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"pred_score": 3.0', b'"pred_score": 1.0'))
    os.utime(path, ns=(0, 0))
    assert opened(shift) == list("12340")


def test_an_hour_is_of_the_last_row_whatever_a_wrong_clock_or_a_hand_has_written(shift):
    rows = list(each_result(shift / "results.jsonl"))
    rows[0].time, rows[1].time = "2030-01-01T06:00:00+02:00", "yesterday"
    lines(shift, *rows, replace(rows[2], time="soon"), mode="wb")
    database = ResultsDatabase(shift)
    assert database.last_time() == "2026-03-29T14:00:00"
    database.close()


def test_a_picture_whose_name_is_not_utf_8_is_found(shift):
    lines(shift, InspectionResult("/line/teil\udcff.png", "normal", 0.1))
    database = ResultsDatabase(shift)
    for name in ("teil\udcff.png", "/line/teil\udcff.png"):
        assert database.find(name)[1].image == "/line/teil\udcff.png"
    database.close()


def test_what_was_said_is_counted_of_the_wanted_rows_alone(shift, capsys):
    call(capsys, shift, "--confirm", "1.png")
    call(capsys, shift, "--confirm", "0.png")
    call(capsys, shift, "--correct", "3.png", "normal")
    assert "2 pictures; 1 confirmed, 0 corrected" in call(capsys, shift, "--verdict", "anomalous")[1]
    assert "5 pictures; 2 confirmed, 1 corrected" in call(capsys, shift)[1]


def test_where_no_picture_fits_no_file_of_yesterday_is_left(shift, capsys):
    files = shift / "x.csv", shift / "page.html"
    for words in ((), ("--since", "2026-03-30")):
        assert call(capsys, shift, *words, "--csv", files[0], "--report", files[1])[0] == 0
    assert len(files[0].read_text(encoding="utf-8-sig").splitlines()) == 1
    assert rows_of_page(files[1]) == []


def test_the_same_said_twice_is_taken_back_at_once(shift, capsys):
    for words in (["--confirm", "1.png"], ["--correct", "3.png", "normal"]):
        for _ in range(2):
            assert call(capsys, shift, *words)[0] == 0
        assert len((shift / "feedback.jsonl").read_text().splitlines()) == 1
        assert call(capsys, shift, "--undo")[0] == 0
        assert "confirmed" not in call(capsys, shift)[1]
        (shift / "feedback.jsonl").unlink()


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_damaged_database_that_another_one_removes_or_holds_does_not_matter(shift, monkeypatch, error):
    (shift / "results.db").write_bytes(b"SQLite format 3\0" + b"junk" * 3000)
    real = pathlib.Path.unlink

    def unlink(path, missing_ok=False):
        if error is PermissionError:
            raise PermissionError(errno.EACCES, "held")
        real(path)
        real(path, missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", unlink)
    assert opened(shift) == list("21340")


@pytest.mark.parametrize(
    ("unit", "same"), [(100, True), (10**7, True), (10**9, True), (2 * 10**9, True), (10**12, False)]
)
def test_a_picture_is_the_judged_one_also_on_a_disk_that_cuts_times(tmp_path, unit, same):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"picture")
    time = 1_774_760_399_987_654_321
    os.utime(picture, ns=(time, time))
    row = InspectionResult(str(picture), "normal", source=source_of(picture))
    os.utime(picture, ns=(time, time - time % unit))
    assert is_as_judged(row) == same
    os.utime(picture, ns=(time, time + 1_012_345_678))  # another one of this size, a second later
    assert not is_as_judged(row)


# With a stored part


@pytest.fixture(scope="module")
def judged(tiny_folder, tmp_path_factory):
    """Two folders with a part of a tiny model and two pictures judged with it; in the second, one is corrected."""
    place = tmp_path_factory.mktemp("judged")
    shutil.copytree(tiny_folder, place / "learned" / "model")
    with contextlib.chdir(place / "learned"):
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"{number}.png")
        words = "--model", "model", "--parts-dir", "parts"
        assert cli.main(["parts", "add", "bolt", "0.png", "1.png", *words]) == 0
        assert cli.main(["inspect", "2.png", "3.png", "--part", "bolt", *words, "--output", "out"]) == 0
        said = other(next(each_result("out/results.jsonl")).verdict)
    shutil.copytree(place / "learned", place / "corrected")
    with contextlib.chdir(place / "corrected"):
        assert cli.main(["results", "out", "--correct", "2.png", said, *words]) == 0
    return place


@pytest.fixture
def learned(judged, tmp_path, monkeypatch):
    """A part of a tiny model and two pictures judged with it."""
    monkeypatch.chdir(shutil.copytree(judged / "learned", tmp_path / "here"))
    monkeypatch.setenv("ANOMALYGPT_PARTS", "parts")
    return tmp_path / "here"


def test_a_correction_is_learned_by_the_part_and_taken_back_to_the_same_part(learned, capsys):
    store = PartStore()
    before = store.read("bolt")
    said = "normal" if next(each_result("out/results.jsonl")).verdict != "normal" else "anomalous"
    code, out, err = call(capsys, "out", "--correct", "2.png", said, "--model", "model")
    assert (code, err) == (0, "")
    assert "'bolt' has learned it (version 2)" in out
    after = store.read("bolt")
    assert after.references.bank.num_references == before.references.bank.num_references + (said == "normal")
    assert after.references.fingerprint() != before.references.fingerprint()
    (line,) = map(json.loads, pathlib.Path("out/feedback.jsonl").read_text().splitlines())
    assert (line["image"], line["said"], line["part"], line["version"]) == ("2.png", said, "bolt", 2)
    assert "; the part 'bolt' is as before." in call(capsys, "out", "--undo")[1]
    assert store.read("bolt").references.fingerprint() == before.references.fingerprint()


def other(verdict):
    return "anomalous" if verdict == "normal" else "normal"


@pytest.fixture
def corrected(judged, tmp_path, monkeypatch):
    """The first picture is corrected; version 2 has learned it."""
    monkeypatch.chdir(shutil.copytree(judged / "corrected", tmp_path / "here"))
    monkeypatch.setenv("ANOMALYGPT_PARTS", "parts")
    return PartStore()


def test_results_of_an_earlier_run_take_along_what_was_said_of_them(corrected, capsys):
    assert cli.main(["inspect", "3.png", "2.png", "--part", "bolt", "--model", "model", "--output", "out"]) == 0
    capsys.readouterr()
    assert "corrected" not in call(capsys, "out")[1]
    assert "0 confirmed, 1 corrected" in call(capsys, "out/previous")[1]
    assert "; the part 'bolt' is as before." in call(capsys, "out/previous", "--undo")[1]


def test_two_corrections_at_once_are_both_learned(learned):
    store, inspector = PartStore(), AnomalyInspector.from_pretrained("model")
    rows = list(enumerate(each_result("out/results.jsonl"), start=1))
    for _, row in rows:
        row.verdict = "uncertain"

    def while_another_is_said(part):
        say("out", *rows[1], "normal", store, lambda part: inspector)
        return inspector

    before = store.read("bolt").references.bank.num_references
    assert say("out", *rows[0], "normal", store, while_another_is_said).version == 3
    assert store.read("bolt").references.bank.num_references == before + 2
    lines = map(json.loads, pathlib.Path("out/feedback.jsonl").read_text().splitlines())
    assert [(line["row"], line["version"], line["patches"] > 0) for line in lines] == [(2, 2, True), (1, 3, True)]


def test_what_a_part_has_learned_is_taken_back_before_something_else_is_said(corrected, capsys):
    row = next(each_result("out/results.jsonl"))
    for words in (["--confirm", "2.png"], *(["--correct", "2.png", said] for said in ("normal", "anomalous"))):
        code, _, err = call(capsys, "out", *words, "--model", "model")
        assert (code, len(err.splitlines())) == (2, 1)
        assert f"'bolt' has learned to be {other(row.verdict)!r}. Take that back first: --undo." in err
    assert corrected.versions("bolt") == [1, 2]
    assert call(capsys, "out", "--undo")[0] == 0
    assert call(capsys, "out", "--correct", "2.png", row.verdict)[0] == 0
    assert corrected.versions("bolt") == [1]


@pytest.mark.parametrize(
    ("owner", "name"), [(parts_module, "write_atomically"), (corrections.FeedbackHistory, "note")]
)
def test_a_correction_that_could_not_be_stored_or_noted_is_not_learned_and_can_be_said_again(
    learned, capsys, monkeypatch, owner, name
):
    words = "out", "--correct", "2.png", other(next(each_result("out/results.jsonl")).verdict), "--model", "model"
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(owner, name, lambda *_: (_ for _ in ()).throw(full))
        assert "No space left on device" in call(capsys, *words)[2]
    assert PartStore().versions("bolt") == [1]
    assert "corrected" not in call(capsys, "out")[1]
    assert "(version 2)" in call(capsys, *words)[1]


def test_a_correction_is_no_longer_learned_once_the_part_is_made_anew(corrected, capsys):
    assert cli.main(["parts", "add", "bolt", "0.png", "1.png", "--model", "model"]) == 0
    capsys.readouterr()
    said = other(next(each_result("out/results.jsonl")).verdict)
    assert "(version 4)" in call(capsys, "out", "--correct", "2.png", said, "--model", "model")[1]
    assert "; the part 'bolt' is as before." in call(capsys, "out", "--undo")[1]
    assert "as before" not in call(capsys, "out", "--undo")[1]
    assert corrected.versions("bolt") == [1, 2, 3]


def test_what_is_said_while_something_is_taken_back_is_not_taken_back_with_it(corrected):
    row = list(each_result("out/results.jsonl"))[1]
    row.verdict = "normal"
    saying = threading.Thread(target=say, args=("out", 2, row, "normal", corrected, None))

    class Meanwhile(PartStore):
        def take_back(self, *words):
            saying.start()
            saying.join(0.3)
            super().take_back(*words)

    assert undo("out", Meanwhile())["restored"]
    saying.join()
    assert [line["row"] for line in standing_feedback(pathlib.Path("out"))] == [2]


@pytest.mark.parametrize("change", ["made anew", "dropped", "of an earlier release"])
def test_only_the_version_that_a_correction_made_is_taken_back(corrected, capsys, change, monkeypatch):
    part = corrected.read("bolt")
    if change == "made anew":
        corrected.remove("bolt")
        corrected.write("bolt", part.references, part.facts)
        fresh = AnomalyInspector.from_pretrained("model")
        fresh.set_references(["3.png"])
        corrected.write("bolt", fresh.references, part.facts)
    elif change == "dropped":
        monkeypatch.setattr(parts_module, "_KEPT_VERSIONS", 2)
        for _ in range(2):
            corrected.learn("bolt", lambda newest: newest.references)
    else:
        line = json.loads(pathlib.Path("out/feedback.jsonl").read_text())
        del line["fingerprint"]
        pathlib.Path("out/feedback.jsonl").write_text(json.dumps(line) + "\n")
    before = corrected.versions("bolt")
    code, out, err = call(capsys, "out", "--undo")
    assert code == (2 if change == "dropped" else 0)
    assert corrected.versions("bolt") == ([1] if change == "of an earlier release" else before)
    assert ("is as before" in out) == (change == "of an earlier release")
    said = "The newest version of the part 'bolt' must be 2, got 4. It was changed since"
    assert (said in err) == (change == "dropped")


def test_a_running_watch_leaves_a_version_that_was_taken_back_though_its_number_is_used_again(corrected, capsys):
    inspector = AnomalyInspector.from_pretrained("model")
    follower = PartFollower(corrected, corrected.read("bolt"), inspector, "model")
    assert follower.renew() is None
    rows = {row.image: row.verdict for row in each_result("out/results.jsonl")}
    assert call(capsys, "out", "--undo")[0] == 0
    assert call(capsys, "out", "--correct", "3.png", other(rows["3.png"]), "--model", "model")[0] == 0
    assert follower.renew() == "The part 'bolt' has changed: version 2 is used from here on."
    assert inspector.references.fingerprint() == corrected.read("bolt").references.fingerprint()
    assert follower.renew() is None


def test_a_service_says_that_it_stays_with_the_version_in_use(learned, capsys):
    inspector = AnomalyInspector.from_pretrained("model")
    part = PartStore().read("bolt")
    part.use(inspector)
    judge = Judge(inspector, PartFollower(PartStore(), part, inspector, "model"))
    PartStore().remove("bolt")
    judge.inspect(pathlib.Path("2.png").read_bytes(), InspectionOptions())
    assert capsys.readouterr().err == "anomalygpt serve: The part 'bolt' is gone; version 1 stays in use.\n"
    judge.close()


def test_a_running_watch_takes_over_the_scale_unless_another_was_asked_for(learned):
    store, inspector = PartStore(), AnomalyInspector.from_pretrained("model")
    part = store.read("bolt")
    followers = [PartFollower(store, part, inspector, "model", scale) for scale in (None, 0.3)]
    assert [one.options(InspectionOptions()).mm_per_pixel for one in followers] == [None, 0.3]
    store.write("bolt", part.references, replace(part.facts, mm_per_pixel=0.1))
    assert all(one.renew() for one in followers)
    assert [one.options(InspectionOptions()).mm_per_pixel for one in followers] == [0.1, 0.3]


def test_a_watch_and_a_service_measure_by_the_scale_of_the_version_in_use(learned, monkeypatch):
    store, inspector = PartStore(), AnomalyInspector.from_pretrained("model")
    part, said = store.read("bolt"), []
    part.use(inspector)
    followers = [PartFollower(store, part, inspector, "model") for _ in range(2)]
    (learned / "watched").mkdir()
    shift = Shift("watched", inspector, InspectionOptions(), None, threading.Event(), said.append, followers[0])
    judge = Judge(inspector, followers[1])
    store.write("bolt", part.references, replace(part.facts, mm_per_pixel=0.1))
    assert shift.judge(str(learned / "2.png"), str(learned)).setup["mm_per_pixel"] == "0.1"
    real, used = inspector.inspect_many, []
    monkeypatch.setattr(inspector, "inspect_many", lambda *them, **more: used.append(them[1]) or real(*them, **more))
    judge.inspect(pathlib.Path("2.png").read_bytes(), InspectionOptions())
    assert used[0].mm_per_pixel == 0.1
    shift.close()
    judge.close()


def test_a_correction_is_refused_where_the_picture_or_the_part_is_another_by_now(learned, capsys):
    shutil.copy("3.png", "2.png")
    rows = each_result("out/results.jsonl")
    said = {row.image: "anomalous" if row.verdict == "normal" else "normal" for row in rows}
    err = call(capsys, "out", "--correct", "2.png", said["2.png"], "--model", "model")[2]
    assert "The picture of row 1 must be as it was judged, got another one: '2.png'" in err
    assert not pathlib.Path("out/feedback.jsonl").exists()
    assert call(capsys, "out", "--correct", "3.png", said["3.png"], "--model", "model")[0] == 0
    store = PartStore()
    store.learn("bolt", lambda newest: newest.references)
    assert "The newest version of the part 'bolt' must be 2, got 3." in call(capsys, "out", "--undo")[2]
    assert "confirmed" not in call(capsys, "out", "--correct", "3.png", said["3.png"])[1]


def test_a_running_watch_stays_with_its_version_where_the_next_cannot_be_read(corrected):
    store, inspector = corrected, AnomalyInspector.from_pretrained("model")
    follower = PartFollower(store, store.read("bolt"), inspector, "model")
    assert follower.renew() is None
    store.path("bolt").write_bytes(b"junk")
    assert follower.renew().endswith("Version 2 stays in use.")
    assert follower.renew() is None
    pathlib.Path("parts/bolt/3.safetensors").write_bytes(b"junk")
    assert follower.renew().endswith("Version 2 stays in use.")
    store.remove("bolt")
    assert follower.renew() == "The part 'bolt' is gone; version 2 stays in use."
    assert follower.renew() is None
