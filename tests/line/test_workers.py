"""Several processes that judge: what happens to work when they are asked to end."""

import os
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from modeling_anomalygpt.line.workers import Workers


class Sleeper:
    """Stands for a judge: answers late, with the number of its process."""

    def inspect(self, content: bytes, options: object) -> int:
        time.sleep(0.3)
        return os.getpid()


def at_once(workers: Workers, number: int) -> list[int]:
    """The answers to so many calls at a time."""
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(lambda _: workers.inspect(b"", None), range(number)))


@pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="looks at processes as Linux shows them")
def test_processes_asked_to_end_judge_what_was_accepted_and_end_when_there_is_no_more():
    workers, pids = Workers(2, Sleeper), set()
    while len(pids) < 2:
        pids |= set(at_once(workers, 4))
    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(at_once, workers, 12)
        time.sleep(0.1)
        for pid in pids:  # as a service manager does
            os.kill(pid, signal.SIGTERM)
        answers = accepted.result()
    assert len(answers) == 12
    assert set(answers) <= pids  # none had to begin anew
    end = time.monotonic() + 20
    while any(b"python" in _line(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)
    workers.close()


def _line(pid: int) -> bytes:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
