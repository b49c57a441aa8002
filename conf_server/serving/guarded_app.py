"""What stands around a server's whole app: keys, limits, error bodies, and the end of a drain."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.types import ASGIApp

from conf_server.serving.admission import BodyLimit, KeyGuard
from conf_server.serving.cut_requests import CutRequests, Stopping
from conf_server.serving.errors import ErrorBodies, install_error_bodies


def guard(
    app: FastAPI, max_body_bytes: int, keys: Sequence[str], guarded: tuple[str, ...] = ()
) -> None:
    """Put all of it around an app that has its routes and its own middleware.

    `app.state.conf_server_stopping` then says whether requests are cut off.

    Args:
        keys: none for an open server.
        guarded: as in `KeyGuard`.
    """
    install_error_bodies(app)
    stack: ASGIApp = app.middleware_stack or app.build_middleware_stack()
    app.state.conf_server_stopping = Stopping()
    stack = BodyLimit(stack, max_body_bytes)
    if keys:
        stack = KeyGuard(stack, keys, guarded)
    app.middleware_stack = CutRequests(ErrorBodies(stack), app.state.conf_server_stopping)
