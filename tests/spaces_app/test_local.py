"""What a page of one's own shows and a public one never does: stored parts, the results of a shift."""

import functools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_pair

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

import gradio as gr

from modeling_anomalygpt import cli
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.line.parts import EMBEDDED, PartFacts, PartStore
from modeling_anomalygpt.results import InspectionResult, source_of
from spaces_app import app as app_module
from spaces_app import shift
from spaces_app.engine import Engine, Session, Settings, inspect_batch, inspect_picture


@pytest.fixture
def files(tmp_path) -> list[str]:
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (56, 84, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(4)]


@pytest.fixture(scope="module")
def inspector() -> AnomalyInspector:
    return AnomalyInspector(*tiny_pair())


@pytest.fixture
def engine(inspector, tmp_path, files) -> Engine:
    """With a part `bolt` learned from two pictures, whose left half counts, of 0.5 mm a pixel."""
    engine = Engine(inspector)
    engine.parts = PartStore(tmp_path / "parts")
    add_part(engine, files[1:3])
    return engine


def add_part(engine, good, model=EMBEDDED):
    inspector, roi = engine.inspector(), np.zeros((56, 84), bool)
    roi[:, :42] = True
    inspector.set_references(good, category="hexagon bolt", roi=roi)
    engine.parts.write("bolt", inspector.references, PartFacts(model, mm_per_pixel=0.5))
    return inspector


@functools.cache
def controls(engine):
    """What the page does on a click or a change, by the names of the functions."""
    return {one.name: one.fn for one in app_module.build_app(engine).fns.values() if one.fn is not None}


def inspect(engine, session, files, **settings):
    settings = Settings(use_language=False, **settings)
    for _ in inspect_picture(engine, session, files[0], files[3:], settings):
        pass
    return session.result


def test_a_chosen_part_judges_as_it_does_elsewhere_whatever_else_was_given(engine, files):
    session = Session(engine)
    result = inspect(engine, session, files, part="bolt", category="nut", rotations=True, tile=40)
    inspector = engine.inspector()
    engine.parts.read("bolt").use(inspector)
    expected = inspector.inspect(files[0], mm_per_pixel=0.5, use_language=False)
    assert result.pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    assert (result.category, result.evidence["num_references"]) == ("hexagon bolt", 2)
    assert [region.area_mm2 for region in result.regions] == [region.area_mm2 for region in expected.regions]
    assert all(region.box[0] < 42 for region in result.regions)
    *_, rows = inspect_batch(engine, session, [files[0]], files[3:], Settings(part="bolt", use_language=False))
    assert rows[0].pred_score == pytest.approx(expected.pred_score, abs=1e-6)
    assert "bolt" in session.batch.report.setup.values()
    assert inspect(engine, session, files, category="nut").evidence["num_references"] == 1


def test_a_new_version_of_a_part_is_used_from_then_on(engine, files):
    session = Session(engine)
    inspect(engine, session, files, part="bolt")
    before = session.inspector
    inspect(engine, session, files, part="bolt")
    assert session.inspector is before
    add_part(engine, files[1:])
    assert inspect(engine, session, files, part="bolt").evidence["num_references"] == 3


def test_a_version_whose_number_was_used_before_is_told_from_it(engine, files):
    session = Session(engine)
    add_part(engine, files[1:])
    assert inspect(engine, session, files, part="bolt").evidence["num_references"] == 3
    engine.parts.take_back("bolt", 2)
    add_part(engine, files[1:2])
    assert engine.parts.versions("bolt") == [1, 2]
    assert inspect(engine, session, files, part="bolt").evidence["num_references"] == 1


def test_visitors_who_choose_parts_at_the_same_moment_get_their_own(engine, files, monkeypatch):
    engine.parts.write("nut", engine.parts.read("bolt").references, PartFacts(EMBEDDED))
    engine.part("bolt")
    listed = engine.parts.versions

    def while_another_chooses(name):
        if name == "bolt":
            engine.part("nut")
        return listed(name)

    monkeypatch.setattr(engine.parts, "versions", while_another_chooses)
    assert engine.part("bolt").name == "bolt"


def test_without_a_folder_of_parts_none_can_be_named(engine, files):
    engine.parts = None
    assert inspect(engine, Session(engine), files, part="../../bolt").evidence["num_references"] == 1
    names = controls(engine)
    assert "list_parts" not in names
    assert "choose_part" not in names


def test_parts_are_listed_and_the_chosen_one_stands_instead_of_good_pictures(engine):
    names = controls(engine)
    update = names["list_parts"]("en")
    assert update["choices"] == [("None: the good pictures below", ""), ("bolt", "bolt")]
    note, *shown = names["choose_part"]("bolt", "en")
    assert "hexagon bolt: version 1, 2 good picture(s), 50 % of the picture counts." in note["value"]
    assert {update["visible"] for update in shown} == {False}
    note, *shown = names["choose_part"]("", "zh")
    assert {update["visible"] for update in (note, *shown)} == {False, True}
    engine.parts.remove("bolt")
    assert names["list_parts"]("zh")["visible"] is False
    assert "There is no part" in names["choose_part"]("bolt", "en")[0]["value"]


def test_a_part_of_another_model_is_refused_with_what_to_do(engine, files, tmp_path):
    add_part(engine, files[1:3], model="user/other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.inspector().encoder), "fingerprint", lambda self: "another")
        with pytest.raises(ValueError, match="was made with user/other .*Give --model user/other"):
            inspect(engine, Session(engine), files, part="bolt")


def test_a_public_page_shows_no_stored_part(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(app_module.Engine, "load", lambda model=None: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="`parts` must be None on a public page"):
        app_module.launch_app(parts=PartStore(tmp_path), share=True)
    monkeypatch.setenv("SPACE_ID", "user/space")
    with pytest.raises(ValueError, match="`parts` must be None on a public page"):
        app_module.launch_app(parts=PartStore(tmp_path))
    assert cli.main(["demo", "--share", "--parts-dir", str(tmp_path)]) == 2
    assert "`--parts-dir` must stay local, got it with --share" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(app_module, "launch_app", lambda *arguments, **options: asked.append((arguments, options)))
    app_module.main()
    assert asked == [((None,), {"mcp_server": False})]


def test_a_length_after_the_picture_is_gone_is_answered_in_words(engine, files, tmp_path):
    session, names = Session(engine), controls(engine)
    session.points = [(0, 0), (10, 0)]
    scale, _ = names["length_changed"](session, files[0], 5, "en")
    assert scale == 0.5
    scale, note = names["length_changed"](session, str(tmp_path / "gone.png"), 5, "en")
    assert scale == gr.skip()
    assert "gone.png is no longer kept here. Upload it again." in note


# A shift


def line(number, verdict, score, hour, path=None, part=None):
    """A row as `watch` writes it; the picture's state is that of the file, if there is one."""
    setup = {} if part is None else {"part": part}
    path = path or f"/line/{number}.png"
    row = InspectionResult(path, verdict, score, time=f"2026-03-29T{hour}+02:00", source=source_of(path), setup=setup)
    return json.dumps(row.to_dict()) + "\n"


@pytest.fixture
def shift_engine(engine, files, tmp_path) -> Engine:
    """Five rows over a morning, the worst is the third; the last two are of files, the last of the part `bolt`."""
    folder = tmp_path / "shift"
    folder.mkdir()
    rows = [
        line(1, "normal", 0.2, "05:59:59"), line(2, "anomalous", 1.5, "06:00:00"),
        line(3, "anomalous", 3.0, "06:30:00"), line(4, "uncertain", 1.1, "13:00:00", files[0]),
        line(5, "normal", 0.4, "14:00:00", files[3], "bolt"),
    ]  # fmt: skip
    (folder / "results.jsonl").write_text("".join(rows))
    engine.results = folder
    return engine


def numbers(table):
    return [int(row[0]) for row in table]


def selected(number):
    return SimpleNamespace(row_value=[str(number)])


def cells(html):
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    return [row for row in rows if row]


def test_counts_by_hour_and_the_worst_first(shift_engine):
    session, counts, table = controls(shift_engine)["show_shift"](None, "", "", "en")
    assert cells(counts) == [
        ["Hour", "Normal", "Anomalous", "Uncertain"],
        ["2026-03-29 05:00", "1", "0", "0"], ["2026-03-29 06:00", "0", "2", "0"],
        ["2026-03-29 13:00", "0", "0", "1"], ["2026-03-29 14:00", "1", "0", "0"],
        ["all", "2", "2", "1"],
    ]  # fmt: skip
    assert "5 pictures; 0 confirmed, 0 corrected" in counts
    assert numbers(table) == [3, 2, 4, 5, 1]
    assert table[0][1:5] == ["03-29 06:30", "3.png", "Anomalous", "3.000"]


def test_only_the_pictures_that_are_wanted_are_listed(shift_engine):
    show = controls(shift_engine)["show_shift"]
    for since, verdict, expected in (
        ("13:00", "", [4, 5]), (" 06:00 ", "anomalous", [3, 2]), ("2026-03-30", "", []),
    ):  # fmt: skip
        assert numbers(show(None, since, verdict, "zh")[2]) == expected


def test_a_moment_that_is_none_is_said_in_place_of_the_counts(shift_engine):
    _, counts, table = controls(shift_engine)["show_shift"](None, "<b>noon", "", "en")
    assert "a moment must be like 06:00" in counts
    assert "<b>" not in counts
    assert table == []


def test_a_row_shows_its_picture_with_the_regions_or_says_that_it_is_gone(shift_engine, files):
    names = controls(shift_engine)
    session, *_ = names["show_shift"](None, "", "", "en")
    session, picture, card, note = names["show_row"](session, "en", selected(4))
    assert picture.size == (3 * 84, 3 * 56), "small ones are enlarged"
    middle = np.asarray(picture)[1::3, 1::3].astype(int)
    assert np.abs(middle - np.asarray(Image.open(files[0]))).max() <= 1
    assert "Uncertain" in card
    assert note == ""
    _, picture, card, note = names["show_row"](session, "en", selected(3))
    assert picture is None
    assert "Anomalous" in card
    assert "no longer where it was" in note
    Image.new("RGB", (9, 9)).save(files[0])
    assert names["show_row"](session, "en", selected(4))[1] is None, "another picture of that name is not shown"


def test_a_row_says_which_one_it_is_and_the_one_clicked_last_is_shown(shift_engine):
    names = controls(shift_engine)
    session, *_ = names["show_shift"](None, "", "", "en")
    for number, name in ((2, "2.png"), (5, "3.png")):
        assert f"{number} · {name}" in names["show_row"](session, "en", selected(number))[2]
    (clicked,) = (one for one in app_module.build_app(shift_engine).fns.values() if one.name == "show_row")
    assert (clicked.trigger_mode, clicked.concurrency_limit) == ("multiple", 1), "none is dropped, none overtakes"


def test_a_row_of_a_camera_of_12_bits_is_not_black(shift_engine, tmp_path):
    Image.fromarray(np.full((40, 60), 4000, np.uint16)).save(tmp_path / "deep.png")
    result = InspectionResult.from_dict(json.loads(line(1, "normal", 0.2, "05:59:59", str(tmp_path / "deep.png"))))
    assert np.asarray(shift.row_picture(shift_engine.results, result)).min() > 200


def test_a_kept_overlay_is_shown_but_no_file_beside_the_results(shift_engine, tmp_path):
    shift_engine.results.joinpath("overlays").mkdir()
    Image.new("RGB", (30, 20), (200, 10, 10)).save(shift_engine.results / "overlays" / "a.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "secret.png")
    for overlay, size in (("overlays/a.png", (30, 20)), ("../secret.png", None), (str(tmp_path / "secret.png"), None)):
        result = InspectionResult("/gone.png", "anomalous", 2.0, evidence={"overlay": overlay})
        picture = shift.row_picture(shift_engine.results, result)
        assert (picture and picture.size) == size


def say(engine, number, said, session=None, language="en"):
    """What the page says, and the list, after a verdict is said of the row of that number."""
    names = controls(engine)
    session, *_ = names["show_shift"](session, "", "", language)
    names["show_row"](session, language, selected(number))
    request = SimpleNamespace(headers={}, client=None)
    *_, (session, counts, table, note) = names[f"say_{said}"](request, session, "", "", language)
    return note, counts, {int(row[0]): row[3] for row in table} if table != gr.skip() else {}


def test_a_verdict_is_confirmed_corrected_and_taken_back(shift_engine):
    note, counts, verdicts = say(shift_engine, 2, "anomalous")
    assert "2.png: “Anomalous” is confirmed." in note
    assert verdicts[2] == "Anomalous ✓"
    note, counts, verdicts = say(shift_engine, 4, "normal")
    assert "Nothing learns it" in note
    assert verdicts[4] == "Uncertain → Normal"
    assert "5 pictures; 1 confirmed, 1 corrected" in counts
    note = controls(shift_engine)["say_undone"](None, "", "", "en")[-1]
    assert "Taken back: 0.png was said to be “Normal”." in note
    audit = [json.loads(one) for one in (shift_engine.results / "feedback.jsonl").read_text().splitlines()]
    assert [(row.get("row"), row.get("said"), row.get("undo")) for row in audit] == [
        (2, "anomalous", None), (4, "normal", None), (None, None, True),
    ]  # fmt: skip


def test_a_correction_is_learned_by_the_part_and_taken_back_to_the_same_part(shift_engine):
    before = shift_engine.parts.read("bolt").references.fingerprint()
    note, _, verdicts = say(shift_engine, 5, "anomalous")
    assert "The part bolt has learned it (version 2)" in note
    assert verdicts[5] == "Normal → Anomalous"
    assert shift_engine.parts.read("bolt").references.fingerprint() != before
    controls(shift_engine)["say_undone"](None, "", "", "en")
    assert shift_engine.parts.read("bolt").references.fingerprint() == before
    assert "`--undo` must have something to take back" in controls(shift_engine)["say_undone"](None, "", "", "en")[-1]


def test_what_cannot_be_said_is_said_in_words_and_changes_nothing(shift_engine, files):
    Image.new("RGB", (9, 9)).save(files[3])
    for number, message in (
        (99, "Choose a picture in the list first"),
        (5, "must be as it was judged, got another one"),
    ):
        note, *_ = say(shift_engine, number, "anomalous")
        assert message in note
    assert not (shift_engine.results / "feedback.jsonl").exists()
    assert shift_engine.parts.versions("bolt") == [1]


def test_drift_is_drawn_and_says_when_it_is_too_early(shift_engine):
    show = controls(shift_engine)["show_drift"]
    assert "too early to tell" in show("en")
    rows = [
        InspectionResult(f"{n}.png", "normal", 0.5, time="2026-03-29T06:00:00+02:00",
                         evidence={"traits": {"exposure": 1.0 - 0.5 * (n >= 100) + 0.01 * (n % 7)}})
        for n in range(160)
    ]  # fmt: skip
    text = "".join(json.dumps(row.to_dict()) + "\n" for row in rows)
    (shift_engine.results / "results.jsonl").write_text(text)
    drawn = show("zh")
    assert "尚无法判断" not in drawn
    assert "<section class=drifted><h3>" in drawn
    assert drawn.count("<svg") == 1


def test_a_page_without_results_has_no_tab_of_them_and_a_public_one_never(engine, monkeypatch, tmp_path, capsys):
    assert "show_shift" not in controls(engine)
    monkeypatch.setattr(app_module.Engine, "load", lambda model=None: pytest.fail("the model was loaded"))
    with pytest.raises(ValueError, match="There are no results in"):
        app_module.launch_app(results=tmp_path)
    with pytest.raises(ValueError, match="`results` must be None on a public page"):
        app_module.launch_app(results=tmp_path, share=True)
    assert cli.main(["demo", "--share", "--results", str(tmp_path)]) == 2
    assert "`--results` must stay local, got it with --share" in capsys.readouterr().err
