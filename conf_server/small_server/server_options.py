"""The flags of `conf-server --backend transformers`: ours, its own, and those of vLLM's it has."""

from __future__ import annotations

import argparse
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from conf_server import installation
from conf_server.before_start import check_model
from conf_server.commands import overview
from conf_server.flags import DRAIN_S, check_fit, load_methods
from conf_server.nearest import did_you_mean
from conf_server.serving.admission import api_keys
from conf_server.settings import ConfidenceSettings, SettingsError, add_shared_args
from conf_server.small_server.generation_requests import ELSEWHERE
from conf_server.vllm_flags import dashed

SERVING: Final = """\
  conf-server --backend transformers MODEL [flags]
      OpenAI's API for a model that transformers runs, for machines without vLLM; it
      answers what conf-server answers with vLLM, and is slower
  conf-server MODEL [flags]
      with vLLM, see conf-server --help"""
_LOADING: Final = (
    *("tokenizer", "revision", "dtype", "device", "quantization", "attention", "cache"),
    *("memory_fraction", "max_batch_tokens", "max_generations", "trust_remote_code"),
)
"""Flags that `TransformersOptions` has under the same names, and has defaults for."""


@dataclass(frozen=True)
class ServerOptions:
    """What the command line says.

    Attributes:
        model: a folder, or a name on a hub.
        names: under which it is served; the model's own, where no flag says so.
        loading: how the model is loaded: arguments of `TransformersOptions`, which checks them.
        settings: what our own flags say.
        host: where to listen; None for every interface.
        keys: that requests have to bring.
        drain_s: how long running requests may go on after SIGTERM, in seconds.
        log_level: of uvicorn.
        access_log: whether it logs each request.
    """

    model: str
    names: tuple[str, ...]
    loading: Mapping[str, Any]
    settings: ConfidenceSettings
    host: str | None
    port: int
    keys: tuple[str, ...]
    trusts_templates: bool
    drain_s: int
    log_level: str
    access_log: bool


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as vLLM's server does here."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def parse_options(arguments: Sequence[str], environ: Mapping[str, str]) -> ServerOptions:
    """Parse and check the command line; nothing is loaded yet.

    Raises:
        SettingsError: naming the flag.
        SystemExit: with 0 after --help.
    """
    parser = make_parser()
    given, others = parser.parse_known_args([dashed(word) for word in arguments])
    for word in others:
        if word.startswith("-"):
            flag = word.partition("=")[0]
            hint = did_you_mean(flag, parser._option_string_actions)
            raise SettingsError(f"{flag}: {ELSEWHERE.rstrip('.')}{hint}")
    if others:
        raise SettingsError(f"{others[0]}: it belongs to no flag")
    model = given.model_tag if given.model_tag is not None else given.model
    if not model:
        raise SettingsError("--model: must not be empty")
    check_model(model)
    if given.shutdown_timeout < 0:
        raise SettingsError(
            f"--shutdown-timeout: must not be below 0, got {given.shutdown_timeout}"
        )
    settings = ConfidenceSettings.from_args(given, environ)
    load_methods()
    check_fit(settings)
    return ServerOptions(
        model=model,
        names=tuple(given.served_model_name or [model]),
        loading=_loading(given, model, settings),
        settings=settings,
        host=given.host,
        port=given.port,
        keys=tuple(api_keys(given)),
        trusts_templates=given.trust_request_chat_template,
        drain_s=given.shutdown_timeout,
        log_level=given.uvicorn_log_level,
        access_log=not given.disable_uvicorn_access_log,
    )


def _loading(given: argparse.Namespace, model: str, settings: ConfidenceSettings) -> dict[str, Any]:
    most = given.max_logprobs
    return {
        **{name: value for name, value in vars(given).items() if name in _LOADING},
        "model": model,
        "max_len": given.max_model_len,
        # As with vLLM: the backend has to be willing to give top_k candidates.
        "max_logprobs": most if most == -1 else max(most, settings.top_k),
        "max_attention_bytes": settings.max_attention_bytes,
        "max_forced_tokens": settings.max_forced_tokens,
    }


def make_parser() -> argparse.ArgumentParser:
    """The parser of all flags."""
    parser = _Parser(
        prog="conf-server",
        usage="conf-server --backend transformers MODEL [flags]",
        description=overview(SERVING, installation.has_vllm()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_shared_args(parser)
    _add_server_args(parser.add_argument_group("Server"))
    _add_model_args(parser.add_argument_group("Model"))
    return parser


def _add_server_args(group: Any) -> None:
    group.add_argument("--host", metavar="HOST", help="Where to listen. Default: everywhere.")
    group.add_argument("--port", type=int, default=8000, metavar="PORT", help="Default: 8000.")
    group.add_argument(
        "--api-key",
        nargs="+",
        metavar="KEY",
        help="Keys, of which a request has to bring one. Environment: VLLM_API_KEY.",
    )
    group.add_argument(
        "--served-model-name",
        nargs="+",
        metavar="NAME",
        help="Names of the model; answers have the first. Default: what --model says.",
    )
    group.add_argument(
        "--trust-request-chat-template",
        action="store_true",
        help="Take chat templates, which are programs, from requests.",
    )
    group.add_argument(
        "--shutdown-timeout",
        type=int,
        default=DRAIN_S,
        metavar="SECONDS",
        help="How long SIGTERM waits for running requests.",
    )
    group.add_argument(
        "--uvicorn-log-level",
        choices=("critical", "error", "warning", "info", "debug", "trace"),
        default="info",
        help="Of the HTTP server.",
    )
    group.add_argument(
        "--disable-uvicorn-access-log", action="store_true", help="Do not log each request."
    )


def _add_model_args(group: Any) -> None:
    group.add_argument("model_tag", nargs="?", metavar="PATH", help="The same as --model.")
    group.add_argument("--model", metavar="PATH", help="A model folder, or its name on a hub.")
    group.add_argument(
        "--tokenizer", default=SUPPRESS, metavar="PATH", help="Default: the model's own."
    )
    group.add_argument(
        "--revision", default=SUPPRESS, metavar="NAME", help="Of the model on the hub."
    )
    group.add_argument(
        "--device",
        default=SUPPRESS,
        metavar="DEVICE",
        help="cpu, cuda or cuda:N. Default: the first GPU, where there is one.",
    )
    group.add_argument(
        "--dtype",
        default=SUPPRESS,
        metavar="TYPE",
        help="Of the weights: float32, bfloat16 or float16. Default: float32 on the CPU, what the "
        "model's config says on a GPU.",
    )
    group.add_argument(
        "--quantization",
        default=SUPPRESS,
        metavar="BITS",
        help="Of the weights as they are loaded: none (the default), int8 or int4.",
    )
    group.add_argument(
        "--attention-implementation",
        default=SUPPRESS,
        dest="attention",
        metavar="NAME",
        help="Of transformers: sdpa, flash_attention_2 or eager. Default: the model's usual one.",
    )
    group.add_argument(
        "--cache",
        default=SUPPRESS,
        metavar="KIND",
        help="Of keys and values: dynamic (the default) grows with an answer, static has the "
        "longest one's size.",
    )
    group.add_argument(
        "--max-model-len",
        type=int,
        metavar="TOKENS",
        help="Of prompt and answer together. Default: what the model's config says.",
    )
    group.add_argument(
        "--max-logprobs",
        type=int,
        default=20,
        metavar="N",
        help="Most candidates of a token that a request may ask for; -1: the vocabulary.",
    )
    group.add_argument(
        "--max-batch-tokens",
        default=SUPPRESS,
        type=int,
        metavar="N",
        help="Tokens of texts that the model reads at a time. Default: about a second's work.",
    )
    group.add_argument(
        "--max-generations",
        default=SUPPRESS,
        type=int,
        metavar="N",
        help="Requests whose answers are generated at a time; further ones wait.",
    )
    group.add_argument(
        "--memory-fraction",
        default=SUPPRESS,
        type=float,
        metavar="SHARE",
        help="Of the GPU's memory that this process may use.",
    )
    group.add_argument(
        "--trust-remote-code",
        default=SUPPRESS,
        action="store_true",
        help="Run code that comes with the model.",
    )
