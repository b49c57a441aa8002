"""The app that vLLM builds, without an engine behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from vllm.entrypoints.launchers.app import build_app

from conf_server.flags import make_parser


@pytest.fixture(scope="session")
def stock_app(model_path: Path) -> FastAPI:
    """One for all tests: vLLM's HTTP metrics count the requests of a process's first app only."""
    args = make_parser().parse_args([f"--model={model_path}", "--api-key=secret"])
    return build_app(args, ("generate",))
