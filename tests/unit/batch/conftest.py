"""A fake server, and files of requests for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conf_server.client import retries
from tests.unit.batch.fake_server import FakeServer
from tests.unit.batch.runs import Files


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_DELAY_S", 0.001)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


@pytest.fixture(params=["", ".gz"])
def files(request: pytest.FixtureRequest, tmp_path: Path, quick_retries: None) -> Files:
    return Files(tmp_path, request.param)


@pytest.fixture
def plain(tmp_path: Path, quick_retries: None) -> Files:
    return Files(tmp_path)
