"""Whatever a schema allows, and whatever is wrong with a request: the server stays in charge."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from tests import mutator
from tests.server import Server

pytestmark = pytest.mark.only_vllm("fields that the other has not")

ROUTES = {
    "/v1/chat/completions": "ConfidenceChatCompletionRequest",
    "/v1/completions": "ConfidenceCompletionRequest",
    "/v1/score": "ScoreRequest",
    "/v1/hidden_states": "HiddenStatesRequest",
    "/v1/uncertainty": "UncertaintyRequest",
    "/v1/think/chat/completions": "ThinkRequest",
}
# vLLM's own fields are vLLM's to fuzz: of its two routes only what meets ours stays.
OURS = {
    "messages": {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {
            "type": "object",
            "properties": {
                "role": {"enum": ["system", "user", "assistant"]},
                "content": {"type": "string"},
            },
            "required": ["role", "content"],
            "additionalProperties": False,
        },
    },
    "prompt": {"type": "string", "minLength": 1},
    "max_tokens": {"enum": [1, 2]},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "n": {"enum": [1, 2]},
    "top_logprobs": {"type": "integer", "minimum": -1, "maximum": 30},
    "stream": {"type": "boolean"},
    "echo": {"type": "boolean"},
}
# Ten samples, which are the default, take long, and the schema allows any number of them.
N_SAMPLES = {"enum": [1, 2, 3, "2"]}
TIMEOUT_S = 300
METHODS = ["fast", "deg_mat", "p_true", "sar", "consistency", "verbalized_2s", "magic"]


@pytest.fixture(scope="session")
def api_schema(server: Server) -> Any:
    with server.http() as http:
        document = http.get("/openapi.json").json()
    document["paths"] = {path: document["paths"][path] for path in ROUTES}
    models = document["components"]["schemas"]
    for path, name in ROUTES.items():
        model = models[name]
        if path == "/v1/uncertainty":
            options = models["UncertaintyOptions"]
            options["properties"]["methods"]["items"] = {"enum": METHODS}
            options["properties"]["n_samples"] = N_SAMPLES
            options["required"] = ["n_samples"]
            model["properties"] |= {"max_tokens": OURS["max_tokens"], "n": OURS["n"]}
            model["additionalProperties"] = False
            model["required"] = ["max_tokens"]
        elif path not in ("/v1/score", "/v1/hidden_states"):
            kept = {"confidence", "logprobs", "think", *OURS} & set(model["properties"])
            model["properties"] = {
                field: OURS.get(field, model["properties"][field]) for field in kept
            }
            model["additionalProperties"] = False
            model["required"] = ["max_tokens", "messages" if "chat" in path else "prompt"]
            if "think" in path:
                options = models["ThinkOptions"]
                options["properties"]["budget"] = N_SAMPLES
                options["required"] = ["budget"]
                model["required"].append("think")
    return schemathesis.openapi.from_dict(document)


@pytest.mark.parametrize("path", ROUTES)
def test_no_request_is_a_server_error(path: str, api_schema: Any, server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.api_key}"}

    @given(case=api_schema[path]["POST"].as_strategy())
    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        response = case.call(base_url=server.url, headers=headers, timeout=TIMEOUT_S)
        case.validate_response(response, checks=[not_a_server_error])
        if response.status_code >= 400:
            error = response.json()["error"]
            assert error["code"] == response.status_code
            assert error["message"]

    check()


async def test_spoilt_requests_are_refused_and_nothing_else(server: Server) -> None:
    tally = await mutator.run(server.url, count=300, seed=1, key=server.api_key)
    assert not tally.faults, mutator.report(tally)
    assert tally.statuses[400] > 100
