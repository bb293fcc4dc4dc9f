"""Many visitors of the Space at once: nobody sees another one's picture, nothing fails, memory stays flat.

    python -m benchmarks.space_soak --chats 500 --clients 8

Each client owns a mark: the size and colour of its pictures, and a word in its questions. Everything that comes back
must carry it: the overlay's proportions and colour, the category and the number of references of the result. The page
runs in a process of its own, whose resident memory is read between chats; the slope is that of a straight line through
the second half of the readings, after caches have filled.
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

ROOT = pathlib.Path(__file__).parents[1]
_SERVER = """
import sys
from spaces_app.app import launch_app
_, address = launch_app(sys.argv[1] if len(sys.argv) > 1 else None, prevent_thread_lock=True, quiet=True)
print("serving", address, flush=True)
sys.stdin.read()
"""
QUESTIONS = ("Where is the anomaly?", "异常在哪里？", "What kind of anomaly is it?", "Highlight the anomalies")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"GRADIO_TEMP_DIR": str(pathlib.Path(folder, "cache")), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", _SERVER, *([args.model] if args.model else [])]
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            address = wait_for(server)
            report = soak(address, server.pid, pathlib.Path(folder), args)
        finally:
            server.kill()
            server.wait()
    print(json.dumps(report, indent=1))
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if report["errors"] or report["cross_talk"] else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.space_soak", description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=int, default=500, help="all clients together (default: 500)")
    parser.add_argument("--clients", type=int, default=8, help="at once (default: 8)")
    parser.add_argument("--turns", type=int, default=4, help="questions about a picture (default: 4)")
    parser.add_argument("--model", help="checkpoint (default: the embedded one)")
    parser.add_argument("--output", help="JSON file for the report")
    return parser.parse_args(argv)


def wait_for(server: subprocess.Popen) -> str:
    for line in server.stdout:
        if line.startswith("serving"):
            return line.split()[1]
    raise RuntimeError("The page did not start; run `anomalygpt demo` to see why.")


def soak(address: str, process: int, folder: pathlib.Path, args: argparse.Namespace) -> dict:
    errors, cross_talk, seconds = [], [], []
    readings: list[tuple[int, float]] = []
    lock, left = threading.Lock(), [args.chats]

    def visit(number: int) -> None:
        picture, references, mark = marked_pictures(folder, number)
        client = Client(address, verbose=False)
        while True:
            with lock:
                turns = min(args.turns, left[0])
                left[0] -= turns
            if turns <= 0:
                return
            try:
                wrong = inspect_once(client, picture, references, mark)
                with lock:
                    cross_talk.extend(wrong)
            except Exception as error:
                with lock:
                    errors.append(f"client {number}: /inspect: {error}")
            for turn in range(turns):
                start = time.perf_counter()
                try:
                    answer, overlay = client.predict(QUESTIONS[turn % len(QUESTIONS)], api_name="/chat")
                    wrong = [] if answer else ["empty answer"]
                    wrong += differences(overlay, mark) if overlay else []
                    with lock:
                        cross_talk.extend(f"client {number}: {one}" for one in wrong)
                except Exception as error:
                    with lock:
                        errors.append(f"client {number}: /chat: {error}")
                with lock:
                    seconds.append(time.perf_counter() - start)
                    readings.append((len(seconds), resident_megabytes(process)))

    start = time.perf_counter()
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(args.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "chats": len(seconds),
        "clients": args.clients,
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "errors": errors[:10],
        "cross_talk": cross_talk[:10],
        "median_seconds_per_chat": round(float(np.median(seconds)), 2),
        "slowest_seconds": round(max(seconds), 2),
        "megabytes_at_start": round(readings[0][1], 1),
        "megabytes_at_end": round(readings[-1][1], 1),
        "megabytes_per_100_chats": round(slope(readings[len(readings) // 2 :]) * 100, 2),
        "files_left_megabytes": round(
            sum(f.stat().st_size for f in (folder / "cache").rglob("*") if f.is_file()) / 1e6, 1
        ),
    }


def marked_pictures(folder: pathlib.Path, number: int) -> tuple[str, list[str], dict]:
    """Pictures that only this client has: a size, a colour and a number of references of its own."""
    generator = np.random.default_rng(number)
    size = (160 + 16 * number, 240)
    colour = generator.integers(60, 200, 3)
    good = np.clip(colour + generator.normal(0, 4, (*size, 3)), 0, 255).astype(np.uint8)
    bad = good.copy()
    bad[20:60, 30:90] = 255 - colour
    files = []
    for index in range(1 + number % 3):
        files.append(str(folder / f"client_{number}_good_{index}.png"))
        Image.fromarray(np.roll(good, index, axis=1)).save(files[-1])
    query = str(folder / f"client_{number}_query.png")
    Image.fromarray(bad).save(query)
    mark = {"category": f"part{number}", "references": len(files), "width": 240, "height": size[0]}
    return query, files, mark | {"colour": colour}


def inspect_once(client: Client, picture: str, references: list[str], mark: dict) -> list[str]:
    result, overlay = client.predict(
        handle_file(picture), [handle_file(file) for file in references], mark["category"], api_name="/inspect"
    )
    wrong = differences(overlay, mark)
    if result["category"] != mark["category"]:
        wrong.append(f"category {result['category']}")
    if result["evidence"]["num_references"] != mark["references"]:
        wrong.append(f"{result['evidence']['num_references']} references")
    return [f"{mark['category']}: {one}" for one in wrong]


def differences(overlay: str, mark: dict) -> list[str]:
    """Where an overlay does not carry the mark: its colour at a corner that the map leaves alone, and its shape."""
    image = np.asarray(Image.open(overlay).convert("RGB")).astype(float)
    scale = image.shape[1] / mark["width"]
    wrong = [] if image.shape[0] >= scale * mark["height"] - 1 else [f"overlay of {image.shape[:2]}"]
    corner = image[int(scale * (mark["height"] - 30)) : int(scale * (mark["height"] - 5)), -40:].mean((0, 1))
    if np.abs(corner - mark["colour"]).max() > 12:
        wrong.append(f"overlay of colour {corner.round()} instead of {mark['colour']}")
    return wrong


def resident_megabytes(process: int) -> float:
    """Resident memory from https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html."""
    pages = int(pathlib.Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def slope(readings: list[tuple[int, float]]) -> float:
    if len(readings) < 3:
        return 0.0
    xs, ys = np.asarray(readings, dtype=float).T
    return float(np.polyfit(xs, ys, 1)[0])


if __name__ == "__main__":
    sys.exit(main())
