"""Who gets in: keys, and bodies that are not too large; and whether the server wants more."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from conf_server.serving.admission import BodyLimit

OPEN = {("POST", "/ping")}


def test_whatever_generates_or_changes_something_needs_the_key(
    app: FastAPI, client: TestClient
) -> None:
    without_key = TestClient(app, raise_server_exceptions=False)
    asked = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    for method, path in sorted(asked):
        if method not in ("GET", "HEAD") and (method, path) not in OPEN:
            answer = without_key.request(method, path, json={})
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error"]["code"] == 401
    assert ("POST", "/invocations") in asked
    assert client.post("/invocations", json={}).status_code != 401


@pytest.mark.parametrize("path", ["/version", "/metrics", "/openapi.json"])
def test_what_only_tells_of_the_server_needs_none(app: FastAPI, path: str) -> None:
    assert TestClient(app).get(path).status_code == 200


@pytest.fixture
def limited() -> TestClient:
    async def length(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/", length, methods=["GET", "POST"])])
    return TestClient(BodyLimit(app, 10))


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"12345"


@pytest.mark.parametrize(("content", "length"), [(b"1234567890", 10), (b"", 0), (chunks(2), 10)])
def test_a_body_that_is_not_too_large_arrives_whole(
    limited: TestClient, content: Any, length: int
) -> None:
    assert limited.post("/", content=content).text == str(length)
    assert limited.get("/").text == "0"


@pytest.mark.parametrize("content", [b"12345678901", chunks(3)])
def test_a_body_that_is_too_large_is_a_413(limited: TestClient, content: Any) -> None:
    answer = limited.post("/", content=content)
    assert answer.status_code == answer.json()["error"]["code"] == 413
    assert "--max-body-bytes" in answer.json()["error"]["message"]
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "a", "completion": "b", "x" * 3_000_000: 1},
        {"prompt": "a", "completion": "b", "mode": "x" * 3_000_000},
    ],
)
def test_an_error_does_not_echo_megabytes(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post("/v1/score", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert len(answer.content) < 10_000


class Engine(SimpleNamespace):
    """What is known of an engine without asking it."""

    errored = False
    silence_s = 0.0
    admission_stats = None
    requests = 3
    tokens = 100

    def get_num_unfinished_requests(self) -> int:
        return self.requests

    def get_num_queued_tokens(self) -> int:
        return self.tokens


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        ({}, None),
        ({"errored": True}, "the engine is dead"),
        ({"silence_s": 61.0}, "has said nothing for 61 s"),
        ({"requests": 4}, "--max-num-queued-reqs"),
        ({"tokens": 500}, "--max-num-queued-tokens"),
        ({"admission_stats": SimpleNamespace(get_num_requests=lambda: 4)}, "--max-num-queued-reqs"),
    ],
)
def test_a_server_is_ready_where_its_engine_answers_and_its_queue_has_room(
    app: FastAPI, engine: dict[str, Any], reason: str | None
) -> None:
    scheduler = SimpleNamespace(max_num_queued_reqs=4, max_num_queued_tokens=500)
    app.state.engine_client = Engine(
        vllm_config=SimpleNamespace(scheduler_config=scheduler), **engine
    )
    app.state.server = SimpleNamespace(should_exit=False)
    answer = TestClient(app).get("/ready")
    if reason is None:
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    else:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert reason in answer.json()["error"]["message"]


def test_a_server_that_stops_is_not_ready(app: FastAPI) -> None:
    app.state.engine_client = None
    app.state.server = SimpleNamespace(should_exit=True)
    assert TestClient(app).get("/ready").status_code == 503
