"""`anomalygpt serve` under load, on loopback: how long clients wait, and whether each gets its own answer.

    python -m benchmarks.service [--seconds 20] [--workers 1] [--clients 1 4 16]

A part is made of the example pictures and served with the embedded checkpoint. So many clients at a time, each asking
again as soon as it has its answer, send 24 distinct pictures (the examples, each cut in four ways). Every request has
a number in its question, which comes back in its row, so an answer of another request or of another picture is found;
the right answers are those of an inspector in this process. Prints a table, writes a row for this number of workers
into benchmarks/results/service.json, and ends with code 1 where an answer was lost or wrong. An hour at three levels:
`--seconds 1200`. Linux.
"""

import argparse
import contextlib
import http.client
import io
import itertools
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from benchmarks.measuring import RESULTS, ROOT, machine, resident_megabytes, write_result
from modeling_anomalygpt import AnomalyInspector
from modeling_anomalygpt.cli.options import count, positive
from modeling_anomalygpt.images import find_pictures, load_picture
from modeling_anomalygpt.line.parts import PartStore

EXAMPLES = ROOT / "examples" / "capsules"
CUTS = 4
FILE = RESULTS / "service.json"


def pictures() -> list[bytes]:
    """The example queries, each cut in four ways, as PNG files."""
    contents = []
    for path in find_pictures([str(EXAMPLES / "query")]):
        image = load_picture(path)
        for cut in range(CUTS):
            content = io.BytesIO()
            image.crop((3 * cut, 2 * cut, image.width - cut, image.height - cut)).save(content, "PNG")
            contents.append(content.getvalue())
    return contents


def right_answers(parts: pathlib.Path, contents: list[bytes]) -> list[dict]:
    """What an inspector in this process finds; refuses pictures that cannot be told from one another by it."""
    inspector = AnomalyInspector.from_pretrained(device="cpu")
    PartStore(parts).read("load").use(inspector)
    images = [Image.open(io.BytesIO(content)) for content in contents]
    rows = [inspector.inspect(image).to_dict() for image in images]
    for one, other in itertools.combinations(rows, 2):
        if agree(one, other):
            raise SystemExit("Two pictures have the same result, so a mix-up would not be seen.")
    return rows


def agree(row: dict, expected: dict) -> bool:
    """Whether a row is of the expected picture; threads add up in another order, hence the tolerance."""
    return (
        row["verdict"] == expected["verdict"]
        and abs(row["pred_score"] - expected["pred_score"]) < 1e-4
        and [region["box"] for region in row["regions"]] == [region["box"] for region in expected["regions"]]
    )


class Served:
    """The command in a process of its own."""

    def __init__(self, parts: pathlib.Path, workers: int, waiting: int):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        words = ["serve", "--part", "load", "--parts-dir", parts, "--port", self.port, "--workers", workers]
        words += ["--max-waiting", waiting]
        command = [sys.executable, "-m", "modeling_anomalygpt.cli", *map(str, words), "--device", "cpu"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        while True:
            if self.process.poll() is not None:
                raise SystemExit(f"The service ended with code {self.process.returncode}.")
            with contextlib.suppress(OSError):
                self.get("/health")
                return
            time.sleep(0.1)

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def judged(self) -> int:
        """Pictures that the service itself has counted."""
        return int(re.search(r"^anomalygpt_seconds_count (\d+)$", self.get("/metrics"), re.MULTILINE)[1])

    def megabytes(self) -> float:
        """Resident memory of the service and its workers; pages that they share count for each."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sum(resident_megabytes(process) for process in (self.process.pid, *children))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)


class Load:
    """Clients that ask, and what they got.

    Attributes:
        asked: Requests that were sent.
        seconds: From sending to the end of the answer, of each right answer of the present level.
        lost, wrong: Requests of the present level without an answer (or refused), and with that of another one.
    """

    def __init__(self, served: Served, contents: list[bytes], expected: list[dict]):
        self.served, self.contents, self.expected = served, contents, expected
        self.turn, self.asked = threading.Lock(), 0
        self.seconds: list[float] = []
        self.lost, self.wrong = 0, 0

    def client(self, goes_on: Callable[[], bool]) -> None:
        """Asks for one picture after the other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=120)
        with contextlib.closing(connection):
            while goes_on():
                with self.turn:
                    number = self.asked
                    self.asked += 1
                self.ask(connection, number)

    def ask(self, connection: http.client.HTTPConnection, number: int) -> None:
        which, question = number % len(self.contents), f"Is there any anomaly? This is request {number}."
        query = urllib.parse.urlencode({"question": question})
        start, row = time.perf_counter(), None
        try:
            connection.request("POST", f"/inspect?{query}", self.contents[which])
            answer = connection.getresponse()
            content = answer.read()
            row = json.loads(content) if answer.status == 200 else None
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()  # the next request opens it again
        seconds = time.perf_counter() - start
        right = row is not None and row["question"] == question and agree(row, self.expected[which])
        with self.turn:
            self.lost += row is None
            self.wrong += row is not None and not right
            if right:
                self.seconds.append(seconds)

    def level(self, clients: int, seconds: float) -> dict:
        """So many clients for so many seconds."""
        judged, asked, start = self.served.judged(), self.asked, time.monotonic()
        self.seconds, self.lost, self.wrong = [], 0, 0
        goes_on = lambda: time.monotonic() < start + seconds  # noqa: E731
        threads = [threading.Thread(target=self.client, args=(goes_on,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        passed = time.monotonic() - start
        p50, p95, p99 = np.percentile(self.seconds or [np.nan], [50, 95, 99])
        return {
            "clients": clients,
            "requests": self.asked - asked,
            "right_answers": len(self.seconds),
            "lost": self.lost,
            "wrong": self.wrong,
            "judged_by_the_service": self.served.judged() - judged,
            "pictures_a_second": round(len(self.seconds) / passed, 2),
            **{f"p{name}_ms": round(1000 * float(value), 1) for name, value in ((50, p50), (95, p95), (99, p99))},
        }


@contextlib.contextmanager
def watched_memory(load: Load) -> Iterator[list[tuple[int, float]]]:
    """Every second: requests so far, and what the service holds, in megabytes."""
    samples, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError, TypeError):
                samples.append((load.asked, load.served.megabytes()))
            done.wait(1)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def slope(samples: list[tuple[int, float]]) -> float:
    """Kilobytes in a thousand requests, after the first quarter."""
    settled = samples[len(samples) // 4 :]
    requests, megabytes = zip(*settled, strict=True)
    return 1000 * 1024 * float(np.polyfit(requests, megabytes, 1)[0]) if len(set(requests)) > 1 else 0.0


def measure(parts: pathlib.Path, options: argparse.Namespace) -> dict:
    """The row of one number of workers."""
    contents = pictures()
    expected = right_answers(parts, contents)
    busy, served = os.getloadavg()[0], Served(parts, options.workers, 2 * max(options.clients))
    try:
        load = Load(served, contents, expected)
        load.client(lambda: load.asked < options.workers * len(contents))  # no level has the first pictures of all
        begin = served.megabytes()
        with watched_memory(load) as samples:
            levels = [load.level(clients, options.seconds) for clients in options.clients]
        end = served.megabytes()
    finally:
        code = served.stop()
    return {
        "seconds_a_level": options.seconds,
        "levels": levels,
        "megabytes_at_begin_and_end": [round(begin, 1), round(end, 1)],
        "slope_kilobytes_per_thousand": round(slope(samples), 1),
        "exit_code": code,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "load_of_the_machine_before": round(busy, 1),
        "machine": machine(),
    }


def table(row: dict) -> str:
    """The levels as a table."""
    names = ("clients", "pictures a second", "p50", "p95", "p99", "requests", "lost", "wrong")
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for one in row["levels"]:
        times = " | ".join(f"{one[name] / 1000:.2f} s" for name in ("p50_ms", "p95_ms", "p99_ms"))
        counts = f"{one['requests']} | {one['lost']} | {one['wrong']}"
        lines.append(f"| {one['clients']} | {one['pictures_a_second']:.1f} | {times} | {counts} |")
    return "\n".join(lines)


def kept(row: dict) -> bool:
    """Whether every request got exactly one right answer and the service ended well."""
    return row["exit_code"] == 0 and all(
        one["requests"] == one["right_answers"] == one["judged_by_the_service"] for one in row["levels"]
    )


def main() -> int:
    """Loads the service and prints what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=positive, default=20.0, help="of each level")
    parser.add_argument("--workers", type=count, default=1, help="processes of the service")
    parser.add_argument("--clients", type=count, nargs="+", default=[1, 4, 16], help="at a time, one level each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        parts = pathlib.Path(temporary)
        add = ["parts", "add", "load", EXAMPLES / "good", "--parts-dir", parts, "--category", "capsules"]
        command = [sys.executable, "-m", "modeling_anomalygpt.cli", *map(str, add), "--device", "cpu"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        row = measure(parts, options)
    print(table(row))
    begin, end = row["megabytes_at_begin_and_end"]
    print(
        f"\n{options.workers} worker(s), memory {begin:.0f} MB at the begin, {end:.0f} MB at the end, slope "
        f"{row['slope_kilobytes_per_thousand']:.0f} KB in a thousand requests."
    )
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    name = f"workers_{options.workers}" + f"_for_{options.seconds:.0f}_seconds" * (options.seconds >= 600)
    write_result(FILE, rows | {name: row})
    return 0 if kept(row) else 1


if __name__ == "__main__":
    sys.exit(main())
