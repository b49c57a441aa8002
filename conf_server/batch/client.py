"""Sends requests to one server, and sends them again while it is away or busy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server import terminal
from conf_server.batch.options import BatchOptions, StopRunError

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
"""Delays double from the first to the longest; each is multiplied by a random 1 to 1.5."""

LONGEST_ASKED_S: Final = 300.0
"""The longest delay that a server's `Retry-After` can ask for."""

CONNECT_TIMEOUT_S: Final = 30.0
MODELS: Final = "/v1/models"

BUSY: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
FORBIDDEN: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
NO_SUCH_ROUTE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})


class RefusedError(RuntimeError):
    """The server has refused this request, or has not answered it in time.

    Attributes:
        error: OpenAI's error object: `message`, `type`, `param`, `code`.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message")))
        self.error = error


class _AwayError(RuntimeError):
    """The server is away or busy: the same request may succeed later.

    Attributes:
        retry_after: the server's header `Retry-After`; None for none.
    """

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Model:
    """The model that a server serves.

    Attributes:
        name: the name that its answers bear.
        root: the folder or the name that its weights come from.
    """

    name: str
    root: str


class Client:
    """Asks one server.

    Attributes:
        stopping: once it is set, no request is sent again.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, options: BatchOptions) -> None:
        self._session = session
        self._url = url
        self._endpoint = options.endpoint
        self._retries = options.retries
        self._has_told = False
        self.stopping = asyncio.Event()

    @staticmethod
    def session(options: BatchOptions) -> aiohttp.ClientSession:
        """A session with as many connections as there may be requests at once."""
        headers = {"Content-Type": "application/json"}
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=options.concurrency),
            timeout=aiohttp.ClientTimeout(options.timeout, sock_connect=CONNECT_TIMEOUT_S),
            headers=headers,
        )

    async def model(self) -> Model:
        """The model that answers where a request names none.

        Raises:
            StopRunError: there is no server, it wants another key, or it is no conf-server.
        """
        match await self.get(MODELS):
            case {"data": [{"id": str(name), "root": str(root)}, *_]}:
                return Model(name, root)
        raise StopRunError(f"{self._url}{MODELS}: not a list of models")

    async def get(self, path: str) -> dict[str, Any]:
        """What the server says at a path; nothing where that is no JSON object.

        Raises:
            StopRunError: there is no server, it wants another key, or it refuses.
        """
        url = self._url + path
        try:
            return _json_object(await self._ask("GET", url)) or {}
        except RefusedError as error:
            raise StopRunError(f"{url}: {error}") from error

    async def post(self, payload: bytes) -> dict[str, Any]:
        """Send one request, and return the server's answer.

        Raises:
            RefusedError: the server refuses this request, or does not answer it in time.
            StopRunError: there is no server, it wants another key, or it is no conf-server.
        """
        url = self._url + self._endpoint.path
        answer = _json_object(await self._ask("POST", url, payload))
        kind = answer.get("object") if answer else None
        if answer is None or kind != self._endpoint.object:
            raise StopRunError(
                f"{url}: not an answer of conf-server: object {kind!r}, "
                f"not {self._endpoint.object!r}"
            )
        return answer

    async def _ask(self, method: str, url: str, payload: bytes | None = None) -> bytes:
        for attempt in range(self._retries + 1):
            try:
                return await self._ask_once(method, url, payload)
            except _AwayError as error:
                last = error
            if attempt < self._retries:
                self._tell(f"{url}: {last}; trying again")
                delay = retry_delay(attempt, last.retry_after, datetime.now(UTC))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stopping.wait(), delay)
            if self.stopping.is_set():
                break
        raise StopRunError(f"{url}: {last}, {attempt + 1} times") from last

    def _tell(self, text: str) -> None:
        """Say why a request is sent again, once a run: silence would look like work."""
        if not self._has_told:
            tqdm.write(
                terminal.message(f"conf-server {self._endpoint.command}: {text}"), file=sys.stderr
            )
            self._has_told = True

    async def _ask_once(self, method: str, url: str, payload: bytes | None) -> bytes:
        try:
            async with self._session.request(method, url, data=payload) as response:
                status, headers, body = response.status, response.headers, await response.read()
        except aiohttp.ClientSSLError as error:
            raise StopRunError(f"{url}: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise _AwayError(f"cannot connect: {error.strerror}") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise _AwayError(str(error) or type(error).__name__) from error
        except TimeoutError as error:
            message = f"no answer within {self._session.timeout.total:g} s"
            raise RefusedError({"message": message, "type": "timeout", "code": None}) from error
        except aiohttp.ClientError as error:
            raise StopRunError(f"{url}: no HTTP server: {error}") from error
        if status in BUSY:
            raise _AwayError(_error_of(status, body)["message"], headers.get("Retry-After"))
        if status in FORBIDDEN:
            raise StopRunError(f"{url}: {_error_of(status, body)['message']}; see --api-key")
        if status in NO_SUCH_ROUTE and _is_of_the_route(status, body):
            raise StopRunError(f"{url}: the server has no such route (HTTP {status})")
        if status != HTTPStatus.OK:
            raise RefusedError(_error_of(status, body))
        return body


def retry_delay(attempt: int, retry_after: str | None, now: datetime) -> float:
    """Seconds to wait before the next try: our own delay, or the server's where that is longer.

    Args:
        attempt: how many tries went before the one that has failed.
        retry_after: the server's header (RFC 9110, 10.2.3), seconds or a date. Any other text
            asks for nothing.
    """
    ours = min(FIRST_DELAY_S * 2.0 ** min(attempt, 30), LONGEST_DELAY_S) * random.uniform(1, 1.5)
    return max(ours, min(_asked_s(retry_after or "", now), LONGEST_ASKED_S))


def _asked_s(retry_after: str, now: datetime) -> float:
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return 0.0
    return (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _openai_error(body: bytes) -> dict[str, Any] | None:
    error = (_json_object(body) or {}).get("error")
    return error if isinstance(error, dict) else None


def _is_of_the_route(status: int, body: bytes) -> bool:
    """Whether the route itself is missing, and not something that its handler looked for."""
    error = _openai_error(body)
    return error is None or error.get("message") == HTTPStatus(status).phrase


def _error_of(status: int, body: bytes) -> dict[str, Any]:
    """OpenAI's error object. Of a body that has none, the message is the body's beginning."""
    error = _openai_error(body)
    if error is not None and error.get("message"):
        return error
    text = body[:200].decode(errors="replace").strip()
    return {"message": f"HTTP {status} {text}".strip(), "type": "http", "code": status}
