"""A shift of 2,000 pictures, watched while it is killed twice, its disk is filled and its webhook is down for a while.

    python -m benchmarks.shift --photographs FOLDER [--pictures 2000] [--rate 5]

FOLDER holds photographs of one part (train/good, test/...). Pictures are cut, lit and shaken copies of them, written
into a folder at a steady rate; every 50th is written in two halves with other pictures in between, every 400th is no
picture. The results lie on a disk of their own (a tmpfs of 48 MB; mounting it needs root), the moved pictures on
another one. Prints what was promised beside what was found, and writes benchmarks/results/shift.json; ends with code 1
where a promise was not kept.
"""

import argparse
import collections
import contextlib
import hashlib
import http.server
import io
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from benchmarks.drift import next_picture
from benchmarks.measuring import RESULTS, ROOT, machine, peak_memory, write_result
from modeling_anomalygpt.images import find_pictures, load_picture
from modeling_anomalygpt.results import each_result

SIDE = 256
DISK = "48m"


class Receiver:
    """A webhook that can be down."""

    def __init__(self):
        self.keys, self.images, self.server = collections.Counter(), [], None
        self.up(0)

    def up(self, port: int) -> None:
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.keys[self.headers["Idempotency-Key"] + row["image"]] += 1
                receiver.images.append(row["evidence"].get("incoming", row["image"]))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def down(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Producer(threading.Thread):
    """Writes pictures as a camera does; knows in which order they were finished."""

    def __init__(self, photographs: list[str], folder: pathlib.Path, number: int, rate: float):
        super().__init__(daemon=True)
        self.images = [load_picture(path) for path in photographs]
        self.folder, self.number, self.rate = folder, number, rate
        self.finished: list[tuple[str, str]] = []

    def run(self) -> None:
        rng, start, slow = np.random.default_rng(0), time.monotonic(), []
        for index in range(self.number):
            name, content = f"{index:05d}.jpg", self.picture(rng)
            if index % 400 == 399:
                content = b"no picture"
            if index % 50 == 25:
                file = (self.folder / name).open("wb")
                file.write(content[: len(content) // 2])
                file.flush()
                slow.append((index + 5, file, name, content))
            else:
                (self.folder / name).write_bytes(content)
                self.note(name, content)
            for due, file, other, whole in list(slow):
                if index >= due or index == self.number - 1:
                    file.write(whole[len(whole) // 2 :])
                    file.close()
                    self.note(other, whole)
                    slow.pop(0)
            time.sleep(max(0.0, start + (index + 1) / self.rate - time.monotonic()))

    def note(self, name: str, content: bytes) -> None:
        self.finished.append((name, hashlib.sha256(content).hexdigest()))
        time.sleep(0.02)  # file systems note times to 10 ms only

    def picture(self, rng: np.random.Generator) -> bytes:
        content = io.BytesIO()
        next_picture(self.images, rng, SIDE).save(content, "JPEG", quality=85)
        return content.getvalue()


class Watcher:
    """The command in a process of its own, which is started again and again."""

    def __init__(self, place: pathlib.Path, shift: pathlib.Path, port: int):
        folders = [str(place / name) for name in ("ok", "ng", "unsure")]
        words = ["watch", place / "incoming", "--part", "shift", "--parts-dir", place / "parts", "--output", shift]
        words += ["--webhook", f"http://127.0.0.1:{port}/", "--move-to", *folders]
        self.command = [sys.executable, "-m", "modeling_anomalygpt.cli", *map(str, words)]
        self.rows, self.log, self.peak, self.starts = shift / "results.jsonl", place / "log.txt", 0.0, 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log)
        self.starts += 1

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def until(self, number: int) -> None:
        """Waits until so many rows are written."""
        while self.written() < number:
            if self.process.poll() is not None:
                log = self.log.read_text()[-2000:]
                raise SystemExit(f"the watching ended with code {self.process.returncode}:\n{log}")
            with contextlib.suppress(OSError, TypeError):
                self.peak = max(self.peak, peak_memory(self.process.pid) / 2**20)
            time.sleep(0.05)

    def written(self) -> int:
        return self.rows.read_bytes().count(b"\n") if self.rows.exists() else 0


@contextlib.contextmanager
def small_disk(path: pathlib.Path):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def disturb(watcher: Watcher, receiver: Receiver, shift: pathlib.Path, number: int) -> dict[str, int]:
    """Two kills, a full disk, a webhook that is down; what was seen meanwhile."""
    watcher.start()
    watcher.until(number // 5)
    watcher.kill()
    watcher.start()
    watcher.until(2 * number // 5)
    filler = shift / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"0")
    time.sleep(5)
    before = watcher.written()
    time.sleep(10)
    seen = {"rows_while_full": watcher.written() - before}
    filler.unlink()
    watcher.until(3 * number // 5)
    receiver.down()
    before = watcher.written()
    time.sleep(20)
    seen["rows_while_down"] = watcher.written() - before
    watcher.until(4 * number // 5)
    watcher.kill()
    watcher.start()
    receiver.up(receiver.port)
    watcher.until(number)
    for _ in range(1200):  # the rest of the posts
        if len(receiver.keys) >= number:
            break
        time.sleep(0.1)
    watcher.process.send_signal(signal.SIGTERM)
    seen["exit_code"] = watcher.process.wait(60)
    return seen


def checks(place: pathlib.Path, watcher: Watcher, producer: Producer, receiver: Receiver, seen: dict[str, int]):
    """What was promised, what was found, whether that is it."""
    rows, number = list(each_result(watcher.rows)), producer.number
    order = [pathlib.Path(row.evidence["incoming"]).name for row in rows]
    expected = [name for name, _ in producer.finished]
    moved = {path.name: path for folder in ("ok", "ng", "unsure") for path in (place / folder).rglob("*.jpg")}
    same = sum(
        name in moved and hashlib.sha256(moved[name].read_bytes()).hexdigest() == digest
        for name, digest in producer.finished
    )
    agreeing = sum(pathlib.Path(row.image).is_file() for row in rows)
    posted = [pathlib.Path(image).name for image in receiver.images]
    first = list(dict.fromkeys(posted))
    errors = sum(row.error is not None for row in rows)
    database = subprocess.run(
        [sys.executable, "-m", "modeling_anomalygpt.cli", "results", str(watcher.rows.parent)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    counted = int(re.search(r"(\d+) pictures", database.stdout)[1])
    wanted, left = number // 400, len(list((place / "incoming").iterdir()))
    return [
        ("rows", f"{number}", f"{len(rows)}", len(rows) == number),
        ("pictures judged more than once", "0", f"{len(order) - len(set(order))}", len(order) == len(set(order))),
        ("not in the order in which they were finished", "0", f"{_moves(order, expected)}", order == expected),
        ("pictures moved, byte for byte", f"{number}", f"{same}", same == number),
        ("rows whose picture lies where they say", f"{number}", f"{agreeing}", agreeing == number),
        ("pictures left in the folder", "0", f"{left}", left == 0),
        ("rows with an error (files that are no picture)", f"{wanted}", f"{errors}", errors == wanted),
        ("rows judged in 10 s of a full disk", "0", f"{seen['rows_while_full']}", seen["rows_while_full"] == 0),
        ("rows judged in 20 s without a webhook", "some", f"{seen['rows_while_down']}", seen["rows_while_down"] > 0),
        ("rows posted", f"{number}", f"{len(set(posted))}", len(set(posted)) == number),
        ("rows first posted out of order", "0", f"{_moves(first, expected)}", first == expected),
        ("rows posted twice (at most one a kill)", "at most 2", f"{len(posted) - number}", len(posted) - number <= 2),
        ("pictures that `anomalygpt results` counts", f"{number}", f"{counted}", counted == number),
        ("exit code after SIGTERM", "0", f"{seen['exit_code']}", seen["exit_code"] == 0),
    ]  # fmt: skip


def _moves(found: list[str], expected: list[str]) -> int:
    return sum(one != other for one, other in itertools.zip_longest(found, expected))


def main() -> int:
    """Runs the shift and prints what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shift", description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", required=True, help="folder with train/good and test")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=5.0, help="pictures a second")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("A small disk must be mounted, which needs root.")
    with tempfile.TemporaryDirectory() as temporary, small_disk(pathlib.Path(temporary) / "shift") as shift:
        place = pathlib.Path(temporary)
        (place / "incoming").mkdir()
        good = find_pictures([f"{options.photographs}/train/good"])[:2]
        add = ["parts", "add", "shift", *good, "--parts-dir", place / "parts"]
        subprocess.run([sys.executable, "-m", "modeling_anomalygpt.cli", *map(str, add)], cwd=ROOT, check=True)
        test = find_pictures([f"{options.photographs}/test"])
        receiver = Receiver()
        producer = Producer(test[:: max(1, len(test) // 60)], place / "incoming", options.pictures, options.rate)
        watcher, start = Watcher(place, shift, receiver.port), time.monotonic()
        producer.start()
        seen = disturb(watcher, receiver, shift, options.pictures)
        minutes = (time.monotonic() - start) / 60
        found = checks(place, watcher, producer, receiver, seen)
        print(watcher.log.read_text(), file=sys.stderr)
    print("| promised | wanted | found |\n|---|---|---|")
    for promise, wanted, value, _ in found:
        print(f"| {promise} | {wanted} | {value} |")
    print(
        f"\n{len(producer.finished)} pictures, {watcher.starts} starts, {minutes:.1f} minutes, {watcher.peak:.0f} MB."
    )
    row = {promise: value for promise, _, value, _ in found}
    row |= {"minutes": round(minutes, 1), "peak_megabytes": round(watcher.peak), "machine": machine()}
    write_result(RESULTS / "shift.json", row)
    return 0 if all(kept for *_, kept in found) else 1


if __name__ == "__main__":
    sys.exit(main())
