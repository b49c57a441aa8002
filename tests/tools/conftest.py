"""Fixtures of the tests of patches/upstream."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.upstream_project import Project


@pytest.fixture
def project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Project:
    """With a record of version 1.0.0."""
    made = Project(tmp_path, capsys)
    assert made.check("--update") == (
        0,
        "vLLM 1.0.0 (vllm): 9 names relied on\n  recorded in patches/upstream/1.0.0.json\n",
    )
    return made
