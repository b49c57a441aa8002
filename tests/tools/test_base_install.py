"""The package in a fresh environment with its base dependencies: what works without vLLM.

The wheel is built from the checkout and installed by pip. Its dependencies, and theirs, are not
fetched: the environment sees those of this one, and nothing else of it. So an import of anything
that pyproject.toml does not declare fails here.
"""

from __future__ import annotations

import json
import subprocess
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conf_server import __version__
from tests.tools.built_package import conf_server, pip
from tests.unit.batch.fake_server import FakeServer


def with_dependencies(requirements: list[str]) -> dict[str, Distribution]:
    """The distributions that are needed, with all that they need themselves, without extras."""
    found: dict[str, Distribution] = {}
    wanted = [Requirement(one) for one in requirements]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in found:
            found[name] = distribution(name)
            wanted += [Requirement(one) for one in found[name].requires or ()]
    return found


def link(one: Distribution, site_packages: Path) -> None:
    """Make a distribution visible in another environment."""
    for top in {file.parts[0] for file in one.files or () if file.parts[0] != ".."}:
        source = Path(str(one.locate_file(top)))
        if source.exists() and top != "__pycache__" and not (site_packages / top).exists():
            (site_packages / top).symlink_to(source)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment in which the package is installed."""
    environment = tmp_path_factory.mktemp("base") / "environment"
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--no-index", "--no-deps", wheel)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (metadata,) = site_packages.glob("conf_server-*.dist-info")
    for one in with_dependencies(Distribution.at(metadata).requires or []).values():
        link(one, site_packages)
    return python


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def test_the_environment_has_neither_vllm_nor_torch_nor_matplotlib(python: Path) -> None:
    for name in ("vllm", "torch", "matplotlib", "fastapi", "transformers", "yaml", "aiohttp"):
        code = f"import {name}"
        done = subprocess.run([python, "-c", code], capture_output=True, cwd=python.parent)
        assert b"ModuleNotFoundError" in done.stderr, name


def test_version_and_help_say_what_is_missing(python: Path) -> None:
    done = conf_server(python.parent, "-V")
    assert done.stdout == conf_server(python.parent, "--version").stdout
    assert done.stdout.startswith(f"conf-server {__version__} (no vLLM, Python 3.")
    done = conf_server(python.parent, "--help")
    assert done.returncode == 0
    assert "vLLM is not installed: " in done.stdout
    assert "\n  report FILE " in done.stdout


@pytest.mark.parametrize("words", [["--model", "m"], ["serve", "m"], [], ["check", "--model", "m"]])
def test_what_needs_an_engine_is_refused_in_one_line_that_can_be_typed(
    python: Path, wheel: Path, words: list[str]
) -> None:
    done = conf_server(python.parent, *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "error: vLLM is not installed" in line
    assert f"{python} -m pip install '{wheel}[cuda]'" in line
    assert line.endswith("see docs/install.md")


@pytest.mark.parametrize("command", ["score", "uncertainty"])
def test_requests_are_sent_to_a_server(
    python: Path, server: FakeServer, tmp_path: Path, command: str
) -> None:
    given, answers = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    done = conf_server(python.parent, command, str(given), "-o", str(answers), "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"conf-server {command}: 2 answered, 0 failed: {answers}\n"
    assert len(answers.read_text().splitlines()) == 2


def test_the_client_asks_a_server(python: Path, server: FakeServer) -> None:
    code = (
        f"from conf_server.client import Client; print(Client({server.url!r}).served_model().root)"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=python.parent)
    assert done.stdout == "/models/m\n", done.stderr


def test_a_model_cannot_be_served_and_the_run_says_why(python: Path, tmp_path: Path) -> None:
    given = tmp_path / "in.jsonl"
    given.write_text('{"prompt": "a", "completion": "b"}\n')
    words = ["score", str(given), "-o", str(tmp_path / "out"), "--model", "m"]
    done = conf_server(python.parent, *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("conf-server score: error: vLLM is not installed")


def test_a_report_has_its_table_and_page(python: Path, tmp_path: Path) -> None:
    answers, page = tmp_path / "answers.jsonl", tmp_path / "report.html"
    with answers.open("w") as file:
        for number in range(1, 21):
            estimate = {"value": number, "exact": True, "higher_is": "more uncertain"}
            result = {
                "object": "uncertainty",
                "answer": {"text": "Paris"},
                "estimates": {"perplexity": estimate},
            }
            line = {"line": number, "request": "1", "correct": number < 12, "result": result}
            file.write(json.dumps(line) + "\n")
    done = conf_server(python.parent, "report", str(answers), "-o", str(page))
    assert done.returncode == 0, done.stderr
    assert "perplexity  1.000 [1.000, 1.000]" in done.stdout
    assert "No plots: matplotlib is not installed" in done.stdout
    assert "[1.000, 1.000]" in page.read_text()
