"""`anomalygpt watch`: pictures are judged as a camera writes them into a folder, until it is told to stop.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from .inspect import COLOURS, check_writable
from .options import (
    add_inspection_options,
    add_model_options,
    add_reference_options,
    check_model,
    find_references,
    inspection_options,
    load_inspector,
    positive,
    uses_colour,
)
from .tables import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt watch`."""
    parser.add_argument("incoming", metavar="INCOMING", help="the folder into which pictures are written")
    add_reference_options(parser)
    inspection = add_inspection_options(parser)
    inspection.add_argument("--no-language", action="store_true", help="let the map decide; no answer")
    add_model_options(parser, tile=True)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", required=True, metavar="SHIFT", help="folder of the results; goes on with those there"
    )
    folders = "folders for normal, anomalous and all other pictures (default: they stay)"
    output.add_argument("--move-to", nargs=3, metavar=("OK", "NG", "UNSURE"), help=folders)
    kept = "also write anomalous and uncertain pictures with their maps, as SHIFT/overlays/NAME.png"
    output.add_argument("--overlays", action="store_true", help=kept)
    output.add_argument("--webhook", type=_address, metavar="URL", help="each row is posted there as JSON")
    output.add_argument("--exec", metavar="CMD", help="is run for each row, which it gets as JSON")
    camera = parser.add_argument_group("camera")
    source = "write frames of this camera into INCOMING: its number, or a video file or address that OpenCV opens"
    camera.add_argument("--camera", metavar="N", help=source)
    camera.add_argument(
        "--interval", type=positive, metavar="SECONDS", help="a frame so often (default: at each Enter)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt watch` until it is interrupted; returns the exit code."""
    if importlib.util.find_spec("watchdog") is None:
        raise RuntimeError("Watching needs watchdog, which is not installed. Run: pip install 'anomalygpt[line]'.")
    _check(args)
    references = find_references(args)
    check_model(args.model)
    check_writable(pathlib.Path(args.output))
    inspector = load_inspector(args, references, args.output)
    stop = threading.Event()
    with _stopped_by_signals(stop):
        return _watch(args, inspector, stop)


def _watch(args: argparse.Namespace, inspector: Any, stop: threading.Event) -> int:
    from ..line.drift import Drift
    from ..line.incoming import Incoming
    from ..line.watch import Shift, StoppedError, watch
    from ..results import each_result

    with contextlib.ExitStack() as closing:
        options, follower = inspection_options(args), getattr(args, "followed", None)
        shift = Shift(args.output, inspector, options, args.move_to, stop, _say, follower, args.overlays)
        closing.callback(shift.close)
        drift = Drift()
        for row in each_result(shift.path) if shift.path.exists() else ():
            drift.add(row)
        database = _Database(shift)
        closing.callback(database.follow, 0.0)
        outboxes = _outboxes(args, shift)
        closing.callback(_close, outboxes)
        incoming = Incoming(args.incoming, [args.output, *(args.move_to or ())], shift.is_done, _say)
        closing.callback(incoming.close)
        camera = None if args.camera is None else closing.enter_context(_camera(args))
        print(f"Watching {incoming.folder}; results in {shift.path}. Ctrl-C ends it.", file=sys.stderr, flush=True)
        try:
            for result in watch(incoming, shift, stop, _say):
                if result is None:
                    database.follow()
                    if camera is not None and camera.ended.is_set() and not incoming.lag[0]:
                        stop.set()
                    continue
                for outbox in outboxes:
                    outbox.wake()
                print(_line(result, args.language), flush=True)
                drift.add(result)
                for line in drift.warnings():
                    _say(line)
        except StoppedError as error:
            _say(str(error))
    print(f"Stopped after {shift.count} pictures; the same command goes on.", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses what cannot be before a model is loaded."""
    if not args.part and not args.references and args.model is None:
        raise ValueError("`--part` or `--references` must say what is good. See `anomalygpt parts add --help`.")
    if not os.path.isdir(args.incoming):
        raise ValueError(f"`INCOMING` must be a folder, got {args.incoming!r}. Make it, or check the path.")
    incoming, *others = map(os.path.realpath, [args.incoming, args.output, *(args.move_to or ())])
    if incoming in others:
        raise ValueError(
            f"`--output` and `--move-to` must be other folders than INCOMING, got {args.incoming!r}. Choose others."
        )
    if args.exec is not None:
        from ..line.outbox import command_words

        try:
            program = command_words(args.exec)[0]
        except (ValueError, IndexError):
            program = ""
        if shutil.which(program) is None:
            raise ValueError(f"`--exec` must be a command that can be run, got {args.exec!r}. Check name and quotes.")
    if args.interval and args.camera is None:
        raise ValueError("`--interval` must be given with --camera, whose frames it spaces.")


class _Database:
    """Lets `results.db` follow the rows while there is time for it."""

    def __init__(self, shift: Any):
        self._shift, self._count, self._time = shift, -1, -math.inf

    def follow(self, pause: float = 5.0) -> None:
        from ..line.database import ResultsDatabase

        if self._count != self._shift.count and time.monotonic() - self._time >= pause and self._shift.path.exists():
            self._count, self._time = self._shift.count, time.monotonic()
            with contextlib.suppress(OSError, sqlite3.Error):  # it is made anew by `anomalygpt results`
                ResultsDatabase(self._shift.path.parent, patient=False).close()


def _outboxes(args: argparse.Namespace, shift: Any) -> list[Any]:
    from ..line.outbox import Outbox, post_to, run_command

    ways = {"webhook": args.webhook and post_to(args.webhook), "exec": args.exec and run_command(args.exec)}
    return [Outbox(shift.path, name, deliver, _say) for name, deliver in ways.items() if deliver]


def _close(outboxes: list[Any]) -> None:
    for outbox in outboxes:
        if left := outbox.close():
            _say(f"{outbox.what}: {left} rows are left; they are delivered when watching goes on.")


@contextlib.contextmanager
def _camera(args: argparse.Namespace) -> Iterator[Any]:
    """Frames come in while this is open: so often, or when a line arrives on the standard input."""
    from ..line.camera import Camera

    camera = Camera(args.camera, args.incoming, args.interval, _say)
    if args.interval is None:
        print("Enter takes a picture.", file=sys.stderr, flush=True)

        def keys() -> None:
            for _ in sys.stdin:
                camera.trigger()

        threading.Thread(target=keys, name="keys", daemon=True).start()
    try:
        yield camera
    finally:
        camera.close()


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set the event; a second one ends the process as usual."""
    earlier: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in earlier.items():
            signal.signal(number, handler)

    def end(*_: Any) -> None:
        stop.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        earlier[number] = signal.signal(number, end)
    try:
        yield
    finally:
        restore()


def _line(result: Any, language: str) -> str:
    """One picture in one line for a terminal."""
    from ..report.page import plain_reasons
    from ..report.report import regions_in_words

    score = "-" if result.pred_score is None else f"{result.pred_score:.3f}"
    words = regions_in_words(result.regions, language, limit=3) or result.error or " ".join(plain_reasons(result))
    name = os.path.basename(result.evidence.get("incoming") or result.image)
    clock = (result.time or "")[11:19]
    line = printable(f"{clock} {name} {result.verdict} {score} {words}".rstrip())
    colour = COLOURS.get(result.verdict, "") if uses_colour() else ""
    return f"{colour}{line}\033[0m" if colour else line


def _say(line: str) -> None:
    print(f"anomalygpt watch: {time.strftime('%H:%M:%S')} {printable(line)}", file=sys.stderr, flush=True)


def _address(text: str) -> str:
    """The address with the letters of path and query quoted; refuses what can never be reached."""
    got = "" if "@" in text else f", got {text!r}"  # a password stays where it is
    try:
        parts = urllib.parse.urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.port != 0 and (parts.hostname or "").encode("idna")
    except ValueError:  # of the port, of brackets, of a part of the name
        good = False
    if not good or re.search(r"[\s\x00-\x20\x7f]", urllib.parse.unquote(parts.netloc)):
        raise argparse.ArgumentTypeError(f"must be an address that begins with http:// or https://{got}")
    if "@" in parts.netloc:
        raise argparse.ArgumentTypeError("must be an address without a user name and a password in it")
    path, query = (urllib.parse.quote(part, safe="%/:;=@&?!$'()*+,~[]|") for part in (parts.path, parts.query))
    return parts._replace(path=path, query=query).geturl()
