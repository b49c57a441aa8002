"""A server, and both clients behind one face, so that the same cases hold for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from conf_server.client import AsyncClient, Client, retries
from tests.unit.client.answering_server import AnsweringServer

Connect = Callable[..., Any]


class Awaited:
    """An `AsyncClient` whose coroutines are run to their end."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            found = getattr(self._client, name)(*arguments, **options)
            if isinstance(found, AsyncIterator):
                return self._runner.run(collected(found))
            return self._runner.run(found)

        return run


async def collected(parts: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in parts]


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with AnsweringServer() as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes a client; arguments are those of `Client`."""
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.001)
    with ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Any:
            if request.param == "sync":
                return stack.enter_context(Client(*arguments, **options))
            runner = stack.enter_context(asyncio.Runner())
            client = AsyncClient(*arguments, **options)
            stack.callback(lambda: runner.run(client.aclose()))
            return Awaited(client, runner)

        yield make


@pytest.fixture
def client(connect: Connect, server: AnsweringServer) -> Any:
    return connect(server.url)
