"""The Space without a browser: its parts by hand, its endpoints through gradio_client, its folder."""

import csv
import gc
import html
import io
import json
import pathlib
import pickle
import re
import threading

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_pair

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from modeling_anomalygpt.inspector import AnomalyInspector
from spaces_app import app as app_module
from spaces_app.batch import batch_rows, inspect_batch, write_downloads
from spaces_app.conversation import asks_for_overlay, open_conversation, reply, shown_messages
from spaces_app.engine import BusyError, Engine
from spaces_app.inspection import Settings, inspect_picture
from spaces_app.limits import MAX_BATCH, MAX_REFERENCES, MAX_TURNS
from spaces_app.session import Session
from spaces_app.uploads import RefusedError, clean_category, open_picture, reason_in_words, shown_name
from spaces_app.words import words_of

MARKUP = "<img src=x onerror=alert(1)>"


def picture_file(folder: pathlib.Path, name: str, seed: int, size=(40, 60)) -> str:
    path = folder / name
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(AnomalyInspector(*tiny_pair()))


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def session(engine) -> Session:
    return Session(engine)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    return {
        name: picture_file(tmp_path, f"{name}.png", seed) for seed, name in enumerate(("query", "good_1", "good_2"))
    }


# What is typed and uploaded


def test_texts_are_put_on_one_line_and_cut():
    assert clean_category(" metal\n\x00nut\t") == "metal nut"
    assert clean_category(None) == clean_category("  ") == "object"
    assert len(clean_category("x" * 1000)) == 80


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


def test_a_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("spaces_app.uploads.MAX_PIXELS", 100)
    with pytest.raises(RefusedError, match="big.png cannot be used"):
        open_picture(picture_file(tmp_path, "big.png", 0))


def test_reasons_name_no_folder_of_the_server():
    assert "/srv" not in reason_in_words(OSError(2, "No such file", "/srv/models/a.bin"), "en")
    assert reason_in_words(BusyError("x"), "zh") == words_of("zh")["busy"]


# Inspection


def test_the_same_references_are_learned_once(engine, session, files, monkeypatch):
    learned = []
    real = AnomalyInspector.set_references
    monkeypatch.setattr(
        AnomalyInspector, "set_references", lambda self, *a, **k: (learned.append(1), real(self, *a, **k))[1]
    )
    for question in ("", "Is it good?"):
        inspect_picture(engine, session, files["query"], [files["good_1"]], Settings(question=question))
    assert len(learned) == 1
    inspect_picture(engine, session, files["query"], [files["good_1"], files["good_2"]], Settings())
    assert len(learned) == 2
    assert session.inspector.num_references == 2
    inspect_picture(engine, session, files["query"], [], Settings())
    assert session.inspector.num_references == 0


def test_what_is_missing_is_said_in_the_visitors_language(engine, session, files):
    with pytest.raises(RefusedError, match="There is no picture to inspect yet"):
        inspect_picture(engine, session, None, [], Settings())
    with pytest.raises(RefusedError, match="还没有待检测图片"):
        inspect_picture(engine, session, "", [], Settings(language="zh"))
    with pytest.raises(RefusedError, match="needs at least one"):
        inspect_picture(engine, session, files["query"], [], Settings(localization="reference"))
    with pytest.raises(RefusedError, match=f"At most {MAX_REFERENCES} good pictures, got {MAX_REFERENCES + 1}"):
        inspect_picture(engine, session, files["query"], [files["good_1"]] * (MAX_REFERENCES + 1), Settings())


def test_sessions_share_the_model_and_nothing_else(engine, files):
    one, two = Session(engine), Session(engine)
    inspect_picture(engine, one, files["query"], [files["good_1"]], Settings())
    assert one.inspector.model is two.inspector.model
    assert two.inspector.memory_bank is None
    assert two.result is None
    assert one.folder != two.folder


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


def test_an_inspector_crosses_into_a_worker_process_without_its_weights(engine, session, files):
    inspect_picture(engine, session, files["query"], [files["good_1"]], Settings())
    import copyreg

    before = dict(copyreg.dispatch_table)
    try:
        engine.travel_by_name()
        content = pickle.dumps(session.inspector)
        weights = sum(p.numel() * p.element_size() for p in engine.model.parameters())
        assert len(content) < weights / 2
        again = pickle.loads(content)
    finally:
        copyreg.dispatch_table.clear()
        copyreg.dispatch_table.update(before)
    assert again.model is engine.model
    assert again.num_references == 1


def test_a_model_in_use_for_too_long_is_reported(engine, monkeypatch):
    monkeypatch.setattr("spaces_app.engine.LONGEST_WAIT", 0.01)
    with engine.turn(), pytest.raises(BusyError, match="busy"), engine.turn():
        pass


# Conversation


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Highlight the anomalies", True),
        ("please mark all defects", True),
        ("Show me where it is", True),
        ("请标出异常", True),
        ("显示缺陷位置", True),
        ("Where is the anomaly?", False),
        ("What is remarkable here?", False),
        ("有异常吗？", False),
    ],
)
def test_who_wants_to_see_the_places_gets_the_overlay(text, wanted):
    assert asks_for_overlay(text) is wanted


def test_answers_grow_and_join_the_conversation(engine, session, files):
    inspect_picture(engine, session, files["query"], [files["good_1"]], Settings())
    open_conversation(session)
    before = len(session.result.conversation)
    answers = list(reply(engine, session, "Where is it?", "en"))
    assert all(later.startswith(earlier) for earlier, later in zip(answers, answers[1:], strict=False))
    assert session.messages[-1] == {"role": "assistant", "content": answers[-1]}
    assert len(session.result.conversation) == before + 2
    assert session.result.conversation[-2] == {"role": "user", "content": "Where is it?"}


def test_texts_of_the_conversation_are_escaped_where_they_are_shown(session):
    session.messages = [{"role": "user", "content": MARKUP}, {"role": "assistant", "content": {"path": "a.png"}}]
    shown = shown_messages(session, note="a < b")
    assert [message["content"] for message in shown] == [html.escape(MARKUP), {"path": "a.png"}, "a &lt; b"]
    assert session.messages[0]["content"] == MARKUP


def test_highlighting_shows_an_overlay_of_the_session(engine, session, files):
    inspect_picture(engine, session, files["query"], [files["good_1"]], Settings())
    list(reply(engine, session, "标出异常", "en"))
    image = session.messages[-1]["content"]["path"]
    assert pathlib.Path(image).parent == session.folder
    assert Image.open(image).size[0] >= 60
    assert re.search(r"[\u4e00-\u9fff]", session.messages[-2]["content"]), "the answer is in the question's language"


def test_an_answer_that_nobody_waits_for_frees_the_model(engine, session, files):
    inspect_picture(engine, session, files["query"], [files["good_1"]], Settings())
    threads = threading.active_count()
    answer = reply(engine, session, "Where is it?", "en")
    next(answer, None)
    answer.close()
    assert threading.active_count() == threads
    with engine.turn():
        pass


def test_questions_that_cannot_be_answered_are_refused_in_words(engine, session, files):
    with pytest.raises(RefusedError, match="Inspect a picture first"):
        next(reply(engine, session, "Where?", "en"))
    inspect_picture(engine, session, files["query"], [], Settings(use_language=False))
    with pytest.raises(RefusedError, match="Type a question first"):
        next(reply(engine, session, " \n", "en"))
    with pytest.raises(RefusedError, match="language model was switched off"):
        next(reply(engine, session, "Where?", "en"))
    session.messages = [{"role": "user", "content": "?"}] * MAX_TURNS
    with pytest.raises(RefusedError, match=f"最多提问 {MAX_TURNS} 次"):
        next(reply(engine, session, "Where?", "zh"))


# Batch


def test_a_batch_gives_rows_in_order_and_three_files(engine, session, files, tmp_path):
    bad = tmp_path / f"{MARKUP.replace('/', '')}.png"
    bad.write_bytes(b"no picture")
    paths = [files["query"], str(bad), files["good_2"]]
    results = list(inspect_batch(engine, session, paths, [files["good_1"]], Settings(category="bolt")))[-1]
    assert [result.image for result in results] == ["query.png", bad.name, "good_2.png"]
    assert results[1].verdict == "error"
    assert len(batch_rows(results, "zh")) == 3
    as_json, as_csv, page = (pathlib.Path(path) for path in write_downloads(session))
    assert [row["image"] for row in json.loads(as_json.read_text(encoding="utf-8"))] == [r.image for r in results]
    assert len(list(csv.DictReader(io.StringIO(as_csv.read_text(encoding="utf-8-sig"))))) == 3
    text = page.read_text(encoding="utf-8")
    assert MARKUP not in text
    assert str(tmp_path) not in text, "the report names no folder of the server"
    assert all(path.is_relative_to(session.folder) for path in (as_json, as_csv, page))


def test_a_batch_without_or_with_too_many_pictures_is_refused(engine, session, files):
    with pytest.raises(RefusedError, match="There are no pictures yet"):
        next(inspect_batch(engine, session, [], [], Settings()))
    with pytest.raises(RefusedError, match=f"A batch may have {MAX_BATCH} pictures, got {MAX_BATCH + 1}"):
        next(inspect_batch(engine, session, [files["query"]] * (MAX_BATCH + 1), [], Settings()))


# Endpoints


@pytest.fixture(scope="module")
def address(engine):
    patch = pytest.MonkeyPatch()
    patch.setattr(app_module.Engine, "load", lambda model=None: engine)
    blocks, address = app_module.launch_app(prevent_thread_lock=True, quiet=True)
    yield address
    blocks.close(verbose=False)
    patch.undo()


def test_programs_inspect_and_chat(address, files):
    client = Client(address, verbose=False)
    result, overlay = client.predict(
        handle_file(files["query"]), [handle_file(files["good_1"])], "bolt", mm_per_pixel=0.5, api_name="/inspect"
    )
    assert result["verdict"] in ("normal", "anomalous", "uncertain")
    assert result["category"] == "bolt"
    assert result["evidence"]["num_references"] == 1
    assert Image.open(overlay).size[0] >= 60
    answers = list(client.submit("Where is it?", api_name="/chat"))
    assert answers[-1][0]
    assert client.predict("Highlight the anomalies", api_name="/chat")[1].endswith(".png")


def test_a_client_does_not_see_another_ones_picture(address, files):
    one, two = (Client(address, verbose=False) for _ in range(2))
    one.predict(handle_file(files["query"]), api_name="/inspect")
    with pytest.raises(AppError, match="Inspect a picture first"):
        two.predict("Where is it?", api_name="/chat")
    assert two.predict("Where is it?", handle_file(files["query"]), api_name="/chat")[0]


def test_programs_get_the_reason_and_no_traceback(address, tmp_path, files):
    client = Client(address, verbose=False)
    bad = tmp_path / "bad <b>.png"
    bad.write_bytes(b"nothing")
    with pytest.raises(AppError, match="cannot be used") as refused:
        client.predict(handle_file(str(bad)), api_name="/inspect")
    assert "<b>" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    with pytest.raises(AppError, match="language must be one of en, zh"):
        client.predict(handle_file(files["query"]), language="fr", api_name="/inspect")
    with pytest.raises(AppError, match="localization must be one of auto, reference, text, mean"):
        client.predict(handle_file(files["query"]), localization="x", api_name="/inspect")


def test_only_the_two_endpoints_are_offered(address):
    named = Client(address, verbose=False).view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/inspect", "/chat"}


def test_mcp_without_its_package_is_refused():
    if app_module.importlib.util.find_spec("mcp"):
        pytest.skip("mcp is installed")
    with pytest.raises(ValueError, match="`mcp` must be installed"):
        app_module.launch_app(mcp_server=True)
