"""The one model that serves all sessions: loaded once, used by one request at a time, on a borrowed GPU if any.

Knows inspectors; knows no page and no session.
"""

import contextlib
import copyreg
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

try:  # on ZeroGPU this must come before torch; elsewhere the package is absent or does nothing
    import spaces
except ImportError:
    spaces = None

from PIL import Image

from modeling_anomalygpt.inspector import AnomalyInspector
from modeling_anomalygpt.results import InspectionResult

from .limits import LONGEST_WAIT

GPU_SECONDS = 60


class BusyError(RuntimeError):
    """The model was in use by others for too long."""


def on_gpu(function: Callable) -> Callable:
    """Runs a function on a borrowed GPU in a Space with ZeroGPU (https://huggingface.co/docs/hub/spaces-zerogpu)."""
    return function if spaces is None else spaces.GPU(duration=GPU_SECONDS)(function)


class Engine:
    r"""
    Model and processor, shared by light inspectors that each own nothing but their references.

    Args:
        inspector ([`AnomalyInspector`]):
            Whose model and processor are shared.
        name (`str`, *optional*):
            What the model is called; `None` for the embedded checkpoint.
    """

    def __init__(self, inspector: AnomalyInspector, name: str | None = None):
        self.model = inspector.model
        self.processor = inspector.processor
        self.name = name
        self._lock = threading.Lock()

    @classmethod
    def load(cls, model: str | None = None) -> "Engine":
        """Loads a folder, a Hub id or, by default, the embedded checkpoint."""
        engine = cls(AnomalyInspector.from_pretrained(model), model)
        if os.environ.get("SPACES_ZERO_GPU"):
            engine.travel_by_name()
        return engine

    def inspector(self, tile: int | None = None) -> AnomalyInspector:
        """A new inspector without references, for one session."""
        return AnomalyInspector(self.model, self.processor, tile=tile)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until nobody else uses the model. Fast tokenizers and a small machine allow one at a time.

        Raises:
            BusyError: After `LONGEST_WAIT` seconds.
        """
        if not self._lock.acquire(timeout=LONGEST_WAIT):
            raise BusyError("The model is busy with other requests. Try again in a minute.")
        try:
            yield
        finally:
            self._lock.release()

    def travel_by_name(self) -> None:
        """Makes inspectors cross into ZeroGPU's worker process without their weights, which it holds already."""
        _PARTS["model"], _PARTS["processor"] = self.model, self.processor
        copyreg.pickle(type(self.model), lambda _: (_part, ("model",)))
        copyreg.pickle(type(self.processor), lambda _: (_part, ("processor",)))


_PARTS: dict[str, Any] = {}


def _part(name: str) -> Any:
    return _PARTS[name]


@on_gpu
def learn_and_inspect(
    inspector: AnomalyInspector, learn: dict[str, Any] | None, picture: Image.Image, options: dict[str, Any]
) -> tuple[AnomalyInspector, InspectionResult]:
    r"""
    Inspects a picture, after learning new references where there are any.

    Args:
        inspector ([`AnomalyInspector`]):
            Of the session.
        learn (`dict`, *optional*):
            Arguments of [`AnomalyInspector.set_references`]; `None` where the references are known already.
        picture (`PIL.Image.Image`):
            The picture.
        options (`dict`):
            Of [`AnomalyInspector.inspect`].

    Returns:
        `tuple(AnomalyInspector, InspectionResult)`: The inspector is another object where a worker process did it.
    """
    if learn is not None:
        inspector.set_references(**learn)
    return inspector, inspector.inspect(picture, **options)


@on_gpu
def learn_references(inspector: AnomalyInspector, learn: dict[str, Any]) -> AnomalyInspector:
    """The inspector after [`AnomalyInspector.set_references`]; another object where a worker process did it."""
    inspector.set_references(**learn)
    return inspector


@on_gpu
def stream_answer(inspector: AnomalyInspector, result: InspectionResult, question: str) -> Iterator[str]:
    """The pieces of an answer about an inspected picture, as they come."""
    yield from inspector.ask(result, question, stream=True)


__all__ = ["BusyError", "Engine", "learn_and_inspect", "learn_references", "on_gpu", "stream_answer"]
