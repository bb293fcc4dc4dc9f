"""A camera that writes its frames into a watched folder, at a steady pace or when it is told to.

Of a camera or a stream the newest frame is taken; what comes in between, also while one is written, is passed over.
Of a video every frame is taken. A camera or a stream that gives no frame any more is opened again until it gives one.
"""

import datetime
import os
import pathlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from PIL import Image

from ..files import write_atomically
from ..report.overlays import encoded

# Seconds before a camera that gives no frame is opened again.
_OPEN_AGAIN = 5.0


class Camera(threading.Thread):
    """Takes frames until [`Camera.close`]; each becomes a PNG file that appears whole.

    Args:
        source (`str`): Number of a camera, or what OpenCV opens beside: a video file, the address of a stream.
        folder (`str` or `os.PathLike`): Where the frames are written.
        interval (`float`, *optional*): Seconds between two frames; `None`: at each call of [`Camera.trigger`].
        say (`Callable`): Takes remarks, one line each.

    Attributes:
        ended (`threading.Event`): Set when a video is over and its frames are written.

    Raises:
        ValueError: If the camera cannot be opened.
    """

    def __init__(self, source: str, folder: str | os.PathLike, interval: float | None, say: Callable[[str], None]):
        super().__init__(name="camera", daemon=True)
        self._source = int(source) if source.isdecimal() else source
        self._capture = cv2.VideoCapture(self._source)
        if not self._capture.isOpened():
            raise ValueError(f"`--camera` must be a camera that can be opened, got {source!r}. Is it in use?")
        self._is_video = os.path.isfile(source) or self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        self._folder, self._interval, self._say = pathlib.Path(folder), interval, say
        self._due, self._ending = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.start()

    def trigger(self) -> None:
        """Takes a frame now."""
        self._due.set()

    def close(self) -> None:
        """Ends it."""
        self._ending.set()
        self._due.set()
        self.join(5)

    def run(self) -> None:
        """Takes frames until [`Camera.close`] or the end of the video."""
        number, due, written = 0, time.monotonic(), None
        with ThreadPoolExecutor(1, "camera") as writer:
            while self._waited(due):
                whole = self._capture.grab()
                ready = self._is_due(due) and (written is None or written.done()) and not self._ending.is_set()
                if whole and not ready and not self._is_video:
                    continue
                whole, frame = self._capture.retrieve() if whole else (False, None)
                if not whole and not self._is_video:
                    self._open_again()
                    continue
                self._due.clear()
                due = max(due, time.monotonic() - (self._interval or 0)) + (self._interval or 0)
                if not whole:
                    self._say("The camera gives no further frame.")
                    break
                number += 1
                written = writer.submit(self._write, frame, number)
                if self._is_video:
                    written.result()
        self._capture.release()
        self.ended.set()

    def _open_again(self) -> None:
        self._say(f"The camera gives no frame; it is opened again every {_OPEN_AGAIN:.0f} seconds.")
        self._capture.release()
        while not self._ending.wait(_OPEN_AGAIN):
            self._capture = cv2.VideoCapture(self._source)
            if self._capture.isOpened() and self._capture.grab():
                self._say("The camera gives frames again.")
                return
            self._capture.release()

    def _is_due(self, due: float) -> bool:
        return self._due.is_set() if self._interval is None else time.monotonic() >= due

    def _waited(self, due: float) -> bool:
        """Waits for the time of a video's next frame; cameras do not wait. False at the end."""
        if self._is_video and self._interval is None:
            self._due.wait()
        elif self._is_video:
            self._ending.wait(max(0.0, due - time.monotonic()))
        return not self._ending.is_set()

    def _write(self, frame: np.ndarray, number: int) -> None:
        """Writes a frame; on a full disk it is kept until it can be written, and no other one is taken meanwhile."""
        try:
            content = encoded(_picture(frame), compress_level=1)
        except Exception as error:  # nobody waits for this thread, and the next frame may be a good one
            return self._say(f"A frame is left out: {' '.join(str(error).split())}")
        name = f"camera_{datetime.datetime.now():%Y%m%d_%H%M%S_%f}_{number:06d}.png"
        said = False
        while True:
            try:
                return write_atomically(self._folder / name, content)
            except OSError as error:
                if not said:
                    self._say(f"Cannot write a frame: {error.strerror}. No further one is taken before it is written.")
                said = True
            if self._ending.wait(0.5):
                return None


def _picture(frame: np.ndarray) -> Image.Image:
    if frame.ndim == 2 or frame.shape[2] == 1:  # grey
        return Image.fromarray(frame.reshape(frame.shape[:2]))
    return Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


__all__ = ["Camera"]
