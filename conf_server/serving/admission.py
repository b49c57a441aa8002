"""What is asked of a request before the app sees it: a key, and a body that is not too large."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Final

import vllm.envs as envs
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that neither generate nor change anything."""

OPEN: Final = frozenset({"/ping"})
"""Paths that answer any method without a key: SageMaker's question for the server's health."""


def api_keys(args: Namespace) -> list[str]:
    """The keys that vLLM takes: those of the flag, or that of the environment."""
    return [key for key in (args.api_key or [envs.VLLM_API_KEY]) if key]


class KeyGuard(AuthenticationMiddleware):
    """Wants a key of every request that is not only for reading, whatever its path.

    vLLM's own middleware, which is there too, guards /v1 and some more. It leaves open what
    generates or changes the server elsewhere: /invocations, /generative_scoring,
    /scale_elastic_ep, and what endpoint plugins add.
    """

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_open = scope["type"] != "http" or scope["method"] in READING
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if is_open or path in OPEN or self.verify_token(Headers(scope=scope)):
            return self.app(scope, receive, send)
        refusal = JSONResponse({"error": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        return refusal(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large with a 413, before anything keeps or reads them."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        """
        Args:
            most: bytes that a body may have.
        """
        self.app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("content-length", "")
        if given.isdecimal():  # uvicorn holds clients to it
            if int(given) > self._most:
                await self._refuse(scope, receive, send)
            else:
                await self.app(scope, receive, send)
            return
        # Sent in chunks, of a length that nobody knows yet.
        kept: list[Message] = []
        size = 0
        while not kept or kept[-1].get("more_body", False):
            kept.append(await receive())
            size += len(kept[-1].get("body", b""))
            if size > self._most:
                await self._refuse(scope, receive, send)
                return

        async def again() -> Message:
            return kept.pop(0) if kept else await receive()

        await self.app(scope, again, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        text = f"The body has more than {self._most} bytes (--max-body-bytes)."
        answer = create_error_response(text, status.phrase, status)
        # Nobody reads the rest of the body, so no other request can follow it.
        headers = {"Connection": "close"}
        refusal = JSONResponse(answer.model_dump(), status, headers=headers)
        await refusal(scope, receive, send)
