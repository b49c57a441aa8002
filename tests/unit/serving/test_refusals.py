"""Refusals become HTTP answers that name the field."""

from __future__ import annotations

import json

from vllm.entrypoints.serve import create_error_response
from vllm.exceptions import VLLMValidationError

from conf_server.refusal import RefusalError
from conf_server.serving.refusals import refusal_event, refused


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
