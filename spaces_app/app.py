"""The Space: `python app.py` here, in a Space, or `anomalygpt demo`."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import atexit
import importlib.util
import shutil
import tempfile
from typing import Any

import gradio as gr

from spaces_app.callbacks import connect
from spaces_app.endpoints import add_endpoints
from spaces_app.engine import Engine  # before anything that imports torch (ZeroGPU)
from spaces_app.example_pictures import EXAMPLES_FOLDER
from spaces_app.layout import build_layout
from spaces_app.limits import FILE_SECONDS, MAX_FILE_SIZE, MAX_SESSIONS, MAX_WAITING
from spaces_app.style import HEAD, SCRIPT, STYLE, page_theme


def build_app(engine: Engine) -> gr.Blocks:
    """The page, not launched.

    Args:
        engine ([`Engine`]): The model that serves all visitors.

    Returns:
        `gr.Blocks`: With its queue.
    """
    with gr.Blocks(title="AnomalyGPT", analytics_enabled=False, delete_cache=(600, FILE_SECONDS)) as blocks:
        page = build_layout()
        page.parts["blocks"] = blocks
        connect(page, engine)
        add_endpoints(page["session"], engine)
    return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=8)


def launch_app(model: str | None = None, **options: Any) -> tuple[gr.Blocks, str]:
    r"""
    Loads the model and serves the page.

    Args:
        model (`str`, *optional*):
            Folder or Hub id; `None` for the embedded checkpoint.
        options:
            Of `gr.Blocks.launch`, such as `server_port`, `share`, `mcp_server`, `prevent_thread_lock`.

    Returns:
        `tuple(gr.Blocks, str)`: The page, and its local address.

    Raises:
        ValueError: If `mcp_server` is asked for without the package for it.
    """
    if options.get("mcp_server") and importlib.util.find_spec("mcp") is None:
        raise ValueError("`mcp` must be installed for the MCP server, got none. Run: pip install 'mcp>=1.21,<2'.")
    _own_cache()
    blocks = build_app(Engine.load(model))
    fixed = {
        "theme": page_theme(),
        "css": STYLE,
        "js": SCRIPT,
        "head": HEAD,
        "ssr_mode": False,
        "footer_links": ["api"],
        "max_file_size": MAX_FILE_SIZE,
        "state_session_capacity": MAX_SESSIONS,
        "allowed_paths": [str(EXAMPLES_FOLDER)],
        "show_error": False,
    }
    _, address, _ = blocks.launch(**(fixed | options))
    return blocks, address


def _own_cache() -> None:
    """Uploads of this process go to a folder of its own, readable by its user alone, deleted when it ends."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="anomalygpt-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def main() -> None:
    """Serves the model that the environment variable `ANOMALYGPT_MODEL` names, or the embedded one."""
    launch_app(os.environ.get("ANOMALYGPT_MODEL") or None, mcp_server=bool(os.environ.get("ANOMALYGPT_MCP")))


if __name__ == "__main__":
    main()
