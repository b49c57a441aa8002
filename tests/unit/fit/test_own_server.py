"""A fit with `--model`, and what a signal leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf_server import server_process
from conf_server.batch import own_server
from conf_server.fit import command
from tests.processes import DEADLINE_S, until
from tests.unit.fit.states_server import Fit, StatesServer, lines

CHILD = """
import sys
sys.path.insert(0, {root!r})
import uvicorn
from tests.unit.fit.states_server import StatesServer
with open({flags!r}, "w") as file:
    file.write(" ".join(sys.argv[1:]))
(port,) = (word.removeprefix("--port=") for word in sys.argv if word.startswith("--port="))
uvicorn.run(StatesServer().app, port=int(port))
"""


def test_a_server_of_its_own_has_hidden_states(
    fitting: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = tmp_path / "flags"
    code = CHILD.format(root=str(Path(__file__).parents[3]), flags=str(flags))
    monkeypatch.setattr(own_server, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(server_process, "POLL_S", 0.05)
    fitting.write(*lines(6))
    words = [str(fitting.train), "-o", str(fitting.folder), "--methods", "mahalanobis_distance"]
    assert command.main([*words, "--model", "m", "--dtype", "float32"]) == 0
    given = flags.read_text()
    assert given.startswith("--model m --dtype float32 --enable-hidden-states ")
    assert fitting.fitted().methods["mahalanobis_distance"].num_texts == 6


def test_a_signal_ends_a_fit_that_the_same_command_goes_on_with(
    fitting: Fit, server: StatesServer
) -> None:
    first, *others = lines(6)
    fitting.write(*others, {**first, "wait": True})
    server.gate.clear()
    words = [str(fitting.train), "-o", str(fitting.folder), "--url", server.url]
    words += ["--methods", "mahalanobis_distance"]
    process = subprocess.Popen(
        [sys.executable, "-m", "conf_server", "fit", *words], stderr=subprocess.PIPE, text=True
    )
    states = fitting.folder / "states/train.text.jsonl"
    until(lambda: states.exists() and states.read_bytes().count(b"\n") == 5)
    process.terminate()
    assert process.stderr is not None
    assert "a second signal does not wait" in process.stderr.readline()
    process.terminate()
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143
    assert said.splitlines() == ["conf-server fit: stopped; the same command goes on from here"]
    server.gate.set()
    server.bodies.clear()
    assert fitting.run("--methods", "mahalanobis_distance") == 0
    assert set(server.prompts()) == {first["prompt"]}
