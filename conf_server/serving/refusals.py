"""The HTTP answers that refused requests become, in one place for all routes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ExceptionHandler

from conf_server.refusal import RefusalError
from conf_server.serving.error_body import ErrorBody, error_body


def refusal_body(error: RefusalError) -> ErrorBody:
    """OpenAI's error body of a refusal."""
    return error_body(str(error), error.kind, HTTPStatus(error.status), error.field)


def refusal_event(error: RefusalError) -> str:
    """The same as a server-sent event, for streams that have begun."""
    return f"data: {refusal_body(error).model_dump_json()}\n\n"


async def _answer_refusal(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusalError)
    return JSONResponse(refusal_body(error).model_dump(), status_code=error.status)


def install_refusals(app: FastAPI) -> None:
    """Let `app` answer a `RefusalError` with its status and the field's name."""
    add_exception_handler(app, RefusalError, _answer_refusal)


def add_exception_handler(app: FastAPI, kind: type[Exception], handler: ExceptionHandler) -> None:
    """Add a handler to an app, whether its middleware stack is built already or not.

    `build_app` of vLLM returns an app whose stack is built. To have it built once more would
    register vLLM's HTTP metrics a second time, and the middleware that finds them registered
    counts nothing.
    """
    app.add_exception_handler(kind, handler)
    layer: Any = app.middleware_stack
    while layer is not None and not isinstance(layer, ExceptionMiddleware):
        layer = getattr(layer, "app", None)
    if layer is not None:
        layer.add_exception_handler(kind, handler)
