"""`conf-server config FILE`: what a `conf-server.yaml` comes to, as a command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from conf_server import installation
from conf_server.command_parser import CommandParser
from conf_server.server_file import ServerFile, is_server_file, read_server_file
from conf_server.settings import SettingsError
from conf_server.standard_output import print_result
from conf_server.terminal import say


def main(arguments: Sequence[str]) -> int:
    """Print it.

    Returns:
        0, or 2 for a file that is wrong.
    """
    path = make_parser().parse_args(list(arguments)).file
    try:
        file = read_server_file(path)
        words = file.words(known_flags(file))
    except SettingsError as error:
        say(f"conf-server config: error: {error}")
        return 2
    for note in file.notes:
        say(f"conf-server config: {note}")
    backend = ["--backend", file.backend] if file.backend != "vllm" else []
    print_result(shlex.join(["conf-server", *backend, *words]))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """That of the command."""
    parser = CommandParser(
        prog="conf-server config",
        description="Check a conf-server.yaml, and print the command line that it stands for. "
        "Nothing is loaded. Exits with 2 where the file is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    return parser


def known_flags(file: ServerFile) -> Collection[str]:
    """All flags of the server that a file starts.

    Raises:
        SettingsError: it is not installed.
    """
    if file.backend == "transformers":
        if problem := installation.transformers_problem():
            raise SettingsError(problem)
        from conf_server.small_server.server_options import make_parser as make_small_parser

        parser: argparse.ArgumentParser = make_small_parser()
    else:
        if problem := installation.engine_problem():
            raise SettingsError(problem)
        from conf_server.flags import make_parser as make_vllm_parser

        parser = make_vllm_parser()
    return parser._option_string_actions.keys()


def with_server_file(arguments: Sequence[str]) -> list[str]:
    """A command line, with the words of the file that its --config names in front.

    A YAML file of vLLM's form is left to vLLM's parser.

    Raises:
        SettingsError: the file is wrong.
    """
    words = list(arguments)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag != "--config":
            continue
        path = Path(value if equals else "".join(words[place + 1 : place + 2]))
        if not path.is_file() or not is_server_file(path):
            return words
        file = read_server_file(path)
        for note in file.notes:
            say(f"conf-server: {note}")
        rest = words[:place] + words[place + (1 if equals else 2) :]
        return ["--backend", file.backend, *file.words(known_flags(file)), *rest]
    return words
