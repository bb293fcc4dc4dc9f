"""Decoding of the next pictures in threads while the model works on those before. Knows nothing of models."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_THREADS = 2


def read_ahead(things: Iterable[Any], read: Callable[[Any], Any], ahead: int) -> Iterator[Any]:
    r"""
    What `read` makes of each thing, in order, while up to `ahead` further ones are being read.

    Pillow lets other threads run while it decodes, so decoding costs next to no time beside a model. Things are taken
    from the iterable only as they are needed; an error of `read` is raised where its result would have come.

    Args:
        things (iterable):
            Paths, say.
        read (`Callable`):
            Must be safe to call from several threads.
        ahead (`int`):
            Results held beyond the one asked for, at least 1; bounds the memory.

    Yields:
        What `read` returned.

    Raises:
        ValueError: If `ahead` is below 1.

    Example:
    ```python
    >>> list(read_ahead("abc", str.upper, ahead=2))
    ['A', 'B', 'C']

    ```
    """
    if ahead < 1:
        raise ValueError(f"`ahead` must be at least 1, got {ahead}. Call `read` itself to read one by one.")
    waiting: deque = deque()
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read_ahead")
    try:
        for thing in things:
            waiting.append(pool.submit(read, thing))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


__all__ = ["read_ahead"]
