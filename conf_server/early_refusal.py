"""What of a server's command line can be refused before anything slow is imported.

vLLM takes about ten seconds to import, and then says what is wrong with a traceback. What is
looked at here is looked at again where the server starts: a flag may be abbreviated, or stand in
a YAML file.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NoReturn

from conf_server import installation
from conf_server.before_start import check_model, check_unix_socket, socket_at
from conf_server.nearest import did_you_mean
from conf_server.settings import ConfidenceSettings, SettingsError, add_cli_args
from conf_server.vllm_flags import dashed, installed_flags, may_be_flag

TRANSFORMERS: Final = "transformers"
BACKENDS: Final = ("vllm", TRANSFORMERS)
"""What can run a model; the first where nothing is said."""

DEFAULT_PORT: Final = 8000

_NUMBER: Final = re.compile(r"-\d+|-\d*\.\d+")
"""What argparse takes for a negative number."""

_HELP: Final = ("-h", "--help")
_CONFIG_ELSEWHERE: Final = ("--hf-config-path", "--config-format", "--load-format", "--config")
_SEVERAL_PROCESSES: Final = ("--api-s", "--data-", "-dp", "-asc")
"""Beginnings of flags with which several API processes may share the port, as others may too."""
_NO_ADDRESS: Final = ("--headless", "--grpc", "--config")


def refuse_early(
    arguments: Sequence[str], environ: Mapping[str, str], *, listens: bool = True
) -> None:
    """Refuse what neither a vLLM nor a YAML file is needed for to see that it is wrong.

    Args:
        arguments: the words of a server's command line, without those of a server file.
        listens: whether the server will have an address of its own choice.

    Raises:
        SettingsError: no server can be started here, there is no such flag, a flag of ours has a
            value that cannot be meant, there is no such model, or the address is taken.
    """
    backend, words = chosen_backend(list(arguments))
    if backend == TRANSFORMERS:
        if problem := installation.transformers_problem():
            raise SettingsError(problem)
        from conf_server.small_server.server_options import parse_options

        parse_options(words, environ)
        return
    if problem := installation.engine_problem():
        raise SettingsError(problem)
    words = [dashed(word) for word in words]
    if any(word.partition("=")[0] in _HELP for word in words):
        return
    ours = own_parser()
    _refuse_unknown_flags(words, ours)
    given = {word.partition("=")[0] for word in words}
    if "--config" not in given:  # The file may hold what a flag goes together with.
        _refuse_own_values(words, ours, environ)
    if model := _model(words):
        check_model(model, config_elsewhere=not given.isdisjoint(_CONFIG_ELSEWHERE))
    if listens and given.isdisjoint(_NO_ADDRESS):
        _check_address(words)


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


class _OwnParser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message.removeprefix("argument "))


def own_parser() -> ArgumentParser:
    """A parser of the flags that conf-server adds to vLLM's."""
    from conf_server.scorer.scorer_options import add_scorer_args

    parser = _OwnParser(prog="conf-server", add_help=False, allow_abbrev=False)
    add_cli_args(parser)
    add_scorer_args(parser)
    return parser


def _own_flags(parser: ArgumentParser) -> frozenset[str]:
    return frozenset(parser._option_string_actions)


def _refuse_unknown_flags(words: Sequence[str], ours: ArgumentParser) -> None:
    vllm = installed_flags()
    if vllm is None:
        return
    known = vllm | _own_flags(ours) | frozenset(_HELP)
    for flag in _flags(words):
        if not may_be_flag(flag, known):
            raise SettingsError(f"{flag}: no such flag{did_you_mean(flag, known)}")


def _flags(words: Sequence[str]) -> Iterator[str]:
    """What every parser takes for flags, without values and without what follows a point."""
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if not word.startswith("-") or word == "-" or " " in word or _NUMBER.fullmatch(word):
            continue
        name, equals, _ = word.partition("=")
        flag, point, _ = name.partition(".")
        if point and not equals:
            next(rest, None)  # vLLM takes the next word for its value, whatever that is.
        yield flag


def _refuse_own_values(
    words: Sequence[str], ours: ArgumentParser, environ: Mapping[str, str]
) -> None:
    args, _ = ours.parse_known_args(_whole_flags(words, _own_flags(ours)))
    ConfidenceSettings.from_args(args, environ)


def _whole_flags(words: Sequence[str], own: frozenset[str]) -> list[str]:
    """The words with abbreviations of our flags written out, where no other flag can be meant."""
    vllm = installed_flags() or frozenset()
    whole = []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag not in own and not may_be_flag(flag, vllm):
            meant = [one for one in own if one.startswith(flag)]
            flag = meant[0] if len(meant) == 1 else flag
        whole.append(f"{flag}{equals}{value}")
    return whole


def _value(words: Sequence[str], flag: str) -> str | None:
    """The last value that a flag is given; None where it is not given in full."""
    found = None
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == flag:
            found = value if equals else next(iter(words[place + 1 : place + 2]), None)
    return found


def _model(words: Sequence[str]) -> str | None:
    """As vLLM takes it: the first word where that is no flag, or what --model says."""
    if words and not words[0].startswith("-"):
        return words[0]
    return _value(words, "--model")


def _check_address(words: Sequence[str]) -> None:
    if socket_path := _value(words, "--uds"):
        check_unix_socket(socket_path)
        return
    port = _value(words, "--port") or str(DEFAULT_PORT)
    if port.isascii() and port.isdecimal():
        shares = any(word.startswith(_SEVERAL_PROCESSES) for word in words)
        socket_at(_value(words, "--host") or "", int(port), reuse_port=shares).close()
