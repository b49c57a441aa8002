"""Refusals become 400s that name the field, and installing that keeps vLLM's metrics alive."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from vllm.entrypoints.serve import create_error_response
from vllm.exceptions import VLLMValidationError

from conf_server.refusal import RefusalError
from conf_server.serving.refusals import install_refusals, refusal_event, refused


def test_a_field_is_named_once() -> None:
    error = refused("items.3.prompt", "must not be empty.", "")
    assert isinstance(error, VLLMValidationError)
    body = create_error_response(error).error
    assert body.message == "`items.3.prompt`: must not be empty."
    assert body.param == "items.3.prompt"
    assert body.code == 400


def test_a_refusal_in_a_stream_is_an_event() -> None:
    event = refusal_event(RefusalError("answer", "too long."))
    assert event.endswith("\n\n")
    body = json.loads(event.removeprefix("data: "))
    assert body["error"] == {
        "message": "`answer`: too long.",
        "type": "BadRequestError",
        "param": "answer",
        "code": 400,
    }


@pytest.fixture(scope="module")
def client(stock_app: FastAPI) -> TestClient:
    @stock_app.get("/refuses")
    async def refuses() -> None:
        raise RefusalError("samples.1", "`samples.1` is no text.")

    install_refusals(stock_app)
    return TestClient(stock_app)


def test_a_refusal_below_is_a_400_in_an_app_that_is_built(client: TestClient) -> None:
    answer = client.get("/refuses")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "samples.1"


def test_requests_are_still_counted(client: TestClient) -> None:
    labels = {"method": "GET", "status": "4xx", "handler": "/refuses"}
    before = REGISTRY.get_sample_value("http_requests_total", labels) or 0
    client.get("/refuses")
    assert REGISTRY.get_sample_value("http_requests_total", labels) == before + 1
