"""Fixtures of several tests: the built package, and the project of patches/upstream."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.built_package import build
from tests.tools.upstream_project import Project


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="session")
def sdist(distributions: tuple[Path, Path]) -> Path:
    return distributions[0]


@pytest.fixture(scope="session")
def wheel(distributions: tuple[Path, Path]) -> Path:
    return distributions[1]


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """With a record of version 1.0.0."""
    made = Project(tmp_path, capsys)
    assert made.check("--update") == (
        0,
        "vLLM 1.0.0 (vllm): 9 names relied on\n  recorded in patches/upstream/1.0.0.json\n",
    )
    return made
