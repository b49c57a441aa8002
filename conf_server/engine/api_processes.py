"""The functions of vLLM that start engines and API processes, of which every release has others.

What differs between vLLM 0.31, 0.32 and 0.33 stands in this module and nowhere else.
"""

from __future__ import annotations

import socket
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.engine import utils as engine_utils
from vllm.v1.utils import APIServerProcessManager

try:  # 0.33
    from vllm.entrypoints.common import cli_args as vllm_cli_args
    from vllm.entrypoints.common.startup import cli_env_setup
except ImportError:
    from vllm.entrypoints.launchers import cli_args as vllm_cli_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

__all__ = [
    "ServerProcesses",
    "cli_env_setup",
    "import_parser_plugins",
    "propagate_frontend_flags",
    "start_api_processes",
    "vllm_cli_args",
]


def propagate_frontend_flags(args: Namespace, engine_args: Any) -> None:
    """Copy the front-end flags that the engine's configuration must have, as vLLM 0.32 does."""
    if propagate := getattr(vllm_cli_args, "propagate_flash_late_interaction", None):
        propagate(args, engine_args)


def import_parser_plugins(args: Namespace) -> None:
    """Import the modules that --tool-parser-plugin and --reasoning-parser-plugin name."""
    if init := getattr(vllm_cli_args, "init_parser_plugin", None):  # 0.33
        init(args)
        return
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if args.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)


@dataclass
class ServerProcesses:
    """The managers of all processes that a server with several API processes has started.

    Attributes:
        listeners: the sockets between engines and API processes, as vLLM 0.32 binds them. They lose
            their files when this object is forgotten, and an engine that has finished its start
            may not have connected yet: it would try to for ever.
    """

    api_servers: Any
    engines: Any
    coordinator: Any
    listeners: Any

    def kill(self) -> None:
        """End every child process at once."""
        for manager in (self.api_servers, self.engines, self.coordinator):
            if manager is None:
                continue
            for process in getattr(manager, "processes", None) or [manager.proc]:
                process.kill()


def start_api_processes(
    *,
    vllm_config: VllmConfig,
    executor_class: Any,
    log_stats: bool,
    count: int,
    target: Callable[..., None],
    address: str,
    sock: socket.socket,
    args: Namespace,
) -> ServerProcesses:
    """Start the engines, and `count` processes that run `target` as their clients.

    Args:
        target: what each API process runs.
        address: where the server listens, as text.
        sock: the socket bound to it, which the processes share.
        args: the checked flags; every process gets them.

    Returns:
        The managers; the engines have finished their start.
    """
    common: dict[str, Any] = {
        "target_server_fn": target,
        "listen_address": address,
        "sock": sock,
        "args": args,
        "num_servers": count,
    }
    listeners = None
    if hasattr(engine_utils, "bind_engine_zmq_listeners"):  # from 0.32
        listeners = engine_utils.bind_engine_zmq_listeners(vllm_config, count)
        addresses = listeners.addresses
    else:
        addresses = _unbound_addresses(vllm_config, count)
    with engine_utils.launch_core_engines(
        vllm_config, executor_class, log_stats, addresses
    ) as launch:
        coordinator = launch.coordinator
        common["tensor_queue"] = launch.tensor_queue
        common["stats_update_address"] = (
            coordinator.get_stats_publish_address() if coordinator else None
        )
        if listeners is not None:
            api_servers = APIServerProcessManager(
                input_listeners=listeners.inputs, output_listeners=listeners.outputs, **common
            )
        else:
            api_servers = _start_with_addresses(vllm_config, launch.addresses, common)
        # vLLM aborts the start if one of these processes dies while the engines are starting.
        launch.watched_frontend_processes = api_servers.processes
    return ServerProcesses(api_servers, launch.engine_manager, coordinator, listeners)


def _unbound_addresses(vllm_config: VllmConfig, count: int) -> Any:
    """The engines' addresses for vLLM 0.31.

    There the API processes choose their ports themselves and report them, except under Ray.
    """
    old_utils: Any = engine_utils
    return old_utils.get_engine_zmq_addresses(
        vllm_config, count, defer_api_server_ports=not _uses_ray(vllm_config)
    )


def _start_with_addresses(vllm_config: VllmConfig, addresses: Any, common: dict[str, Any]) -> Any:
    """Start the API processes of vLLM 0.31, and fill in the ports that they have chosen."""
    old_manager: Any = APIServerProcessManager
    manager = old_manager(
        input_addresses=addresses.inputs, output_addresses=addresses.outputs, **common
    )
    if not _uses_ray(vllm_config):
        addresses.inputs, addresses.outputs = manager.gather_actual_addresses()
    return manager


def _uses_ray(vllm_config: VllmConfig) -> bool:
    return bool(vllm_config.parallel_config.data_parallel_backend == "ray")
