"""Starts the server: engine client, app, HTTP server, in one API process or several.

vLLM's own entry names its engine client, its app and its handlers, so this module takes its
place and names ours. The order of steps is vLLM's. What differs is the end: the first SIGTERM
drains over HTTP while the engine still works, the second one stops at once. systemd is told
when the model answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from argparse import Namespace
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from multiprocessing import connection
from typing import Any

import uvloop
import vllm.envs as envs
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.launchers import launcher as vllm_launcher
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.utils.ssl import SSLCertRefresher
from vllm.entrypoints.serve import create_error_response
from vllm.logger import init_logger
from vllm.utils.system_utils import decorate_logs, set_process_title
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor

from conf_server.before_start import cannot_listen
from conf_server.draining import CUT_S
from conf_server.engine.api_processes import (
    import_parser_plugins,
    start_api_processes,
)
from conf_server.engine.client.async_llm import ConfidenceAsyncLLM
from conf_server.engine.client.probe import generates
from conf_server.engine.client.start import (
    ENGINE_STOP_TIMEOUT_S,
    Shutdown,
    engine_arguments,
    engine_client,
    engine_config,
)
from conf_server.engine.exact_statistics import install_token_statistics
from conf_server.engine.states_support import NOT_ENABLED, install_hidden_states
from conf_server.http_server import DrainingServer, handle_signals, uvicorn_config
from conf_server.scorer.scorer_options import ScorerSettings
from conf_server.scorer.supervisor import RunningScorer
from conf_server.scorer_start import running_scorer
from conf_server.serving.app import extend_app
from conf_server.serving.refusals import add_exception_handler
from conf_server.serving.routes import init_confidence_state
from conf_server.settings import ConfidenceSettings, SettingsError
from conf_server.systemd import ServiceNotifier

logger = init_logger("vllm.conf_server.launcher")

REFUSED = 2
"""The exit status when a flag turns out to be wrong; argparse exits with the same."""


def run(args: Namespace, settings: ConfidenceSettings) -> None:
    """Serve until a signal comes, in this process, in several processes, or without HTTP."""
    if args.headless:
        _run_headless(args)
        return
    wanted = ScorerSettings.from_args(args)
    if wanted is not None:
        _stop_start_up_on_sigterm()
    with running_scorer(args, wanted, settings) as scorer:
        if (args.api_server_count or 1) > 1:
            run_api_processes(args, settings, scorer)
        else:
            args.api_server_count = None
            uvloop.run(_run_one(args, settings, scorer))


def _run_headless(args: Namespace) -> None:
    """Run engines for the API server of another host. Nothing in them is ours."""
    from vllm.entrypoints.cli.serve import run_headless

    run_headless(args)


async def _run_one(
    args: Namespace, settings: ConfidenceSettings, scorer: RunningScorer | None
) -> None:
    decorate_logs("APIServer", skip_if_decorated=True)
    _stop_start_up_on_sigterm()
    address, sock = _listening(args, reuse_port=False)
    await run_api_server(address, sock, args, settings, scorer=scorer)


def _listening(args: Namespace, reuse_port: bool) -> tuple[str, socket.socket]:
    """The server's address and the socket that has it.

    Raises:
        SettingsError: the address is not to be had, or there is no parser of that name.
    """
    try:
        address: tuple[str, socket.socket] = vllm_launcher.setup_server(args, reuse_port=reuse_port)
    except (OSError, OverflowError) as error:
        where = args.uds or f"{args.host or '0.0.0.0'}:{args.port}"
        raise cannot_listen(where, error) from error
    except KeyError as error:
        raise SettingsError(str(error.args[0])) from error
    return address


def _stop_start_up_on_sigterm() -> None:
    def interrupt(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, interrupt)


async def run_api_server(
    address: str,
    sock: socket.socket,
    args: Namespace,
    settings: ConfidenceSettings,
    client_config: dict[str, Any] | None = None,
    scorer: RunningScorer | None = None,
) -> None:
    """Run one API process, from the start of the engine client to the last connection.

    Args:
        client_config: how to reach engines that another process has started. With None, this
                process starts an engine of its own.
        scorer: that all API processes ask; None without one.

    Raises:
        SystemExit: 1 when the engine died.
    """
    import_parser_plugins(args)
    client_config = dict(client_config or {})
    loads = client_config.pop("api_server_loads", None)
    peer_loads = None if loads is None else (loads, client_config["client_index"])
    shutdown = Shutdown()
    try:
        async with engine_client(args, client_config, shutdown) as engine:
            app = await build_confidence_app(engine, args, settings, scorer)
            is_first = client_config.get("client_index", 0) == 0
            await serve(app, engine, address, sock, args, shutdown, peer_loads, is_first)
            # A signal to the whole process group may have ended the engine first.
            if engine.errored and not shutdown.requested:
                logger.error("The engine died: exiting with status 1.")
                raise SystemExit(1)
    finally:
        sock.close()


async def build_confidence_app(
    engine: ConfidenceAsyncLLM,
    args: Namespace,
    settings: ConfidenceSettings,
    scorer: RunningScorer | None = None,
) -> FastAPI:
    """Build vLLM's app, with our routes and, where the model generates text, our handlers."""
    tasks = await engine.get_supported_tasks()
    logger.info("Supported tasks: %s", tasks)
    app: FastAPI = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    generates = "generate" in tasks
    extend_app(app, generates, settings)
    add_exception_handler(app, EngineDeadError, engine_gone)
    if generates:
        obstacle = await install_token_statistics(engine, args)
        states = NOT_ENABLED
        if settings.enable_hidden_states:
            states = await install_hidden_states(engine, obstacle, settings.max_attention_bytes)
        settings = replace(
            settings,
            statistics_obstacle=obstacle,
            early_stop_obstacle="--scheduler-cls is taken." if args.scheduler_cls else None,
        )
        init_confidence_state(app.state, settings, states, scorer)
    return app


async def engine_gone(request: Request, _error: Exception) -> JSONResponse:
    """Answer 503, so that load balancers send requests elsewhere, and stop this server."""
    state = request.app.state
    vllm_launcher.terminate_if_errored(state.server, state.engine_client)
    status = HTTPStatus.SERVICE_UNAVAILABLE
    answer = create_error_response("The engine has died.", "ServiceUnavailableError", status)
    return JSONResponse(answer.model_dump(), status_code=status)


async def serve(
    app: FastAPI,
    engine: ConfidenceAsyncLLM,
    address: str,
    sock: socket.socket,
    args: Namespace,
    shutdown: Shutdown,
    peer_loads: Any = None,
    notify: bool = True,
) -> None:
    """Answer requests until a signal comes or the engine dies, then finish those that run."""
    config = uvicorn_config(app, args)
    server = DrainingServer(
        config,
        args.shutdown_timeout,
        app.state.conf_server_stopping,
        **({} if peer_loads is None else {"peer_loads": peer_loads}),
    )
    app.state.server = server
    handle_signals(server, engine, shutdown)
    helpers = [asyncio.create_task(vllm_launcher.watchdog_loop(server, engine))]
    if notify:
        notifier = ServiceNotifier.from_environ(os.environ).run(
            engine,
            server,
            partial(generates, engine),
            # The parent of several processes grants its engines as much again.
            stop_s=args.shutdown_timeout + CUT_S + 2 * ENGINE_STOP_TIMEOUT_S + 10,
        )
        helpers.append(asyncio.create_task(notifier))
    refresher = None
    if args.enable_ssl_refresh:
        assert config.ssl is not None
        refresher = SSLCertRefresher(
            ssl_context=config.ssl,
            key_path=args.ssl_keyfile,
            cert_path=args.ssl_certfile,
            ca_path=args.ssl_ca_certs,
        )
    logger.info("Starting conf-server on %s", address)
    try:
        await server.serve(sockets=[sock])
    finally:
        for task in helpers:
            task.cancel()
        outcomes = await asyncio.gather(*helpers, return_exceptions=True)
        if refresher is not None:
            refresher.stop()
    for outcome in outcomes:
        if isinstance(outcome, Exception):  # the model did not answer: not a clean stop
            raise outcome


def run_api_processes(
    args: Namespace, settings: ConfidenceSettings, scorer: RunningScorer | None
) -> None:
    """Start engines and several API processes in front of them, and watch over all of them."""
    from vllm.entrypoints.cli.serve import setup_multiprocess_prometheus
    from vllm.v1.utils import wait_for_completion_or_failure

    if envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING:
        raise ValueError("VLLM_ALLOW_RUNTIME_LORA_UPDATING cannot be used with several API servers")
    setup_multiprocess_prometheus()
    signals = _ParentSignals()
    address, sock = _listening(args, reuse_port=True)
    engine_args = engine_arguments(args)
    engine_args._api_process_count = args.api_server_count
    engine_args._api_process_rank = -1
    vllm_config = engine_config(engine_args)
    processes = start_api_processes(
        vllm_config=vllm_config,
        executor_class=Executor.get_class(vllm_config),
        log_stats=not engine_args.disable_log_stats,
        count=args.api_server_count,
        target=partial(api_process, settings=settings, scorer=scorer),
        address=address,
        sock=sock,
        args=args,
    )
    signals.processes = processes
    drains = False
    try:
        wait_for_completion_or_failure(
            api_server_manager=processes.api_servers,
            engine_manager=processes.engines,
            coordinator=processes.coordinator,
        )
    except RuntimeError:
        if _has_refused(processes.api_servers.processes):
            raise SystemExit(REFUSED) from None
        if processes.engines.failed_proc_name is not None:
            raise
        # An API process was killed, or has run out of memory. The others finish what they have.
        logger.error("An API process has died: the others drain, and the server stops.")
        drains = True
        raise SystemExit(1) from None
    finally:
        # The API processes drain first: they need their engines for it.
        drain_s = None
        if drains or signals.received:
            drain_s = args.shutdown_timeout + CUT_S + ENGINE_STOP_TIMEOUT_S
        deadline = None if drain_s is None else time.monotonic() + drain_s
        processes.api_servers.shutdown(timeout=drain_s)
        remaining = None if deadline is None else max(deadline - time.monotonic(), 5.0)
        for manager in (processes.engines, processes.coordinator):
            if manager is not None:
                manager.shutdown(timeout=remaining)


def _has_refused(processes: list[Any]) -> bool:
    """Whether an API process has ended because a flag is wrong. It has said which."""
    ended = connection.wait([process.sentinel for process in processes], timeout=0)
    for process in processes:
        if process.sentinel in ended:
            process.join()
    return any(process.exitcode == REFUSED for process in processes)


class _ParentSignals:
    """Leaves the wait and drains at the first signal. Kills every child at the second."""

    def __init__(self) -> None:
        self.received = False
        self.processes: Any = None
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, _frame: object) -> None:
        if not self.received:
            self.received = True
            raise SystemExit(0)
        logger.info("%s again: stopping at once.", signal.Signals(signum).name)
        if self.processes is not None:
            self.processes.kill()
        os._exit(128 + signum)


def api_process(
    address: str,
    sock: socket.socket,
    args: Namespace,
    client_config: dict[str, Any] | None = None,
    *,
    settings: ConfidenceSettings,
    scorer: RunningScorer | None,
) -> None:
    """Run one of several API processes; this is what the new process calls first."""
    if logging_config := getattr(args, "logging_config", None):
        from vllm.logger import configure_logging

        configure_logging(logging_config)
    client_config = client_config or {}
    set_process_title("APIServer", str(client_config.get("client_index", 0)))
    decorate_logs()
    try:
        uvloop.run(run_api_server(address, sock, args, settings, client_config, scorer))
    except SettingsError as error:
        print(f"conf-server: error: {error}", file=sys.stderr)
        raise SystemExit(REFUSED) from None
