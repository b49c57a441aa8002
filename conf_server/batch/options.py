"""Flags of the batch commands. With --model, every word that is none of them is the server's."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from conf_server.batch.endpoint import SCORE, THINK, UNCERTAINTY, Endpoint
from conf_server.batch.flag_values import above_zero, positive, whole
from conf_server.batch.request_flags import (
    add_request_flags,
    check_request_flags,
    request_defaults,
)
from conf_server.client import base_url
from conf_server.command_parser import CommandParser
from conf_server.nearest import did_you_mean
from conf_server.settings import ENV_MODE, ENV_TOP_K

STANDARD_STREAM: Final = "-"
"""Stands for stdin and stdout."""

API_KEY_VARIABLE: Final = "VLLM_API_KEY"
"""vLLM's server takes its key from here too, so --model finds the same one."""

OURS: Final = ("--host", "--port", "--headless", "--uds", "--root-path", "--ssl-keyfile")
"""Server flags that --model chooses, or that would hide the server from us."""

NEUTRAL: Final = frozenset(
    {
        *("--gpu-memory-utilization", "--kv-cache-memory-bytes", "--download-dir", "--hf-token"),
        *("--max-num-seqs", "--max-num-batched-tokens", "--shutdown-timeout", "--max-log-len"),
        *("--uvicorn-log-level", "--disable-uvicorn-access-log", "--disable-log-stats"),
        *("--enable-log-requests", "--enable-log-outputs"),
        # Of --backend transformers.
        *("--memory-fraction", "--max-batch-tokens", "--max-generations"),
    }
)
"""Server flags that change no answer: how much at once, and what is logged."""


class UsageError(ValueError):
    """What was asked for cannot be done. The message names the flag or the file."""


class StopRunError(RuntimeError):
    """No line would fare better than this one. The message says why.

    Attributes:
        goes_on: whether the same command can go on from here, once the reason is gone.
    """

    def __init__(self, message: str, *, goes_on: bool = True) -> None:
        super().__init__(message)
        self.goes_on = goes_on


@dataclass(frozen=True)
class BatchOptions:
    """What the command line says.

    Attributes:
        endpoint: what to post to.
        input: a file, `.gz` or not, or `STANDARD_STREAM`.
        output: likewise.
        url: of a running server, without path; None where `model` is given.
        api_key: sent as a bearer token; None for none.
        model: what to serve for the time of the run; None where `url` is given.
        server_flags: further arguments of that server.
        concurrency: the largest number of requests under way at once.
        retries: how often a request is sent again while the server is away or busy.
        timeout: how long one request may take, in seconds.
        overwrite: whether to start anew although the output holds answers.
        progress: whether to show the bar; None shows it where stderr is a terminal.
        defaults: fields of the endpoint's `filled` object for lines that do not say otherwise.
    """

    endpoint: Endpoint
    input: str
    output: str
    url: str | None
    api_key: str | None
    model: str | None
    server_flags: list[str]
    concurrency: int
    retries: int
    timeout: float
    overwrite: bool
    progress: bool | None
    defaults: Mapping[str, Any]

    @property
    def served(self) -> str | None:
        """What --model serves, as `served_model` writes it; None where a URL is given."""
        return None if self.model is None else served_model(self.model, self.server_flags)


def parse_options(endpoint: Endpoint, arguments: Sequence[str]) -> BatchOptions:
    """Parse and check the command line.

    Raises:
        SystemExit: with 2 for bad usage, with 0 after --help.
    """
    parser = _parser(endpoint)
    given, others = parser.parse_known_args(list(arguments))
    _check(parser, given, others)
    if endpoint.filled:
        check_request_flags(parser, given, endpoint.filled)
    return batch_options(
        parser,
        given,
        others,
        endpoint=endpoint,
        source=given.input,
        output=given.output,
        defaults=request_defaults(given, endpoint.filled) if endpoint.filled else {},
    )


def batch_options(
    parser: argparse.ArgumentParser,
    given: argparse.Namespace,
    others: list[str],
    *,
    endpoint: Endpoint,
    source: str,
    output: str,
    defaults: Mapping[str, Any],
) -> BatchOptions:
    """The options of one run, where the flags of `add_server_flags` and `add_run_flags` are parsed.

    Raises:
        SystemExit: with 2 for a URL that is none.
    """
    return BatchOptions(
        endpoint=endpoint,
        input=source,
        output=output,
        url=None if given.model else server_url(parser, given.url or "http://localhost:8000"),
        api_key=given.api_key or os.environ.get(API_KEY_VARIABLE) or None,
        model=given.model,
        server_flags=others,
        concurrency=given.concurrency,
        retries=given.retries,
        timeout=given.timeout,
        overwrite=given.overwrite,
        progress=given.progress,
        defaults=defaults,
    )


def _check(
    parser: argparse.ArgumentParser, given: argparse.Namespace, others: Sequence[str]
) -> None:
    check_server_flags(parser, given, others)
    streams = (given.input, given.output)
    if STANDARD_STREAM not in streams and _same_file(*streams):
        parser.error(f"-o {given.output}: it is the input")


def check_server_flags(
    parser: argparse.ArgumentParser, given: argparse.Namespace, others: Sequence[str]
) -> None:
    """Refuse flags of `add_server_flags` that do not go together.

    Args:
        others: words that the parser does not know.

    Raises:
        SystemExit: with 2.
    """
    if given.model is None:
        if others:
            wrong = others[0].partition("=")[0]
            parser.error(
                f"unrecognized arguments: {' '.join(others)} (the server's go with --model)"
                f"{did_you_mean(wrong, parser._option_string_actions)}"
            )
    elif given.url:
        parser.error("--url and --model: give one of them")
    elif given.api_key:
        parser.error(f"--api-key goes with --url; for --model set {API_KEY_VARIABLE}")
    for flag in (word.partition("=")[0].replace("_", "-") for word in others):
        if flag in OURS:
            parser.error(f"{flag}: with --model the server is for this run alone")


def _same_file(left: str, right: str) -> bool:
    return os.path.exists(left) and os.path.exists(right) and os.path.samefile(left, right)


def server_url(parser: argparse.ArgumentParser, url: str) -> str:
    """The server's address without a path. It may be given with the /v1 of OpenAI's clients.

    Raises:
        SystemExit: with 2 for what is no such address.
    """
    try:
        return base_url.server_url(url)
    except ValueError as error:
        parser.error(f"--url {url}: {error}")


def served_model(model: str, flags: Sequence[str]) -> str:
    """What --model serves, as words of a shell; equal where equal answers are to be expected.

    The flags stand in the order of their names, without those that change no answer. A folder
    is known by its path, not by what it holds.
    """
    groups: list[list[str]] = []
    for word in flags:
        if re.match("--?[A-Za-z]", word):
            name, equals, value = word.partition("=")
            groups.append([name.replace("_", "-"), *([value] if equals else [])])
        elif groups:
            groups[-1].append(word)
    groups.sort(key=lambda group: group[0])
    told = chain.from_iterable(group for group in groups if group[0] not in NEUTRAL)
    path = os.path.realpath(model) if os.path.exists(model) else model
    settings = [
        f"{name}={os.environ[name]}" for name in (ENV_MODE, ENV_TOP_K) if name in os.environ
    ]
    return " ".join([*settings, shlex.join([path, *told])])


def score_parser() -> argparse.ArgumentParser:
    """That of `conf-server score`."""
    return _parser(SCORE)


def uncertainty_parser() -> argparse.ArgumentParser:
    """That of `conf-server uncertainty`."""
    return _parser(UNCERTAINTY)


def think_parser() -> argparse.ArgumentParser:
    """That of `conf-server think`."""
    return _parser(THINK)


def _parser(endpoint: Endpoint) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"conf-server {endpoint.command}",
        usage=f"conf-server {endpoint.command} IN -o OUT "
        "[--url URL | --model PATH [any server flag]] [options]",
        description=f"POST {endpoint.path} for every line of IN, {endpoint.body}, and one line of "
        "OUT for each. The same command again goes on where the last one stopped. Exits with 0 "
        "when all lines are answered, 1 when one is not, 2 for bad usage.",
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="IN", help="JSON lines, .gz or not; - is stdin.")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="JSON lines, .gz or not; - is stdout."
    )
    add_server_flags(parser)
    if endpoint.filled:
        add_request_flags(parser, endpoint.filled)
    add_run_flags(parser, endpoint.concurrency)
    return parser


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which server is asked."""
    group = parser.add_argument_group("server")
    group.add_argument("--url", help="A running server. Default: http://localhost:8000.")
    group.add_argument(
        "--api-key", metavar="KEY", help=f"The server's key. Default: ${API_KEY_VARIABLE}."
    )
    group.add_argument(
        "--model",
        metavar="PATH",
        help="Serve this model on a free port for the time of the run; flags that are not known "
        "here go to that server.",
    )


def add_run_flags(parser: argparse.ArgumentParser, concurrency: int) -> None:
    """Add the flags that say how requests are sent.

    Args:
        concurrency: requests under way at once where the flags do not say it.
    """
    group = parser.add_argument_group("run")
    group.add_argument(
        "--concurrency",
        metavar="N",
        type=positive,
        default=concurrency,
        help=f"Most requests under way at once. Default: {concurrency}.",
    )
    group.add_argument(
        "--retries",
        metavar="N",
        type=whole,
        default=10,
        help="How often to send a request again while the server is away or busy; then the run "
        "stops. Default: 10, which take two and a half minutes at least.",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=above_zero,
        default=3600.0,
        help="Of one request; its line then fails. Default: 3600.",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="Start anew although OUT holds answers."
    )
    group.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="Show the bar on stderr. Default: where stderr is a terminal.",
    )
