"""OpenAI's error body, the one form that every error of every server of ours has."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel, Field

_INTERNAL: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r" at 0x[0-9a-fA-F]+>", ">"),
        (r'\n?\s*File "[^"]+", line \d+, in \S+(\n\s+.*)?', ""),
        (r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+", "<path>"),
        (r"(?:/[\w\-]+)+/[\w\-]+\.\w+", "<path>"),
    )
)
"""What vLLM keeps from clients (`sanitize_message` in its
entrypoints/serve/exception_handling/utils.py): addresses, stack frames and paths of this machine.
The patterns are vLLM's, so that a message reads alike whoever has written the body."""


class ErrorFields(BaseModel):
    """What went wrong."""

    message: str = Field(description="The same for people.")
    type: str = Field(description="Its kind, such as `BadRequestError`.")
    param: str | None = Field(default=None, description="The field that is wrong, if one is.")
    code: int = Field(description="The HTTP status.")


class ErrorBody(BaseModel):
    """The body of an error."""

    error: ErrorFields = Field(description="The error.")


def error_body(
    message: str, kind: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST, param: str | None = None
) -> ErrorBody:
    """The body of an answer with this status.

    Args:
        message: of which clients see all but what `_INTERNAL` names.
        kind: the error's `type`.
        param: path of the field that is wrong.
    """
    for pattern, replacement in _INTERNAL:
        message = pattern.sub(replacement, message)
    fields = ErrorFields(message=message.strip(), type=kind, param=param, code=status.value)
    return ErrorBody(error=fields)
