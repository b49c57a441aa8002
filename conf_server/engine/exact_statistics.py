"""Whether the workers of this server compute exact token statistics, and why not if not.

Every sentence about a missing statistic that a client or a log reads comes from here.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from vllm.engine.protocol import EngineClient
from vllm.logger import init_logger
from vllm.platforms import current_platform

from conf_server.settings import SettingsError

logger = init_logger("vllm.conf_server.exact_statistics")

WORKER_EXTENSION: Final = "conf_server.engine.worker.extension.StatisticsExtension"
"""The class that vLLM is told to mix into its workers."""

SPECULATIVE: Final = "speculative decoding samples elsewhere"

_SPECULATIVE_FLAGS: Final = ("speculative_config", "spec_method", "spec_model", "spec_tokens")


def obstacle_in_flags(args: Namespace) -> str | None:
    """What in the flags keeps the workers from exact statistics; None where nothing does.

    The workers have the last word in `install_token_statistics`: a checkpoint can bring
    speculative decoding along without any flag.
    """
    if args.token_statistics == "topk":
        return "--token-statistics topk was given"
    if any(getattr(args, flag, None) for flag in _SPECULATIVE_FLAGS):
        return SPECULATIVE
    if getattr(args, "enable_batch_sharded_sampling", False):
        return "batch-sharded sampling cuts extra columns off"
    if getattr(args, "enable_elastic_ep", False):
        return "elastic expert parallelism starts workers later"
    if getattr(args, "runner", None) == "pooling":
        return "a pooling model samples nothing"
    if getattr(args, "worker_extension_cls", "") not in ("", WORKER_EXTENSION):
        return "--worker-extension-cls is taken"
    if not (current_platform.is_cpu() or current_platform.is_cuda()):
        return f"not tried on {current_platform.device_name}"
    return None


async def install_token_statistics(engine: EngineClient, args: Namespace) -> str | None:
    """Replace the samplers in all workers, before the first request.

    With data parallelism vLLM passes on the answer of the first engine's workers only; the
    other engines run with the same flags.

    Args:
        args: the checked flags (`flags.check_flags`).

    Returns:
        Why requests cannot ask for exact statistics, or None where they can.

    Raises:
        SettingsError: --token-statistics engine was given, and a worker refuses.
    """
    obstacle = obstacle_in_flags(args) or await _worker_obstacle(engine)
    if obstacle is None:
        logger.info("Exact token statistics are computed in the workers.")
    elif args.token_statistics == "engine":
        raise SettingsError(f"--token-statistics engine: {obstacle}")
    else:
        logger.info("Token statistics from top-k log-probabilities, marked inexact: %s.", obstacle)
    return obstacle


async def _worker_obstacle(engine: EngineClient) -> str | None:
    answers = await engine.collective_rpc("install_token_statistics")
    return next((answer for answer in answers if answer is not None), None)
