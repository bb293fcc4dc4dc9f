"""A region painted on a good picture: of what a browser sends only the paint is taken, and little of it is kept."""

import io
import pathlib
import threading
from abc import ABCMeta
from typing import Any

import gradio as gr
import numpy as np
from gradio.component_meta import ComponentMeta
from PIL import Image

SIDE = 800
"""Longest side in pixels of the picture that is painted on."""

MAX_BYTES = 2**20  # of a drawing as a file
MAX_KEPT = 64  # drawings that were sent and not asked for yet; the oldest goes first
COLOUR = (13, 148, 136)
_OPACITY = 0.5
LOST = np.zeros((0, 0), dtype=bool)
"""Stands for a drawing that did not arrive."""


class _Paint:
    """How drawings arrive; Gradio's own way keeps whatever anybody sends, without a limit, until it is asked for."""

    _sent: dict[str, bytes] = {}
    _lock = threading.Lock()

    @gr.components.base.server
    def accept_blobs(self, data: Any) -> None:
        """Takes the first layer that a browser sends; background and composite are known."""
        about, content = data.data, data.files[0][1]
        if about.get("type") != "layer" or str(about.get("index")) != "0" or len(content) > MAX_BYTES:
            return
        with self._lock:
            self._sent[str(about.get("id"))[:100]] = content
            while len(self._sent) > MAX_KEPT:
                del self._sent[next(iter(self._sent))]

    def preprocess(self, payload: Any) -> np.ndarray | None:
        """What was painted, `(height, width)`; `None` without any paint."""
        if payload is None:
            return None
        if payload.id:
            with self._lock:
                content = self._sent.pop(payload.id, None)
            return LOST if content is None else painted(content)
        if not payload.layers:
            return None
        path = pathlib.Path(payload.layers[0].path)
        return painted(path.read_bytes()) if path.stat().st_size <= MAX_BYTES else LOST


# Made past Gradio's own way of making components, which writes a file beside the source.
RegionEditor = ABCMeta.__new__(ComponentMeta, "ImageEditor", (_Paint, gr.ImageEditor), {"__module__": __name__})


def add_editor(**options: Any) -> gr.ImageEditor:
    """An editor with one brush, one eraser and one layer."""
    brush = gr.Brush(colors=[(f"rgb{COLOUR}", _OPACITY)], color_mode="fixed", default_size=40)
    return RegionEditor(
        sources=(), transforms=(), brush=brush, eraser=gr.Eraser(default_size=40), layers=False, format="png",
        canvas_size=(SIDE, SIDE), interactive=True, show_label=False, buttons=[], **options,
    )  # fmt: skip


def painted(content: bytes) -> np.ndarray | None:
    """Where a layer, the content of a picture file, has paint, `(height, width)`; `None` where it has none."""
    try:
        with Image.open(io.BytesIO(content)) as layer:
            if max(layer.size) > 2 * SIDE:
                return LOST
            inside = np.asarray(layer.convert("RGBA"))[..., 3] > 0
    except (OSError, ValueError, Image.DecompressionBombError):
        return LOST
    return inside if inside.any() else None


def layer_of(inside: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A region as paint on a picture of another size `(width, height)`."""
    mask = Image.fromarray(inside).resize(size, Image.Resampling.NEAREST)
    layer = Image.new("RGBA", size)
    layer.paste((*COLOUR, round(255 * _OPACITY)), mask=mask)
    return layer
