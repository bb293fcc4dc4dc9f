"""The service: same results as in Python, limits and keys, one line for what is wrong."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modeling_anomalygpt import AnomalyInspector, cli
from modeling_anomalygpt.inspector import InspectionOptions
from modeling_anomalygpt.line.service import Limits, Service, make_app
from tests.tiny import tiny_pair


def picture(number, side=40):
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def inspector():
    inspector = AnomalyInspector(*tiny_pair())
    inspector.set_references([picture(0), picture(1)], category="bolt")
    return inspector


def client(inspector, key=None, **limits):
    service = Service(inspector, InspectionOptions(), "bolt", None, Limits(**limits))
    return TestClient(make_app(service, key)), service


def test_a_picture_gets_the_result_that_it_gets_in_python(inspector):
    web, _ = client(inspector)
    answer = web.post("/inspect", content=picture(5), params={"language": "zh", "question": "有吗？"})
    expected = json.loads(json.dumps(inspector.inspect(picture(5), language="zh", question="有吗？").to_dict()))
    assert answer.status_code == 200
    assert answer.json() | {"seconds": 0} == expected | {"seconds": 0}


def test_health_and_metrics(inspector):
    web, service = client(inspector)
    verdict = web.post("/inspect", content=picture(5)).json()["verdict"]
    web.post("/inspect", content=b"junk")
    assert web.get("/health").json() == {"status": "ok", "part": "bolt", "waiting": 0}
    lines = web.get("/metrics").text.splitlines()
    assert f'anomalygpt_pictures_total{{verdict="{verdict}"}} 1' in lines
    assert 'anomalygpt_pictures_total{verdict="error"} 1' in lines
    assert "anomalygpt_seconds_count 2" in lines
    assert "/inspect" in web.get("/openapi.json").json()["paths"]
    assert service.waiting == 0


def test_without_the_key_only_the_health_is_told(inspector):
    web, _ = client(inspector, key="s3cret")
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer "}):
        assert web.post("/inspect", content=picture(5), headers=headers).status_code == 401
        assert web.get("/metrics", headers=headers).status_code == 401
    assert web.get("/health").status_code == 200
    assert web.post("/inspect", content=picture(5), headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_what_is_wrong_is_one_line_with_its_code(inspector):
    web, service = client(inspector, max_bytes=2**20)
    for content, params, code, line in (
        (b"", {}, 422, "The body must be the file of a picture, got nothing."),
        (b"junk", {}, 422, "`picture` must be a picture, the picture of 4 bytes is none that Pillow can read."),
        (bytes(2**20 + 1), {}, 413, "A picture must have at most 1 MiB. Cut or shrink it before."),
        (iter([bytes(2**19)] * 5), {}, 413, "A picture must have at most 1 MiB. Cut or shrink it before."),
        (picture(5), {"language": "fr"}, 422, "`language` must be en or zh, got 'fr'."),
        (picture(5), {"question": " "}, 422, "`question` must have 1 to 600 letters, got 1."),
    ):
        answer = web.post("/inspect", content=content, params=params)
        assert (answer.status_code, answer.json()["detail"]) == (code, line)
    assert service.waiting == 0, "who is refused gives the place back"


def test_who_comes_while_too_many_wait_is_told_to_come_again_and_nobody_else_suffers(inspector):
    web, service = client(inspector, max_waiting=2)
    going, codes = threading.Event(), []
    real = service._inspector

    class Slow:
        def inspect_many(self, *arguments, **options):
            going.wait(20)
            return real.inspect_many(*arguments, **options)

    service._inspector = Slow()
    threads = [
        threading.Thread(target=lambda: codes.append(web.post("/inspect", content=picture(5)).status_code))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 20
    while service.waiting < 2 and time.monotonic() < end:
        time.sleep(0.01)
    answer = web.post("/inspect", content=picture(5))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    going.set()
    for thread in threads:
        thread.join()
    assert codes == [200, 200]
    assert service.refused == 1


def test_the_command_serves_a_stored_part_until_it_is_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALYGPT_PARTS", str(tmp_path / "parts"))
    for half in tiny_pair():
        half.save_pretrained("model")
    pathlib.Path("good.png").write_bytes(picture(0))
    assert cli.main(["parts", "add", "bolt", "good.png", "--model", "model"]) == 0
    port = str(30000 + os.getpid() % 20000)
    words = ["serve", "--part", "bolt", "--model", "model", "--port", port]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "modeling_anomalygpt.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        for _ in range(1800):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert b'"part":"bolt"' in answer.read()
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/inspect", data=picture(3), timeout=30) as answer:
            assert b'"category":"bolt"' in answer.read()
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert f"http://127.0.0.1:{port}/inspect" in out
    assert "Traceback" not in err
    capsys.readouterr()
    for extra, message in (
        (["--host", "0.0.0.0"], "`--host` must be 127.0.0.1 without a key, got '0.0.0.0'. Set ANOMALYGPT_API_KEY."),
        (["--part", "nut"], "There is no part 'nut'"),
        (["--max-waiting", "0"], "must be a whole number from 1 to 10000"),
    ):
        assert cli.main([*words, *extra]) == 2
        assert message in capsys.readouterr().err
