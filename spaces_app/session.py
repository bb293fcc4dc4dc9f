"""What belongs to one visitor: references, inspected picture, conversation, and a folder that goes with them."""

import hashlib
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.results import InspectionResult

from .engine import Engine


class Session:
    r"""
    One visitor's state. Nothing in it is reachable from another session.

    Its folder lies inside the page's cache under a random name, so that files in it are served without being copied
    beside it, and it is deleted with the session, however that ends.

    Args:
        engine ([`Engine`]):
            The shared model.
    """

    def __init__(self, engine: Engine):
        self.inspector: AnomalyInspector = engine.inspector()
        self.tile: int | None = None
        self.learned: tuple | None = None
        self.references: list[str] = []
        self.picture: Image.Image | None = None
        self.result: InspectionResult | None = None
        self.messages: list[dict[str, Any]] = []
        self.batch: Any = None
        self.points: list[tuple[int, int]] = []
        root = pathlib.Path(get_upload_folder())
        root.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="session-", dir=root, ignore_cleanup_errors=True)
        self._count = 0

    @property
    def folder(self) -> pathlib.Path:
        """The session's own folder."""
        return pathlib.Path(self._folder.name)

    def new_file(self, name: str) -> pathlib.Path:
        """A path in the session's folder that was not used before, so that no browser shows an old file for it."""
        self._count += 1
        stem, dot, suffix = name.rpartition(".")
        return self.folder / f"{stem}_{self._count}{dot}{suffix}"

    def forget(self) -> None:
        """Deletes the folder and lets everything go."""
        self._folder.cleanup()
        self.result = self.picture = self.learned = self.batch = None
        self.references, self.messages = [], []


def references_key(files: Sequence[str], *settings: Any) -> tuple:
    """Names a set of references by what is in the files, so that the same ones are learned once."""
    return tuple(hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() for file in files), settings


def forget_session(session: Session | None) -> None:
    """Called when a session ends."""
    if session is not None:
        session.forget()


def session_state() -> gr.State:
    """The component that carries a session, empty until the first request."""
    from .limits import SESSION_SECONDS

    return gr.State(None, time_to_live=SESSION_SECONDS, delete_callback=forget_session)


__all__ = ["Session", "forget_session", "references_key", "session_state"]
