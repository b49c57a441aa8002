"""A small server that answers as conf-server does, or fails in the way that a test wants."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.processes import until
from tests.unit.thoughts import thought, trace


class FakeServer:
    """Answers with the prompt it was sent, unless `behave` says otherwise.

    Attributes:
        model, root: what it says it serves.
        methods: what it says of each method that it has.
        bodies: of all requests, in order of arrival.
        most: requests that were under way at once.
    """

    def __init__(self) -> None:
        self.model, self.root = "m", "/models/m"
        self.methods: list[dict[str, Any]] = [
            {"name": name, "available": True, "needs": []}
            for name in ("perplexity", "p_true", "sar")
        ]
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.behave: Callable[[dict[str, Any]], Response | None] = lambda body: None
        self.gate = threading.Event()
        self.gate.set()
        self.most = self._now = 0
        self._lock = threading.Lock()
        routes = [
            *self.more_routes(),  # first: a subclass may answer something else
            Route("/v1/score", self._score, methods=["POST"]),
            Route("/v1/uncertainty", self._uncertainty, methods=["POST"]),
            Route("/v1/think/chat/completions", self._think, methods=["POST"]),
            Route("/v1/uncertainty/methods", self._methods),
            Route("/health", lambda _: Response()),
            Route("/v1/models", self._models),
        ]
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        self.app = Starlette(routes=routes)
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._sock],))

    def more_routes(self) -> list[Route]:
        """Those of a subclass."""
        return []

    def __enter__(self) -> FakeServer:
        self._thread.start()
        until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._sock.close()

    def prompts(self) -> Counter[str]:
        return Counter(body["prompt"] for body in self.bodies)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": self.model, "root": self.root}, {"id": "lora"}]})

    async def _score(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, body, {"object": "score", "data": [body["prompt"]]})

    async def _uncertainty(self, request: Request) -> Response:
        body = await request.json()
        answer = {"object": "uncertainty", "estimates": {}, "asked": body.get("uncertainty")}
        return await self._answer(request, body, answer)

    async def _think(self, request: Request) -> Response:
        body = await request.json()
        said = body["messages"][-1]["content"]
        traces = [trace(0, said, phase="warmup"), trace(1, None, status="length")]
        answer = thought(traces, {"majority": said}, threshold=9.5, warnings=["filter_relaxed"])
        return await self._answer(request, body, {**answer, "model": body.get("model", self.model)})

    async def _methods(self, _: Request) -> Response:
        return JSONResponse(
            {
                "data": self.methods,
                "groups": {"fast": ["perplexity"]},
                "similarities": ["jaccard", "rouge"],
            }
        )

    async def _answer(
        self, request: Request, body: dict[str, Any], answer: dict[str, Any]
    ) -> Response:
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            while body.get("wait") and not self.gate.is_set():
                await asyncio.sleep(0.01)
            model = body.get("model", self.model)
            return self.behave(body) or JSONResponse({"model": model, "usage": {}, **answer})
        finally:
            self._now -= 1


def error(status: int, message: str = "no") -> Response:
    return JSONResponse({"error": {"message": message, "type": "t", "code": status}}, status)


DEEP = PlainTextResponse("[" * 100_000)
"""JSON that is nested too deep for Python's reader."""
