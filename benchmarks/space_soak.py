"""Many visitors of the Space at once: nobody sees another one's picture, nothing fails, memory stays flat.

    python -m benchmarks.space_soak [--chats 500] [--clients 8]

Each client has a mark: the size and colour of its pictures, a category, a number of references. Everything that comes
back must carry it. The page runs in a process of its own, whose resident memory is read between chats; the slope is
that of a straight line through the second half of the readings, after caches have filled. Writes
benchmarks/results/space_soak.json.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

from benchmarks.measuring import RESULTS, ROOT, resident_megabytes, write_result

_SERVER = """
import sys
from spaces_app.app import launch_app
_, address = launch_app(prevent_thread_lock=True, quiet=True)
print("serving", address, flush=True)
sys.stdin.read()
"""
QUESTIONS = ("Where is the anomaly?", "异常在哪里？", "What kind of anomaly is it?", "Highlight the anomalies")


class Visitors:
    """What the clients, a thread each, have seen together."""

    def __init__(self, address: str, process: int, folder: pathlib.Path, chats: int):
        self.address, self.process, self.folder, self.left = address, process, folder, chats
        self.lock = threading.Lock()
        self.errors: list[str] = []
        self.cross_talk: list[str] = []
        self.seconds: list[float] = []
        self.megabytes: list[float] = []

    def visit(self, number: int) -> None:
        """Inspections of one client with a question of each kind after it, until all chats are held."""
        picture, references, mark = marked_pictures(self.folder, number)
        client = Client(self.address, verbose=False)
        while True:
            with self.lock:
                questions = QUESTIONS[: self.left]
                self.left -= len(questions)
            if not questions:
                return
            self._noted(number, inspect_once, client, picture, references, mark)
            for question in questions:
                start = time.perf_counter()
                self._noted(number, ask_once, client, question, mark)
                with self.lock:
                    self.seconds.append(time.perf_counter() - start)
                    self.megabytes.append(resident_megabytes(self.process))

    def _noted(self, number: int, call, *arguments) -> None:
        try:
            wrong, errors = call(*arguments), []
        except Exception as error:
            wrong, errors = [], [f"client {number}: {call.__name__}: {error}"]
        with self.lock:
            self.cross_talk += [f"client {number}: {one}" for one in wrong]
            self.errors += errors


def marked_pictures(folder: pathlib.Path, number: int) -> tuple[str, list[str], dict]:
    """Pictures that only this client has."""
    generator = np.random.default_rng(number)
    size, colour = (160 + 16 * number, 240), generator.integers(60, 200, 3)
    good = np.clip(colour + generator.normal(0, 4, (*size, 3)), 0, 255).astype(np.uint8)
    bad = good.copy()
    bad[20:60, 30:90] = 255 - colour
    files = []
    for index in range(1 + number % 3):
        files.append(str(folder / f"client_{number}_good_{index}.png"))
        Image.fromarray(np.roll(good, index, axis=1)).save(files[-1])
    query = str(folder / f"client_{number}_query.png")
    Image.fromarray(bad).save(query)
    mark = {"category": f"part{number}", "references": len(files), "width": 240, "height": size[0], "colour": colour}
    return query, files, mark


def inspect_once(client: Client, picture: str, references: list[str], mark: dict) -> list[str]:
    """What of a result does not carry the mark."""
    result, overlay = client.predict(
        handle_file(picture), [handle_file(file) for file in references], mark["category"], api_name="/inspect"
    )
    wrong = differences(overlay, mark)
    if result["category"] != mark["category"]:
        wrong.append(f"category {result['category']}")
    if result["evidence"]["num_references"] != mark["references"]:
        wrong.append(f"{result['evidence']['num_references']} references")
    return wrong


def ask_once(client: Client, question: str, mark: dict) -> list[str]:
    """What of an answer does not carry the mark."""
    answer, overlay = client.predict(question, api_name="/chat")
    return ([] if answer else ["empty answer"]) + (differences(overlay, mark) if overlay else [])


def differences(overlay: str, mark: dict) -> list[str]:
    """Where an overlay does not carry the mark: its colour at a corner that the map leaves alone, and its shape."""
    image = np.asarray(Image.open(overlay).convert("RGB")).astype(float)
    scale = image.shape[1] / mark["width"]
    wrong = [] if image.shape[0] >= scale * mark["height"] - 1 else [f"overlay of {image.shape[:2]}"]
    corner = image[int(scale * (mark["height"] - 30)) : int(scale * (mark["height"] - 5)), -40:].mean((0, 1))
    if np.abs(corner - mark["colour"]).max() > 12:
        wrong.append(f"overlay of colour {corner.round()} instead of {mark['colour']}")
    return wrong


def soak(address: str, process: int, folder: pathlib.Path, chats: int, clients: int) -> dict:
    """The report."""
    visitors, start = Visitors(address, process, folder, chats), time.perf_counter()
    threads = [threading.Thread(target=visitors.visit, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled = visitors.megabytes[len(visitors.megabytes) // 2 :]
    slope = np.polyfit(range(len(settled)), settled, 1)[0] if len(settled) > 2 else 0.0
    return {
        "chats": len(visitors.seconds),
        "clients": clients,
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "errors": visitors.errors[:10],
        "cross_talk": visitors.cross_talk[:10],
        "median_seconds_per_chat": round(float(np.median(visitors.seconds)), 2),
        "slowest_seconds": round(max(visitors.seconds), 2),
        "megabytes_at_start": round(visitors.megabytes[0], 1),
        "megabytes_at_end": round(visitors.megabytes[-1], 1),
        "megabytes_per_100_chats": round(100 * float(slope), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.space_soak", description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=int, default=500, help="all clients together (default: 500)")
    parser.add_argument("--clients", type=int, default=8, help="at once (default: 8)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"GRADIO_TEMP_DIR": str(pathlib.Path(folder, "cache")), "HF_HUB_OFFLINE": "1"}
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        server = subprocess.Popen([sys.executable, "-c", _SERVER], cwd=ROOT, env=environment, **options)
        try:
            address = next((line.split()[1] for line in server.stdout if line.startswith("serving")), None)
            if address is None:
                raise SystemExit("The page did not start; run `anomalygpt demo` to see why.")
            report = soak(address, server.pid, pathlib.Path(folder), args.chats, args.clients)
        finally:
            server.kill()
            server.wait()
    write_result(RESULTS / "space_soak.json", report)
    print(json.dumps(report, indent=1))
    return 1 if report["errors"] or report["cross_talk"] else 0


if __name__ == "__main__":
    sys.exit(main())
