"""The OpenAPI document says what our routes take and answer."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from conf_server.serving.hidden_states_protocol import (
    HiddenStatesModel,
    HiddenStatesRequest,
    HiddenStatesResponse,
)
from conf_server.serving.responses import (
    ConfidenceChatCompletionResponse,
    ConfidenceCompletionResponse,
    ThinkChatCompletionResponse,
)
from conf_server.serving.score_protocol import ScoreRequest, ScoreResponse
from conf_server.serving.think_protocol import ThinkOptions
from conf_server.serving.think_response import Thinking
from conf_server.serving.uncertainty_protocol import (
    MethodList,
    UncertaintyRequest,
    UncertaintyResponse,
)
from conf_server.uncertainty.registry import GROUPS, METHODS

OURS = [
    ScoreRequest,
    ScoreResponse,
    HiddenStatesModel,
    HiddenStatesRequest,
    HiddenStatesResponse,
    UncertaintyRequest,
    UncertaintyResponse,
    MethodList,
    ThinkOptions,
    Thinking,
]
OF_VLLM = [ConfidenceChatCompletionResponse, ConfidenceCompletionResponse]
EXTENDED = [*OF_VLLM, ThinkChatCompletionResponse]
ROUTES = {
    "/v1/score": ("post", "ScoreRequest", "ScoreResponse"),
    "/v1/hidden_states": ("post", "HiddenStatesRequest", "HiddenStatesResponse"),
    "/v1/uncertainty": ("post", "UncertaintyRequest", "UncertaintyResponse"),
    "/v1/chat/completions": (
        "post",
        "ConfidenceChatCompletionRequest",
        "ConfidenceChatCompletionResponse",
    ),
    "/v1/completions": ("post", "ConfidenceCompletionRequest", "ConfidenceCompletionResponse"),
    "/v1/think/chat/completions": ("post", "ThinkRequest", "ThinkChatCompletionResponse"),
    "/v1/uncertainty/methods": ("get", None, "MethodList"),
}


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def reachable(schema: Any, models: dict[str, Any]) -> set[str]:
    """Names of the models that a schema refers to, however indirectly."""
    found: set[str] = set()
    rest = [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                rest.append(models[name])
            rest += part.values()
        elif isinstance(part, list):
            rest += part
    return found


def test_the_document_is_ours(document: dict[str, Any]) -> None:
    assert document["info"]["title"] == "conf-server"


@pytest.mark.parametrize("path", ROUTES)
def test_routes_name_their_models(document: dict[str, Any], path: str) -> None:
    method, request, response = ROUTES[path]
    route = document["paths"][path][method]
    schema = route["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": f"#/components/schemas/{response}"}
    if request is not None:
        schema = route["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{request}"}


def test_hidden_states_are_json_first_and_a_file_as_well(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v1/hidden_states"]["post"]["responses"]["200"]
    assert list(answer["content"]) == ["application/json", "application/octet-stream"]


@pytest.mark.parametrize("model", OURS, ids=lambda model: model.__name__)
def test_everything_of_ours_is_described(document: dict[str, Any], model: type[BaseModel]) -> None:
    models = document["components"]["schemas"]
    stock = {"PromptTokenUsageInfo"}
    for name in {model.__name__, *reachable(models[model.__name__], models)} - stock:
        assert models[name]["description"], name
        for field, schema in models[name]["properties"].items():
            says_itself = "const" in schema or "$ref" in schema
            assert schema.get("description") or says_itself, (name, field)


@pytest.mark.parametrize("model", [*OURS, *EXTENDED], ids=lambda model: model.__name__)
def test_examples_are_right(document: dict[str, Any], model: type[BaseModel]) -> None:
    (example,) = document["components"]["schemas"][model.__name__]["examples"]
    model.model_validate(example)


def test_choices_are_enums_and_numbers_are_typed(document: dict[str, Any]) -> None:
    models = document["components"]["schemas"]
    options = models["UncertaintyOptions"]["properties"]
    assert options["methods"]["items"]["enum"] == [*GROUPS, *METHODS]
    assert "self_nli" in options["similarity"]["anyOf"][0]["enum"]
    fields = models["UncertaintyRequest"]["properties"]
    for name in ("max_tokens", "seed"):
        assert {"type": "integer"} in fields[name]["anyOf"]


def test_answers_of_vllms_routes_say_what_confidence_adds(document: dict[str, Any]) -> None:
    models = document["components"]["schemas"]
    chat, completion = (model.__name__ for model in OF_VLLM)
    assert {"ConfidenceToken", "SequenceMetric"} <= reachable(models[chat], models)
    assert "confidence_summary" in models["ConfidenceChatLogProbs"]["properties"]
    assert "ConfidenceCompletionLogProbs" in reachable(models[completion], models)
