"""The engine's client, from the flags to its end."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

from vllm import AsyncEngineArgs
from vllm.engine.protocol import EngineClient
from vllm.logger import init_logger
from vllm.usage.usage_lib import UsageContext

from conf_server.engine.api_processes import propagate_frontend_flags
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.core.scheduler import use_our_scheduler
from conf_server.engine.token_statistics_support import WORKER_EXTENSION
from conf_server.settings import SettingsError

logger = init_logger("vllm.conf_server.token_statistics")

ENGINE_STOP_TIMEOUT_S = 10
"""How long an engine without work may take to release its device."""


class Shutdown:
    """What the signals have asked for so far."""

    def __init__(self) -> None:
        self.requested = False
        self.forced = False

    @property
    def engine_timeout(self) -> float:
        return 0 if self.forced else ENGINE_STOP_TIMEOUT_S


@contextlib.asynccontextmanager
async def engine_client(
    args: Namespace, client_config: dict[str, Any], shutdown: Shutdown
) -> AsyncIterator[ConfidenceAsyncLLM]:
    """Our engine client, shut down on the way out."""
    engine_args = AsyncEngineArgs.from_cli_args(args)
    propagate_frontend_flags(args, engine_args)
    if client_config:
        engine_args._api_process_count = client_config.get("client_count", 1)
        engine_args._api_process_rank = client_config.get("client_index", 0)
    usage = UsageContext.OPENAI_API_SERVER
    vllm_config = engine_args.create_engine_config(usage_context=usage)
    use_our_scheduler(vllm_config)
    addresses = dict(client_config)
    engine = ConfidenceAsyncLLM.from_vllm_config(
        vllm_config=vllm_config,
        usage_context=usage,
        enable_log_requests=engine_args.enable_log_requests,
        aggregate_engine_logging=engine_args.aggregate_engine_logging,
        disable_log_stats=engine_args.disable_log_stats,
        client_count=addresses.pop("client_count", 1),
        client_index=addresses.pop("client_index", 0),
        client_addresses=addresses,
    )
    try:
        await engine.reset_mm_cache()
        yield engine  # type: ignore[misc]  # from_vllm_config builds its own class
    finally:
        engine.shutdown(timeout=shutdown.engine_timeout)


async def install_token_statistics(engine: EngineClient, args: Namespace) -> bool:
    """Replace the samplers in all workers; before the first request.

    Returns:
        Whether every worker computes statistics: requests may ask for them. With data
        parallelism vLLM tells the first engine's answers alone; the others have its flags.

    Raises:
        SettingsError: --token-statistics engine, and a worker could not.
    """
    if args.worker_extension_cls != WORKER_EXTENSION:
        return False
    answers = await engine.collective_rpc("install_token_statistics")
    obstacles = [answer for answer in answers if answer is not None]
    if not obstacles:
        logger.info("Exact token statistics are computed in the workers.")
        return True
    if args.token_statistics == "engine":
        raise SettingsError(f"--token-statistics engine: {obstacles[0]}")
    logger.info("Token statistics from top-k log-probabilities, marked inexact: %s.", obstacles[0])
    return False
