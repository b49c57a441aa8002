"""A run with `--model`: the server that it starts for itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf_server import server_process
from conf_server.batch import command, own_server
from tests.processes import is_running, until
from tests.unit.batch.runs import Files, expected, prompts

CHILD = """
import os, sys
sys.path.insert(0, {root!r})
import uvicorn
from tests.unit.batch.fake_server import FakeServer
print("flags", *sys.argv[1:], flush=True)
if "broken" in sys.argv:
    print("ValueError: no such model", "RuntimeError: x. See root cause above.", sep="\\n")
    sys.exit(1)
if "refused" in sys.argv:
    print("conf-server: error: --model refused: too long", "afterwards", sep="\\n")
    sys.exit(2)
server = FakeServer()
def die_on_the_third(body):
    if body["prompt"] == "p3":
        print("out of memory", flush=True)
        os._exit(7)
if "dying" in sys.argv:
    server.behave = die_on_the_third
with open({marker!r}, "w") as file:
    file.write(str(os.getpid()))
(port,) = (word.removeprefix("--port=") for word in sys.argv if word.startswith("--port="))
uvicorn.run(server.app, port=int(port))
"""


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    marker = tmp_path / "pid"
    code = CHILD.format(root=str(Path(__file__).parents[3]), marker=str(marker))
    monkeypatch.setattr(own_server, "COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(server_process, "POLL_S", 0.05)
    return marker


def log_of(err: str) -> str:
    """The log whose name was printed; it is removed."""
    path = Path(err.split("its log is ")[1].splitlines()[0])
    text = path.read_text()
    path.unlink()
    return text


def test_a_model_is_served_for_the_time_of_the_run(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(5))
    words = [str(plain.input), "-o", str(plain.output), "--model", "m", "--dtype", "float32"]
    assert command.score(words) == 0
    assert plain.answers() == expected(5)
    assert not is_running(int(pid_file.read_text()))
    log = log_of(capsys.readouterr().err)
    assert "flags --model m --dtype float32 --host=127.0.0.1 --port=" in log


@pytest.mark.parametrize(
    ("model", "status", "reason"),
    [
        ("broken", 1, "did not start: it ended with status 1: ValueError: no such model"),
        ("refused", 2, "did not start: it ended with status 2: --model refused: too long"),
    ],
)
def test_a_failed_start_is_told_in_one_line(
    plain: Files,
    pid_file: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    status: int,
    reason: str,
) -> None:
    plain.write(*prompts(5))
    words = [str(plain.input), "-o", str(plain.output), "--model", model]
    assert command.score(words) == status
    err = capsys.readouterr().err
    starting, error = err.splitlines()
    assert starting.startswith(f"conf-server score: starting {model}; its log is ")
    assert error.startswith(f"conf-server score: error: the server {reason} (its log is /")
    log_of(err)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["--model", "m", "--max-model-length", "5"],
            "no such flag; did you mean --max-model-len?",
        ),
        (["--model", "/no/such/model"], "--model: no such folder: /no/such/model"),
        (["--model", "m", "--backend", "tranformers"], "--backend: must be one of"),
        (["--model", "m", "--backend", "transformers", "--dtypes", "x"], "did you mean --dtype?"),
    ],
)
def test_what_is_plainly_wrong_is_refused_before_the_start(
    plain: Files,
    pid_file: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    reason: str,
) -> None:
    plain.write(*prompts(5))
    assert command.score([str(plain.input), "-o", str(plain.output), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not pid_file.exists()


def test_methods_that_there_are_not_are_refused_before_the_start(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(50))
    words = [str(plain.input), "-o", str(plain.output), "--model", "m"]
    assert command.uncertainty([*words, "--methods", "fast,perplexty"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no method or group 'perplexty'; did you mean perplexity?" in line
    assert not pid_file.exists()


@pytest.mark.parametrize("retries", ["0", "1000"])
def test_a_server_that_dies_ends_the_run(
    plain: Files,
    pid_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    retries: str,
) -> None:
    monkeypatch.setattr("conf_server.client.retries.retry_delay", lambda *_: 1000.0)
    plain.write(*prompts(9))
    words = [str(plain.input), "-o", str(plain.output), "--model", "dying"]
    assert command.score([*words, "--concurrency", "1", "--retries", retries]) == 1
    assert plain.answers() == expected(2)
    err = capsys.readouterr().err
    assert "the server ended with status 7" in err
    assert "out of memory" in err
    assert err.endswith("The same command goes on from here.\n")
    log_of(err)


def test_another_model_or_flag_is_not_mixed_in(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(2))
    words = [str(plain.input), "-o", str(plain.output), "--model"]
    assert command.score([*words, "m", "--dtype", "float32", "--seed=1"]) == 0
    log_of(capsys.readouterr().err)
    before = plain.output.read_bytes()
    pid_file.unlink()
    for others in (["other", "--dtype", "float32", "--seed=1"], ["m", "--dtype", "float16"]):
        assert command.score([*words, *others]) == 2
        assert "its answers are of m --dtype float32 --seed 1, not of" in capsys.readouterr().err
    assert plain.output.read_bytes() == before
    assert not pid_file.exists()
    plain.write(*prompts(3))
    again = ["m", "--seed", "1", "--dtype=float32", "--gpu-memory-utilization", "0.5"]
    assert command.score([*words, *again]) == 0
    assert plain.answers() == expected(3)
    log_of(capsys.readouterr().err)


def test_the_server_goes_when_the_run_fails(
    plain: Files, pid_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain.write(*prompts(5))
    words = [str(plain.input), "-o", "/dev/full", "--model", "m"]
    assert command.score(words) == 1
    assert not is_running(int(pid_file.read_text()))
    log_of(capsys.readouterr().err)


def test_the_server_does_not_outlive_a_killed_run(plain: Files, pid_file: Path) -> None:
    plain.write(*prompts(1, wait=True))
    code = f"""
import sys
from conf_server.batch import command, own_server
own_server.COMMAND = {own_server.COMMAND!r}
command.score(sys.argv[1:])
"""
    words = [str(plain.input), "-o", str(plain.output), "--model", "m"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE)
    until(lambda: pid_file.exists() and pid_file.read_text() != "")
    assert is_running(int(pid_file.read_text()))
    process.kill()
    _, err = process.communicate()
    until(lambda: not is_running(int(pid_file.read_text())))
    log_of(err.decode())
