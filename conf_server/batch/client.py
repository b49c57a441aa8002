"""POST until there is an answer, a refusal, or no more hope."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from conf_server.batch.options import BatchOptions

FIRST_DELAY_S: Final = 0.5
LONGEST_DELAY_S: Final = 30.0
"""Delays double from the first to the longest, each by a random factor of 0.5 to 1.5."""

CONNECT_TIMEOUT_S: Final = 30.0

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


class StopRunError(RuntimeError):
    """No line would fare better than this one. The message says why."""


class RefusedError(RuntimeError):
    """The server will not answer this line.

    Attributes:
        error: OpenAI's error object: `message`, `type`, `param`, `code`.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message")))
        self.error = error


class _AwayError(RuntimeError):
    """Worth another try."""


class Client:
    """Posts to one endpoint of one server.

    Attributes:
        stopping: no more tries once it is set.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, options: BatchOptions) -> None:
        self._session = session
        self._url = url + options.endpoint.path
        self._endpoint = options.endpoint
        self._retries = options.retries
        self.stopping = asyncio.Event()

    @staticmethod
    def session(options: BatchOptions) -> aiohttp.ClientSession:
        """As many connections as requests at once."""
        headers = {"Content-Type": "application/json"}
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=options.concurrency),
            timeout=aiohttp.ClientTimeout(options.timeout, sock_connect=CONNECT_TIMEOUT_S),
            headers=headers,
        )

    async def post(self, payload: bytes) -> dict[str, Any]:
        """The server's answer.

        Raises:
            RefusedError: an error of this request, or no answer in time.
            StopRunError: no server, no key, or not our server.
        """
        for attempt in range(self._retries + 1):
            try:
                return await self._post_once(payload)
            except _AwayError as error:
                last = error
            if attempt < self._retries:
                await self._pause(attempt)
            if self.stopping.is_set():
                break
        raise StopRunError(f"{self._url}: {last}, {attempt + 1} times") from last

    async def _pause(self, attempt: int) -> None:
        delay = min(FIRST_DELAY_S * 2**attempt, LONGEST_DELAY_S) * random.uniform(0.5, 1.5)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), delay)

    async def _post_once(self, payload: bytes) -> dict[str, Any]:
        try:
            async with self._session.post(self._url, data=payload) as response:
                status, body = response.status, await response.read()
        except aiohttp.ClientConnectorError as error:
            raise _AwayError(f"cannot connect: {error.strerror}") from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise _AwayError(str(error) or type(error).__name__) from error
        except TimeoutError as error:
            message = f"no answer within {self._session.timeout.total:g} s"
            raise RefusedError({"message": message, "type": "timeout", "code": None}) from error
        if status in BUSY:
            raise _AwayError(_error_of(status, body)["message"])
        if status in FORBIDDEN:
            raise StopRunError(f"{self._url}: {_error_of(status, body)['message']}; see --api-key")
        if status in NO_SUCH_ROUTE and _is_of_the_route(status, body):
            raise StopRunError(f"{self._url}: the server has no such route (HTTP {status})")
        if status != HTTPStatus.OK:
            raise RefusedError(_error_of(status, body))
        return self._answer(body)

    def _answer(self, body: bytes) -> dict[str, Any]:
        answer = _json_object(body)
        kind = answer.get("object") if answer else None
        if answer is None or kind != self._endpoint.object:
            raise StopRunError(
                f"{self._url}: not an answer of conf-server: object {kind!r}, "
                f"not {self._endpoint.object!r}"
            )
        return answer


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _openai_error(body: bytes) -> dict[str, Any] | None:
    error = (_json_object(body) or {}).get("error")
    return error if isinstance(error, dict) else None


def _is_of_the_route(status: int, body: bytes) -> bool:
    """Whether it was not the handler that found something missing, say a model."""
    error = _openai_error(body)
    return error is None or error.get("message") == HTTPStatus(status).phrase


def _error_of(status: int, body: bytes) -> dict[str, Any]:
    """OpenAI's object; of any other body its beginning."""
    error = _openai_error(body)
    if error is not None and error.get("message"):
        return error
    text = body[:200].decode(errors="replace").strip()
    return {"message": f"HTTP {status} {text}".strip(), "type": "http", "code": status}
