"""Any number of pictures through one function in batches: read ahead, one row each, no failure takes others along.

Knows pictures, batches and rows; knows no model.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from PIL import Image

from .checkpoints import CheckpointError, first_line
from .inspection_result import InspectionResult
from .pictures import PictureError, load_picture
from .read_ahead import read_ahead

Loaded = tuple[Any, Image.Image]


def inspect_in_batches(
    pictures: Iterable[Any],
    inspect: Callable[[list[Loaded]], list[InspectionResult]],
    failed: Callable[[Any, str], InspectionResult],
    finished: Mapping[str, InspectionResult],
    batch_size: int,
) -> Iterator[InspectionResult]:
    r"""
    One result for each picture, in order.

    The next pictures are decoded while the model works. Where a batch does not fit into memory, it is halved and the
    smaller size is kept, with a warning; a batch that fails for another reason is tried picture by picture.

    Args:
        pictures (iterable):
            Paths, PIL pictures or arrays, read as they are needed.
        inspect (`Callable`):
            Makes results of a batch of `(picture, image)`.
        failed (`Callable`):
            Makes the row of a picture that cannot be inspected, from the picture and a line.
        finished (`Mapping[str, InspectionResult]`):
            Results that are there already, by path; marked with `evidence["resumed"]`.
        batch_size (`int`):
            At least 1.

    Yields:
        [`InspectionResult`]
    """
    size = [batch_size]

    def read(picture: Any) -> InspectionResult | Loaded:
        known = finished.get(str(picture)) if isinstance(picture, str | os.PathLike) else None
        if known is not None:
            known.evidence = known.evidence | {"resumed": True}
            return known
        try:
            return picture, load_picture(picture)
        except (PictureError, OSError) as error:
            return failed(picture, first_line(error))

    slots = read_ahead(pictures, read, ahead=batch_size + 1)
    while batch := list(islice(slots, size[0])):
        loaded = [slot for slot in batch if not isinstance(slot, InspectionResult)]
        inspected = iter(_inspected(loaded, inspect, failed, size) if loaded else [])
        for slot in batch:
            yield slot if isinstance(slot, InspectionResult) else next(inspected)


def _inspected(
    loaded: list[Loaded],
    inspect: Callable[[list[Loaded]], list[InspectionResult]],
    failed: Callable[[Any, str], InspectionResult],
    size: list[int],
) -> list[InspectionResult]:
    try:
        return inspect(loaded)
    except (RuntimeError, MemoryError, CheckpointError) as error:
        out_of_memory = _is_out_of_memory(error)
        if len(loaded) == 1:
            line = "Not enough memory for this picture. Use a smaller picture or `tile`."
            return [failed(loaded[0][0], line if out_of_memory else first_line(error))]
    half = len(loaded) // 2 if out_of_memory else 1
    if out_of_memory and half < size[0]:
        warnings.warn(f"Not enough memory for {len(loaded)} pictures at a time; going on with {half}.", stacklevel=2)
        size[0] = half
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    parts = [loaded[start : start + half] for start in range(0, len(loaded), half)]
    return [result for part in parts for result in _inspected(part, inspect, failed, size)]


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


__all__ = ["inspect_in_batches"]
