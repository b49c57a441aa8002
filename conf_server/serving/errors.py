"""OpenAI's error body for whatever goes wrong, also outside of vLLM's handlers."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf_server.serving.error_body import error_body
from conf_server.serving.refusals import add_exception_handler, install_refusals
from conf_server.terminal import LONGEST, shortened


def install_error_bodies(app: FastAPI) -> None:
    """Let an app answer unknown routes, wrong methods, unreadable bodies and refusals."""
    install_refusals(app)
    add_exception_handler(app, HTTPException, _http_exception)


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    """Starlette's exceptions; vLLM's own handler sees those of fastapi only."""
    assert isinstance(error, HTTPException)
    status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
    if status == HTTPStatus.NOT_FOUND and message == HTTPStatus.NOT_FOUND.phrase:
        message = f"There is no route {request.method} {request.url.path}."
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.url.path} does not take {request.method}."
    elif status == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
        coding = request.headers.get("content-encoding", "identity")
        message = f"The body cannot be read as JSON: {error.__cause__}."
        if coding != "identity":
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            headers["Accept-Encoding"] = "identity"
            message = f"The body is encoded ({coding}); send it as it is."
    return _response(message, HTTPStatus(status), headers)


def _response(message: str, status: HTTPStatus, headers: dict[str, str]) -> JSONResponse:
    answer = error_body(message, status.phrase, status)
    return JSONResponse(answer.model_dump(), status_code=status, headers=headers)


class ErrorBodies:
    """Gives errors that a middleware has answered OpenAI's body, and shortens long messages.

    vLLM's authentication answers `{"error": "Unauthorized"}`, its scaling middleware likewise.
    Answers below 400, and errors that are no JSON or have the right body already, pass unchanged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def reshape(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_json_error(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await _send(start, body, send)

        await self.app(scope, receive, reshape)


def _is_json_error(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return start["status"] >= 400 and any(kind.startswith(b"application/json") for kind in kinds)


async def _send(start: Message, body: bytes, send: Send) -> None:
    changed = _changed(body, HTTPStatus(start["status"]))
    if changed is not None:
        body = changed
        kept = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        headers = [*kept, (b"content-length", str(len(body)).encode())]
        start = {**start, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _changed(body: bytes, status: HTTPStatus) -> bytes | None:
    """The right body in place of a bare message or of a very long one; None for any other."""
    try:
        answer: Any = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    for name in ("error", "detail"):
        if isinstance(answer.get(name), str):
            text = shortened(answer[name])
            right = error_body(text, status.phrase, status)
            return right.model_dump_json().encode()
    error = answer.get("error")
    if len(body) <= LONGEST or not isinstance(error, dict):
        return None
    # A message quotes what was wrong, and that may be megabytes.
    for name in ("message", "param"):
        if isinstance(error.get(name), str):
            error[name] = shortened(error[name])
    return json.dumps(answer).encode()
