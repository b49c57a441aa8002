"""The `conf-server` command.

It serves, unless its first word names one of the other commands. Those that need no engine
import neither vLLM nor torch.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from conf_server import installation
from conf_server.commands import COMMANDS, SERVE, mistyped, overview
from conf_server.early_refusal import TRANSFORMERS, chosen_backend, refuse_early
from conf_server.flags import check_flags, parse_args
from conf_server.server_file_command import with_server_file
from conf_server.settings import ConfidenceSettings, SettingsError, StartError
from conf_server.standard_output import print_result
from conf_server.terminal import say

SERVING_WITHOUT_VLLM: Final = f"""\
  conf-server --backend transformers MODEL [flags]
      with transformers; conf-server --backend transformers --help lists the flags
  conf-server MODEL [flags]
      not yet: {installation.NO_VLLM}.
      Without it this help cannot list the server's flags.

score, uncertainty, think and fit ask a running server with --url URL. With --model they
start one, which needs vLLM unless --backend transformers stands beside it."""

VERSION: Final = ("-V", "--version")
HELP: Final = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else ""
    if len(arguments) == 1 and first in VERSION:
        print_result(installation.versions())
        return 0
    if command := COMMANDS.get(first):
        return command.run(arguments[1:])
    if first == SERVE:
        return serve(arguments[1:])
    if first and not first.startswith("-") and (problem := mistyped(first)):
        return _refuse(problem)
    return serve(arguments)


def serve(arguments: list[str]) -> int:
    """Parse, check, serve. Returns the exit status."""
    if len(arguments) == 1 and arguments[0] in HELP and not installation.has_vllm():
        print_result(overview(SERVING_WITHOUT_VLLM, has_vllm=False))
        return 0
    try:
        words = with_server_file(arguments)
        backend, flags = chosen_backend(words)
        if backend == TRANSFORMERS:
            _serve_without_vllm(flags)
        else:
            refuse_early(words, os.environ)
            _serve_with_vllm(flags)
    except SettingsError as error:  # Some are found out while starting: a model without weights.
        return _refuse(str(error))
    except StartError as error:
        return _refuse(str(error), 1)
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


def _refuse(reason: str, status: int = 2) -> int:
    """Say why in one line: a library's message may have several."""
    say(f"conf-server: error: {' '.join(reason.splitlines())}")
    return status


if __name__ == "__main__":
    sys.exit(main())
