"""What is asked of a request before the app sees it: a key, and a body that is not too large."""

from __future__ import annotations

import hashlib
import os
import secrets
from argparse import Namespace
from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from typing import Final

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf_server.serving.error_body import error_body

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that neither generate nor change anything."""

OPEN: Final = frozenset({"/ping"})
"""Paths that answer any method without a key: SageMaker's question for the server's health."""


def api_keys(args: Namespace) -> list[str]:
    """The keys that vLLM takes: those of the flag, or that of the environment."""
    return [key for key in (args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]


class KeyGuard:
    """Wants a key of every request that is not only for reading, whatever its path.

    vLLM's own middleware, where it is there too, guards /v1 and some more. It leaves open what
    generates or changes the server elsewhere: /invocations, /generative_scoring,
    /scale_elastic_ep, and what endpoint plugins add.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], guarded: tuple[str, ...] = ()) -> None:
        """
        Args:
            guarded: beginnings of paths that want a key for reading as well.
        """
        self.app = app
        self._digests = [_digest(key) for key in keys]
        self._guarded = guarded

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or self._is_open(scope) or self._has_key(Headers(scope=scope)):
            return self.app(scope, receive, send)
        refusal = JSONResponse({"error": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        return refusal(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if path in OPEN or scope["method"] == "OPTIONS":
            return True
        # An empty tuple begins no path.
        return scope["method"] in READING and not path.startswith(self._guarded)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given)
        # All are compared, whichever is right: the time that it takes tells nothing.
        found = [secrets.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


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
        answer = error_body(text, status.phrase, status)
        # Nobody reads the rest of the body, so no other request can follow it.
        headers = {"Connection": "close"}
        refusal = JSONResponse(answer.model_dump(), status, headers=headers)
        await refusal(scope, receive, send)
