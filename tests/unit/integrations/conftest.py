from __future__ import annotations

from collections.abc import Iterator

import pytest

from conf_server.client import Client
from tests.unit.integrations.small_model_server import SmallModelServer


@pytest.fixture
def server() -> Iterator[SmallModelServer]:
    with SmallModelServer() as server:
        yield server


@pytest.fixture
def client(server: SmallModelServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client
