"""Starting the engine's client from the flags, and ending it."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import AsyncIterator
from typing import Any

from vllm import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext

from conf_server.engine.api_processes import propagate_frontend_flags
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.core.scheduler import use_our_scheduler

ENGINE_STOP_TIMEOUT_S = 10
"""Seconds that an engine without work may take to release its device."""


class Shutdown:
    """How far the signals want this process to end.

    Attributes:
        requested: a first signal has asked for an end.
        forced: the end must not wait for anything.
    """

    def __init__(self) -> None:
        self.requested = False
        self.forced = False

    @property
    def engine_timeout(self) -> float:
        """Seconds that the engine gets to end by itself."""
        return 0 if self.forced else ENGINE_STOP_TIMEOUT_S


@contextlib.asynccontextmanager
async def engine_client(
    args: Namespace, client_config: dict[str, Any], shutdown: Shutdown
) -> AsyncIterator[ConfidenceAsyncLLM]:
    """Our client of an engine, which is shut down at the end of the context.

    Args:
        args: the checked flags.
        client_config: how to reach engines that another process has started, as vLLM hands it
            to an API process among several; empty to start an engine.
        shutdown: says at the end how long the engine may take.
    """
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
