"""A server with a model of five tokens, and one that scores with the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conf_server.client import Client, retries
from tests.unit.integrations.scoring_server import ScoringServer
from tests.unit.integrations.small_model_server import SmallModelServer


@pytest.fixture
def server() -> Iterator[SmallModelServer]:
    with SmallModelServer() as server:
        yield server


@pytest.fixture
def client(server: SmallModelServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def scoring_server(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScoringServer]:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.001)
    with ScoringServer(model_path) as server:
        yield server
