"""Refusals become HTTP answers that name the field."""

from __future__ import annotations

import json

from conf_server.refusal import RefusalError
from conf_server.serving.refusals import refusal_body, refusal_event


def test_a_field_is_named_once() -> None:
    body = refusal_body(RefusalError("items.3.prompt", "must not be empty.", "")).error
    assert body.message == "`items.3.prompt`: must not be empty."
    assert body.param == "items.3.prompt"
    assert body.code == 400


def test_a_refusal_may_have_another_status_and_no_field() -> None:
    refusal = RefusalError(None, "There is no scorer.", status=501, kind="NotImplementedError")
    body = refusal_body(refusal).error
    assert (body.message, body.param) == ("There is no scorer.", None)
    assert (body.type, body.code) == ("NotImplementedError", 501)


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
