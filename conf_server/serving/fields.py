"""Types of fields that several requests share."""

from __future__ import annotations

import secrets
from typing import Annotated

from pydantic import Field, WithJsonSchema
from starlette.requests import Request


def random_id() -> str:
    """A name for a request without one: 16 hexadecimal digits, as vLLM makes them."""
    return secrets.token_hex(8)


def request_id(raw_request: Request | None, given: str | None) -> str:
    """The name of a request: that of the header `X-Request-Id`, as with vLLM, before `given`."""
    named = None if raw_request is None else raw_request.headers.get("x-request-id")
    if named is not None:
        return named
    return random_id() if given is None else given


RequestId = Annotated[
    str,
    # `CheckedBody` takes null for absent.
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
    Field(
        default_factory=random_id,
        description="The client's name for this request. Null or absent: the server makes one up.",
    ),
]

Priority = Annotated[
    int,
    # It travels to the engine in 64 bits.
    Field(ge=-(2**63), le=2**63 - 1, description="Lower is earlier, with priority scheduling."),
]
