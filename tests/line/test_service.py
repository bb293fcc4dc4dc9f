"""The service: same results as in Python, limits and keys, one line for what is wrong."""

import asyncio
import base64
import contextlib
import datetime
import html
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modeling_anomalygpt import AnomalyInspector, cli
from modeling_anomalygpt.inspector import InspectionOptions
from modeling_anomalygpt.line.service import Limits, Service, make_app
from modeling_anomalygpt.line.workers import Judge
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
    service = Service(Judge(inspector), InspectionOptions(), "bolt", Limits(**limits))
    return TestClient(make_app(service, key)), service


def test_a_picture_gets_the_result_that_it_gets_in_python(inspector):
    web, _ = client(inspector)
    answer = web.post("/inspect", content=picture(5), params={"language": "zh", "question": "有吗？"})
    expected = json.loads(json.dumps(inspector.inspect(picture(5), language="zh", question="有吗？").to_dict()))
    assert answer.status_code == 200
    changing = ("seconds", "setup", "time")
    assert {key: value for key, value in answer.json().items() if key not in changing} == {
        key: value for key, value in expected.items() if key not in changing
    }


def test_a_stored_answer_tells_when_and_by_which_references_it_was_judged(inspector):
    web, _ = client(inspector)
    row = web.post("/inspect", content=picture(5), params={"language": "zh"}).json()
    known = inspector.setup(inspector.references, InspectionOptions(language="zh").completed(inspector.references))
    assert row["setup"] == known
    assert abs(time.time() - datetime.datetime.fromisoformat(row["time"]).timestamp()) < 60


@pytest.mark.parametrize(
    ("kind", "found"), [("TIFF", "2 pages"), ("GIF", "several frames"), ("PNG", "several frames")]
)
def test_a_file_of_several_pictures_is_refused_rather_than_judged_by_its_first(inspector, kind, found):
    web, _ = client(inspector)
    first, second = (Image.open(io.BytesIO(picture(number))) for number in (1, 5))
    content = io.BytesIO()
    first.save(content, kind, save_all=True, append_images=[second])
    answer = web.post("/inspect", content=content.getvalue())
    assert (answer.status_code, found in answer.json()["detail"]) == (422, True)
    one = io.BytesIO()
    first.save(one, kind)
    assert web.post("/inspect", content=one.getvalue()).status_code == 200


def test_the_question_of_the_command_holds_where_a_request_asks_none(inspector):
    service = Service(Judge(inspector), InspectionOptions(question="Is it clean?"), "bolt", Limits())
    web = TestClient(make_app(service, None))
    for params, question in (({}, "Is it clean?"), ({"question": "Is it whole?"}, "Is it whole?")):
        assert web.post("/inspect", content=picture(5), params=params).json()["question"] == question


def test_the_page_tells_of_every_address_and_loads_nothing_from_elsewhere(inspector):
    for key in (None, "secret"):
        web, _ = client(inspector, key)
        answer = web.get("/docs")
        assert answer.status_code == 200
        for path in web.get("/openapi.json").json()["paths"]:
            assert f"<code>{path}</code>" in answer.text
        assert "secret" not in answer.text
        assert ("Bearer KEY" in answer.text) == (key is not None)
        assert not re.search(r"(src|href)=.(https?:)?//", answer.text)


def test_the_commands_of_the_page_do_what_it_says(inspector, tmp_path):
    web, _ = client(inspector)
    (tmp_path / "photo.jpg").write_bytes(picture(5))
    page = html.unescape(web.get("/docs").text)
    made = re.search(r"(printf '.*)\| curl", page)[1]
    body = subprocess.run(["bash", "-c", made], cwd=tmp_path, capture_output=True, check=True).stdout
    answer = web.post("/chat", content=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["messages"][-1]["role"] == "assistant"


def test_health_and_metrics(inspector):
    web, service = client(inspector)
    verdict = web.post("/inspect", content=picture(5)).json()["verdict"]
    web.post("/inspect", content=b"junk")
    assert web.get("/health").json() == {"status": "ok", "part": "bolt", "waiting": 0}
    lines = web.get("/metrics").text.splitlines()
    assert f'anomalygpt_pictures_total{{verdict="{verdict}"}} 1' in lines
    assert 'anomalygpt_pictures_total{verdict="error"} 1' in lines
    assert "anomalygpt_seconds_count 2" in lines
    assert service.waiting == 0


def test_without_the_key_only_the_health_is_told(inspector):
    web, _ = client(inspector, key="s3cret")
    for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer "}):
        assert web.post("/inspect", content=picture(5), headers=headers).status_code == 401
        assert web.get("/metrics", headers=headers).status_code == 401
    assert web.get("/health").status_code == 200
    assert web.post("/inspect", content=picture(5), headers={"Authorization": "Bearer s3cret"}).status_code == 200


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_a_key_may_have_an_umlaut(inspector, coding):
    web, _ = client(inspector, key="schlüssel")
    for key, code in (("schlüssel", 200), ("schlössel", 401)):
        assert web.get("/metrics", headers={"Authorization": f"Bearer {key}".encode(coding)}).status_code == code


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
    form = web.post("/inspect", files={"image": picture(5)})
    assert (form.status_code, "got a form. Try curl --data-binary @FILE." in form.json()["detail"]) == (415, True)
    assert service.waiting == 0, "who is refused gives the place back"


@pytest.mark.parametrize(
    ("end", "code", "line"),
    [
        (None, 408, "A picture must arrive within 0.2 seconds. Send it again."),
        ({"type": "http.disconnect"}, 400, "The picture did not arrive whole. Send it again."),
    ],
)
def test_who_stalls_or_goes_away_gives_the_place_back(inspector, end, code, line):
    web, service = client(inspector, max_seconds=0.2)
    pieces = [{"type": "http.request", "body": b"abc", "more_body": True}, end]
    sent = []

    async def receive():
        if pieces[0] is None:
            await asyncio.sleep(20)
        return pieces.pop(0)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/inspect", "raw_path": b"/inspect", "query_string": b"",
        "headers": [], "http_version": "1.1", "scheme": "http", "root_path": "",
    }  # fmt: skip
    asyncio.run(web.app(scope, receive, send))
    assert sent[0]["status"] == code
    assert json.loads(sent[1]["body"])["detail"] == line
    assert service.waiting == 0


def test_who_comes_while_too_many_wait_is_told_to_come_again_and_nobody_else_suffers(inspector):
    web, service = client(inspector, max_waiting=2)
    going, codes = threading.Event(), []
    real = service.judge

    class Slow:
        def inspect(self, *arguments):
            going.wait(20)
            return real.inspect(*arguments)

    service.judge = Slow()
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


def test_whoever_asks_one_thread_judges(inspector):
    threads = set()

    class Noting:
        def __getattr__(self, name):
            return getattr(inspector, name)

        def inspect_many(self, images, options, progress):
            threads.add(threading.get_ident())
            return inspector.inspect_many(images, options, progress=progress)

    judge, options = Judge(Noting()), InspectionOptions(answer=False)
    with ThreadPoolExecutor(4) as clients:
        rows = list(clients.map(lambda number: judge.inspect(picture(number), options), range(4)))
    assert [row.pred_score for row in rows] == [inspector.inspect(picture(n), options).pred_score for n in range(4)]
    judge.inspect(picture(0), options)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def asked(content, *texts):
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return {"image": base64.b64encode(content).decode(), "messages": messages}


def test_a_question_gets_the_answer_that_it_gets_in_python_and_the_conversation_goes_with_it(inspector):
    web, service = client(inspector)
    first = web.post("/chat", json=asked(picture(5), "What colour is it?")).json()
    result = inspector.inspect(picture(5))
    assert first["answer"] == inspector.ask(result, "What colour is it?")
    assert first["result"]["pred_score"] == pytest.approx(result.pred_score, abs=1e-5)
    assert [one["role"] for one in first["messages"]] == ["user", "assistant"]
    further = asked(picture(5)) | {"messages": [*first["messages"], {"role": "user", "content": "为什么？"}]}
    assert web.post("/chat", json=further).json()["answer"] == inspector.ask(result, "为什么？")
    assert "anomalygpt_seconds_count 2" in service.metrics()


def test_a_conversation_with_long_answers_of_the_service_goes_on(inspector):
    web, _ = client(inspector, max_bytes=2**16)
    texts = [("Where?", "\U0001f600" * 3000)[i % 2] for i in range(39)]
    assert web.post("/chat", json=asked(picture(5), *texts)).status_code == 200
    texts[1] = "a" * 4001
    assert "`content` must have 1 to 4000 letters, got 4001." in web.post("/chat", json=asked(picture(5), *texts)).text


def test_what_is_wrong_with_a_question_is_one_line_with_its_code(inspector):
    web, service = client(inspector, max_bytes=2**20, key="s3cret")
    key = {"Authorization": "Bearer s3cret"}
    shape = 'The body must be {"image": BASE64, "messages": [{"role": "user", "content": QUESTION}]}.'
    turns = "`messages` must be of user and assistant in turn, and end with the user's question."
    for body, code, line in (
        (b"junk", 422, shape),
        (bytes(2**22), 413, "A picture must have at most 1 MiB. Cut or shrink it before."),
        (b"[" * 100_000, 422, shape),
        (asked(b"") | {"image": "%%%"}, 422, shape),
        (asked(picture(5)), 422, turns),
        (asked(picture(5), "a", "b"), 422, turns),
        (asked(picture(5), *"abc") | {"messages": [{"role": "user", "content": "a"}] * 3}, 422, turns),
        (asked(picture(5), *["a"] * 41), 422, "`messages` must be at most 39, got 41. Begin anew."),
        (asked(picture(5), " "), 422, "`content` must have 1 to 600 letters, got 1."),
        (asked(picture(5), "a") | {"messages": [{"role": "user", "content": 3}]}, 422,
         "`content` must have 1 to 600 letters, got int."),
        (asked(picture(5), "a\ud800"), 422,
         r"`content` must be whole letters, got half of a pair (\ud800 to \udfff)."),
        (asked(b"x", "a"), 422, "`picture` must be a picture, the picture of 1 bytes is none that Pillow can read."),
        (asked(bytes(2**20 + 1), "a"), 413, "A picture must have at most 1 MiB. Cut or shrink it before."),
    ):  # fmt: skip
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = web.post("/chat", content=content, headers=key)
        assert (answer.status_code, answer.json()["detail"]) == (code, line)
    assert web.post("/chat", json=asked(picture(5), "a")).status_code == 401
    assert service.waiting == 0, "who is refused gives the place back"


@pytest.fixture
def station(tmp_path, tiny_folder, monkeypatch):
    """A folder with a model and a stored part; the port of the service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALYGPT_PARTS", str(tmp_path / "parts"))
    shutil.copytree(tiny_folder, "model")
    pathlib.Path("good.png").write_bytes(picture(0))
    assert cli.main(["parts", "add", "bolt", "good.png", "--model", "model", "--mm-per-pixel", "0.5"]) == 0
    return str(30000 + os.getpid() % 20000)


@pytest.fixture
def served(station):
    """Runs the command until `work` is done, which it does in another thread; returns what `work` gives."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: None) for number in signals]

    def served(words, work):
        ended = threading.Event()

        def client_of_it():
            try:
                while not ended.wait(0.05):
                    with contextlib.suppress(urllib.error.URLError):
                        with urllib.request.urlopen(f"http://127.0.0.1:{station}/health", timeout=5) as answer:
                            assert b'"part":"bolt"' in answer.read()
                        return work()
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(client_of_it)
            try:
                assert cli.main(["serve", "--part", "bolt", "--model", "model", "--port", station, *words]) == 0
            finally:
                ended.set()
        return done.result()

    yield served
    for number, handler in zip(signals, before, strict=True):
        signal.signal(number, handler)


def children():
    found = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(one) for one in found if b"spawn_main" in pathlib.Path(f"/proc/{one}/cmdline").read_bytes()]


def posted(port, content):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/inspect", data=content, timeout=120) as answer:
        return json.loads(answer.read())


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_share_the_bank_and_a_killed_one_costs_no_picture(station, served):
    workers = []

    def work():
        workers.extend(children())
        assert len(workers) == 2
        end = time.monotonic() + 120
        while not all("bolt/1.safetensors" in pathlib.Path(f"/proc/{one}/maps").read_text() for one in workers):
            assert time.monotonic() < end, "each maps the bank instead of copying it"
            time.sleep(0.1)
        with ThreadPoolExecutor(4) as clients:
            rows = [clients.submit(posted, station, picture(number)) for number in range(8)]
            rows[0].result()
            os.kill(workers[0], signal.SIGKILL)
            return [row.result() for row in rows]

    rows = served(["--workers", "2"], work)
    alone = AnomalyInspector.from_pretrained("model")
    alone.set_references(["good.png"])
    scores = [alone.inspect(picture(number), answer=False).pred_score for number in range(8)]
    assert [row["pred_score"] for row in rows] == [pytest.approx(score, abs=1e-5) for score in scores]
    assert all(
        region["width_mm"] == (region["box"][2] - region["box"][0]) / 2 for row in rows for region in row["regions"]
    )
    for worker in workers:
        assert not pathlib.Path(f"/proc/{worker}").exists()


def test_the_command_serves_a_stored_part_until_it_is_stopped(station, served, capsys):
    assert served([], lambda: posted(station, picture(3)))["setup"]["part"] == "bolt"
    assert f"http://127.0.0.1:{station}/inspect" in capsys.readouterr().out
    for extra, message in (
        (["--host", "0.0.0.0"], "`--host` must be 127.0.0.1 without a key, got '0.0.0.0'. Set ANOMALYGPT_API_KEY."),
        (["--part", "nut"], "There is no part 'nut'"),
        (["--max-waiting", "0"], "must be a whole number from 1 to 10000"),
        (["--workers", "0"], "must be a whole number from 1 to 64"),
    ):
        assert cli.main(["serve", "--part", "bolt", "--model", "model", *extra]) == 2
        assert message in capsys.readouterr().err
