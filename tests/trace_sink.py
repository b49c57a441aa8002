"""A collector of OpenTelemetry traces: what a server exports over HTTP, kept as attributes."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class TraceSink:
    """Listens on a port of its own, from `with` on.

    Attributes:
        endpoint: for --otlp-traces-endpoint, with OTEL_EXPORTER_OTLP_TRACES_PROTOCOL set to
            http/protobuf.
    """

    def __init__(self) -> None:
        self._spans: list[dict[str, Any]] = []
        self._arrived = threading.Condition()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> TraceSink:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _take(self, exported: ExportTraceServiceRequest) -> None:
        spans = [
            {pair.key: pair.value.string_value for pair in span.attributes}
            for resource in exported.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._arrived:
            self._spans += spans
            self._arrived.notify_all()

    def request_ids(self, part: str, count: int, timeout_s: float = 30) -> list[str]:
        """Ids of requests that hold `part`, as soon as there are `count` of them."""

        def found() -> list[str]:
            ids = (span.get("gen_ai.request.id", "") for span in self._spans)
            return sorted(name for name in ids if part in name)

        with self._arrived:
            self._arrived.wait_for(lambda: len(found()) >= count, timeout_s)
            return found()
