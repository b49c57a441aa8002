"""Refused requests: how they are raised in `serving`, and the HTTP answers they become."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ExceptionHandler
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMValidationError

from conf_server.refusal import RefusalError


class _RefusedError(VLLMValidationError):
    """vLLM's error without its suffix, `(parameter=..., value=...)`: the message says both."""

    def __str__(self) -> str:
        return str(self.args[0])


def refused(field: str, message: str, value: Any = None) -> VLLMValidationError:
    """An error for `raise`, which vLLM's handlers turn into a 400 that names the field.

    Args:
        field: path of the field, as a client writes it (`items.3.prompt`).
        message: what is wrong with it; the field's name is put before it.
        value: what stood there, for programs that catch the error.
    """
    return _RefusedError(f"`{field}`: {message}", parameter=field, value=value)


def refusal_response(error: RefusalError) -> ErrorResponse:
    """OpenAI's error body of what was raised below `serving`."""
    status = HTTPStatus(error.status)
    return create_error_response(str(error), error.kind, status, param=error.field)


def refusal_event(error: RefusalError) -> str:
    """The same as a server-sent event, for streams that have begun."""
    return f"data: {refusal_response(error).model_dump_json()}\n\n"


async def _answer_refusal(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusalError)
    answer = refusal_response(error)
    return JSONResponse(answer.model_dump(), status_code=answer.error.code)


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
