"""Several processes that judge: how they begin, and what happens to work when they are asked to end."""

import os
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from modeling_anomalygpt.line import workers as workers_module
from modeling_anomalygpt.line.workers import Workers


class Sleeper:
    """Stands for a judge: answers late, with the number of its process, which waits less for further work."""

    def __init__(self):
        workers_module._IDLE = 0.7

    def inspect(self, content: bytes, options: object) -> int:
        time.sleep(0.3)
        return os.getpid()


def broken() -> Sleeper:
    raise ValueError("there is no such device\nmore")


def at_once(workers: Workers, number: int) -> list[int]:
    """The answers to so many calls at a time."""
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda _: workers.inspect(b"", None), range(number)))


@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="looks at processes as Linux shows them")
def test_processes_asked_to_end_judge_what_was_accepted_and_end_when_there_is_no_more():
    workers = Workers(1, Sleeper)
    pids = set(at_once(workers, 1))
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(at_once, workers, 4)
        time.sleep(0.1)
        for pid in pids:  # as a service manager does
            os.kill(pid, signal.SIGTERM)
        answers = accepted.result()
    assert len(answers) == 4
    assert set(answers) <= pids  # none had to begin anew
    end = time.monotonic() + 20
    while any(b"python" in _line(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)
    workers.close()


def test_a_process_that_cannot_begin_says_why_and_is_not_waited_for(capfd):
    with pytest.raises(RuntimeError, match="A worker could not begin; its own lines say why. Try --workers 1."):
        Workers(1, broken)
    assert "anomalygpt serve: error: there is no such device" in capfd.readouterr().err


def _line(pid: int) -> bytes:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
