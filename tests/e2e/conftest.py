"""The servers that the end-to-end tests share: one with vLLM, and one without it.

A test that takes `server` runs against each of them. Where it asks for what only the one with
vLLM has, the mark `only_vllm` says what that is, of the test or of one of its parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import KIND_FLAGS, Server
from tests.trace_sink import TraceSink


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ask the server without vLLM for nothing that it has not."""
    dropped = [item for item in items if _is_elsewhere(item)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if not _is_elsewhere(item)]


def _is_elsewhere(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)  # only of tests with parameters
    asks = None if call is None else call.params.get("server")
    return asks == "transformers" and item.get_closest_marker("only_vllm") is not None


@pytest.fixture(scope="session", params=KIND_FLAGS)
def server(request: pytest.FixtureRequest) -> Server:
    """The server that most tests talk to: one with vLLM, and one without."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(scope="session")
def flags(sentence_model_path: Path, uhead_path: Path) -> list[str]:
    """What both servers are started with."""
    return [
        "--served-model-name=smol",
        "--api-key=secret",
        "--max-model-len=2048",
        "--enable-hidden-states",
        f"--embedding-model={sentence_model_path}",
        f"--uhead={uhead_path}",
        "--max-score-items=64",
        "--trust-request-chat-template",
    ]


@pytest.fixture(scope="session")
def traces() -> Iterator[TraceSink]:
    """Where the server with vLLM exports its traces to."""
    with TraceSink() as sink:
        yield sink


@pytest.fixture(scope="session")
def vllm_server(
    model_path: Path,
    flags: list[str],
    lora_path: Path,
    traces: TraceSink,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The one whose model vLLM runs."""
    own = [
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--enable-lora",
        "--max-lora-rank=8",
        "--lora-target-modules=q_proj",
        f"--lora-modules=adapter={lora_path}",
        "--enable-prompt-tokens-details",
        f"--otlp-traces-endpoint={traces.endpoint}",
    ]
    environ = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    log = tmp_path_factory.mktemp("vllm-server") / "log"
    with Server(model_path, [*flags, *own], log, api_key="secret", environ=environ) as server:
        yield server


@pytest.fixture(scope="session")
def transformers_server(
    model_path: Path, flags: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The one whose model transformers runs."""
    log = tmp_path_factory.mktemp("transformers-server") / "log"
    with Server(model_path, flags, log, kind="transformers", api_key="secret") as server:
        yield server
