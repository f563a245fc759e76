"""A collector for tests: takes OTLP over HTTP on loopback and keeps the spans it was sent."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(slots=True)
class Collector:
    """What came in."""

    url: str = ""
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    news: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, count: int, within_s: float = 20.0) -> list[Span]:
        """The spans, once there are ``count`` of them."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.spans) >= count, within_s), len(self.spans)
            return list(self.spans)


@contextlib.contextmanager
def running_collector(status: int = 200) -> Iterator[Collector]:
    """Listen on a free port; answer every export with ``status``."""
    collector = Collector(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                raise AssertionError("not asked for")
            sent = ExportTraceServiceRequest.FromString(body)
            with collector.news:
                for resource in sent.resource_spans:
                    for attribute in resource.resource.attributes:
                        if attribute.key == "service.name":
                            collector.services.add(attribute.value.string_value)
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                collector.news.notify_all()
            self.send_response(collector.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
