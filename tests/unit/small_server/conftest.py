"""A small server whose model is made up: word i has the log-probability -(i + 1) / 10."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from conf_server.backends.dummy import DummyBackend
from conf_server.backends.dummy_numbers import LIMITS
from conf_server.settings import ConfidenceSettings
from conf_server.small_server.generation_handler import GenerationDefaults
from conf_server.small_server.served_model import ServedModel
from conf_server.small_server.small_app import Served, build_app

MODEL = ServedModel(("smol", "small"), "/models/smol", max_len=64)
DEFAULTS = GenerationDefaults(temperature=0.6, max_tokens=9)
MESSAGES = [{"role": "user", "content": "Who are you?"}]


@dataclass
class Server:
    """A server whose backend can be looked into."""

    app: FastAPI
    client: TestClient
    backend: DummyBackend

    def chat(self, **fields: Any) -> Response:
        body = {"messages": MESSAGES, **fields}
        return self.client.post("/v1/chat/completions", json=body)

    def complete(self, **fields: Any) -> Response:
        return self.client.post("/v1/completions", json={"prompt": "Who?", **fields})


def answered(response: Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def error_of(response: Response, status: int = 400) -> dict[str, Any]:
    """The promised body of an error."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["code"] == status
    return error


def events(response: Response) -> list[dict[str, Any]]:
    """The chunks of a stream, which has to be complete."""
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    *chunks, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


def small_server(
    backend: DummyBackend | None = None,
    settings: ConfidenceSettings | None = None,
    **served: Any,
) -> Server:
    backend = backend or DummyBackend(lambda prompt, number: f"I am number {number}")
    given = Served(MODEL, defaults=DEFAULTS, **served)
    app = build_app(backend, settings or ConfidenceSettings(top_k=2), given)
    client = TestClient(app, raise_server_exceptions=False)
    return Server(app, client, backend)


@pytest.fixture
def server() -> Server:
    return small_server()


@pytest.fixture
def make_server() -> Callable[..., Server]:
    return small_server


def without_states(backend: DummyBackend) -> DummyBackend:
    backend.known = replace(LIMITS, states="it has no layers")
    return backend
