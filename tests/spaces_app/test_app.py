"""The page over HTTP: its endpoints through gradio_client, what a program may send, who may see what."""

import io
import json
import os
import pathlib
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from spaces_app import app as app_module
from spaces_app import engine as engine_module
from tests.test_pose import moved, part


@pytest.fixture(scope="module")
def address(engine):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module.Engine, "load", lambda model=None: engine)
        blocks, address = app_module.launch_app(prevent_thread_lock=True, quiet=True)
        yield address.rstrip("/")
        blocks.close(verbose=False)


def picture(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def query(tmp_path):
    (tmp_path / "query.png").write_bytes(picture())
    return handle_file(tmp_path / "query.png")


@pytest.fixture
def good(tmp_path):
    (tmp_path / "good.png").write_bytes(picture(1))
    return handle_file(tmp_path / "good.png")


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def sent(address: str, path: str, content: bytes, kind: str = "application/json"):
    request = urllib.request.Request(f"{address}/gradio_api/{path}", data=content, headers={"Content-Type": kind})
    return json.load(urllib.request.urlopen(request, timeout=60))


def uploaded(address: str, name: str, content: bytes) -> list[str]:
    head = f'--border\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    return sent(address, "upload", head + content + b"\r\n--border--\r\n", "multipart/form-data; boundary=border")


def inspecting(address: str, path: str):
    """The events of an inspection asked for without a client."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [file, None, "", "", "en", "auto", False, 0, 0, "", False, False]
    event = sent(address, "call/inspect", json.dumps({"data": data}).encode())["event_id"]
    return urllib.request.urlopen(f"{address}/gradio_api/call/inspect/{event}", timeout=60)


# Endpoints


def test_programs_inspect_and_chat(client, query, good):
    result, overlay = client.predict(query, [good], "bolt", mm_per_pixel=0.5, api_name="/inspect")
    assert result["verdict"] in ("normal", "anomalous", "uncertain")
    assert result["category"] == "bolt"
    assert result["evidence"]["num_references"] == 1
    assert Image.open(overlay).size[0] >= 60
    answers = list(client.submit("Where is it?", api_name="/chat"))
    assert answers[-1][0]
    assert client.predict("Highlight the anomalies", api_name="/chat")[1].endswith(".png")


def test_programs_have_pictures_aligned(client, tmp_path):
    part().save(tmp_path / "good.png")
    moved(part(), 73).save(tmp_path / "query.png")
    query, good = (handle_file(str(tmp_path / f"{name}.png")) for name in ("query", "good"))
    result, _ = client.predict(query, [good], "plate", align=True, api_name="/inspect")
    assert result["evidence"]["pose"]["degrees"] == 73
    with pytest.raises(AppError, match="Switch one of the two settings off"):
        client.predict(query, [good], "plate", rotations=True, align=True, api_name="/inspect")


def test_a_question_waits_for_the_model_and_is_answered(client, engine, query, good):
    client.predict(query, [good], api_name="/inspect")
    with engine.turn("somebody else") as turn:
        assert not list(turn)
        waiting = client.submit("Highlight the anomalies", api_name="/chat")
        end = time.monotonic() + 30
        while not engine._waiting and time.monotonic() < end:
            time.sleep(0.01)
        assert not waiting.done()
    assert waiting.result(30)[1].endswith(".png")


def test_a_client_does_not_see_another_ones_picture(client, address, query, good):
    client.predict(query, [good], api_name="/inspect")
    another = Client(address, verbose=False)
    with pytest.raises(AppError, match="Inspect a picture first"):
        another.predict("Where is it?", api_name="/chat")
    assert another.predict("Where is it?", query, [good], api_name="/chat")[0]


def test_programs_get_the_reason_and_no_traceback(client, tmp_path, query):
    bad = tmp_path / "bad <b>.png"
    bad.write_bytes(b"nothing")
    with pytest.raises(AppError, match="cannot be used") as refused:
        client.predict(handle_file(str(bad)), api_name="/inspect")
    assert "<b>" not in str(refused.value)
    assert "Traceback" not in str(refused.value)
    for wrong, message in (
        ({"language": "fr"}, "language must be one of en, zh"),
        ({"rotations": "no"}, "rotations must be one of True, False"),
        ({"align": "no"}, "align must be one of True, False"),
        ({"presence": "no"}, "presence must be one of True, False"),
        ({"localization": "x"}, "localization must be one of auto, reference, text, mean"),
        ({"tile": 1, "references": [query] * 2}, "The side of tiles must be 0 or at least 32 px, got 1"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(query, **wrong, api_name="/inspect")


def test_only_the_two_endpoints_are_offered(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/inspect", "/chat"}


# Work that nobody waits for


def test_work_stops_when_its_client_disconnects(address, engine, query, monkeypatch):
    passes, started = [], threading.Event()

    def endless(inspector, learn, image, options):
        while True:
            inspector.inspect(image, use_language=False)
            passes.append(1)
            started.set()

    monkeypatch.setattr(engine_module, "learn_and_inspect", endless)
    stream = inspecting(address, uploaded(address, "query.png", picture())[0])
    assert started.wait(30)
    stream.close()
    end = time.monotonic() + 20
    while engine._holder is not None and time.monotonic() < end:
        time.sleep(0.05)
    assert engine._holder is None, "the model is free again"
    done = len(passes)
    time.sleep(0.3)
    assert len(passes) == done


# What may be sent


def test_a_file_above_the_limit_is_refused_while_it_arrives(address):
    assert uploaded(address, "small.png", picture())[0].endswith("small.png")
    with pytest.raises(urllib.error.HTTPError) as error:
        uploaded(address, "large.png", picture() + bytes(26 * 1024 * 1024))
    assert error.value.code == 413


def test_an_uploaded_name_does_not_lead_out_of_the_cache(address):
    for name in ("../../../escaped.png", "..\\escaped.png", "/etc/escaped.png"):
        path = pathlib.Path(uploaded(address, name, picture())[0])
        assert path.resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"]), name


def test_files_of_the_server_are_not_served(address):
    for path in ("/etc/passwd", "setup.py", "../../etc/passwd", "/proc/self/environ"):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=60)
        assert error.value.code in (403, 404), path


def test_files_of_the_server_are_not_inspected(address, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture())

    # What the client would upload is named here as a path of the server.
    for path, event in (
        (str(tmp_path / "secret.png"), "error"),
        (uploaded(address, "own.png", picture())[0], "complete"),
    ):
        with inspecting(address, path) as answer:
            assert f"event: {event}" in answer.read().decode()


# Start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"server_port": 99999}, "`port` must be from 1 to 65535, got 99999"),
        ({"server_port": -1}, "`port` must be from 1 to 65535, got -1"),
        ({"server_port": "used"}, "`port` must be free, got"),
        ({"mcp_server": True}, "`mcp` must be installed"),
    ],
)
def test_a_page_that_cannot_start_is_refused_before_the_model_is_loaded(address, options, message, monkeypatch):
    monkeypatch.setattr(app_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(app_module.Engine, "load", lambda model=None: pytest.fail("the model was loaded"))
    if options.get("server_port") == "used":
        options = {"server_port": int(address.rsplit(":", 1)[1])}
    with pytest.raises(ValueError, match=message):
        app_module.launch_app(**options)
