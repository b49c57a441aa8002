"""The command, without an engine: status, output, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conf_server import cli
from conf_server.check import command
from conf_server.check.options import parse_options
from conf_server.check.readings import Reading
from conf_server.check.reference_rows import ReferenceRows, reference_rows
from conf_server.check.result import CheckResult, Line
from conf_server.check.texts import TextsError
from conf_server.settings import SettingsError
from tests.unit.check.rows import (
    WORST,
    Characters,
    difference,
    result_of,
    rows_with_statistics,
)


@pytest.mark.parametrize(
    "error", [SettingsError("--model: it is no model"), TextsError("--texts x: no text in it")]
)
def test_what_does_not_go_together_is_2(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse(_: list[str]) -> None:
        raise error

    monkeypatch.setattr(command, "engine_flags", refuse)
    assert command.main(["--model", "PATH"]) == 2
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", f"conf-server check: error: {error}\n")


@pytest.mark.parametrize(("mean", "status"), [(0.0, 0), (9.0, 1)])
@pytest.mark.parametrize("as_json", [False, True])
def test_status_and_stdout(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mean: float,
    status: int,
    as_json: bool,
) -> None:
    found = result_of(Line("chat", "prompt", difference(mean=mean), WORST))

    def noisy(*_: object) -> CheckResult:
        print("a log line")
        os.write(1, b"another process\n")
        return found

    monkeypatch.setattr(command, "engine_flags", list)
    monkeypatch.setattr(command, "check", noisy)
    assert cli.main(["check", "--model", "PATH", *["--json"] * as_json]) == status
    printed = capfd.readouterr()
    assert printed.out == (json.dumps(found.as_json()) if as_json else found.table()) + "\n"
    assert "a log line" in printed.err
    assert "another process" in printed.err
    print("stdout is back")
    assert capfd.readouterr().out == "stdout is back\n"


def test_an_engine_that_dies_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> CheckResult:
        raise RuntimeError("EngineCore encountered an issue")

    monkeypatch.setattr(command, "engine_flags", list)
    monkeypatch.setattr(command, "check", die)
    with pytest.raises(RuntimeError, match="EngineCore"):
        command.main(["--model", "PATH"])


@pytest.fixture
def engineless(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """`check` on an engine and a reference made up here; what the models were loaded with."""
    hub: dict[str, dict[str, Any]] = {}
    logits = np.random.default_rng(0).normal(0, 3, (1, 50)).astype(np.float32)
    rows = rows_with_statistics(logits)
    ids = [1] * 40

    class Scorer:
        def __init__(self, path: str, _device: object, **options: Any) -> None:
            hub[path] = options

    class Reference:
        def __init__(self, _scorer: Scorer) -> None:
            pass

        def rows(self, reading: Reading, statistics: bool) -> ReferenceRows:
            return reference_rows(logits, rows.token_ids, rows.candidate_ids, statistics)

    async def read_engine(*_: object) -> command.EngineAnswers:
        numerics = SimpleNamespace(dtype="float32", quantization=None, block_size=16)
        kinds: Any = ("prompt", "generated", "batched")
        readings = [
            Reading("long", kind, [*ids[:-1], int(rows.token_ids[0])], rows) for kind in kinds
        ]
        return command.EngineAnswers(numerics, True, "", {"long": ids}, readings)

    module = "conf_server.check.transformers_scorer"
    monkeypatch.setattr("conf_server.check.reference.Reference", Reference)
    monkeypatch.setattr(f"{module}.TransformersScorer", Scorer)
    monkeypatch.setattr(f"{module}.load_tokenizer", lambda *_: Characters())
    monkeypatch.setattr(
        f"{module}.require_model", lambda path, options: hub.update({path: options})
    )
    monkeypatch.setattr(command, "read_engine", read_engine)
    return hub


SERVED = Namespace(model="served", tokenizer=None, revision="abc", trust_remote_code=True)


def test_a_prefix_cache_that_gives_nothing_fails_the_check(engineless: object) -> None:
    options, _ = parse_options([])
    found = command.check(options, SERVED)
    assert [line.kind for line in found.lines] == ["prompt", "generated", "batched"]
    assert found.failures() == ["long/cached: missing, nothing came from the prefix cache"]


def test_the_reference_runs_the_code_that_the_user_trusts(
    engineless: dict[str, dict[str, Any]],
) -> None:
    command.check(parse_options(["--reference", "original"])[0], SERVED)
    assert engineless == {"original": {"trust_remote_code": True, "revision": None}}
    command.check(parse_options([])[0], SERVED)
    assert engineless["served"] == {"trust_remote_code": True, "revision": "abc"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_check_with_its_status(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(*_: object) -> CheckResult:
        signal.raise_signal(number)
        raise AssertionError("the signal was overlooked")

    before = signal.getsignal(number)
    monkeypatch.setattr(command, "engine_flags", list)
    monkeypatch.setattr(command, "check", interrupted)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--model", "PATH"])
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_help_needs_no_engine() -> None:
    code = """if True:
        import atexit, sys
        from conf_server.check.command import main
        atexit.register(lambda: print("loaded:", {"vllm", "torch"} & set(sys.modules)))
        main(["--help"])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--reference PATH" in done.stdout
    assert done.stdout.endswith("loaded: set()\n")
