"""The database follows the lines and can be made anew; what a person says is kept, learned and taken back."""

import json
import pathlib
import re
import shutil
import sqlite3

import numpy as np
import pytest
from PIL import Image

from modeling_anomalygpt import cli
from modeling_anomalygpt.line import database as database_module
from modeling_anomalygpt.line.database import ResultsDatabase, Wanted, moment
from modeling_anomalygpt.line.parts import PartFollower, PartStore
from modeling_anomalygpt.results import InspectionResult, each_result, source_of
from tests.tiny import tiny_pair

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
        assert out == "No picture fits.\n"
        return
    table = (shift / "x.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    assert "".join(line[6] for line in table) == numbers


def test_an_hour_is_the_last_one_and_the_end_follows_the_beginning():
    night = "2026-03-29T05:30:00"
    assert moment("22:00", night) == "2026-03-28T22:00:00"
    assert moment("06:00", night, after="2026-03-28T22:00:00") == "2026-03-29T06:00:00"
    assert moment("05:00", night) == "2026-03-29T05:00:00"
    with pytest.raises(ValueError, match=r"a moment must be like 06:00 or 2026-03-29T06:00, got 'noon'\. Quote it\."):
        moment("noon", night)


def test_the_database_takes_over_only_what_was_added(shift, monkeypatch):
    opened(shift)
    lines(shift, result(5, "anomalous", 9.0))
    with (shift / "results.jsonl").open("ab") as file:
        file.write(b"damaged\n" + b'{"image": "half')
    read = []
    real = database_module.result_of_line
    monkeypatch.setattr(database_module, "result_of_line", lambda line: read.append(line) or real(line))
    assert opened(shift)[0] == "5"
    assert len(read) == 2
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
        monkeypatch.setattr(database_module, "_FORMAT", 2)
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
    ):
        code, out, err = call(capsys, *words)
        assert (code, out) == (2, ""), words
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_two_pictures_of_one_name_must_be_told_apart(shift, capsys):
    lines(shift, InspectionResult("/other/2.png", "normal", 0.1, time="2026-03-29T15:00:00"))
    assert (
        "got '2.png'; 2 are called so: /line/2.png, /other/2.png. Give its path"
        in call(capsys, shift, "--confirm", "2.png")[2]
    )
    assert call(capsys, shift, "--confirm", "/other/2.png")[1] == "2.png: normal is confirmed.\n"


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
    assert not (shift / "overlays").exists()


# With a stored part


@pytest.fixture
def learned(tmp_path, monkeypatch, capsys):
    """A part of a tiny model and two pictures judged with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALYGPT_PARTS", str(tmp_path / "parts"))
    for half in tiny_pair():
        half.save_pretrained("model")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"{number}.png")
    assert cli.main(["parts", "add", "bolt", "0.png", "1.png", "--model", "model"]) == 0
    assert cli.main(["inspect", "2.png", "3.png", "--part", "bolt", "--model", "model", "--output", "out"]) == 0
    capsys.readouterr()
    return tmp_path


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


def test_a_correction_is_refused_where_the_picture_or_the_part_is_another_by_now(learned, capsys):
    shutil.copy("3.png", "2.png")
    rows = each_result("out/results.jsonl")
    said = {row.image: "anomalous" if row.verdict == "normal" else "normal" for row in rows}
    err = call(capsys, "out", "--correct", "2.png", said["2.png"], "--model", "model")[2]
    assert "The picture of row 1 must be as it was judged, got another one: '2.png'" in err
    assert not pathlib.Path("out/feedback.jsonl").exists()
    assert call(capsys, "out", "--correct", "3.png", said["3.png"], "--model", "model")[0] == 0
    store = PartStore()
    store.write("bolt", store.read("bolt").references, store.read("bolt").facts)
    assert "The newest version of the part 'bolt' must be 2, got 3." in call(capsys, "out", "--undo")[2]
    assert "confirmed" not in call(capsys, "out", "--correct", "3.png", said["3.png"])[1]


def test_a_running_watch_takes_over_what_the_part_has_learned(learned, capsys):
    from modeling_anomalygpt import AnomalyInspector

    store, inspector = PartStore(), AnomalyInspector.from_pretrained("model")
    follower = PartFollower(store, store.read("bolt"), inspector, "model")
    assert follower.renew() is None
    said = "normal" if next(each_result("out/results.jsonl")).verdict != "normal" else "anomalous"
    call(capsys, "out", "--correct", "2.png", said, "--model", "model")
    assert follower.renew() == "The part 'bolt' has changed: version 2 is used from here on."
    assert inspector.references.fingerprint() == store.read("bolt").references.fingerprint()
    store.path("bolt").write_bytes(b"junk")
    assert follower.renew() is None
    (learned / "parts/bolt/3.safetensors").write_bytes(b"junk")
    assert follower.renew().endswith("Version 2 stays in use.")
    store.remove("bolt")
    assert follower.renew() is None
