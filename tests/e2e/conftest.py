"""The servers that the end-to-end tests share: one with vLLM, and one without it.

A test that takes `server` runs against each of them. What only the one with vLLM has, the mark
`only_vllm` keeps from the other, and says what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.server import KIND_FLAGS, Server
from tests.trace_sink import TraceSink

FIXTURES: Final = {kind: f"{kind}_server" for kind in KIND_FLAGS}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the servers of a test."""
    if "server" in metafunc.fixturenames:
        only_vllm = metafunc.definition.get_closest_marker("only_vllm")
        kinds = ["vllm"] if only_vllm else list(FIXTURES)
        metafunc.parametrize("server", kinds, indirect=True)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The server that most tests talk to, of the kind that the test is run with."""
    found: Server = request.getfixturevalue(FIXTURES[request.param])
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
