"""What an app of ours answers before any engine is asked: errors, versions, counted requests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from vllm.version import __version__ as vllm_version

import conf_server
from conf_server.refusal import RefusalError
from conf_server.serving.routes import router, server_router
from tests.unit.serving.conftest import operations

JSON = {"content-type": "application/json"}
POSTS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/score",
    "/v1/hidden_states",
    "/v1/uncertainty",
    "/v1/think/chat/completions",
    "/v1/responses",
    "/tokenize",
]


class Refusing:
    """Stands for a handler that finds a mistake."""

    async def create_score(self, *_: Any) -> None:
        raise RefusalError("completion", "too long.")


@pytest.fixture
def refusing(app: FastAPI) -> Iterator[None]:
    app.state.conf_server_score = Refusing()
    yield
    del app.state.conf_server_score


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The promised body of an error."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert error["message"]
    return error


@pytest.mark.usefixtures("refusing")
def test_a_refusal_names_the_field(client: TestClient) -> None:
    answer = client.post("/v1/score", json={"prompt": "a", "completion": "b"})
    assert error_of(answer, 400)["param"] == "completion"


@pytest.mark.parametrize("path", POSTS)
def test_a_body_that_is_no_text(client: TestClient, path: str) -> None:
    error = error_of(client.post(path, content=b'{"\xff": 1}', headers=JSON), 400)
    assert "utf-8" in error["message"]


@pytest.mark.parametrize("path", POSTS)
def test_a_compressed_body_is_refused_in_words(client: TestClient, path: str) -> None:
    body = gzip.compress(json.dumps({"prompt": "a", "completion": "b"}).encode())
    answer = client.post(path, content=body, headers=JSON | {"content-encoding": "gzip"})
    assert "gzip" in error_of(answer, 415)["message"]
    assert answer.headers["accept-encoding"] == "identity"


def test_unknown_routes_and_methods(client: TestClient) -> None:
    assert "POST /v1/nothing" in error_of(client.post("/v1/nothing"), 404)["message"]
    answer = client.get("/v1/score")
    assert "GET" in error_of(answer, 405)["message"]
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (route.path, method)
        for route in (*router.routes, *server_router.routes)
        if isinstance(route, APIRoute) and route.path.startswith("/v1/")
        for method in route.methods
    ],
)
def test_every_route_of_ours_asks_for_the_key(app: FastAPI, path: str, method: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = TestClient(app).request(method, path, json={}, headers=headers)
        error_of(answer, 401)


@pytest.mark.usefixtures("refusing")
def test_requests_are_counted_by_route(client: TestClient) -> None:
    labels = {"method": "POST", "status": "4xx", "handler": "/v1/score"}

    def counts() -> list[float]:
        names = ("http_requests_total", "http_request_duration_seconds_count")
        return [
            REGISTRY.get_sample_value(name, labels) or 0
            if name == "http_requests_total"
            else REGISTRY.get_sample_value(name, {"method": "POST", "handler": "/v1/score"}) or 0
            for name in names
        ]

    before = counts()
    client.post("/v1/score", json={"prompt": "a", "completion": "b"})
    assert counts() == [count + 1 for count in before]


def test_versions(client: TestClient) -> None:
    assert client.get("/version").json() == {
        "version": vllm_version,
        "conf_server_version": conf_server.__version__,
    }
    labels = f'{{version="{conf_server.__version__}",vllm_version="{vllm_version}"}}'
    assert f"conf_server_build_info{labels} 1.0" in client.get("/metrics").text


def test_every_route_of_vllms_is_there_once(app: FastAPI) -> None:
    stock = app.state.stock_routes
    ours = {
        ("/v1/score", "POST"),
        ("/v1/think/chat/completions", "POST"),
        ("/v1/hidden_states", "GET"),
        ("/v1/hidden_states", "POST"),
        ("/v1/uncertainty", "POST"),
        ("/v1/uncertainty/methods", "GET"),
        ("/v1/models/{model_id:path}", "GET"),
        ("/ready", "GET"),
    }
    assert set(operations(app)) == {*stock, *ours}
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert sum(len(route.methods) for route in routes) == len(operations(app))


def test_replaced_routes_take_and_answer_what_vllms_do(app: FastAPI) -> None:
    """Our request models extend vLLM's, and documented statuses stay documented."""
    for key, stock in app.state.stock_routes.items():
        route = operations(app)[key]
        bodies = [
            r.body_field.field_info.annotation if r.body_field else None for r in (stock, route)
        ]
        if isinstance(bodies[0], type):
            assert issubclass(bodies[1], bodies[0]), key
        else:
            assert bodies[0] == bodies[1], key
        assert set(stock.responses) <= set(route.responses), key
        assert len(route.dependencies) == len(stock.dependencies), key
