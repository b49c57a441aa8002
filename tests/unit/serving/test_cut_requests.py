"""What becomes of a request when the server stops: to the app its client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from conf_server.serving.cut_requests import CutRequests, Stopping


class Work:
    """An app whose requests never end by themselves, and what they have noticed."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.noticed: list[str] = []
        self.stopping = Stopping()
        routes = [Route(f"/{name}", getattr(self, name), methods=["POST"]) for name in KINDS]
        self.app = CutRequests(Starlette(routes=routes), self.stopping)

    async def listening(self, request: Request) -> Response:
        """As vLLM's `with_cancellation` does it."""
        await request.body()
        self.begun.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0)
        self.noticed.append("listening")
        return JSONResponse(None)

    async def deaf(self, request: Request) -> Response:
        try:
            self.begun.set()
            await asyncio.Event().wait()
        finally:
            self.noticed.append("deaf")
        return JSONResponse(None)

    async def stream(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            try:
                yield "data: 1\n\n"
                self.begun.set()
                await asyncio.Event().wait()
            finally:
                self.noticed.append("stream")

        return StreamingResponse(events(), media_type="text/event-stream")


KINDS = ("listening", "deaf", "stream")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_that_is_cut_off_hears_it_and_ends_its_work(kind: str) -> None:
    work = Work()
    sent: list[Any] = []
    body = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Any:
        if not body:
            await asyncio.Event().wait()
        return body.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": f"/{kind}",
        "headers": [],
        "query_string": b"",
    }
    request = asyncio.create_task(work.app(scope, receive, send))
    await asyncio.wait_for(work.begun.wait(), 10)
    work.stopping.set()
    if kind == "deaf":
        await asyncio.sleep(0)
        request.cancel()
    await asyncio.wait_for(request, 10)
    assert work.noticed == [kind]
    text = b"".join(message.get("body", b"") for message in sent).decode()
    assert "The server is stopping" in text
    assert not sent[-1].get("more_body", False)
    if kind == "stream":
        assert text.startswith('data: 1\n\ndata: {"error":')
    else:
        assert [message["status"] for message in sent if "status" in message] == [503]


async def test_a_request_that_ends_by_itself_is_left_alone() -> None:
    async def echo(request: Request) -> Response:
        return JSONResponse(await request.json())

    app = CutRequests(Starlette(routes=[Route("/", echo, methods=["POST"])]), Stopping())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.post("/", json={"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
