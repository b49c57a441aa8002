"""The command line: its first words, one line for a mistake, what the help begins with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conf_server import cli, commands, installation
from tests.processes import DEADLINE_S

WITHOUT_ENGINE = """
import sys
from conf_server.cli import main
for line in sys.stdin.read().splitlines():
    print(main(line.split()), flush=True)
print(*sorted({"vllm", "torch", "transformers"} & sys.modules.keys()))
"""

REFUSED = {
    "scores x": "scores: no such command; did you mean score? (a model of that name: --model",
    "reprot x": "did you mean report?",
    "uncertanty in -o out": "did you mean uncertainty?",
    "serv /models/m": "did you mean serve?",
    "help": "help: no such command; did you mean --help?",
    "version": "did you mean --version?",
    "/no/such/model": "--model: no such folder: /no/such/model",
    "serve /no/such/model": "--model: no such folder: /no/such/model",
    "m --max-model-length 5": "--max-model-length: no such flag; did you mean --max-model-len?",
    "m --confidence-mod x": "--confidence-mode: must be one of per_token, summary, stats, empty",
    "m --backend transformers --no-such": "--no-such: not available with --backend transformers",
    "check --model m --max-model-length 5": "did you mean --max-model-len?",
}


def test_mistakes_are_one_line_each_and_need_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENGINE],
        input="\n".join(REFUSED),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    said = done.stderr.splitlines()
    assert len(said) == len(REFUSED), done.stderr
    for line, message in zip(said, REFUSED.values(), strict=True):
        assert line.startswith(("conf-server: error: ", "conf-server check: error: "))
        assert message in line
    assert done.stdout.splitlines() == ["2"] * len(REFUSED) + [""]


@pytest.mark.parametrize("word", ["m", "gpt2", "org/scores", "score:4", "./scores", "bert"])
def test_a_model_is_no_mistyped_command(word: str) -> None:
    assert commands.mistyped(word) is None


def test_a_folder_may_be_named_like_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert commands.mistyped("scores") is not None
    (tmp_path / "scores").mkdir()
    assert commands.mistyped("scores") is None


def test_short_and_long_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-V"]) == 0
    short = capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == short
    assert short.startswith("conf-server ")


def check_begins_with_commands(text: str) -> None:
    lines = text.splitlines()
    begin = lines.index("Commands (conf-server COMMAND --help says more):")
    found = [line.split()[0] for line in lines[begin + 1 : begin + 1 + len(commands.COMMANDS)]]
    assert found == list(commands.COMMANDS)
    serving = lines.index("Serving:")
    assert begin < 4
    assert serving < begin + len(commands.COMMANDS) + 5
    assert max(map(len, lines[:serving])) <= 80


def test_the_help_begins_with_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["--backend", "transformers", "--help"]):
        with pytest.raises(SystemExit) as exited:
            cli.main(words)
        assert exited.value.code == 0
        text = capsys.readouterr().out
        check_begins_with_commands(text)
        assert text.index("Serving:") < text.index("--confidence-mode MODE")


def test_so_does_the_help_without_vllm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "has_vllm", lambda: False)
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    check_begins_with_commands(text)
    assert "transformers' (needs vLLM)" in text
    assert installation.NO_VLLM in text
