"""A stored part as a service: pictures come by HTTP, results go back as JSON.

One model judges one picture at a time; who comes while too many wait is told to come again. Nothing is remembered of
a picture or a conversation: who asks again sends both again. Built on FastAPI, which Gradio brings along.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
import os
import pathlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jinja2
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from ..inspector import InspectionOptions
from ..results import InspectionResult
from .workers import Judge, Workers

_AGAIN = {"Retry-After": "1"}
# Upper ends of the buckets of seconds in /metrics.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# The language model reads all of a conversation again for each answer; an answer may be longer than a question.
_MOST_LETTERS, _MOST_MESSAGES = {"user": 600, "assistant": 4000}, 39
_MOST_BYTES = 12 * _MOST_MESSAGES * 4000  # of the words; in JSON a letter may take so many


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Args:
        max_bytes (`int`): Of one picture.
        max_waiting (`int`): Pictures that wait for the model; a further one gets the code 503.
        max_seconds (`float`): In which a request must have arrived: one that stalls holds a place as well.
    """

    max_bytes: int = 25 * 2**20
    max_waiting: int = 32
    max_seconds: float = 60.0


class Service:
    """The judge behind the addresses, with counts of what was judged.

    Args:
        judge ([`Judge`] or [`Workers`]): Judges.
        options ([`InspectionOptions`]): How, where a request says nothing else.
        part (`str`): Name of the stored part, or `"auto"`.
        limits ([`Limits`]): For all requests.
    """

    def __init__(self, judge: Judge | Workers, options: InspectionOptions, part: str, limits: Limits):
        self.part, self.limits = part, limits
        self.judge, self._options = judge, options
        self._count = threading.Lock()
        self.waiting, self.refused = 0, 0
        self._verdicts: Counter[str] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place among those that wait.

        Raises:
            HTTPException: With code 503, if there is none.
        """
        with self._count:
            if self.waiting >= self.limits.max_waiting:
                self.refused += 1
                raise HTTPException(503, f"{self.waiting} pictures wait already. Come again.", _AGAIN)
            self.waiting += 1
        try:
            yield
        finally:
            with self._count:
                self.waiting -= 1

    def inspect(self, content: bytes, options: InspectionOptions) -> InspectionResult:
        """The result of a picture, from the bytes of its file."""
        return self._counted(lambda: (self.judge.inspect(content, options), ""))[0]

    def chat(
        self, content: bytes, options: InspectionOptions, messages: list[dict[str, str]]
    ) -> tuple[InspectionResult, str]:
        """The result of a picture, and the answer to the last message; see [`Judge.chat`]."""
        return self._counted(lambda: self.judge.chat(content, options, messages))

    def _counted(self, work: Callable[[], tuple[InspectionResult, str]]) -> tuple[InspectionResult, str]:
        start = time.perf_counter()
        try:
            result, answer = work()
        except BrokenProcessPool:
            raise HTTPException(503, "The workers ended, perhaps for want of memory. Come again.", _AGAIN) from None
        seconds = time.perf_counter() - start
        with self._count:
            self._verdicts[result.verdict] += 1
            self._seconds += seconds
            self._buckets.update(end for end in _BUCKETS if seconds <= end)
        return result, answer

    def options(self, question: str | None, language: str | None) -> InspectionOptions:
        """The options of a request."""
        known = self._options
        return replace(known, question=question or known.question, language=language or known.language)

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
    """The addresses `/inspect`, `/chat`, `/health`, `/metrics`, for people `/docs` and for programs `/openapi.json`.

    Args:
        service ([`Service`]): The judge.
        api_key (`str`, *optional*): What a request must bring as `Authorization: Bearer KEY`, but to `/health` and
            to what only tells how to ask.

    Returns:
        `FastAPI`
    """
    # FastAPI's own pages would load code from elsewhere, which a station without a network cannot.
    app = FastAPI(title="AnomalyGPT", docs_url=None, redoc_url=None)

    check = partial(_check_key, api_key)

    @app.post("/inspect", openapi_extra=_body_is("image/*", {"type": "string"}))
    async def inspect(request: Request, language: str | None = None, question: str | None = None) -> dict[str, Any]:
        """Judges the picture whose file is the body of the request."""
        check(request)
        _check_no_form(request)
        _check_language(language)
        if question is not None:
            _check_text("question", question)
        with service.place():
            content = await _body(request, service.limits, service.limits.max_bytes)
            result = await run_in_threadpool(service.inspect, content, service.options(question, language))
        if result.error is not None:
            raise HTTPException(422, result.error)
        return result.to_dict()

    @app.post("/chat", openapi_extra=_body_is("application/json", _CHAT))
    async def chat(request: Request, language: str | None = None) -> dict[str, Any]:
        """Answers a question about a picture; the conversation so far comes and goes with it."""
        check(request)
        _check_language(language)
        with service.place():
            body = await _body(request, service.limits, service.limits.max_bytes * 4 // 3 + _MOST_BYTES)  # base64
            content, messages = _picture_and_messages(body, service.limits.max_bytes)
            options = service.options(None, language)
            result, answer = await run_in_threadpool(service.chat, content, options, messages)
        if result.error is not None or not answer:
            raise HTTPException(422, result.error or result.answer)
        return {"answer": answer, "messages": [*messages, {"role": "assistant", "content": answer}]} | {
            "result": result.to_dict()
        }

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Says that the service is there, and of which part."""
        return {"status": "ok", "part": service.part, "waiting": service.waiting}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> str:
        """Counts for Prometheus."""
        check(request)
        return service.metrics()

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return _page().render(
            api=app.openapi(), part=service.part, key_needed=api_key is not None, examples=_examples(api_key)
        )

    return app


def _page() -> jinja2.Template:
    folder = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
    return jinja2.Environment(loader=folder, autoescape=True).get_template("service.html")


def _examples(api_key: str | None) -> dict[str, str]:
    """A command for each address, to copy."""
    key = "" if api_key is None else '-H "Authorization: Bearer $KEY" '
    asked = '"messages": [{"role": "user", "content": "Where is it?"}]'
    body = f"""printf '{{"image": "%s", {asked}}}' "$(base64 -w0 photo.jpg)" """
    return {
        "/inspect": f'curl {key}--data-binary @photo.jpg "http://127.0.0.1:8000/inspect?language=en"',
        "/chat": f"{body}| curl {key}--data-binary @- http://127.0.0.1:8000/chat",
        "/health": "curl http://127.0.0.1:8000/health",
        "/metrics": f"curl {key}http://127.0.0.1:8000/metrics",
    }


_MESSAGE = {"type": "object", "properties": {name: {"type": "string"} for name in ("role", "content")}}
_CHAT = {
    "type": "object",
    "required": ["image", "messages"],
    "properties": {"image": {"type": "string", "format": "byte"}, "messages": {"type": "array", "items": _MESSAGE}},
}


def _body_is(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _check_language(language: str | None) -> None:
    if language not in (None, "en", "zh"):
        raise HTTPException(422, f"`language` must be en or zh, got {language[:20]!r}.")


def _check_text(name: str, text: Any, role: str = "user") -> None:
    most = _MOST_LETTERS[role]
    if not isinstance(text, str) or not text.strip() or len(text) > most:
        got = len(text) if isinstance(text, str) else type(text).__name__
        raise HTTPException(422, f"`{name}` must have 1 to {most} letters, got {got}.")
    if any("\ud800" <= letter <= "\udfff" for letter in text):  # JSON can hold it, no tokenizer takes it
        raise HTTPException(422, f"`{name}` must be whole letters, got half of a pair (\\ud800 to \\udfff).")


def _picture_and_messages(body: bytes, max_bytes: int) -> tuple[bytes, list[dict[str, str]]]:
    """What the body of `/chat` holds; refuses anything else."""
    try:
        row = json.loads(body)
        content = base64.b64decode(row["image"], validate=True)
        messages = [{"role": one["role"], "content": one["content"]} for one in row["messages"]]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise HTTPException(
            422, 'The body must be {"image": BASE64, "messages": [{"role": "user", "content": QUESTION}]}.'
        ) from None
    if len(content) > max_bytes:
        raise HTTPException(413, _too_large(max_bytes))
    roles = ["user", "assistant"] * len(messages)
    if not len(messages) % 2 or [one["role"] for one in messages] != roles[: len(messages)]:
        raise HTTPException(422, "`messages` must be of user and assistant in turn, and end with the user's question.")
    if len(messages) > _MOST_MESSAGES:
        raise HTTPException(422, f"`messages` must be at most {_MOST_MESSAGES}, got {len(messages)}. Begin anew.")
    for one in messages:
        _check_text("content", one["content"], one["role"])
    return content, messages


def _check_key(api_key: str | None, request: Request) -> None:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    sent = (given.encode("latin-1"), given.encode())  # Starlette reads UTF-8, as curl sends it, as Latin-1
    if api_key is not None and not any(hmac.compare_digest(one, os.fsencode(api_key)) for one in sent):
        raise HTTPException(401, "Send the key as `Authorization: Bearer KEY`.", {"WWW-Authenticate": "Bearer"})


def _check_no_form(request: Request) -> None:
    if request.headers.get("Content-Type", "").startswith("multipart/"):
        raise HTTPException(415, "The body must be the file of a picture, got a form. Try curl --data-binary @FILE.")


async def _body(request: Request, limits: Limits, most: int) -> bytes:
    """The body of a request, at most so many bytes; a chunked one is measured while it comes."""
    content, received = bytearray(), 0
    try:
        async with asyncio.timeout(limits.max_seconds):
            async for chunk in request.stream():
                received += len(chunk)
                if received <= most:
                    content += chunk
                elif received > 4 * most:  # up to there it is read: many clients listen only after they have sent all
                    break
    except TimeoutError:
        raise HTTPException(
            408, f"A picture must arrive within {limits.max_seconds:g} seconds. Send it again."
        ) from None
    except ClientDisconnect:
        raise HTTPException(400, "The picture did not arrive whole. Send it again.") from None
    if received > most:
        raise HTTPException(413, _too_large(limits.max_bytes))
    if not content:
        raise HTTPException(422, "The body must be the file of a picture, got nothing.")
    return bytes(content)


def _too_large(max_bytes: int) -> str:
    return f"A picture must have at most {max_bytes >> 20} MiB. Cut or shrink it before."


__all__ = ["Limits", "Service", "make_app"]
