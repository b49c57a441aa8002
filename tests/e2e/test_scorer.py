"""A server whose engine gives no hidden states, and a scorer that does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from conf_server.cli import main
from tests.processes import is_running, runs_scorer, until
from tests.server import Server

INNER = ["rauq", "attention_score", "eigenscore"]
GIVEN: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "answer": {"text": "The capital of France is Paris.", "finished": True},
    "samples": [
        {"text": text, "finished": True}
        for text in ("It is Paris.", "Paris", "Lyon, I believe.", "The capital is Paris.")
    ],
}


@pytest.fixture(scope="module")
def scored(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two API processes share the one scorer."""
    flags = ["--scorer=transformers", "--max-model-len=2048", "--api-server-count=2"]
    log = tmp_path_factory.mktemp("scored") / "log"
    with Server(model_path, flags, log, environ={"OMP_NUM_THREADS": "1"}) as server:
        yield server


def scorers(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if runs_scorer(child)]


def post(server: Server, methods: list[str], **options: Any) -> Any:
    return server.post("/v1/uncertainty", GIVEN | {"uncertainty": {"methods": methods, **options}})


def estimates(server: Server, methods: list[str], **options: Any) -> dict[str, Any]:
    response = post(server, methods, **options)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["estimates"]
    return found


def test_the_scorer_s_numbers_are_the_engine_s(server: Server, scored: Server) -> None:
    of_engine, of_scorer = (estimates(each, [*INNER, "perplexity"]) for each in (server, scored))
    for method in INNER:
        value = of_scorer[method]["value"]
        assert value == pytest.approx(of_engine[method]["value"], rel=1e-3)
        assert of_scorer[method]["backend"] == "scorer"
    # Nothing is new where the scorer has read nothing.
    assert "backend" not in of_scorer["perplexity"]
    assert not [method for method, found in of_engine.items() if "backend" in found]


def test_it_is_said_who_would_read(scored: Server) -> None:
    with scored.http() as http:
        data = http.get("/v1/uncertainty/methods").json()["data"]
    methods = {method["name"]: method for method in data}
    assert [methods[name]["backend"] for name in INNER] == ["scorer"] * 3
    assert methods["rauq"]["available"]
    assert methods["p_true"]["backend"] == "engine"
    assert methods["perplexity"]["backend"] is None


def test_a_way_that_does_not_exist_is_a_400(server: Server, scored: Server) -> None:
    for each, backend, reason in (
        (scored, "engine", "--enable-hidden-states"),
        (server, "scorer", "--scorer transformers"),
    ):
        response = post(each, ["rauq"], backend=backend)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == "uncertainty.backend"
        assert reason in error["message"]
    assert estimates(scored, ["p_true"], backend="scorer")["p_true"]["backend"] == "scorer"


def test_without_its_scorer_the_server_goes_on(scored: Server) -> None:
    (process,) = scorers(scored)
    process.kill()
    response = post(scored, ["rauq"])
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "ServiceUnavailableError"
    assert estimates(scored, ["perplexity"])
    until(lambda: post(scored, ["rauq"]).status_code == 200)
    assert scorers(scored) != [process]


def test_sigterm_leaves_no_process(scored: Server) -> None:
    """The last test of this server."""
    processes = [process.pid for process in psutil.Process(scored.process.pid).children(True)]
    assert any(process.pid in processes for process in scorers(scored))
    os.kill(scored.process.pid, signal.SIGTERM)
    assert scored.process.wait(60) == 0
    until(lambda: not any(map(is_running, processes)))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--scorer=transformers", "--scorer-model=no/such/model"], "--scorer: transformers finds"),
        (["--scorer=transformers", "--scorer-mode=swap"], "--scorer-mode swap: "),
        (["--scorer-dtype=float32"], "--scorer-dtype: it is of no use without --scorer"),
    ],
)
def test_a_scorer_that_cannot_be_had_ends_the_start_in_one_line(
    model_path: Path, flags: list[str], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--model={model_path}", *flags]) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "conf-server:" in line)
    assert line.startswith(f"conf-server: error: {reason}")
