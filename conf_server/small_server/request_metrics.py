"""What the small server counts for GET /metrics.

Requests have the names and labels that vLLM's server gives them, so that one dashboard shows both.
"""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conf_server import __version__

_SECONDS: Final = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_UNCOUNTED: Final = frozenset({"/health", "/metrics", "/version"})
"""What asks of the server's own state is no work of it: vLLM's server does not count it either."""
_NO_ROUTE: Final = "none"
"""The handler of requests that no route has answered: clients make up paths without end."""


class TokenCounters:
    """Tokens that the model has worked on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.prompt = Counter(
            "conf_server_prompt_tokens", "Tokens of prompts that were answered.", registry=registry
        )
        self.generated = Counter(
            "conf_server_generated_tokens", "Tokens that were generated.", registry=registry
        )
        self.scored = Counter(
            "conf_server_scored_tokens",
            "Tokens of texts that the model has read and did not write, contexts included.",
            registry=registry,
        )


def publish_build(registry: CollectorRegistry, backend: str) -> None:
    """Add the series `conf_server_build_info`; its value is 1."""
    gauge = Gauge(
        "conf_server_build_info",
        "Version of conf-server and what runs the model.",
        labelnames=["version", "backend"],
        registry=registry,
    )
    gauge.labels(version=__version__, backend=backend).set(1)


class CountedRequests:
    """Counts requests by route, and measures how long they take, streams to their end."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._count = Counter(
            "http_requests",
            "Requests that were answered.",
            labelnames=["method", "status", "handler"],
            registry=registry,
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            labelnames=["method", "handler"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge(
            "conf_server_requests_running", "Requests without an answer yet.", registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        status = 500  # unless the app says otherwise

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = time.perf_counter()
        self.running.inc()
        try:
            await self._app(scope, receive, noting_status)
        finally:
            self.running.dec()
            handler = getattr(scope.get("route"), "path", _NO_ROUTE)
            group = f"{status // 100}xx"
            self._count.labels(scope["method"], group, handler).inc()
            self._seconds.labels(scope["method"], handler).observe(time.perf_counter() - start)
