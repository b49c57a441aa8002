"""What clients hear whose requests are cut off, because a drain's time is over."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf_server.serving.error_body import error_body

RETRY_AFTER_S: Final = 5
"""What clients are asked to wait: a load balancer knows another server, or this one restarts."""

_MESSAGE: Final = "The server is stopping, and the request was cut off."


class Stopping:
    """Says that no request may go on. An `asyncio.Event` for requests in several event loops, as
    the clients of tests have them."""

    def __init__(self) -> None:
        self.is_set = False
        self._waiting: set[asyncio.Future[None]] = set()

    def set(self) -> None:
        """Wake all that wait. To be called in their event loop."""
        self.is_set = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Return when it is so."""
        if self.is_set:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


class CutRequests:
    """Answers the requests that are left when the server stops with a 503 or an error event.

    To the app their clients seem to have left, so that it frees their work in the engine. uvicorn
    alone would cancel them: it answers a 500 without OpenAI's body, breaks streams off without a
    word, and logs a traceback for each.
    """

    def __init__(self, app: ASGIApp, stopping: Stopping) -> None:
        self.app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Request(self._stopping, receive, send).run(self.app, scope)
        else:
            await self.app(scope, receive, send)


class _Request:
    """One request: what the app receives and sends passes through here."""

    def __init__(self, stopping: Stopping, receive: Receive, send: Send) -> None:
        self._stopping = stopping
        self._receive = receive
        self._send = send
        self._start: Message | None = None
        self._is_complete = False
        self._message: asyncio.Future[Message] | None = None

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._received, self._sent)
        except asyncio.CancelledError:
            # It did not notice that its client has left.
            task = asyncio.current_task()
            if not self._is_cut or task is None:
                raise
            task.uncancel()
        except Exception:
            if not self._is_cut:
                raise
        finally:
            if self._message is not None:
                self._message.cancel()
        if self._is_cut:
            for message in _unavailable() if self._start is None else _ending():
                await self._send(message)

    @property
    def _is_cut(self) -> bool:
        """Whether we answer in place of the app. A whole answer that has begun goes on."""
        can_end = self._start is None or _is_event_stream(self._start)
        return self._stopping.is_set and can_end and not self._is_complete

    async def _received(self) -> Message:
        if self._stopping.is_set:
            return {"type": "http.disconnect"}
        # It outlives a caller that only looks whether there is a message, and is cancelled.
        message = self._message = self._message or asyncio.ensure_future(self._receive())
        if not message.done():
            stopped = asyncio.ensure_future(self._stopping.wait())
            try:
                ends: set[asyncio.Future[Any]] = {message, stopped}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
        if not message.done():
            return {"type": "http.disconnect"}
        self._message = None
        return message.result()

    async def _sent(self, message: Message) -> None:
        if self._is_cut:
            return
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._is_complete = not message.get("more_body", False)
        await self._send(message)


def _is_event_stream(start: Message) -> bool:
    kinds = (value for name, value in start["headers"] if name.lower() == b"content-type")
    return any(kind.startswith(b"text/event-stream") for kind in kinds)


def _body() -> bytes:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    answer = error_body(_MESSAGE, "ServiceUnavailableError", status)
    return answer.model_dump_json().encode()


def _ending() -> list[Message]:
    """Without `[DONE]`: the stream is not complete."""
    return [{"type": "http.response.body", "body": b"data: %b\n\n" % _body()}]


def _unavailable() -> list[Message]:
    body = _body()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "retry-after": str(RETRY_AFTER_S),
    }
    return [
        {
            "type": "http.response.start",
            "status": HTTPStatus.SERVICE_UNAVAILABLE.value,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        },
        {"type": "http.response.body", "body": body},
    ]
