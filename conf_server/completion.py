"""`conf-server completion SHELL`: a script that completes our commands and flags in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, Final

from conf_server.command_parser import CommandParser
from conf_server.commands import COMMANDS, SERVE
from conf_server.early_refusal import BACKENDS, own_parser
from conf_server.standard_output import print_result
from conf_server.terminal import say
from conf_server.vllm_flags import installed_flags

SHELLS: Final = ("bash", "zsh", "fish")
NO_SHTAB: Final = "shtab is not installed: pip install 'conf-server[completion]'"

_FILES: Final = frozenset(
    {
        *("input", "inputs", "train", "file", "output", "labels", "questions", "texts"),
        "background",
    }
)
_FOLDERS: Final = frozenset({"model", "model_tag", "png", "reference", "fitted", "uhead"})


def main(arguments: Sequence[str]) -> int:
    """Print the script.

    Returns:
        0, or 2 where shtab, which writes it, is not installed.
    """
    shell = make_parser().parse_args(list(arguments)).shell
    if find_spec("shtab") is None:
        say(f"conf-server completion: error: {NO_SHTAB}")
        return 2
    import shtab

    print_result(shtab.complete(_whole_parser(shtab), shell))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """That of the command."""
    parser = CommandParser(
        prog="conf-server completion",
        description="Print a script that completes conf-server's commands and flags in a shell. "
        "For bash: conf-server completion bash > ~/.local/share/bash-completion/completions/"
        "conf-server; for zsh: a file _conf-server in a folder of $fpath; for fish: "
        "~/.config/fish/completions/conf-server.fish. The server's flags in it are those of the "
        "vLLM that is installed now.",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
    return parser


def _whole_parser(shtab: Any) -> argparse.ArgumentParser:
    """All commands as subparsers of one parser, and the server's flags before and after `serve`."""
    serving = _serving_parser()
    whole = argparse.ArgumentParser(prog="conf-server", parents=[serving], add_help=False)
    whole.add_argument("-V", "--version", action="store_true")
    commands = whole.add_subparsers()
    served = commands.add_parser(SERVE, help="serve a model", parents=[serving], add_help=False)
    served.add_argument("model_tag", metavar="MODEL")
    for name, command in COMMANDS.items():
        parser = resolve_name(command.parser)()
        commands.add_parser(name, help=command.summary, parents=[parser], add_help=False)
    for parser in (whole, *commands.choices.values()):
        _complete_paths(parser, shtab)
    return whole


def _serving_parser() -> argparse.ArgumentParser:
    """The flags of a server: ours, and the names of vLLM's where they can be had without it."""
    parser = argparse.ArgumentParser(parents=[own_parser()])
    parser.add_argument("--backend", choices=BACKENDS, help="What runs the model.")
    there = set(parser._option_string_actions)
    for flag in sorted((installed_flags() or frozenset()) - there):
        parser.add_argument(flag, dest=flag, help="Of vllm serve.")
    if "--model" not in parser._option_string_actions:
        parser.add_argument("--model", help="A model folder, or its name on a hub.")
    return parser


def _complete_paths(parser: argparse.ArgumentParser, shtab: Any) -> None:
    for action in parser._actions:
        if action.dest in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest.removeprefix("--") in _FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
