"""What the completion of a shell offers."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from conf_server import cli, completion

ASK = """
source /dev/stdin
function=$(complete -p conf-server | sed 's/.*-F \\([^ ]*\\).*/\\1/')
for line in "$@"; do
    read -ra COMP_WORDS <<< "$line"
    [[ $line == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    COMPREPLY=()
    $function conf-server "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    echo "${COMPREPLY[*]}"
done
"""

OFFERED = {
    "conf-server ": "serve score uncertainty think allocate report fit check config completion",
    "conf-server sc": "score",
    "conf-server score --con": "--concurrency",
    "conf-server allocate --num": "--num-answers",
    "conf-server fit --keep": "--keep-states",
    "conf-server serve --confidence-m": "--confidence-mode",
    "conf-server --max-model": "--max-model-len",
    "conf-server --backend ": "vllm transformers",
    "conf-server completion ": "bash zsh fish",
}


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    pytest.importorskip("shtab")
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


def test_bash_offers_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", *OFFERED],
        input=script("bash", capsys),
        capture_output=True,
        text=True,
    )
    assert dict(zip(OFFERED, done.stdout.splitlines(), strict=True)) == OFFERED


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_script_of_a_shell_names_commands_and_flags(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = script(shell, capsys)
    assert all(word in text for word in ("uncertainty", "concurrency", "max-model-len"))
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_without_shtab_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "find_spec", lambda _: None)
    assert cli.main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == f"conf-server completion: error: {completion.NO_SHTAB}\n"


def test_another_shell_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(["completion", "ksh"])
    assert exited.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "invalid choice: 'ksh'" in line
