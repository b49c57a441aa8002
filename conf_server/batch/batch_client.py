"""Asks the server of a batch command, and tells what fails one line from what stops the run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, Self

from tqdm import tqdm  # type: ignore[import-untyped]

from conf_server import terminal
from conf_server.batch.options import BatchOptions, StopRunError
from conf_server.client.calls import any_object, object_of
from conf_server.client.connection import AsyncConnection, ConnectionOptions
from conf_server.client.served_model import MODELS, ServedModel, served_model_of
from conf_server.client.server_error import PROTOCOL, TLS, ServerError, UnavailableError

FORBIDDEN: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class BatchClient:
    """Asks one server, as the command line says.

    Attributes:
        stopping: once it is set, no request is sent again.
    """

    def __init__(self, url: str, options: BatchOptions) -> None:
        self._endpoint = options.endpoint
        self._has_told = False
        self.stopping = asyncio.Event()
        asking = ConnectionOptions(
            url,
            options.api_key,
            timeout=options.timeout,
            retries=options.retries,
            concurrency=options.concurrency,
            on_retry=self._tell,
        )
        self._connection = AsyncConnection(asking, self.stopping)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.aclose()

    async def model(self) -> ServedModel:
        """The model that answers where a request names none.

        Raises:
            StopRunError: there is no server, it wants another key, or it is no conf-server.
        """
        with _refusals_stop_the_run():
            body = await self._connection.ask("GET", MODELS, None)
            return served_model_of(body, None, self._connection.url_of(MODELS))

    async def get(self, path: str) -> dict[str, Any]:
        """What the server says at a path.

        Raises:
            StopRunError: there is no server, it wants another key, or it refuses.
        """
        with _refusals_stop_the_run():
            body = await self._connection.ask("GET", path, None)
            return dict(any_object(body, self._connection.url_of(path)))

    async def post(self, payload: bytes) -> dict[str, Any]:
        """Send one request, and return the server's answer.

        Raises:
            ServerError: the server refuses this request, or does not answer it in time.
            StopRunError: there is no server, it wants another key, or it is no conf-server.
        """
        path = self._endpoint.path
        try:
            body = await self._connection.ask("POST", path, payload)
            return dict(object_of(body, self._endpoint.object, self._connection.url_of(path)))
        except ServerError as error:
            if reason := _reason_to_stop(error):
                raise StopRunError(reason) from error
            raise

    def _tell(self, error: UnavailableError) -> None:
        """Say why a request is sent again, once a run: silence would look like work."""
        if not self._has_told:
            text = f"{error.url}: {error.message}; trying again"
            tqdm.write(
                terminal.message(f"conf-server {self._endpoint.command}: {text}"), file=sys.stderr
            )
            self._has_told = True


@contextmanager
def _refusals_stop_the_run() -> Iterator[None]:
    try:
        yield
    except ServerError as error:
        raise StopRunError(_reason_to_stop(error) or f"{error.url}: {error.message}") from error


def _reason_to_stop(error: ServerError) -> str | None:
    """Why no line would fare better; None where the error is of this request alone."""
    if error.is_missing_route:
        return f"{error.url}: the server has no such route (HTTP {error.status})"
    if error.status in FORBIDDEN:
        return f"{error.url}: {error.message}; see --api-key"
    if isinstance(error, UnavailableError):
        return f"{error.url}: {error.message}, {error.attempts} times"
    if error.type in (PROTOCOL, TLS) and error.status is None:
        return f"{error.url}: {error.message}"
    return None
