"""A stored part as a service: pictures come by HTTP, results go back as JSON.

One model judges one picture at a time; who comes while too many wait is told to come again. Built on FastAPI, which
Gradio brings along.
"""

import hmac
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from starlette.concurrency import run_in_threadpool

from ..inspector import AnomalyInspector, InspectionOptions
from ..results import InspectionResult
from .parts import PartChooser, PartFollower

_AGAIN = {"Retry-After": "1"}
# Upper ends of the buckets of seconds in /metrics.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Args:
        max_bytes (`int`): Of one picture.
        max_waiting (`int`): Pictures that wait for the model; a further one gets the code 503.
    """

    max_bytes: int = 25 * 2**20
    max_waiting: int = 32


class Service:
    """The judge behind the addresses: one picture after the other, with counts of what was judged.

    Args:
        inspector ([`AnomalyInspector`] or [`PartChooser`]): Judges.
        options ([`InspectionOptions`]): How, where a request says nothing else.
        part (`str`): Name of the stored part, or `"auto"`.
        follower ([`PartFollower`], *optional*): Takes over what the part learns meanwhile.
        limits ([`Limits`]): For all requests.
    """

    def __init__(
        self,
        inspector: AnomalyInspector | PartChooser,
        options: InspectionOptions,
        part: str,
        follower: PartFollower | None,
        limits: Limits,
    ):
        self.part, self.limits = part, limits
        self._inspector, self._options, self._follower = inspector, options, follower
        self._turn, self._count = threading.Lock(), threading.Lock()
        self.waiting, self.refused = 0, 0
        self._verdicts: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def enter(self) -> None:
        """Takes a place among those that wait.

        Raises:
            HTTPException: With code 503, if there is none.
        """
        with self._count:
            if self.waiting >= self.limits.max_waiting:
                self.refused += 1
                raise HTTPException(503, f"{self.waiting} pictures wait already. Come again.", _AGAIN)
            self.waiting += 1

    def leave(self) -> None:
        """Gives the place back."""
        with self._count:
            self.waiting -= 1

    def judge(self, content: bytes, options: InspectionOptions) -> InspectionResult:
        """The result of a picture, from the bytes of its file."""
        start = time.perf_counter()
        with self._turn:
            if self._follower is not None:
                self._follower.renew()
            (result,) = self._inspector.inspect_many([content], options, progress=False)
        seconds = time.perf_counter() - start
        with self._count:
            self._verdicts[result.verdict] += 1
            self._seconds += seconds
            self._buckets.update(end for end in _BUCKETS if seconds <= end)
        return result

    def options(self, question: str | None, language: str | None) -> InspectionOptions:
        """The options of a request."""
        return replace(self._options, question=question, language=language or self._options.language)

    def metrics(self) -> str:
        """What was judged, in the text format of Prometheus."""
        with self._count:
            total = sum(self._verdicts.values())
            lines = ["# TYPE anomalygpt_pictures_total counter"]
            lines += [
                f'anomalygpt_pictures_total{{verdict="{kind}"}} {n}' for kind, n in sorted(self._verdicts.items())
            ]
            lines += ["# TYPE anomalygpt_refused_total counter", f"anomalygpt_refused_total {self.refused}"]
            lines += ["# TYPE anomalygpt_waiting gauge", f"anomalygpt_waiting {self.waiting}"]
            lines += ["# TYPE anomalygpt_seconds histogram"]
            lines += [f'anomalygpt_seconds_bucket{{le="{end}"}} {self._buckets[end]}' for end in _BUCKETS]
            lines += [f'anomalygpt_seconds_bucket{{le="+Inf"}} {total}']
            lines += [f"anomalygpt_seconds_sum {self._seconds:.6f}", f"anomalygpt_seconds_count {total}"]
        return "\n".join(lines) + "\n"


def make_app(service: Service, api_key: str | None) -> FastAPI:
    """The addresses `/inspect`, `/health`, `/metrics` and, for programs, `/openapi.json`.

    Args:
        service ([`Service`]): The judge.
        api_key (`str`, *optional*): What a request must bring as `Authorization: Bearer KEY`, but to `/health`.

    Returns:
        `FastAPI`
    """
    app = FastAPI(title="AnomalyGPT", docs_url=None, redoc_url=None)  # the pages would load code from elsewhere

    def check(request: Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if api_key is not None and not hmac.compare_digest(given.encode(), api_key.encode()):
            raise HTTPException(401, "Send the key as `Authorization: Bearer KEY`.", {"WWW-Authenticate": "Bearer"})

    @app.post("/inspect", openapi_extra={"requestBody": {"content": {"image/*": {"schema": {"type": "string"}}}}})
    async def inspect(request: Request, language: str | None = None, question: str | None = None) -> dict[str, Any]:
        """Judges the picture whose file is the body of the request."""
        check(request)
        if language not in (None, "en", "zh"):
            raise HTTPException(422, f"`language` must be en or zh, got {language[:20]!r}.")
        if question is not None and not 0 < len(question.strip()) <= 600:
            raise HTTPException(422, f"`question` must have 1 to 600 letters, got {len(question)}.")
        service.enter()
        try:
            content = await _body(request, service.limits.max_bytes)
            result = await run_in_threadpool(service.judge, content, service.options(question, language))
        finally:
            service.leave()
        if result.error is not None:
            raise HTTPException(422, result.error)
        return result.to_dict()

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Says that the service is there, and of which part."""
        return {"status": "ok", "part": service.part, "waiting": service.waiting}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> str:
        """Counts for Prometheus."""
        check(request)
        return service.metrics()

    return app


async def _body(request: Request, max_bytes: int) -> bytes:
    """The body of a request, no byte more than allowed; a chunked one is measured while it comes."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > max_bytes:
            raise HTTPException(413, f"A picture must have at most {max_bytes >> 20} MiB. Cut or shrink it before.")
    if not content:
        raise HTTPException(422, "The body must be the file of a picture, got nothing.")
    return bytes(content)


__all__ = ["Limits", "Service", "make_app"]
