"""`anomalygpt demo`: the page in the browser, on this machine."""

import argparse
import importlib.util

from .options import add_parts_folder, check_model, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt demo`."""
    parser.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint folder or Hub id (default: the embedded one)")
    port = whole(1, most=65535)
    parser.add_argument("--port", type=port, metavar="N", help="port (default: the first free one from 7860 on)")
    parser.add_argument("--host", metavar="ADDRESS", help="0.0.0.0 to let other machines in (default: 127.0.0.1)")
    parser.add_argument("--share", action="store_true", help="also make a public address; needs network")
    add_parts_folder(parser)
    shift = "show the results of a shift, to look at and to correct; the folder that `anomalygpt watch` wrote"
    parser.add_argument("--results", metavar="SHIFT", help=shift)
    parser.add_argument("--mcp", action="store_true", help="also serve the tools to agents; needs the package mcp")


def run(args: argparse.Namespace) -> int:
    """Runs `anomalygpt demo` until it is interrupted; returns the exit code."""
    if importlib.util.find_spec("gradio") is None:
        raise RuntimeError("The page needs Gradio, which is not installed. Run: pip install 'anomalygpt[demo]'.")
    for option, value in (("--parts-dir", args.parts_dir), ("--results", args.results)):
        if args.share and value:
            raise ValueError(f"`{option}` must stay local, got it with --share, for all to see. Leave one out.")
    check_model(args.model)
    from spaces_app.app import launch_app

    from ..line.parts import PartStore

    parts = None if args.share else PartStore(args.parts_dir)
    options = {"server_port": args.port, "server_name": args.host, "share": args.share, "mcp_server": args.mcp or None}
    options |= {"parts": parts, "results": args.results}
    blocks, address = launch_app(args.model, prevent_thread_lock=True, quiet=True, **options)
    print(f"AnomalyGPT: {address}" + (f"  and  {blocks.share_url}" if blocks.share_url else ""))
    print("Ctrl-C ends it.", flush=True)
    try:
        blocks.block_thread()
    finally:
        blocks.close(verbose=False)
    return 0
