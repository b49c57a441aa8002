"""Fixtures for all tests: the models, and what is written for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.adapter import write_lora_adapter
from tests.devices import HAS_CUDA
from tests.reference import Reference
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
