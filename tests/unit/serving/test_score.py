"""POST /v1/score, through the app of a server, with a backend that makes its rows up."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from conf_server.backends.dummy import DummyBackend
from conf_server.serving.score_handler import ServingScore
from conf_server.serving.vllm_host import VllmHost
from conf_server.settings import ConfidenceSettings
from tests.unit.serving.chat_handler import chat_handler

BODY: dict[str, Any] = {"prompt": [5, 7], "completions": [[1, 2, 3], [4, 5]]}
MAX_ENTRIES = 20


@pytest.fixture
def backend(app: FastAPI) -> Iterator[DummyBackend]:
    """The backend of a handler that takes the place of the app's."""
    backend = DummyBackend(lambda prompt, number: "")
    model = SimpleNamespace(get_vocab_size=lambda: 100, max_logprobs=20)
    engine = SimpleNamespace(
        model_config=model,
        renderer=None,
        input_processor=None,
        errored=False,
        check_admission=lambda count: None,
    )
    settings = ConfidenceSettings(statistics_obstacle=None, max_score_entries=MAX_ENTRIES)
    host = VllmHost(chat_handler(engine))
    app.state.conf_server_score = ServingScore(host, backend, settings)
    app.state.conf_server_logprobs_encoder = None
    yield backend
    del app.state.conf_server_score


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"mode": "per_token", "top_logprobs": 4}, "top_logprobs"),
        ({"mode": "summary", "completions": [[1] * 21]}, "mode"),
    ],
)
def test_an_answer_of_too_many_entries_is_refused_before_any_work(
    client: TestClient, backend: DummyBackend, options: dict[str, Any], field: str
) -> None:
    response = client.post("/v1/score", json=BODY | options)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == field
    assert "--max-score-entries" in error["message"]
    assert not backend.asked


@pytest.mark.parametrize("options", [{}, {"mode": "stats", "top_logprobs": 20}])
def test_an_answer_without_entries_has_no_such_bound(
    client: TestClient, backend: DummyBackend, options: dict[str, Any]
) -> None:
    response = client.post("/v1/score", json=BODY | {"completions": [[1] * 30]} | options)
    assert response.status_code == 200, response.text


def test_a_metric_that_is_named_again_is_computed_once(
    client: TestClient, backend: DummyBackend
) -> None:
    once = {"metrics": ["perplexity", "max_token_entropy"]}
    again = {"metrics": ["perplexity", "max_token_entropy"] * 50_000}
    answers = [client.post("/v1/score", json=BODY | options).json() for options in (once, again)]
    assert answers[0]["data"] == answers[1]["data"]
    assert list(answers[0]["data"][0]["uncertainty"]) == once["metrics"]


def test_what_others_have_sent_is_not_told_unless_the_server_says_so(
    client: TestClient, backend: DummyBackend
) -> None:
    usage = client.post("/v1/score", json=BODY).json()["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["prompt_tokens_details"] is None
