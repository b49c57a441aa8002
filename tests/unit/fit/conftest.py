"""A server whose hidden states are known, and a folder to fit in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conf_server.client import retries
from tests.unit.fit.states_server import Fit, StatesServer


@pytest.fixture
def server() -> Iterator[StatesServer]:
    with StatesServer() as server:
        yield server


@pytest.fixture
def fitting(server: StatesServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.001)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    return Fit(tmp_path, server)
