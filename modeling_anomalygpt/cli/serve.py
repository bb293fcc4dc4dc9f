"""`anomalygpt serve`: a stored part as an HTTP service.

Imports nothing heavy before the arguments are known to be good.
"""

import argparse
import functools
import importlib.util
import ipaddress
import os
import signal
from typing import Any

from .options import (
    add_inspection_options,
    add_model_options,
    add_parts_folder,
    check_model,
    find_references,
    inspection_options,
    load_inspector,
    whole,
)

KEY_VARIABLE = "ANOMALYGPT_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt serve`."""
    stored = "a part that `anomalygpt parts add` has stored; auto chooses for each picture"
    parser.add_argument("--part", required=True, metavar="NAME", help=stored)
    add_parts_folder(parser)
    parser.add_argument("--port", type=whole(1, most=65535), default=8000, metavar="N", help="port (default: 8000)")
    host = "0.0.0.0 to let other machines in, which needs a key (default: 127.0.0.1)"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    limits = parser.add_argument_group("limits")
    megabytes = "largest file of a picture, in MiB (default: 25)"
    limits.add_argument("--max-megabytes", type=whole(1, most=1024), default=25, metavar="N", help=megabytes)
    waiting = "pictures that may wait; a further one gets the code 503 (default: 32)"
    limits.add_argument("--max-waiting", type=whole(1, most=10_000), default=32, metavar="N", help=waiting)
    workers = "processes that judge; they share the good patches, each has its model (default: 1)"
    parser.add_argument("--workers", type=whole(1, most=64), default=1, metavar="N", help=workers)
    add_inspection_options(parser)
    add_model_options(parser, tile=True)
    of_pictures = ("category", "description", "bits", "roi", "foreground", "align", "presence", "rotations")
    parser.set_defaults(references=[], **dict.fromkeys(of_pictures))  # what a stored part has of its own


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt serve` until it is interrupted; returns the exit code."""
    if missing := [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"The service needs {', '.join(missing)}. Run: pip install 'anomalygpt[line]'.")
    key = os.environ.get(KEY_VARIABLE)
    if not key and not _is_loopback(args.host):
        raise ValueError(f"`--host` must be 127.0.0.1 without a key, got {args.host!r}. Set {KEY_VARIABLE}.")
    find_references(args)
    check_model(args.model)
    import uvicorn

    from ..line.service import Limits, Service, make_app

    judge = load_judge(args) if args.workers == 1 else _workers(args)
    try:
        limits = Limits(args.max_megabytes << 20, args.max_waiting)
        app = make_app(Service(judge, inspection_options(args), args.part, limits), key)
        print(f"The part {args.part!r} at http://{args.host}:{args.port}/inspect. Ctrl-C ends it.", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, args.host, args.port, log_level="warning", timeout_keep_alive=30))
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn ends by them, then raises them once more
            signal.signal(number, lambda *_: None)
        server.run()
    except SystemExit as stop:  # the port is taken; uvicorn has said so
        raise OSError(f"Cannot listen at {args.host}:{args.port}. Choose another --port.") from stop
    finally:
        judge.close()
    return 0


def load_judge(args: argparse.Namespace) -> Any:
    """What judges, in this process."""
    from ..line.workers import Judge

    return Judge(load_inspector(args, []), getattr(args, "followed", None))


def _workers(args: argparse.Namespace) -> Any:
    """What judges, in several processes; what is wrong with part or model is found before they begin."""
    from ..line.parts import AUTO, PartStore
    from ..line.workers import Workers

    if args.part != AUTO:
        PartStore(args.parts_dir).read(args.part)
    return Workers(args.workers, functools.partial(load_judge, args))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
