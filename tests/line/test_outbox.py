"""Rows are told to others in order, at least once, and never in the way of the judging."""

import argparse
import http.server
import json
import os
import pathlib
import threading
import time

import pytest

from modeling_anomalygpt.cli import watch
from modeling_anomalygpt.files import append_json_line
from modeling_anomalygpt.line import outbox as outbox_module
from modeling_anomalygpt.line.outbox import Outbox, RefusedError, post_to, run_command


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(outbox_module, "_BACK_OFF", (0.02, 0.1))


@pytest.fixture
def receiver():
    """A server that answers with the codes of `answers`, then with 204; `got` holds what it took."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = server.answers.pop(0) if server.answers else 204
            if code == 204:
                server.paths.append(self.path)
                server.got.append((row["image"], self.headers["Idempotency-Key"]))
            self.send_response(code)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.got, server.paths = [], [], []
    server.address = f"http://127.0.0.1:{server.server_address[1]}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def row(number):
    return {"image": f"{number}.png", "verdict": "normal", "pred_score": 0.5, "time": f"t{number}", "source": {}}


def images(got):
    return [image for image, _ in got]


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def test_a_webhook_that_fails_is_tried_again_until_it_takes_each_row_in_order(tmp_path, receiver):
    said, path = [], tmp_path / "results.jsonl"
    receiver.answers = [500, 503, 302, 404, 429]
    outbox = Outbox(path, "webhook", post_to(receiver.address), said.append)
    for number in range(4):
        append_json_line(path, row(number))
        outbox.wake()
    until(lambda: len(receiver.got) == 4)
    assert outbox.close() == 0
    assert images(receiver.got) == [f"{number}.png" for number in range(4)]
    assert said == [
        "webhook: cannot be reached (HTTP Error 500: Internal Server Error); it is tried again, nothing is lost.",
        "webhook: reached again.",
    ]
    assert json.loads((tmp_path / "webhook.json").read_text()) == {"delivered_bytes": path.stat().st_size}


def test_what_was_not_delivered_is_delivered_by_the_next_run(tmp_path, receiver):
    said, path = [], tmp_path / "results.jsonl"
    append_json_line(path, row(0))  # of a time without a webhook: nobody waits for it
    outbox = Outbox(path, "webhook", post_to("http://127.0.0.1:1/"), said.append)
    for number in (1, 2):
        start = time.monotonic()
        append_json_line(path, row(number))
        outbox.wake()
        assert time.monotonic() - start < 0.5, "the judging never waits"
    until(lambda: said)
    assert outbox.close() == 2
    with path.open("ab") as file:
        file.write(b"\xff damaged\n" + json.dumps(row(3)).encode()[:20])
    outbox = Outbox(path, "webhook", post_to(receiver.address), said.append)
    until(lambda: len(receiver.got) == 2)
    outbox.close()
    assert images(receiver.got) == ["1.png", "2.png"], "half a row is none yet"


def test_a_byte_order_mark_keeps_no_row_from_its_receiver(tmp_path, receiver):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row(1)) + "\n", encoding="utf-8-sig")
    (tmp_path / "webhook.json").write_text('{"delivered_bytes": 0}\n', encoding="utf-8-sig")
    outbox = Outbox(path, "webhook", post_to(receiver.address), print)
    until(lambda: receiver.got)
    outbox.close()
    assert images(receiver.got) == ["1.png"]


def test_a_row_that_the_receiver_will_never_take_is_put_aside_and_the_next_one_goes(tmp_path, receiver):
    said, path = [], tmp_path / "results.jsonl"
    receiver.answers = [422]
    outbox = Outbox(path, "webhook", post_to(receiver.address), said.append)
    for number in range(2):
        append_json_line(path, row(number))
    outbox.wake()
    until(lambda: receiver.got)
    outbox.close()
    assert images(receiver.got) == ["1.png"]
    assert len(said) == 1
    assert said[0].startswith("webhook: it refused '0.png' (422 ")
    assert json.loads((tmp_path / "webhook_refused.jsonl").read_text()) == row(0)


def test_an_address_with_letters_that_an_address_cannot_have_is_reached(receiver):
    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    address = f"{receiver.address}stück 3%20a?line=ü&key=a+b"
    args = parser.parse_args(["in", "--output", "out", "--webhook", address])
    post_to(args.webhook)(row(0))
    assert receiver.paths == ["/st%C3%BCck%203%20a?line=%C3%BC&key=a+b"]


def test_a_row_that_goes_twice_has_the_same_key_and_pictures_moved_in_a_burst_have_different_ones(receiver):
    deliver = post_to(receiver.address)
    for number in (0, 0, 1):
        deliver(row(number) | {"time": "t", "source": {"changed": 5}})
    keys = [key for _, key in receiver.got]
    assert keys[0] == keys[1] != keys[2]


def test_a_command_that_failed_is_not_run_again_where_that_cannot_be_noted(tmp_path):
    said, runs, path = [], [], tmp_path / "results.jsonl"

    def fails(row):
        runs.append(row["image"])
        raise RefusedError("it failed.")

    (tmp_path / "exec_refused.jsonl").mkdir()
    outbox = Outbox(path, "exec", fails, said.append)
    for number in range(2):
        append_json_line(path, row(number))
        outbox.wake()
    until(lambda: "1.png" in runs)
    outbox.close()
    assert runs == ["0.png", "1.png"]
    assert said == ["exec: it failed."] * 2


def test_a_command_gets_the_row_and_its_failures_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.sh").write_text('#!/bin/sh\necho "$ANOMALYGPT_IMAGE $ANOMALYGPT_SCORE" > said\ncat > row\n')
    os.chmod(tmp_path / "note.sh", 0o755)
    damaged = row(0) | {"image": "teil\udcff.png"}
    run_command("./note.sh --slow")(damaged)
    assert (tmp_path / "said").read_bytes() == b"teil\xff.png 0.5\n"
    assert json.loads((tmp_path / "row").read_text()) == damaged
    with pytest.raises(RefusedError, match=r"'false' failed for '0\.png': .*returned non-zero exit status 1"):
        run_command("false")(row(0))
    monkeypatch.setattr(outbox_module, "_COMMAND_TIMEOUT", 0.1)
    with pytest.raises(RefusedError, match="timed out"):
        run_command("sleep 5")(row(0))


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no groups of processes")
def test_a_command_that_hangs_is_ended_with_what_it_has_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(outbox_module, "_COMMAND_TIMEOUT", 0.5)
    with pytest.raises(RefusedError, match="timed out"):
        run_command("sh -c 'sleep 5 & echo $! > child; wait'")(row(0))
    child = int((tmp_path / "child").read_text())

    def is_over():
        stat = pathlib.Path(f"/proc/{child}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    end = time.monotonic() + 2
    while not is_over() and time.monotonic() < end:
        time.sleep(0.01)
    assert is_over()


@pytest.mark.parametrize("path", [r"C:\tools\notify.exe", r'"C:\my tools\notify.exe"'])
def test_paths_of_windows_keep_their_backslashes(monkeypatch, path):
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        deliver = run_command(f"{path} --slow")
    with pytest.raises(RefusedError) as failure:
        deliver(row(0))
    assert repr(path.strip('"')) in str(failure.value)
