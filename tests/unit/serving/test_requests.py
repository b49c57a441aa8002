"""Bodies over which vLLM's validators stumble are refused with the field's name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from conf_server.backends.served_rows import RowsChatRequest, RowsCompletionRequest
from conf_server.refusal import RefusalError
from conf_server.serving.requests import (
    ConfidenceChatCompletionRequest,
    ConfidenceCompletionRequest,
)
from conf_server.serving.score_protocol import ScoreRequest

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"prompt": "Hi"}
NAMED_TOOL = {"type": "function", "function": {"name": "x"}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"structured_outputs": [1]}, "structured_outputs"),
        ({"structured_outputs": "x"}, "structured_outputs"),
        ({"structured_outputs": 5}, "structured_outputs"),
        ({"request_id": "\ud800"}, "request_id"),
        ({"vllm_xargs": {"a": ["\ud800"]}}, "vllm_xargs.a.0"),
        ({"bogus": {"\ud800": 1}}, "bogus"),
    ],
)
def test_every_request_of_ours(body: dict[str, Any], field: str) -> None:
    for model, right in (
        (ConfidenceChatCompletionRequest, CHAT),
        (ConfidenceCompletionRequest, COMPLETION),
        (RowsChatRequest, CHAT),
        (RowsCompletionRequest, COMPLETION),
    ):
        with pytest.raises(RefusalError) as caught:
            model.model_validate(right | body)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": "xx", "tool_choice": NAMED_TOOL}, "tools"),
        ({"tools": [{"function": 5}], "tool_choice": NAMED_TOOL}, "tools"),
    ],
)
def test_tools(body: dict[str, Any], field: str) -> None:
    with pytest.raises(RefusalError) as caught:
        ConfidenceChatCompletionRequest.model_validate(CHAT | body)
    assert caught.value.field == field


def test_a_null_request_id_is_none() -> None:
    given = [{"request_id": None}, {"request_id": None}, {}]
    ids = {ConfidenceChatCompletionRequest.model_validate(CHAT | i).request_id for i in given}
    assert len(ids) == 3
    with pytest.raises(ValidationError):
        ConfidenceChatCompletionRequest.model_validate(CHAT | {"request_id": 5})


@pytest.mark.parametrize(
    ("model", "body", "field"),
    [
        (ScoreRequest, {"prompt": "a", "completion": "b", "metrics": ["x"] * 50_000}, "metrics"),
        (ScoreRequest, {"items": [{"x": 1}] * 50_000}, "items"),
        (ConfidenceChatCompletionRequest, {"messages": [1] * 5_000}, "messages"),
    ],
)
def test_of_very_many_mistakes_the_first_is_named(
    model: type[BaseModel], body: dict[str, Any], field: str
) -> None:
    with pytest.raises(RefusalError, match=r"\d+ mistakes more") as refused:
        model.model_validate(body)
    assert (refused.value.field or "").startswith(field)
