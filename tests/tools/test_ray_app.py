"""deploy/ray/serve.py: what it takes from conf-server is there, and what it cannot have is refused.

`make test-install` runs it with Ray. Here a stand-in takes Ray's place: the app itself needs none.
"""

from __future__ import annotations

import ast
import inspect
import runpy
import sys
from argparse import Namespace
from pkgutil import resolve_name
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conf_server.engine.client.start import engine_client
from conf_server.flags import parse_args
from conf_server.launcher import build_confidence_app
from conf_server.settings import SettingsError
from tests.tools.built_package import ROOT

SCRIPT = ROOT / "deploy" / "ray" / "serve.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The script's names, with a Ray whose deployments remember how they were made."""
    ray = ModuleType("ray")
    ray.serve = SimpleNamespace(  # type: ignore[attr-defined]
        ingress=lambda build: lambda replica: (build, replica),
        deployment=lambda made, **options: SimpleNamespace(bind=lambda: (made, options)),
        Application=object,
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    return runpy.run_path(str(SCRIPT), run_name="serve")


def test_what_it_imports_of_ours_is_there() -> None:
    names = [
        f"{node.module}:{alias.name}"
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("conf_server")
        for alias in node.names
    ]
    assert "conf_server.launcher:build_confidence_app" in names
    for name in names:
        resolve_name(name)
    assert list(inspect.signature(engine_client).parameters)[:2] == ["args", "client_config"]
    assert list(inspect.signature(build_confidence_app).parameters)[:2] == ["engine", "args"]


def test_a_deployment_has_the_replicas_and_gpus_that_are_asked_for(script: dict[str, Any]) -> None:
    asked = {"flags": "--model m", "replicas": "3", "gpus": "2"}
    (build, replica), options = script["application"](asked)
    assert callable(build)
    assert replica is script["Replica"]
    assert options["num_replicas"] == 3
    assert options["ray_actor_options"] == {"num_cpus": 1, "num_gpus": 2}
    assert options["graceful_shutdown_timeout_s"] > script["DRAIN_S"]


@pytest.mark.parametrize("options", [{}, {"flags": "--model m", "gpu": "1"}])
def test_options_that_it_does_not_know_are_refused(
    script: dict[str, Any], options: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="flags="):
        script["application"](options)


@pytest.mark.parametrize("flags", [["--api-server-count", "2"], ["--scorer", "transformers"]])
def test_processes_that_a_replica_does_not_have_are_refused(
    script: dict[str, Any], flags: list[str]
) -> None:
    args: Namespace = parse_args(["--model", "m", *flags])
    with pytest.raises(SettingsError, match=flags[0]):
        script["refuse_other_processes"](args)
