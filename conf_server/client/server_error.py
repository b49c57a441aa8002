"""What can go wrong between a client and its server, as one kind of exception."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import httpx

BUSY: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
"""Statuses of a server that may answer the same request later."""

NO_SUCH_ROUTE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})

HTTP: Final = "http"
"""`type` of an error whose body says nothing in OpenAI's way."""
TIMEOUT: Final = "timeout"
"""`type` where no answer came in time."""
CONNECTION: Final = "connection"
"""`type` where there was no connection, or it broke."""
TLS: Final = "tls"
"""`type` where the two sides agree on no encryption, or the certificate is not trusted."""
PROTOCOL: Final = "protocol"
"""`type` where the other side speaks no HTTP, or its answer is none of conf-server's."""

_CUT_OFF: Final = ("Server disconnected", "peer closed connection")
"""How httpcore's and h11's messages begin where HTTP was spoken and the connection then ended."""


class ServerError(RuntimeError):
    """A request has failed. The attributes are OpenAI's error object.

    Attributes:
        message: what is wrong, in words.
        type: the server's word for the kind of error. Where the server has said nothing, one of
            `http`, `timeout`, `connection`, `tls` and `protocol`.
        param: the field of the request that is wrong, such as `items.3.prompt`; None for none.
        code: the server's code, in conf-server the same as the status; None for none.
        status: the HTTP status; None where there was no answer.
        error: the error object itself, with all that the server has put into it.
        url: what was asked.
    """

    def __init__(self, error: Mapping[str, Any], status: int | None, url: str) -> None:
        self.error = dict(error)
        self.message = str(error.get("message"))
        self.type: str | None = error.get("type")
        self.param: str | None = error.get("param")
        self.code: str | int | None = error.get("code")
        self.status = status
        self.url = url
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.status is not None else f"{self.url}: {self.message}"

    @property
    def is_missing_route(self) -> bool:
        """Whether the route itself is missing, and not something that its handler looked for."""
        return self.status in NO_SUCH_ROUTE and (
            self.type == HTTP or self.message == HTTPStatus(self.status).phrase
        )


class UnavailableError(ServerError):
    """The server is away or busy, and still was after all retries.

    Attributes:
        attempts: how often the request was sent.
        retry_after: the last answer's header `Retry-After`; None for none.
    """

    attempts: int = 1
    retry_after: str | None = None

    def __str__(self) -> str:
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return f"{self.url}: {self.message}, {times}"


def error_of(response: httpx.Response) -> ServerError:
    """The error that an answer means. Of a body without an error object, it is its beginning."""
    status, url = response.status_code, str(response.url)
    found = json_object(response.content) or {}
    error = found.get("error")
    if not (isinstance(error, dict) and error.get("message")):
        text = response.content[:200].decode(errors="replace").strip()
        error = {"message": f"HTTP {status} {text}".strip(), "type": HTTP, "code": status}
    if status not in BUSY:
        return ServerError(error, status, url)
    busy = UnavailableError(error, status, url)
    busy.retry_after = response.headers.get("Retry-After")
    return busy


@contextlib.contextmanager
def transport_errors(url: str, timeout: float) -> Iterator[None]:
    """Turn what httpx raises of a request that gets no whole answer into our own errors.

    Args:
        timeout: how many seconds it has, for the message.
    """
    try:
        yield
    except (httpx.HTTPError, TimeoutError) as error:
        raise _transport_error(error, url, timeout) from error


def _transport_error(error: Exception, url: str, timeout: float) -> ServerError:
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return _without_answer(ServerError, str(cause), TLS, url)
    match error:
        case httpx.ConnectTimeout():
            return _without_answer(UnavailableError, "cannot connect: no answer", CONNECTION, url)
        case httpx.TimeoutException() | TimeoutError():
            message = f"no answer within {timeout:g} s"
            return _without_answer(ServerError, message, TIMEOUT, url)
        case httpx.ConnectError():
            said = [cause.strerror for cause in causes if isinstance(cause, OSError)]
            reason = next(filter(None, reversed(said)), str(error))
            message = f"cannot connect: {reason}"
            return _without_answer(UnavailableError, message, CONNECTION, url)
        case httpx.NetworkError():
            message = str(error) or type(error).__name__
            return _without_answer(UnavailableError, message, CONNECTION, url)
        case httpx.RemoteProtocolError() if str(error).startswith(_CUT_OFF):
            return _without_answer(UnavailableError, str(error), CONNECTION, url)
    return _without_answer(ServerError, f"no HTTP server: {error}", PROTOCOL, url)


def not_ours(message: str, url: str) -> ServerError:
    """The error of an answer that conf-server would not give."""
    return _without_answer(ServerError, message, PROTOCOL, url)


def json_object(body: bytes | str) -> dict[str, Any] | None:
    """The JSON object that a body is; None where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _without_answer(kind: type[ServerError], message: str, type_: str, url: str) -> ServerError:
    return kind({"message": message, "type": type_, "code": None}, None, url)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[-1]
        else:
            error = error.__cause__ or error.__context__
