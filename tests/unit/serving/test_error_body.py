"""Our error bodies are vLLM's, byte for byte."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from vllm.entrypoints.serve import create_error_response

from conf_server.serving.error_body import error_body


@pytest.mark.parametrize(
    "message",
    [
        "`items.3.prompt`: must not be empty.",
        " white space around it\n",
        "<function f at 0x7f3a21> of /home/me/model/config.json or /opt/x, and POST /v1/score",
        'failed\n  File "/srv/a/b.py", line 3, in f\n    raise\n',
        "the folder ./a/b/model.safetensors; 3/4 of /a/b",
        "\N{EURO SIGN}",
    ],
)
@pytest.mark.parametrize("param", [None, "prompt"])
def test_the_same_message_makes_the_same_body(message: str, param: str | None) -> None:
    status = HTTPStatus.NOT_FOUND
    ours = error_body(message, "NotFoundError", status, param)
    theirs = create_error_response(message, "NotFoundError", status, param)
    assert ours.model_dump_json() == theirs.model_dump_json()
