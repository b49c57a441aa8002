"""The HTTP server of an API process: its configuration, its signals, and the end of its drain."""

from __future__ import annotations

import asyncio
import signal
import socket
from argparse import Namespace
from functools import partial
from typing import Any, Final

import uvicorn
import vllm.envs as envs
from fastapi import FastAPI
from vllm.entrypoints.launchers import launcher as vllm_launcher
from vllm.entrypoints.launchers.utils import constants
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.logger import init_logger

from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.start import Shutdown
from conf_server.serving.cut_requests import Stopping

logger = init_logger("vllm.conf_server.http_server")

CUT_S: Final = 2
"""Seconds in which requests that are cut off may answer that."""


def uvicorn_config(app: FastAPI, args: Namespace) -> uvicorn.Config:
    """Make uvicorn's configuration of vLLM's HTTP flags, with the time that a stop may take."""
    logging: dict[str, Any] = {}
    if (log_config := get_uvicorn_log_config(args)) is not None:
        logging["log_config"] = log_config
    config = uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        log_level=args.uvicorn_log_level,
        access_log=not args.disable_uvicorn_access_log,
        timeout_keep_alive=envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE,
        # Only in case of need: `DrainingServer` ends the drain by itself.
        timeout_graceful_shutdown=args.shutdown_timeout + CUT_S,
        ssl_keyfile=args.ssl_keyfile,
        ssl_certfile=args.ssl_certfile,
        ssl_ca_certs=args.ssl_ca_certs,
        ssl_cert_reqs=args.ssl_cert_reqs,
        ssl_ciphers=args.ssl_ciphers,
        **logging,
    )
    # Not arguments of uvicorn's: its h11 protocol reads them off the config.
    config.h11_max_incomplete_event_size = (
        args.h11_max_incomplete_event_size or constants.H11_MAX_INCOMPLETE_EVENT_SIZE_DEFAULT
    )
    config.h11_max_header_count = (  # type: ignore[attr-defined]
        args.h11_max_header_count or constants.H11_MAX_HEADER_COUNT_DEFAULT
    )
    config.load()
    return config


class DrainingServer(vllm_launcher.NoSignalServer):
    """A server that cuts the requests which a drain has left, and hears them answer that.

    uvicorn cancels them and does not wait, so that no answer of theirs would be sent.
    """

    def __init__(
        self, config: uvicorn.Config, drain_s: int, stopping: Stopping, **options: Any
    ) -> None:
        """
        Args:
            drain_s: how long running requests may go on once `should_exit` is set.
            stopping: is set when those that are left are to end; see `CutRequests`.
        """
        super().__init__(config, **options)
        self.drain_s = drain_s
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        end = asyncio.create_task(self._end_of_drain())
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()
        if self.force_exit:  # nobody has waited
            await self._cut()

    async def _end_of_drain(self) -> None:
        await asyncio.sleep(self.drain_s)
        await self._cut()

    async def _cut(self) -> None:
        tasks = list(self.server_state.tasks)
        if not tasks:
            return
        logger.warning("Stopping: %d requests are cut off.", len(tasks))
        self._stopping.set()
        _, left = await asyncio.wait(tasks, timeout=CUT_S / 2)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CUT_S / 2)


def handle_signals(server: DrainingServer, engine: ConfidenceAsyncLLM, shutdown: Shutdown) -> None:
    """Drain at the first signal: take no new connections, finish what runs. Stop at the second."""

    def on_signal(signum: signal.Signals) -> None:
        if not server.should_exit:
            logger.info(
                "%s: draining %d requests for up to %d s; once more stops at once.",
                signum.name,
                engine.get_num_unfinished_requests(),
                server.drain_s,
            )
            shutdown.requested = server.should_exit = True
        else:
            logger.info("%s again: stopping at once.", signum.name)
            shutdown.forced = server.force_exit = True

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, partial(on_signal, signum))
