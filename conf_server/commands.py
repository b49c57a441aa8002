"""The commands of `conf-server`: what runs each, and what the help says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Final, cast

from conf_server.nearest import nearest

SERVE: Final = "serve"
"""The word that may stand before the server's flags."""

WIDTH: Final = 25
"""Of the first column of the overview; the second one ends before column 80."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        function: the place of what runs it. It gets the words after the command, and returns the
            exit status.
        parser: the place of what makes its parser, for completions. It gets no argument.
        usage: the words that a call needs.
        summary: what it does, in one line.
        needs_vllm: whether nothing of it works without vLLM.
    """

    function: str
    parser: str
    usage: str
    summary: str
    needs_vllm: bool = False

    def run(self, arguments: Sequence[str]) -> int:
        """Run it, and return the exit status."""
        return cast(Callable[[Sequence[str]], int], resolve_name(self.function))(arguments)


COMMANDS: Final[Mapping[str, Command]] = {
    "score": Command(
        "conf_server.batch.command:score",
        "conf_server.batch.options:score_parser",
        "IN -o OUT",
        "POST /v1/score for every line of a file",
    ),
    "uncertainty": Command(
        "conf_server.batch.command:uncertainty",
        "conf_server.batch.options:uncertainty_parser",
        "IN -o OUT",
        "POST /v1/uncertainty for every line of a file",
    ),
    "think": Command(
        "conf_server.batch.command:think",
        "conf_server.batch.options:think_parser",
        "IN -o OUT",
        "think many times about every line, and vote",
    ),
    "allocate": Command(
        "conf_server.allocate.command:main",
        "conf_server.allocate.command:make_parser",
        "IN --budget N",
        "which question should be answered how often again?",
    ),
    "report": Command(
        "conf_server.report.command:main",
        "conf_server.report.command:make_parser",
        "FILE",
        "which method tells wrong answers from right ones?",
    ),
    "fit": Command(
        "conf_server.fit.command:main",
        "conf_server.fit.options:make_parser",
        "TRAIN -o DIR",
        "learn what /v1/uncertainty's fitted methods want",
    ),
    "check": Command(
        "conf_server.check.command:main",
        "conf_server.check.options:make_parser",
        "--model PATH",
        "compare vLLM's numbers with transformers'",
        needs_vllm=True,
    ),
    "config": Command(
        "conf_server.server_file_command:main",
        "conf_server.server_file_command:make_parser",
        "FILE",
        "check a conf-server.yaml",
    ),
    "completion": Command(
        "conf_server.completion:main",
        "conf_server.completion:make_parser",
        "SHELL",
        "print what completes these words in bash, zsh or fish",
    ),
}
"""Every command, in the order of the help."""

_FLAGS: Final = {"help": "--help", "version": "--version"}
"""Words that other programs have as commands, and the flags that they are here."""


def overview(serving: str, has_vllm: bool = True) -> str:
    """What every help begins with: the commands, each in one line, and how to serve.

    Args:
        serving: the lines that say how to serve.
        has_vllm: whether vLLM is installed.
    """
    lines = ["Commands (conf-server COMMAND --help says more):"]
    for name, command in COMMANDS.items():
        call = f"  {name} {command.usage}"
        without = "" if has_vllm or not command.needs_vllm else " (needs vLLM)"
        lines.append(f"{call:<{WIDTH}}{command.summary}{without}")
    lines.append(f"{'  -V, --version':<{WIDTH}}of conf-server, vLLM and Python")
    return "\n".join([*lines, "", "Serving:", serving])


def mistyped(word: str) -> str | None:
    """What to say of the first word of a command line that looks like a command and is none.

    None where the word can be a model: a file or folder of that name, a name with a slash or a
    colon, or one that is like no command.
    """
    if word in _FLAGS:
        return f"{word}: no such command; did you mean {_FLAGS[word]}?"
    if os.path.exists(word) or any(mark in word for mark in "/\\:"):
        return None
    near = nearest(word.lower(), [*COMMANDS, SERVE])
    if near is None:
        return None
    return f"{word}: no such command; did you mean {near}? (a model of that name: --model {word})"
