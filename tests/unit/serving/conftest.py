"""The app of a server, without an engine behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from vllm.entrypoints.launchers.app import build_app

from conf_server.flags import make_parser
from conf_server.serving.app import extend_app


def operations(app: FastAPI) -> dict[tuple[str, str], APIRoute]:
    """Routes by path and method."""
    return {
        (route.path, method): route
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }


@pytest.fixture(scope="session")
def app(model_path: Path) -> FastAPI:
    """One for all tests: vLLM's HTTP metrics count the requests of a process's first app only."""
    args = make_parser().parse_args([f"--model={model_path}", "--api-key=secret"])
    app = build_app(args, ("generate",))
    app.state.stock_routes = operations(app)
    extend_app(app, generates=True)
    return app


@pytest.fixture(scope="session")
def client(app: FastAPI) -> TestClient:
    """Knows the key, and sees what a client would see: no exceptions of the server's."""
    headers = {"Authorization": "Bearer secret"}
    return TestClient(app, headers=headers, raise_server_exceptions=False)
