"""What the small server says of itself, and that work ends with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import conf_server
from conf_server.backends.base import Ask, Caller
from conf_server.backends.dummy import DummyBackend
from conf_server.backends.streaming import Piece
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.stats.early_stop import EarlyStop
from conf_server.stats.forced import WantedRows
from tests.unit.small_server.conftest import MESSAGES, Server, answered, error_of, small_server


def test_models(server: Server) -> None:
    models = answered(server.client.get("/v1/models"))
    assert [card["id"] for card in models["data"]] == ["smol", "small"]
    card = answered(server.client.get("/v1/models/small"))
    assert card == models["data"][1]
    assert (card["root"], card["max_model_len"]) == ("/models/smol", 64)
    assert error_of(server.client.get("/v1/models/gpt"), 404)["param"] == "model"


def test_health_readiness_and_version(server: Server) -> None:
    assert server.client.get("/health").status_code == 200
    assert answered(server.client.get("/ready")) == {"ready": True}
    server.app.state.server = SimpleNamespace(should_exit=True)
    response = server.client.get("/ready")
    assert "stopping" in error_of(response, 503)["message"]
    assert response.headers["retry-after"]
    found = answered(server.client.get("/version"))
    assert found["conf_server_version"] == conf_server.__version__
    assert found["backend"] == "transformers"


def metrics(server: Server) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and labels' values, in the order of the labels' names."""
    text = server.client.get("/metrics").text
    return {
        (sample.name, tuple(label for _, label in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_and_tokens_are_counted(server: Server) -> None:
    answered(server.chat())
    server.chat(stream=True)
    server.chat(messages=[])
    server.client.get("/nowhere/at/all")
    answered(server.client.post("/v1/score", json={"prompt": "a", "completions": ["b", "c d"]}))
    found = metrics(server)
    chat = "/v1/chat/completions"
    assert found["http_requests_total", (chat, "POST", "2xx")] == 2
    assert found["http_requests_total", (chat, "POST", "4xx")] == 1
    assert found["http_requests_total", ("none", "GET", "4xx")] == 1
    assert found["http_request_duration_seconds_count", (chat, "POST")] == 3
    assert found["conf_server_prompt_tokens_total", ()] == 2 * 3
    assert found["conf_server_generated_tokens_total", ()] == 8
    assert found["conf_server_scored_tokens_total", ()] == 2 + 3
    assert found["conf_server_requests_running", ()] == 0
    assert not [labels for _, labels in found if "/metrics" in labels]
    assert found["conf_server_build_info", ("transformers", conf_server.__version__)] == 1


def test_every_route_and_field_is_described(server: Server) -> None:
    document = answered(server.client.get("/openapi.json"))
    assert document["info"]["title"] == "conf-server"
    chat = document["paths"]["/v1/chat/completions"]["post"]
    schema = chat["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ChatRequest"}
    assert "text/event-stream" in chat["responses"]["200"]["content"]
    for path, methods in document["paths"].items():
        for route in methods.values():
            assert route["description"], path
    for name, model in document["components"]["schemas"].items():
        for field, facts in model.get("properties", {}).items():
            says_itself = "const" in facts or "$ref" in facts
            assert facts.get("description") or says_itself or "Validation" in name, (name, field)


def test_more_candidates_than_there_are_is_a_wrong_flag() -> None:
    with pytest.raises(SettingsError, match="--confidence-top-k: must be at most 20"):
        small_server(settings=ConfidenceSettings(top_k=21))


class Endless(DummyBackend):
    """Never comes to an end, and notes when its work is ended."""

    begun: asyncio.Event
    ended: bool = False

    async def stream(
        self,
        ask: Ask,
        wanted: WantedRows,
        caller: Caller,
        early_stop: EarlyStop | None = None,
    ) -> AsyncGenerator[Piece, None]:
        try:
            async for piece in super().stream(ask, wanted, caller, early_stop):
                yield piece
                self.begun.set()
                await asyncio.Event().wait()
        finally:
            self.ended = True


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_work_ends_with_its_client_and_with_the_server(stream: bool, cut: bool) -> None:
    """A client that leaves frees its work; one that is cut off hears so."""
    backend = Endless(lambda prompt, number: "I am")
    server = small_server(backend)
    sent: list[dict[str, Any]] = []

    async def ask() -> None:
        backend.begun, left = asyncio.Event(), asyncio.Event()
        body = server.client.build_request(
            "POST", "/v1/chat/completions", json={"messages": MESSAGES, "stream": stream}
        )
        given = [{"type": "http.request", "body": body.content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if given:
                return given.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            **{"type": "http", "asgi": {"version": "3.0"}, "method": "POST", "query_string": b""},
            **{"path": "/v1/chat/completions", "root_path": "", "scheme": "http"},
            "headers": [(b"content-type", b"application/json")],
        }
        request = asyncio.create_task(server.app(scope, receive, send))
        await asyncio.wait_for(backend.begun.wait(), 10)
        if cut:
            server.app.state.conf_server_stopping.set()
        else:
            left.set()
        await asyncio.wait_for(request, 10)

    asyncio.run(ask())
    assert backend.ended
    answer = b"".join(message.get("body", b"") for message in sent)
    assert (b"The server is stopping" in answer) == cut
    if cut and not stream:
        assert sent[0]["status"] == 503
