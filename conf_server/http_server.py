"""The HTTP server of one of vLLM's API processes: its configuration and its signals."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import uvicorn
import vllm.envs as envs
from fastapi import FastAPI
from vllm.entrypoints.launchers import launcher as vllm_launcher
from vllm.entrypoints.launchers.utils import constants
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config

from conf_server.draining import CUT_S, Draining, drain_on_signals
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.start import Shutdown


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


class DrainingServer(Draining, vllm_launcher.NoSignalServer):
    """vLLM's server, which leaves signals to us, with our end of a drain."""


def handle_signals(server: DrainingServer, engine: ConfidenceAsyncLLM, shutdown: Shutdown) -> None:
    """Drain at the first signal, stop at the second, and let the engine client know."""

    def ending(at_once: bool) -> None:
        shutdown.requested = True
        shutdown.forced = shutdown.forced or at_once

    drain_on_signals(server, engine.get_num_unfinished_requests, ending)
