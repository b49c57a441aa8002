"""Connections of which each is looked at only when it is its turn."""

from __future__ import annotations

import functools
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

import httpcore
import httpx

from conf_server.client.asyncio_network import AsyncioNetwork

KEPT_S: Final = 4.0
"""How long an idle connection is used again. uvicorn closes one after 5 s."""

_PORTS: Final = {b"http": 80, b"https": 443}


class LaneTransport(httpx.AsyncBaseTransport):
    """Sends each request over the connection that was freed last, or over a new one.

    A pool of httpcore's looks at all its connections whenever a request begins or ends, and asks
    the kernel about each that is idle. With 32 connections that took four times as long as the
    rest of a small request.

    There are as many connections as there were requests at once: whoever sends them bounds them.
    """

    def __init__(self) -> None:
        self._network = AsyncioNetwork()
        self._free: dict[str, list[httpcore.AsyncHTTPConnection]] = defaultdict(list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Its connection is free again when the response is closed."""
        url = request.url
        port = url.port or _PORTS[url.raw_scheme]
        origin = httpcore.Origin(url.raw_scheme, url.raw_host, port)
        lane = await self._lane(origin)
        try:
            with _httpx_errors():
                response = await lane.handle_async_request(
                    httpcore.Request(
                        request.method.encode(),
                        httpcore.URL(
                            scheme=url.raw_scheme, host=url.raw_host, port=port, target=url.raw_path
                        ),
                        headers=request.headers.raw,
                        content=request.stream,
                        extensions=request.extensions,
                    )
                )
        except BaseException:
            await lane.aclose()
            raise
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_LaneStream(response, lane, self._free[str(origin)]),
            extensions=response.extensions,
        )

    async def _lane(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        free = self._free[str(origin)]
        while free:
            lane = free.pop()
            if lane.is_available() and not lane.has_expired():
                return lane
            await lane.aclose()
        return httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=ssl_context() if origin.scheme == b"https" else None,
            keepalive_expiry=KEPT_S,
            network_backend=self._network,
        )

    async def aclose(self) -> None:
        """Close the connections that are free."""
        for lanes in self._free.values():
            while lanes:
                await lanes.pop().aclose()


class _LaneStream(httpx.AsyncByteStream):
    """The body of a response, which holds its connection until it is closed."""

    def __init__(
        self,
        response: httpcore.Response,
        lane: httpcore.AsyncHTTPConnection,
        free: list[httpcore.AsyncHTTPConnection],
    ) -> None:
        self._response = response
        self._lane = lane
        self._free = free
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _httpx_errors():
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        await self._response.aclose()
        if self._lane.is_available():
            self._free.append(self._lane)
        else:
            await self._lane.aclose()


@contextmanager
def _httpx_errors() -> Iterator[None]:
    """httpx has an exception of the same name for each of httpcore's."""
    try:
        yield
    except Exception as error:
        kind = getattr(httpx, type(error).__name__, None)
        if not type(error).__module__.startswith("httpcore") or kind is None:
            raise
        raise kind(str(error)) from error


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """The system's certificates. Loading them takes some 20 ms, so all connections share them."""
    return ssl.create_default_context()
