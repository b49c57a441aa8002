"""Which conf-server this is, for clients and for monitoring."""

from __future__ import annotations

from functools import cache

from prometheus_client import Gauge
from vllm.version import __version__ as vllm_version

from conf_server import __version__


@cache
def publish_version() -> None:
    """Add the series `conf_server_build_info` to this process's metrics; its value is 1.

    A gauge, since prometheus_client's `Info` does not work with several API processes.
    """
    gauge = Gauge(
        "conf_server_build_info",
        "Version of conf-server and of the vLLM below it.",
        labelnames=["version", "vllm_version"],
        multiprocess_mode="max",
    )
    gauge.labels(version=__version__, vllm_version=vllm_version).set(1)
