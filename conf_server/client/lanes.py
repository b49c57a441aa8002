"""Connections of which each has a pool of its own."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator
from typing import Final

import httpx

_ONE: Final = httpx.Limits(max_connections=1, max_keepalive_connections=1)


class LaneTransport(httpx.AsyncBaseTransport):
    """Sends each request over the connection that was freed last, or over a new one.

    One pool of httpcore's looks at all its connections whenever a request begins or ends, and
    asks the kernel about each that is idle. With 32 connections that took five times as long as
    the rest of a small request. Here each connection is a pool of one.

    There are as many connections as there were requests at once: whoever sends them bounds them.
    """

    def __init__(self) -> None:
        self._lanes: list[httpx.AsyncHTTPTransport] = []
        self._free: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Its connection is free again when the response is closed."""
        lane = self._free.pop() if self._free else self._new()
        try:
            response = await lane.handle_async_request(request)
        except BaseException:
            self._free.append(lane)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_LaneStream(response.stream, lane, self._free),
            extensions=response.extensions,
        )

    def _new(self) -> httpx.AsyncHTTPTransport:
        lane = httpx.AsyncHTTPTransport(verify=ssl_context(), trust_env=False, limits=_ONE)
        self._lanes.append(lane)
        return lane

    async def aclose(self) -> None:
        """Close all connections."""
        for lane in self._lanes:
            await lane.aclose()


class _LaneStream(httpx.AsyncByteStream):
    """The body of a response, which holds its lane until it is closed."""

    def __init__(
        self,
        body: httpx.AsyncByteStream,
        lane: httpx.AsyncHTTPTransport,
        free: list[httpx.AsyncHTTPTransport],
    ) -> None:
        self._body = body
        self._lane = lane
        self._free = free
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        finally:
            if self._is_open:
                self._is_open = False
                self._free.append(self._lane)


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """The system's certificates. Loading them takes some 20 ms, so all connections share them."""
    return ssl.create_default_context()
