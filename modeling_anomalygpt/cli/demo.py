"""`anomalygpt demo`: the Space on this machine."""

import argparse
import importlib.util

from .options import count

EPILOG = """examples:
  anomalygpt demo
      serves the page at http://127.0.0.1:7860 with the embedded checkpoint; works without network
  anomalygpt demo --model my-model --port 8080
      another checkpoint: a folder or a Hub id
  anomalygpt demo --share
      also gives an address for others, through Gradio's server, for a week
  anomalygpt demo --mcp
      also serves the tools `inspect` and `chat` to agents (Model Context Protocol)

Ctrl-C ends it. Pictures are kept only as long as somebody's page is open, in a folder that is deleted at the end."""


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `anomalygpt demo`."""
    parser.add_argument("--model", metavar="DIR_OR_ID", help="checkpoint folder or Hub id (default: the embedded one)")
    parser.add_argument("--port", type=count, metavar="N", help="port (default: the first free one from 7860 on)")
    parser.add_argument("--host", metavar="ADDRESS", help="0.0.0.0 to let other machines in (default: 127.0.0.1)")
    parser.add_argument("--share", action="store_true", help="also make a public address; needs network")
    parser.add_argument("--mcp", action="store_true", help="also serve the tools to agents; needs the package mcp")


def run_demo(args: argparse.Namespace) -> int:
    """Runs `anomalygpt demo` until it is interrupted.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_demo_arguments`].

    Returns:
        `int`: The exit code.

    Raises:
        RuntimeError: If Gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise RuntimeError("The page needs Gradio, which is not installed. Run: pip install 'anomalygpt[demo]'.")
    from spaces_app.app import launch_app

    options = {"server_port": args.port, "server_name": args.host, "share": args.share, "mcp_server": args.mcp or None}
    blocks, address = launch_app(args.model, prevent_thread_lock=True, quiet=True, **options)
    print(f"AnomalyGPT: {address}" + (f"  and  {blocks.share_url}" if blocks.share_url else ""))
    print("Ctrl-C ends it.", flush=True)
    try:
        blocks.block_thread()
    finally:
        blocks.close(verbose=False)
    return 0


__all__ = ["EPILOG", "add_demo_arguments", "run_demo"]
