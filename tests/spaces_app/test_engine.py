"""What the Space does for a visitor: inspection, conversation, batch; limits, fairness, and what is kept."""

import copyreg
import csv
import gc
import io
import json
import pathlib
import pickle
import re
import sys
import threading
import time
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, UnidentifiedImageError

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from modeling_anomalygpt.encoder import tile_boxes
from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.regions import find_regions
from spaces_app import app as app_module
from spaces_app import engine as engine_module
from spaces_app.engine import (
    MAX_BATCH,
    MAX_OWN_WAITING,
    MAX_QUESTIONS,
    MAX_REFERENCES,
    BusyError,
    Engine,
    RefusedError,
    Session,
    Settings,
    StoppedError,
    asks_for_overlay,
    batch_heads,
    batch_rows,
    clean_text,
    inspect_batch,
    inspect_picture,
    open_picture,
    reason_in_words,
    reply,
    shown_name,
    write_downloads,
)
from spaces_app.views import batch_summary, verdict_card, words_of
from tests.test_pose import moved, part, spoiled, where
from tests.test_presence import tray

MARKUP = "<img src=x onerror=alert(1)>"


def picture_file(folder: pathlib.Path, name: str, seed: int, size=(40, 60)) -> str:
    path = folder / name
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    return {name: picture_file(folder, f"{name}.png", seed) for seed, name in enumerate(("query", "good_1", "good_2"))}


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("large") / "large.png"
    Image.radial_gradient("L").resize((2000, 1500)).convert("RGB").save(path, compress_level=1)
    return str(path)


@pytest.fixture(scope="module")
def embedded(embedded_pair) -> Engine:
    return Engine(AnomalyInspector(*embedded_pair))


def inspect(engine, session, picture, references=(), use_language=False, **settings):
    settings = Settings(use_language=use_language, **settings)
    for _ in inspect_picture(engine, session, picture, list(references), settings):
        pass
    return session.result


def batch(engine, session, pictures, references, use_language=False, **settings):
    settings = Settings(use_language=use_language, **settings)
    *_, results = (one for one in inspect_batch(engine, session, pictures, references, settings) if one is not None)
    return results


# What is typed and uploaded


def test_texts_are_put_on_one_line_and_cut():
    assert clean_text(" metal\n\x00nut\t", 80) == "metal nut"
    assert clean_text(None, 80) == clean_text("  ", 80) == ""
    assert len(clean_text("x" * 1000, 80)) == 80
    assert Settings(category=" \n").options().category == "object"


def test_names_lose_their_folder_and_control_characters():
    assert shown_name("/tmp/secret/a\x1bb.png") == "ab.png"
    assert len(shown_name("x" * 300 + ".png")) <= 60


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"not a picture", "none that Pillow can read"), (None, "no longer kept")],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_name_alone(tmp_path, content, reason):
    path = tmp_path / "part.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RefusedError, match=f"part.png.*{reason}") as refused:
        open_picture(str(path))
    assert str(tmp_path) not in str(refused.value)


def test_reasons_are_words_and_name_no_folder_of_the_server():
    assert "/srv" not in reason_in_words(OSError(2, "No such file", "/srv/models/a.bin"), "en")
    assert reason_in_words(BusyError("x"), "zh") == words_of("zh")["busy"]
    assert "longer than" in reason_in_words(StoppedError(), "en")


# Limits


@pytest.mark.parametrize(
    ("changes", "references", "settings", "message"),
    [
        ({}, 0, {"localization": "reference"}, "needs at least one"),
        ({}, MAX_REFERENCES + 1, {}, f"At most {MAX_REFERENCES} good pictures, got {MAX_REFERENCES + 1}"),
        ({"MAX_PIXELS": 100}, 0, {}, "large.png cannot be used"),
        ({"MAX_REFERENCE_PIXELS": 9_000_000}, 1, {"rotations": True}, "12 megapixels together"),
        ({}, 0, {"tile": 31}, "The side of tiles must be 0 or at least 32 px, got 31. Tiles of 448 px are usual"),
        ({}, 1, {"tile": -1, "language": "zh"}, "图块边长须为 0 或至少 32 像素，当前为 -1"),
        ({}, 0, {"tile": 33}, r"Tiles of 33 px make \d{4} of large.png, at most 48"),
        ({}, 2, {"tile": 250}, r"Tiles of 250 px make \d+ of the good pictures, at most 64"),
        ({}, 1, {"tile": 440, "rotations": True}, r"Tiles of 440 px make 120 of the good pictures, at most 64"),
    ],
)
def test_too_much_work_is_refused_before_the_model_sees_anything(
    engine, session, large, monkeypatch, changes, references, settings, message
):
    for name, value in changes.items():
        monkeypatch.setattr(engine_module, name, value)
    monkeypatch.setattr(engine_module, "learn_and_inspect", lambda *_: pytest.fail("the model was used"))
    with pytest.raises(RefusedError, match=message):
        inspect(engine, session, large, [large] * references, **settings)


def test_tiles_of_a_telephones_picture_are_counted_as_well(engine, session, tmp_path, large, monkeypatch):
    """HEIC is known to Pillow only once its reader is registered."""
    path, known = tmp_path / "photo.heic", Image.open
    path.write_bytes(pathlib.Path(large).read_bytes())

    class Reader:
        register_heif_opener = staticmethod(lambda: monkeypatch.setattr(Image, "open", known))

    def unknown(*_, **__):
        raise UnidentifiedImageError

    monkeypatch.setitem(sys.modules, "pillow_heif", Reader)
    monkeypatch.setattr(Image, "open", unknown)
    monkeypatch.setattr(engine_module, "learn_and_inspect", lambda *_: pytest.fail("the model was used"))
    with pytest.raises(RefusedError, match="Tiles of 33 px make .* of photo.heic"):
        inspect(engine, session, str(path), [], tile=33)


@pytest.mark.parametrize("tile", [32, 35, 100, 449])
def test_tiles_are_counted_as_they_are_cut_but_never_listed(monkeypatch, tile):
    settings = Settings(tile=tile)
    for height, width in ((1, 1), (tile, tile), (tile + 1, 5), (2 * tile, 3 * tile - 1), (1000, 1361)):
        monkeypatch.setattr(engine_module, "stored_size", lambda _, size=(height, width): size)
        assert settings.num_tiles("x.png") == len(tile_boxes(height, width, tile))
    monkeypatch.setattr(engine_module, "stored_size", lambda _: (20_000, 20_000))
    tracemalloc.start()
    try:
        settings.num_tiles("x.png")
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()


def test_tiles_within_the_limits_are_inspected(engine, session, tmp_path):
    picture = picture_file(tmp_path, "query.png", 0, (64, 96))
    assert inspect(engine, session, picture, [picture], tile=48).pred_score is not None


def test_a_batch_is_limited_in_tiles_and_pictures(engine, session, files, monkeypatch):
    monkeypatch.setattr(engine_module, "MAX_BATCH_TILES", 3)
    for paths, settings, message in (
        ([], Settings(), "There are no pictures yet"),
        ([files["query"]] * (MAX_BATCH + 1), Settings(), f"may have {MAX_BATCH} pictures, got {MAX_BATCH + 1}"),
        ([files["query"]] * 2, Settings(tile=40), "A batch may have 3 tiles"),
    ):
        with pytest.raises(RefusedError, match=message):
            next(inspect_batch(engine, session, paths, [], settings))


def test_one_request_keeps_the_model_only_so_long(engine, session, files, monkeypatch):
    def endless(inspector, learn, image, options):
        while True:
            inspector.inspect(image, use_language=False)

    monkeypatch.setattr(engine_module, "learn_and_inspect", endless)
    monkeypatch.setattr(engine_module, "LONGEST_TURN", 0.2)
    with pytest.raises(StoppedError):
        inspect(engine, session, files["query"])


# Fairness


def turn_in_thread(engine, visitor, order):
    def wait():
        with engine.turn(visitor) as turn:
            for _ in turn:
                pass
            order.append(visitor)

    waiting = len(engine._waiting)
    thread = threading.Thread(target=wait)
    thread.start()
    while len(engine._waiting) == waiting:
        time.sleep(0.001)
    return thread


def test_who_has_used_the_model_least_goes_first(engine):
    order = []
    with engine.turn("eager") as turn:
        assert not list(turn)
        threads = [turn_in_thread(engine, name, order) for name in ("eager", "eager", "other", "third")]
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert order == ["other", "third", "eager", "eager"]


def test_one_visitor_cannot_fill_the_line(engine, monkeypatch):
    with engine.turn("first") as turn:
        assert not list(turn)
        threads = [turn_in_thread(engine, "eager", []) for _ in range(MAX_OWN_WAITING)]
        with pytest.raises(BusyError, match="waiting"), engine.turn("eager"):
            pass
        threads.append(turn_in_thread(engine, "other", []))
    for thread in threads:
        thread.join()


def test_a_model_in_use_for_too_long_is_reported(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "LONGEST_WAIT", 0.01)
    with engine.turn() as turn:
        assert not list(turn)
        with pytest.raises(BusyError, match="busy"), engine.turn() as second:
            list(second)
    with engine.turn() as turn:
        assert not list(turn)


# Inspection


def test_the_same_references_are_learned_once(engine, session, files, monkeypatch):
    learned, real = [], AnomalyInspector.set_references
    monkeypatch.setattr(
        AnomalyInspector, "set_references", lambda self, *a, **k: (learned.append(1), real(self, *a, **k))[1]
    )
    for question in ("", "Is it good?"):
        inspect(engine, session, files["query"], [files["good_1"]], question=question)
    assert len(learned) == 1
    inspect(engine, session, files["query"], [files["good_1"], files["good_2"]])
    assert (len(learned), session.inspector.num_references) == (2, 2)
    inspect(engine, session, files["query"], [])
    assert session.inspector.num_references == 0


def test_what_is_missing_is_said_in_the_visitors_language(engine, session):
    for language, message in (("en", "There is no picture to inspect yet"), ("zh", "还没有待检测图片")):
        with pytest.raises(RefusedError, match=message):
            inspect(engine, session, None, language=language)


def test_parts_that_lie_turned_are_aligned_where_that_is_asked_for(engine, embedded, tmp_path):
    """With the embedded checkpoint, which finds the defect; beside a moved good picture lies no most similar place."""
    session = Session(embedded)
    first, second, query = (str(tmp_path / name) for name in ("1.png", "2.png", "query.png"))
    part().save(first)
    moved(part(0.97), 140).save(second)
    spoiled(moved(part(), 73), tuple(np.int64(where((120, 70), 73)))).save(query)
    assert "pose" not in inspect(engine, Session(engine), query, [first]).evidence
    for good, has_similar in (([first], True), ([first, second], False)):
        result = inspect(embedded, session, query, good, align=True, language="zh")
        assert result.evidence["pose"]["degrees"] == 73
        assert "零件旋转了 73 度" in verdict_card(result, "zh")
        _, _, crop, similar = app_module._region_shown(session, "zh", SimpleNamespace(index=0))
        assert crop is not None
        assert similar["visible"] == has_similar


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "cannot be brought into one pose"),
        ({"language": "zh"}, "无法将良品图片转到同一姿态"),
        ({"rotations": True}, "needs no turned copies"),
    ],
)
def test_good_pictures_that_cannot_be_aligned_are_refused_in_words(engine, session, tmp_path, settings, message):
    good = [str(tmp_path / name) for name in ("1.png", "2.png")]
    part().save(good[0])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8)).save(good[1])
    with pytest.raises(RefusedError, match=message):
        inspect(engine, session, good[0], good, align=True, **settings)


def test_what_must_be_there_is_asked_of_the_model_where_the_page_is_asked_for_it(engine, session, tmp_path):
    query = str(tmp_path / "query.png")
    good = [str(tmp_path / name) for name in ("1.png", "2.png")]
    for name, (shade, shift) in zip(good, ((0, 0), (6, 2)), strict=True):
        tray(shade=shade, shift=shift).save(name)
    tray(missing=0).save(query)
    for presence in (False, True):
        inspect(engine, session, query, good, presence=presence)
        assert session.inspector.references.bank.presence == presence
    for settings in ({"rotations": True}, {"tile": 64}):
        with pytest.raises(RefusedError, match="whole pictures in one pose"):
            inspect(engine, session, query, good, presence=True, **settings)
    with pytest.raises(RefusedError, match="One good picture does not tell"):
        inspect(engine, session, query, good[:1], presence=True)


@pytest.mark.parametrize("name", ["scan.tif", "moving.gif"])
def test_a_file_of_several_pictures_says_that_the_first_alone_was_inspected(engine, session, files, tmp_path, name):
    frames = [Image.open(files[one]).convert("RGB") for one in ("query", "good_2")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    result = inspect(engine, session, str(tmp_path / name), [files["good_1"]])
    assert words_of("en")["unseen_frames"] in verdict_card(result, "en")
    assert "only the first" not in verdict_card(inspect(engine, session, files["query"], [files["good_1"]]), "en")
    results = batch(engine, session, [str(tmp_path / name), files["query"]], [files["good_1"]])
    counted = "1 with frames that were not inspected" in batch_summary(results, "en")
    assert counted == (name == "moving.gif"), "of a TIFF all pages are"


def test_a_picture_narrower_than_its_legend_is_inspected(engine, session, files, tmp_path):
    Image.new("RGB", (2, 700), (90, 90, 90)).save(tmp_path / "narrow.png")
    assert inspect(engine, session, str(tmp_path / "narrow.png"), [files["good_1"]]).error is None
    assert batch(engine, session, [str(tmp_path / "narrow.png")], [files["good_1"]])[0].error is None


def test_deep_pictures_are_opened_as_deep_as_the_good_ones(engine, session, tmp_path):
    """12 bits of a camera in files of 16, alone and in a batch: as in 8 bits."""
    paths = {8: [], 12: []}
    for seed in range(3):
        values = np.random.default_rng(seed).integers(0, 256, (40, 60), dtype=np.uint8)
        for bits, stored in ((8, values), (12, np.round(values * (4095 / 255)).astype(np.uint16))):
            paths[bits].append(str(tmp_path / f"{bits}_{seed}.png"))
            Image.fromarray(stored).save(paths[bits][-1])
    expected = pytest.approx(inspect(engine, session, paths[8][2], paths[8][:2]).pred_score, rel=1e-3)
    for _ in range(2):  # the second time it is learned already
        assert inspect(engine, session, paths[12][2], paths[12][:2]).pred_score == expected
    assert batch(engine, session, [paths[12][2]], paths[12][:2])[0].pred_score == expected


def test_a_sessions_folder_goes_with_it(engine):
    session = Session(engine)
    session.new_file("a.png").write_bytes(b"1")
    folder = session.folder
    del session
    gc.collect()
    assert not folder.exists()
    session = Session(engine)
    session.forget()
    assert not session.folder.exists()


def arrays_in(thing, seen):
    """Every array, tensor and picture that is reachable from something, models and code aside."""
    if id(thing) in seen or isinstance(thing, (torch.nn.Module, Engine, type, str, bytes, int, float)):
        return
    seen.add(id(thing))
    if isinstance(thing, (np.ndarray, torch.Tensor, Image.Image)):
        yield thing
        return
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (list, tuple)) else ()
    if not parts and type(thing).__module__.startswith(("spaces_app", "modeling_anomalygpt")):
        parts = vars(thing).values() if hasattr(thing, "__dict__") else ()
    for one in parts:
        yield from arrays_in(one, seen)


def test_a_session_keeps_no_decoded_picture_and_no_map(engine, session, files, tmp_path):
    good, large = files["good_1"], str(tmp_path / "large.png")
    Image.radial_gradient("L").resize((1500, 300)).convert("RGB").save(large, compress_level=1)
    inspect(engine, session, large, [good])
    batch(engine, session, [large, large], [good])
    write_downloads(session.batch.report)
    kept = list(arrays_in(session, {id(session.inspector.processor)}))
    assert not [one for one in kept if isinstance(one, (np.ndarray, Image.Image))]
    assert sum(one.numel() * one.element_size() for one in kept) < 100_000
    assert all(max(Image.open(path).size) <= 1400 for path in session.files.values())
    before = set(session.folder.iterdir())
    inspect(engine, session, large, [good])
    assert len(set(session.folder.iterdir())) == len(before), "files of the result before are gone"


def test_features_of_good_pictures_stay_within_a_budget_and_are_learned_again(engine, files, monkeypatch):
    gc.collect()
    old, new = Session(engine), Session(engine)
    inspect(engine, old, files["query"], [files["good_1"]])
    monkeypatch.setattr(engine_module, "MAX_KEPT_BYTES", old.num_bytes)
    inspect(engine, new, files["query"], [files["good_1"]])
    assert (old.num_bytes, new.inspector.num_references) == (0, 1)
    again = inspect(engine, old, files["query"], [files["good_1"]])
    assert again.evidence["num_references"] == 1
    assert new.num_bytes == 0


def test_an_inspector_crosses_into_a_worker_process_without_its_weights(engine, session, files):
    inspect(engine, session, files["query"], [files["good_1"]])
    before = dict(copyreg.dispatch_table)
    try:
        engine.travel_by_name()
        content = pickle.dumps(session.inspector)
        again = pickle.loads(content)
    finally:
        copyreg.dispatch_table.clear()
        copyreg.dispatch_table.update(before)
    assert len(content) < sum(p.numel() * p.element_size() for p in engine.model.parameters()) / 2
    assert again.model is engine.model
    assert again.num_references == 1


# Conversation


def test_who_wants_to_see_the_places_gets_the_overlay():
    for text in (
        "please mark all defects", "Show me where it is", "Could you highlight it?", "Heat map please", "Circle it!",
        "请标出异常", "显示缺陷位置", "能把缺陷圈出来吗？", "把异常标出来", "在图上框出缺陷",
    ):  # fmt: skip
        assert asks_for_overlay(text), text
    for text in (
        "Where is the anomaly?", "What is remarkable here?", "Does it show any defect?", "Is there a scratch mark?",
        "Is the circle closed?", "Why did you mark this place?", "Can I trust the heat map?",
        "有异常吗？", "这个标记是缺陷吗？", "图片显示有缺陷吗？", "热图可信吗？",
    ):  # fmt: skip
        assert not asks_for_overlay(text), text


def test_answers_grow_and_join_the_conversation(engine, session, files):
    inspect(engine, session, files["query"], [files["good_1"]], use_language=True)
    before = len(session.result.conversation)
    answers = list(reply(engine, session, "Where is it?", "en"))
    assert all(later.startswith(earlier) for earlier, later in zip(answers, answers[1:], strict=False))
    assert session.messages[-1] == {"role": "assistant", "content": answers[-1]}
    assert len(session.result.conversation) == before + 2
    assert session.result.conversation[-2] == {"role": "user", "content": "Where is it?"}
    list(reply(engine, session, "标出异常", "en"))
    image = pathlib.Path(session.messages[-1]["content"]["path"])
    assert image.parent == session.folder
    assert Image.open(image).size[0] >= 60
    assert re.search(r"[\u4e00-\u9fff]", session.messages[-2]["content"]), "the answer is in the question's language"
    assert session.result.conversation[-2:] == session.messages[-3:-1], "what is asked next may be about it"
    inspect(engine, session, files["query"], [files["good_1"]])
    assert image.exists(), "an open page still shows it"


def test_where_the_kind_of_map_tells_nothing_no_more_pictures_are_asked_for(engine, session, files):
    result = inspect(engine, session, files["query"], [files["good_1"]], localization="mean")
    result.verdict, result.evidence["reasons"] = "unknown", [{"kind": "not_compared", "text": "Not measured."}]
    assert "Not measured." in verdict_card(result, "en")
    with pytest.raises(RefusedError, match="Not measured"):
        list(reply(engine, session, "Where is it?", "en"))


def test_what_was_said_about_a_picture_is_gone_where_the_next_one_is_refused(engine, session, files):
    inspect(engine, session, files["query"], [files["good_1"]], use_language=True)
    list(reply(engine, session, "Where is it?", "en"))
    with pytest.raises(RefusedError):
        inspect(engine, session, None)
    assert (session.result, session.messages) == (None, [])


def test_an_answer_that_nobody_waits_for_frees_the_model(engine, session, files):
    inspect(engine, session, files["query"], [files["good_1"]], use_language=True)
    threads = threading.active_count()
    answer = reply(engine, session, "Where is it?", "en")
    next(answer, None)
    answer.close()
    assert threading.active_count() == threads
    with engine.turn() as turn:
        assert not list(turn)


def test_questions_that_cannot_be_answered_are_refused_in_words(engine, session, files):
    with pytest.raises(RefusedError, match="Inspect a picture first"):
        next(reply(engine, session, "Where?", "en"))
    inspect(engine, session, files["query"], [files["good_1"]])
    with pytest.raises(RefusedError, match="Type a question first"):
        next(reply(engine, session, " \n", "en"))
    with pytest.raises(RefusedError, match="language model was switched off"):
        next(reply(engine, session, "Where?", "en"))
    session.result.verdict = "unknown"
    with pytest.raises(RefusedError, match="Give at least one good picture"):
        next(reply(engine, session, "Highlight it", "en"))
    session.result.verdict = "normal"
    session.messages = [{"role": "user", "content": "?"}] * MAX_QUESTIONS
    with pytest.raises(RefusedError, match=f"最多提问 {MAX_QUESTIONS} 次"):
        next(reply(engine, session, "Where?", "zh"))


# Batch


def test_a_batch_gives_rows_in_order_and_three_files(engine, session, files, tmp_path):
    bad = tmp_path / f"{MARKUP.replace('/', '')}.png"
    bad.write_bytes(b"no picture")
    paths = [files["query"], str(bad), files["good_2"]]
    results = batch(engine, session, paths, [files["good_1"]], use_language=True, category="bolt")
    assert [result.image for result in results] == ["query.png", bad.name, "good_2.png"]
    assert results[1].verdict == "error"
    rows = batch_rows(results, "zh")
    assert [row[0] for row in rows] == [result.image for result in results]
    assert {len(row) for row in rows} == {len(batch_heads("zh"))}
    assert rows[1][-1] == results[1].error
    assert pathlib.Path(session.batch.overlay(0)).is_file()
    assert session.batch.overlay(1) is None
    as_json, as_csv, page = map(pathlib.Path, write_downloads(session.batch.report))
    assert [row["image"] for row in json.loads(as_json.read_text(encoding="utf-8"))] == [r.image for r in results]
    assert len(list(csv.DictReader(io.StringIO(as_csv.read_text(encoding="utf-8-sig"))))) == 3
    text = page.read_text(encoding="utf-8")
    assert MARKUP not in text
    assert str(tmp_path) not in text, "the report names no folder of the server"
    assert all(path.is_relative_to(session.folder) for path in (as_json, as_csv, page))


def test_each_page_of_a_file_in_a_batch_is_a_row(engine, session, files, tmp_path):
    pages = [Image.open(files[name]).convert("RGB") for name in ("query", "good_2")]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    results = batch(engine, session, [str(tmp_path / "scan.tif")], [files["good_1"]])
    assert [(row.image, row.error) for row in results] == [("scan.tif#page=1", None), ("scan.tif#page=2", None)]
    assert results[0].pred_score != results[1].pred_score


def test_a_batch_keeps_its_references_when_the_visitor_inspects_with_others(engine, session, files):
    good = [files["good_1"], files["good_2"]]
    running = inspect_batch(engine, session, [files["query"]] * 2, good, Settings(use_language=False))
    next(one for one in running if one is not None)
    inspect(engine, session, files["query"], good[:1])
    results = [one for one in running if one is not None][-1]
    assert [result.evidence["num_references"] for result in results] == [2, 2]


def test_a_region_is_shown_beside_its_own_good_picture_after_a_batch_with_others(engine, session, files, tmp_path):
    result = inspect(engine, session, files["query"], [files["good_1"]])
    (region,) = find_regions(np.pad(np.ones((10, 10), np.float32), ((10, 20), (20, 30))), 0.5)
    result.regions = [replace(region, nearest_good={"reference": 0, "box": [0.25, 0.25, 0.75, 0.75]})]
    before = app_module._region_shown(session, "en", SimpleNamespace(index=0))[-1]["value"]
    Image.new("RGB", (60, 40)).save(tmp_path / "black.png")
    batch(engine, session, [files["query"]], [str(tmp_path / "black.png")])
    after = app_module._region_shown(session, "en", SimpleNamespace(index=0))[-1]["value"]
    assert np.array_equal(before, after)


def test_deep_pictures_are_shown_as_bright_as_they_are(engine, session, tmp_path):
    """12 bits of a camera in a file of 16: the region, the good place, what is measured and painted on."""
    path = str(tmp_path / "deep.png")
    Image.fromarray(np.full((40, 60), 4000, np.uint16)).save(path)
    result = inspect(engine, session, path, [path])
    (region,) = find_regions(np.pad(np.ones((10, 10), np.float32), ((10, 20), (20, 30))), 0.5)
    result.regions = [replace(region, nearest_good={"reference": 0, "box": [0.25, 0.25, 0.75, 0.75]})]
    _, _, crop, nearest = app_module._region_shown(session, "en", SimpleNamespace(index=0))
    scale = {one.name: one.fn for one in app_module.build_app(engine).fns.values()}["show"](session, path, "en")[1]
    shown = [crop, nearest["value"], scale, engine_module.new_canvas(session, [path], "en")[1]]
    assert min(np.asarray(picture)[5:-5, 5:-5].mean() for picture in shown) > 200
