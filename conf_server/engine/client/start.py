"""Starting the engine's client from the flags, and ending it."""

from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from typing import Any

from pydantic import ValidationError
from vllm import AsyncEngineArgs
from vllm.logger import init_logger
from vllm.usage.usage_lib import UsageContext

from conf_server.engine.api_processes import propagate_frontend_flags
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.core.scheduler import use_our_scheduler
from conf_server.settings import SettingsError, StartError
from conf_server.terminal import shortened

ENGINE_STOP_TIMEOUT_S = 10
"""Seconds that an engine without work may take to release its device."""


LONGEST_REASON = 500
"""Characters of what vLLM says of a configuration that it refuses."""

_USAGE = UsageContext.OPENAI_API_SERVER
_MISSING = frozenset({"RepositoryNotFoundError", "EntryNotFoundError", "HFValidationError"})
"""Of huggingface_hub: there is no such model, or there cannot be."""

logger = init_logger("vllm.conf_server.start")


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


def engine_arguments(args: Namespace) -> AsyncEngineArgs:
    """The engine's arguments among the server's flags; offline, the model is looked up for them.

    Raises:
        SettingsError, StartError: as `configuring`.
    """
    with configuring(args.model):
        engine_args = AsyncEngineArgs.from_cli_args(args)
    propagate_frontend_flags(args, engine_args)
    return engine_args


def engine_config(engine_args: AsyncEngineArgs) -> Any:
    """The engine's configuration, with our scheduler. Nothing is started yet.

    Raises:
        SettingsError, StartError: as `configuring`.
    """
    with configuring(engine_args.model):
        vllm_config = engine_args.create_engine_config(usage_context=_USAGE)
    use_our_scheduler(vllm_config)
    return vllm_config


@contextlib.contextmanager
def configuring(model: str) -> Iterator[None]:
    """Turn what vLLM raises of a model's configuration into one line.

    Its traceback is logged at DEBUG (`VLLM_LOGGING_LEVEL`).

    Raises:
        SettingsError: the model and the flags do not go together, or there is no such model.
        StartError: the model cannot be looked up now.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        logger.debug("vLLM has refused the configuration.", exc_info=True)
        reason = f"--model {model}: {first_reason(error)}"
        if isinstance(error, OSError) and not os.path.exists(model) and not _is_missing(error):
            raise StartError(reason) from error
        raise SettingsError(reason) from error


def first_reason(error: Exception) -> str:
    """What an error of vLLM's configuration says, in one line: pydantic adds the input to it."""
    text = str(error)
    if isinstance(error, ValidationError):
        one = error.errors()[0]
        field = ".".join(map(str, one["loc"]))
        text = f"{field}: {one['msg']}" if field else one["msg"].removeprefix("Value error, ")
    return shortened(" ".join(text.split()), LONGEST_REASON)


def _is_missing(error: OSError) -> bool:
    """Whether a hub has no such model. Else it is out of reach."""
    kinds = set()
    cause: BaseException | None = error
    while cause is not None:
        kinds.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return bool(kinds & _MISSING)


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

    Raises:
        SettingsError, StartError: as `configuring`.
    """
    engine_args = engine_arguments(args)
    if client_config:
        engine_args._api_process_count = client_config.get("client_count", 1)
        engine_args._api_process_rank = client_config.get("client_index", 0)
    vllm_config = engine_config(engine_args)
    addresses = dict(client_config)
    engine = ConfidenceAsyncLLM.from_vllm_config(
        vllm_config=vllm_config,
        usage_context=_USAGE,
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
