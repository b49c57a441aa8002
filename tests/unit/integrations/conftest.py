"""A server that scores token ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conf_server.client import retries
from tests.unit.integrations.scoring_server import ScoringServer


@pytest.fixture
def server(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScoringServer]:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.001)
    with ScoringServer(model_path) as server:
        yield server
