"""Sends requests to one server, again while it is away or busy: with threads, or with asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

import httpx

from conf_server.client.base_url import server_url
from conf_server.client.retries import OnRetry, Retries
from conf_server.client.server_error import UnavailableError, error_of, transport_errors

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 30.0
KEPT_S: Final = 4.0
"""How long an idle connection is used again. uvicorn closes one after 5 s."""


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """The system's certificates. Loading them takes some 20 ms, so all connections share them."""
    return ssl.create_default_context()


@dataclass(frozen=True)
class ConnectionOptions:
    """How a server is asked.

    Attributes:
        base_url: its address, with or without /v1.
        api_key: sent as a bearer token; None for none.
        timeout: seconds that one try of a request may take; of a stream, that the next part of
            it may take.
        retries: how often a request is sent again while the server is away or busy.
        concurrency: most requests under way at once.
        on_retry: is told why a request will be sent again.
    """

    base_url: str
    api_key: str | None = None
    timeout: float = 600.0
    retries: int = 5
    concurrency: int = 8
    on_retry: OnRetry | None = None

    def __post_init__(self) -> None:
        try:
            server_url(self.base_url)
        except ValueError as error:
            raise ValueError(f"base_url {self.base_url}: {error}") from error
        if self.api_key is not None and not self.api_key.isprintable():
            raise ValueError("api_key: it has a character that no header can have")
        for name in ("timeout", "concurrency"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: must be above 0, got {getattr(self, name)}")
        if self.retries < 0:
            raise ValueError(f"retries: must be at least 0, got {self.retries}")

    @property
    def url(self) -> str:
        """The server's address without a path."""
        return server_url(self.base_url)

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Of every request."""
        headers = {b"Content-Type": b"application/json"}
        if self.api_key:
            headers[b"Authorization"] = f"Bearer {self.api_key}".encode()
        return headers

    @property
    def limits(self) -> httpx.Limits:
        """A connection for each request under way, kept for the next one."""
        return httpx.Limits(
            max_connections=self.concurrency,
            max_keepalive_connections=self.concurrency,
            keepalive_expiry=KEPT_S,
        )

    @property
    def timeouts(self) -> httpx.Timeout:
        """Of connecting, and of waiting for what the server says next."""
        return httpx.Timeout(self.timeout, connect=min(self.timeout, CONNECT_TIMEOUT_S), pool=None)


class Connection:
    """Asks one server, from any number of threads."""

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self._url = options.url
        self._room = threading.BoundedSemaphore(options.concurrency)
        self._http = httpx.Client(
            headers=dict(options.headers),
            transport=httpx.HTTPTransport(
                verify=ssl_context(), trust_env=False, limits=options.limits
            ),
            timeout=options.timeouts,
            follow_redirects=True,
            trust_env=False,
        )

    def url_of(self, path: str) -> str:
        """The address of a route."""
        return self._url + path

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def ask(
        self, method: str, path: str, body: bytes | None, stopping: threading.Event | None = None
    ) -> bytes:
        """Send a request, and return the body of the answer.

        Args:
            stopping: once it is set, the request is not sent again.

        Raises:
            ServerError: the server refuses, or does not answer in time.
            UnavailableError: it is away or busy.
        """
        url = self.url_of(path)

        def once() -> bytes:
            response = self._opened(method, url, body)
            with transport_errors(url, self.options.timeout), contextlib.closing(response):
                return response.read()

        with self._room:
            return self._tried(once, stopping or threading.Event())

    @contextlib.contextmanager
    def lines(self, method: str, path: str, body: bytes) -> Iterator[Iterator[str]]:
        """Send a request, and give the lines of the answer as they come.

        Raises:
            ServerError, UnavailableError: as `ask`, and where the answer breaks off.
        """
        url = self.url_of(path)
        with self._room:
            response = self._tried(lambda: self._opened(method, url, body), threading.Event())
            with transport_errors(url, self.options.timeout), contextlib.closing(response):
                yield response.iter_lines()

    def _tried(self, once: Callable[[], T], stopping: threading.Event) -> T:
        retries = Retries(self.options.retries, self.options.on_retry)
        while True:
            try:
                return once()
            except UnavailableError as error:
                last = error
            if stopping.wait(retries.delay_after(last)):
                raise last

    def _opened(self, method: str, url: str, body: bytes | None) -> httpx.Response:
        with transport_errors(url, self.options.timeout):
            request = self._http.build_request(method, url, content=body)
            response = self._http.send(request, stream=True)
            if response.status_code == HTTPStatus.OK:
                return response
            with contextlib.closing(response):
                response.read()
        raise error_of(response)


class AsyncConnection:
    """Asks one server, from one event loop."""

    def __init__(self, options: ConnectionOptions, stopping: asyncio.Event | None = None) -> None:
        """
        Args:
            stopping: once it is set, no request is sent again.
        """
        self.options = options
        self._url = options.url
        self._stopping = stopping or asyncio.Event()
        self._room = asyncio.BoundedSemaphore(options.concurrency)
        self._http = httpx.AsyncClient(
            headers=dict(options.headers),
            transport=httpx.AsyncHTTPTransport(
                verify=ssl_context(), trust_env=False, limits=options.limits
            ),
            timeout=options.timeouts,
            follow_redirects=True,
            trust_env=False,
        )

    def url_of(self, path: str) -> str:
        """The address of a route."""
        return self._url + path

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ask(self, method: str, path: str, body: bytes | None) -> bytes:
        """As `Connection.ask`."""
        url, timeout = self.url_of(path), self.options.timeout

        async def once() -> bytes:
            with transport_errors(url, timeout):
                async with asyncio.timeout(timeout):
                    response = await self._opened(method, url, body)
                    async with contextlib.aclosing(response):
                        return await response.aread()

        async with self._room:
            return await self._tried(once)

    @contextlib.asynccontextmanager
    async def lines(self, method: str, path: str, body: bytes) -> AsyncIterator[AsyncIterator[str]]:
        """As `Connection.lines`."""
        url = self.url_of(path)
        async with self._room:
            response = await self._tried(lambda: self._opened(method, url, body))
            with transport_errors(url, self.options.timeout):
                async with contextlib.aclosing(response):
                    yield response.aiter_lines()

    async def _tried(self, once: Callable[[], Awaitable[T]]) -> T:
        retries = Retries(self.options.retries, self.options.on_retry)
        while True:
            try:
                return await once()
            except UnavailableError as error:
                last = error
            delay = retries.delay_after(last)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            if self._stopping.is_set():
                raise last

    async def _opened(self, method: str, url: str, body: bytes | None) -> httpx.Response:
        with transport_errors(url, self.options.timeout):
            request = self._http.build_request(method, url, content=body)
            response = await self._http.send(request, stream=True)
            if response.status_code == HTTPStatus.OK:
                return response
            async with contextlib.aclosing(response):
                await response.aread()
        raise error_of(response)
