"""Fixtures for all tests: the model, and servers that a session shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.adapter import write_lora_adapter
from tests.devices import HAS_CUDA
from tests.reference import Reference
from tests.server import Server
from tests.trace_sink import TraceSink
from tests.uheads import write_head

REPOSITORY = Path(__file__).parent.parent

# Hypothesis' own profile: the same examples on every machine, however long they take there.
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is no GPU."""
    for item in items:
        if not HAS_CUDA and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session")
def model_path() -> Path:
    """A folder with the embedded model; `make test` puts it there."""
    default = REPOSITORY / ".cache/models/SmolLM2-135M-Instruct"
    path = Path(os.environ.get("CONF_SERVER_TEST_MODEL", default))
    if not (path / "config.json").is_file():
        pytest.fail(f"no model in {path}: run `make model`")
    return path


@pytest.fixture(scope="session")
def sentence_model_path() -> Path:
    """A folder with the embedded sentence model; `make test` puts it there."""
    path = REPOSITORY / ".cache/models/all-MiniLM-L6-v2"
    if not (path / "config.json").is_file():
        pytest.fail(f"no model in {path}: run `make sentence-model`")
    return path


@pytest.fixture(scope="session")
def reference(model_path: Path) -> Reference:
    return Reference(model_path)


@pytest.fixture(scope="session")
def lora_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora_adapter(model_path, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="session")
def uhead_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an uncertainty head of the embedded model."""
    return write_head(tmp_path_factory.mktemp("uhead"), "claim")


@pytest.fixture(scope="session")
def traces() -> Iterator[TraceSink]:
    """Where the shared server exports its traces to."""
    with TraceSink() as sink:
        yield sink


@pytest.fixture(scope="session")
def server(
    model_path: Path,
    lora_path: Path,
    sentence_model_path: Path,
    uhead_path: Path,
    traces: TraceSink,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The server that most tests talk to."""
    flags = [
        "--served-model-name=smol",
        "--api-key=secret",
        "--max-model-len=2048",
        "--enable-hidden-states",
        f"--embedding-model={sentence_model_path}",
        f"--uhead={uhead_path}",
        "--max-score-items=64",
        "--enable-auto-tool-choice",
        "--tool-call-parser=hermes",
        "--enable-lora",
        "--max-lora-rank=8",
        "--lora-target-modules=q_proj",
        f"--lora-modules=adapter={lora_path}",
        "--enable-prompt-tokens-details",
        "--trust-request-chat-template",
        f"--otlp-traces-endpoint={traces.endpoint}",
    ]
    environ = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    log = tmp_path_factory.mktemp("server") / "log"
    with Server(model_path, flags, log, api_key="secret", environ=environ) as server:
        yield server
