"""The serving command's flags: vLLM's and ours, checked before a model is loaded."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from conf_server.commands import overview
from conf_server.installation import engine_problem
from conf_server.scorer.scorer_options import ScorerSettings, add_scorer_args
from conf_server.settings import ConfidenceSettings, SettingsError, add_cli_args
from conf_server.uncertainty.registry import MethodError, load_entry_points

DRAIN_S = 30
"""Default of --shutdown-timeout: how long SIGTERM waits for running requests."""

SERVING = """\
  conf-server MODEL [flags]
      with vLLM; the same as conf-server serve MODEL and conf-server --model MODEL
  conf-server --backend transformers MODEL [flags]
      without vLLM; with --help in place of MODEL it lists its flags, which are others
  conf-server --config FILE
      model and flags from a file, see docs/one-file.md

Flags of vllm serve are all taken. --help=all lists them, --help=GROUP and --help=FLAG
some of them."""


def make_parser() -> Any:
    """vLLM's serve parser with our group in front, and our defaults."""
    from vllm.platforms import current_platform

    from conf_server.engine.api_processes import vllm_cli_args
    from conf_server.engine.parser import ConfServerArgumentParser
    from conf_server.scorer_start import DefaultShare

    parser = ConfServerArgumentParser(
        prog="conf-server",
        usage="conf-server COMMAND ... | conf-server MODEL [flags]",
        description=overview(SERVING),
    )
    add_cli_args(parser)
    add_scorer_args(parser)
    vllm_cli_args.make_arg_parser(parser)
    parser.set_defaults(shutdown_timeout=DRAIN_S)
    if current_platform.is_cpu():
        # bfloat16's rounding turns near-ties, and vLLM's 0.92 of a NUMA node's memory is
        # rarely free on a host that runs anything else; see docs/vllm.md.
        parser.set_defaults(dtype="float32", enforce_eager=True, gpu_memory_utilization=0.5)
    share = parser.get_default("gpu_memory_utilization")
    parser.set_defaults(gpu_memory_utilization=DefaultShare(share))
    return parser


def parse_args(arguments: list[str]) -> Namespace:
    """Parse as `vllm serve` does: positional model, --config, dashes and underscores alike.

    Raises:
        SettingsError: no engine can be started here, a config file cannot be read, a flag is
            wrong, or there is no model.
    """
    if problem := engine_problem():
        raise SettingsError(problem)
    import yaml  # type: ignore[import-untyped]
    from vllm.logger import configure_logging_from_args

    from conf_server.engine.api_processes import cli_env_setup

    cli_env_setup()
    try:
        args: Namespace = make_parser().parse_args(_separate_config(arguments))
    except SettingsError:
        raise
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
    from conf_server.scorer_start import check_scorer

    try:
        vllm_cli_args.validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise SettingsError(str(error)) from error
    refuse_other_front_ends(args, environ)
    refuse_processed_logprobs(args)
    load_methods()
    check_fit(settings)
    check_scorer(args, ScorerSettings.from_args(args), settings)
    resolve_api_server_count(args)
    raise_max_logprobs(args, settings)
    check_uhead(args, settings)
    ask_for_token_statistics(args)
    log_cpu_defaults(args)


def load_methods() -> None:
    """Find out now whether the uncertainty methods of installed packages can be registered.

    Raises:
        SettingsError: naming the entry point.
    """
    try:
        load_entry_points()
    except MethodError as error:
        raise SettingsError(str(error)) from error


def check_fit(settings: ConfidenceSettings) -> None:
    """Find out now whether the folder of --fitted can be read; `serving` looks whose it is.

    Raises:
        SettingsError: naming the file.
    """
    if settings.fitted is None:
        return
    from conf_server.uncertainty.fitted_file import FittedError, load_fitted

    try:
        load_fitted(Path(settings.fitted))
    except FittedError as error:
        raise SettingsError(f"--fitted: {error}") from error


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
        init_logger("vllm.conf_server.flags").warning(
            "--api-server-count %d: capped to 1, as --enable-elastic-ep needs.",
            args.api_server_count,
        )
        args.api_server_count = 1


def raise_max_logprobs(args: Namespace, settings: ConfidenceSettings) -> None:
    """The engine must be willing to give top_k candidates."""
    from vllm.logger import init_logger

    if 0 <= args.max_logprobs < settings.top_k:
        init_logger("vllm.conf_server.flags").info(
            "--max-logprobs raised from %d to %d, the confidence top_k.",
            args.max_logprobs,
            settings.top_k,
        )
        args.max_logprobs = settings.top_k


def check_uhead(args: Namespace, settings: ConfidenceSettings) -> None:
    """Find out now whether the head of --uhead is one of the model that is about to be loaded.

    Raises:
        SettingsError: saying why it is not, or that there is no model.
        StartError: the model cannot be looked up now.
    """
    if settings.uhead is None or args.headless:
        return
    from vllm import AsyncEngineArgs

    from conf_server.engine.client.start import configuring
    from conf_server.serving.served_head import check_served_head
    from conf_server.serving.vllm_host import model_shape

    with configuring(args.model):
        model_config = AsyncEngineArgs.from_cli_args(args).create_model_config()
    check_served_head(settings, model_shape(model_config))


def ask_for_token_statistics(args: Namespace) -> None:
    """Have the workers load what `install_token_statistics` calls, where it can work.

    Raises:
        SettingsError: --token-statistics engine was given where it cannot.
    """
    from conf_server.engine.exact_statistics import WORKER_EXTENSION, obstacle_in_flags

    obstacle = obstacle_in_flags(args)
    if obstacle is None:
        args.worker_extension_cls = WORKER_EXTENSION
    elif args.token_statistics == "engine":
        raise SettingsError(f"--token-statistics engine: {obstacle}")


def log_cpu_defaults(args: Namespace) -> None:
    """Say what CPU serving does differently from vllm serve."""
    from vllm.logger import init_logger
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and (args.dtype == "float32" or args.enforce_eager):
        init_logger("vllm.conf_server.flags").info(
            "CPU: dtype %s, %s, %.2f of the memory; override with --dtype, --no-enforce-eager, "
            "--gpu-memory-utilization.",
            args.dtype,
            "eager" if args.enforce_eager else "compiled",
            args.gpu_memory_utilization,
        )
