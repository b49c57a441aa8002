"""The `conf-server` command.

It serves, unless its first word names one of the other commands. Those that need no engine
import neither vLLM nor torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Final

from conf_server import installation
from conf_server.flags import check_flags, parse_args
from conf_server.server_file_command import with_server_file
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.standard_output import print_result
from conf_server.terminal import say

COMMANDS: Final = {
    "check": "conf_server.check.command:main",
    "config": "conf_server.server_file_command:main",
    "fit": "conf_server.fit.command:main",
    "report": "conf_server.report.command:main",
    "score": "conf_server.batch.command:score",
    "uncertainty": "conf_server.batch.command:uncertainty",
}
"""By its first word, the function that runs a command. It gets the other words of the command
line, and returns the exit status."""

TRANSFORMERS: Final = "transformers"
BACKENDS: Final = ("vllm", TRANSFORMERS)
"""What can run a model; the first where nothing is said."""

HELP_WITHOUT_VLLM: Final = f"""\
usage: conf-server --model PATH [any flag of vllm serve]
       conf-server COMMAND ... [--help]

{installation.NO_VLLM}.
Without it this help cannot list the server's flags. What works:

  conf-server --backend transformers ...        serve a model with transformers instead; see
                                                conf-server --backend transformers --help
  conf-server score IN -o OUT --url URL         POST /v1/score for every line of a file
  conf-server uncertainty IN -o OUT --url URL   POST /v1/uncertainty for every line of a file
  conf-server fit IN -o DIR --methods M --url URL   learn what /v1/uncertainty's fitted methods want
  conf-server config FILE                       check a conf-server.yaml
  conf-server report FILE                       which method tells wrong answers from right ones?
  conf-server --version"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print_result(installation.versions())
        return 0
    if arguments and (name := COMMANDS.get(arguments[0])):
        status: int = resolve_name(name)(arguments[1:])
        return status
    return serve(arguments[1:] if arguments[:1] == ["serve"] else arguments)


def serve(arguments: list[str]) -> int:
    """Parse, check, serve. Returns the exit status."""
    if arguments in (["--help"], ["-h"]) and not installation.has_vllm():
        print_result(HELP_WITHOUT_VLLM)
        return 0
    try:
        backend, flags = chosen_backend(with_server_file(arguments))
        if backend == TRANSFORMERS:
            _serve_without_vllm(flags)
        else:
            _serve_with_vllm(flags)
    except SettingsError as error:  # Some are found out while starting: a model without weights.
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _serve_with_vllm(flags: list[str]) -> None:
    args = parse_args(flags)
    settings = ConfidenceSettings.from_args(args, os.environ)
    check_flags(args, settings, os.environ)
    from conf_server.launcher import run

    run(args, settings)


def _serve_without_vllm(flags: list[str]) -> None:
    if problem := installation.transformers_problem():
        raise SettingsError(problem)
    from conf_server.small_server.server_options import parse_options

    options = parse_options(flags, os.environ)
    from conf_server.small_server.small_start import run

    run(options)


def chosen_backend(arguments: list[str]) -> tuple[str, list[str]]:
    """What runs the model, and the other words of the command line.

    Raises:
        SettingsError: there is no such backend.
    """
    chosen, rest, words = BACKENDS[0], list[str](), iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != "--backend":
            rest.append(word)
            continue
        chosen = value if equals else next(words, "")
        if chosen not in BACKENDS:
            raise SettingsError(f"--backend: must be one of {', '.join(BACKENDS)}, got {chosen!r}")
    return chosen, rest


def _refuse(reason: str) -> int:
    say(f"conf-server: error: {reason}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
