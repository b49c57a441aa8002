"""What has to outlive the start of several API processes. No process is started."""

from __future__ import annotations

import gc
import socket
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import AsyncEngineArgs

from conf_server.engine import api_processes


@contextmanager
def launch(_config: Any, _executor: Any, _stats: bool, addresses: Any) -> Iterator[Any]:
    yield SimpleNamespace(
        coordinator=None, tensor_queue=None, engine_manager=None, addresses=addresses
    )


class Manager:
    """Takes the sockets over as vLLM's does: it closes its own descriptors, and no file."""

    def __init__(self, input_listeners: Any, output_listeners: Any, **_: Any) -> None:
        self.processes: list[Any] = []
        for listener in (*input_listeners, *output_listeners):
            listener.close()


def test_engines_find_the_sockets_after_the_start(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's engines may connect after they have reported that they are ready."""
    if not hasattr(api_processes.engine_utils, "bind_engine_zmq_listeners"):
        pytest.skip("vLLM 0.31 has no such sockets")
    monkeypatch.setattr(api_processes.engine_utils, "launch_core_engines", launch)
    monkeypatch.setattr(api_processes, "APIServerProcessManager", Manager)
    with socket.socket() as sock:
        processes = api_processes.start_api_processes(
            vllm_config=AsyncEngineArgs(model=str(model_path)).create_engine_config(),
            executor_class=None,
            log_stats=False,
            count=2,
            target=print,
            address="",
            sock=sock,
            args=Namespace(),
        )
    gc.collect()
    addresses = processes.listeners.addresses
    files = [
        Path(address.removeprefix("ipc://")) for address in (*addresses.inputs, *addresses.outputs)
    ]
    assert len(files) == 4
    assert all(file.is_socket() for file in files)
    del processes
    gc.collect()
    assert not any(file.exists() for file in files)
