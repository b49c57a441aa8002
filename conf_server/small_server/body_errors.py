"""Bodies that are not what a route takes: the first mistake is told, with the field's name."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from conf_server.refusal import RefusalError
from conf_server.serving.error_body import ErrorBody, error_body

_TYPES: Final = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "TextObject"})
"""What pydantic calls the types of our unions."""

logger = logging.getLogger("vllm.conf_server.small_server")


async def require_json(raw_request: Request) -> None:
    """
    Raises:
        RefusalError: the body says that it is something else. A browser sends such a body for any
            page that asks it to, without asking the server first.
    """
    kind = raw_request.headers.get("content-type", "").lower().partition(";")[0].strip()
    if kind != "application/json":
        raise RefusalError(None, "Only bodies of the type application/json are taken.")


def install_body_errors(app: FastAPI) -> None:
    """Let an app answer wrong bodies, and what nobody has expected, with OpenAI's error body."""
    app.add_exception_handler(RequestValidationError, _wrong_body)
    app.add_exception_handler(Exception, _failed)


async def _wrong_body(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    # Behind a field stand, for unions, the names of the types that were tried.
    _, *path = first["loc"] or ("body",)
    field = ".".join(str(part) for part in path if _is_place(part))
    if first["type"] == "json_invalid":  # its path is a position in the text
        field = ""
    text = f"{first['msg']}."
    if first["type"] == "json_invalid":
        text = f"The body cannot be read as JSON: {first.get('ctx', {}).get('error', text)}."
    message = f"`{field}`: {text}" if field else text
    return _answer(error_body(message, "BadRequestError", param=field or None))


def _is_place(part: str | int) -> bool:
    """Whether a part of pydantic's path is a field or an index, and not a type of a union."""
    return isinstance(part, int) or (part.isidentifier() and part not in _TYPES)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s has failed: %r", request.method, request.url.path, error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    text = str(error) or type(error).__name__
    return _answer(error_body(text, "InternalServerError", status))


def _answer(body: ErrorBody) -> JSONResponse:
    return JSONResponse(body.model_dump(), status_code=body.error.code)
