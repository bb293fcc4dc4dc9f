"""What a program may send to the Space: files within the limit, paths of its own uploads, short words."""

import io
import json
import os
import pathlib
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_pair

pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'anomalygpt[demo]'")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from modeling_anomalygpt.inspector import AnomalyInspector
from spaces_app import app as app_module
from spaces_app.engine import Engine
from spaces_app.limits import MAX_CATEGORY, MAX_REFERENCES


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
    patch.setattr(app_module.Engine, "load", lambda model=None: Engine(AnomalyInspector(*tiny_pair())))
    blocks, address = app_module.launch_app(prevent_thread_lock=True, quiet=True)
    yield address.rstrip("/")
    blocks.close(verbose=False)
    patch.undo()


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def uploaded(address: str, name: str, content: bytes) -> list[str]:
    border = "border-of-the-parts"
    body = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    request = urllib.request.Request(
        f"{address}/gradio_api/upload",
        data=body + content + f"\r\n--{border}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={border}"},
    )
    return json.load(urllib.request.urlopen(request, timeout=60))


def test_a_file_above_the_limit_is_refused_while_it_arrives(address):
    assert uploaded(address, "small.png", picture())[0].endswith("small.png")
    with pytest.raises(urllib.error.HTTPError) as error:
        uploaded(address, "large.png", picture() + bytes(26 * 1024 * 1024))
    assert error.value.code == 413


@pytest.mark.parametrize("name", ["../../../escaped.png", "..\\escaped.png", "/etc/escaped.png"])
def test_an_uploaded_name_does_not_lead_out_of_the_cache(address, name):
    path = pathlib.Path(uploaded(address, name, picture())[0])
    assert path.resolve().is_relative_to(os.environ["GRADIO_TEMP_DIR"])


@pytest.mark.parametrize("path", ["/etc/passwd", "setup.py", "../../etc/passwd", "/proc/self/environ"])
def test_files_of_the_server_are_not_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"{address}/gradio_api/file={path}", timeout=60)
    assert error.value.code in (403, 404)


def test_files_of_the_server_are_not_inspected(address, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture())
    query = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}  # the client would upload it
    with urllib.request.urlopen(f"{address}/gradio_api/info", timeout=60) as answer:
        others = json.load(answer)["named_endpoints"]["/inspect"]["parameters"][1:]
    data = [query, *(one.get("parameter_default") for one in others)]

    def ended(data: list) -> str:
        request = urllib.request.Request(
            f"{address}/gradio_api/call/inspect",
            data=json.dumps({"data": data}).encode(),
            headers={"Content-Type": "application/json"},
        )
        event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
        with urllib.request.urlopen(f"{address}/gradio_api/call/inspect/{event}", timeout=60) as answer:
            return answer.read().decode()

    assert ended(data).startswith("event: error")
    data[0]["path"] = uploaded(address, "own.png", picture())[0]
    assert "event: complete" in ended(data)


def test_long_words_are_cut_and_too_many_references_are_refused(address, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    client, query = Client(address, verbose=False), handle_file(tmp_path / "a.png")
    result, _ = client.predict(query, [], "bolt " * 1000, api_name="/inspect")
    assert len(result["category"]) <= MAX_CATEGORY
    with pytest.raises(AppError, match=f"{MAX_REFERENCES}"):
        client.predict(query, [query] * (MAX_REFERENCES + 1), "bolt", api_name="/inspect")
