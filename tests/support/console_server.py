"""A small loopback server with the gateway's surface as the console sees it, scripted by the question.

The real gateway is the subject of ``tests/browser/test_console.py``; this server is for the moments that no
real one can be made to hold still: half an answer, a stream that breaks, an endpoint that is not there.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

_CONSOLE = Path(__file__).parents[2] / "app" / "console"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_WORDS = ("First ", "words ", "of ", "an ", "answer.")


class ConsoleServer:
    """What was asked, and the gate behind which the rest of a held answer waits."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, object]] = []
        self.verdicts: list[dict[str, object]] = []
        self.traces: list[dict[str, object]] = []
        self.left = threading.Event()
        """Set when a client has left a held answer."""
        self.gate = threading.Event()
        """A question with "hold" stops after its first words until this is set."""
        self.simulated = True
        self.feedback = True

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Mount("/console", StaticFiles(directory=_CONSOLE)),
                Route("/readyz", self._ready),
                Route("/openapi.json", self._openapi),
                Route("/v1/models", self._models),
                Route("/v1/savings", self._savings),
                Route("/v1/traces", self._latest),
                Route("/v1/traces/{request_id}", self._trace),
                Route("/v1/cache/feedback", self._feedback, methods=["POST"]),
                Route("/v1/feedback", self._feedback, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _page(self, _: Request) -> Response:
        body = (_CONSOLE / "index.html").read_bytes()
        return Response(body, media_type="text/html", headers={"content-security-policy": _POLICY})

    async def _ready(self, _: Request) -> Response:
        return JSONResponse({"status": "ready", "simulated": self.simulated})

    async def _openapi(self, _: Request) -> Response:
        paths = ("/v1/cache/feedback", "/v1/feedback") if self.feedback else ()
        return JSONResponse({"paths": dict.fromkeys(paths)})

    async def _models(self, _: Request) -> Response:
        names = ("auto", "small", "large")
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    async def _savings(self, _: Request) -> Response:
        turns = len(self.traces)
        return JSONResponse({"turns": turns, "saved_s": 1.5 * turns, "saved_usd": 0.0004 * turns})

    async def _latest(self, request: Request) -> Response:
        limit = int(request.query_params["limit"])
        return JSONResponse({"traces": self.traces[::-1][:limit]})

    async def _trace(self, request: Request) -> Response:
        wanted = request.path_params["request_id"]
        for trace in reversed(self.traces):
            if trace["request_id"] == wanted:
                return JSONResponse(trace)
        return JSONResponse({"title": "not found"}, status_code=404)

    async def _feedback(self, request: Request) -> Response:
        self.verdicts.append({"path": request.url.path, **await request.json()})
        return JSONResponse({"removed": 1})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append({**body, "headers": dict(request.headers)})
        question = str(body["messages"][-1]["content"])
        if "refuse" in question:
            error = {"message": "model `odd` is not configured", "code": "model_not_found"}
            return JSONResponse({"error": error}, status_code=404)
        hit = any(turn["messages"] == body["messages"] for turn in self.asked[:-1])
        request_id = f"req-{len(self.asked)}"
        headers = {
            "x-request-id": request_id,
            "x-slipstream-cache": "exact" if hit else "miss",
            "x-slipstream-model": "local/sim-fast",
            "x-slipstream-tier": "fast",
            "x-slipstream-reason": "a short question of one part",
            "server-timing": "lanes;dur=0.02, cache;dur=0.31, classifier;dur=1.9, router;dur=0.05,"
            " upstream;dur=40, total;dur=42.4",
        }
        stream = self._stream(question, request_id, hit=hit)
        return StreamingResponse(stream, headers=headers, media_type="text/event-stream")

    async def _stream(self, question: str, request_id: str, *, hit: bool) -> AsyncIterator[bytes]:
        if "tool" in question:
            yield b": Looking up T-1\xe2\x80\xa6\n\n"
        for place, word in enumerate(_WORDS):
            if place == 2 and "hold" in question:
                try:
                    await asyncio.get_running_loop().run_in_executor(None, self.gate.wait)
                except asyncio.CancelledError:
                    self.left.set()
                    raise
            if place == 2 and "break" in question:
                error = {"message": "the upstream closed the stream", "code": "upstream_closed"}
                yield b"data: %s\n\n" % json.dumps({"error": error}).encode()
                return
            chunk = {"choices": [{"index": 0, "delta": {"content": word}}]}
            yield b"data: %s\r\n\r\n" % json.dumps(chunk).encode()
        usage = {"prompt_tokens": 12, "completion_tokens": 5}
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield b"data: %s\n\n" % json.dumps(last).encode()
        yield b"data: %s\n\n" % json.dumps({"choices": [], "usage": usage}).encode()
        self.traces.append(trace_of(request_id, hit=hit))
        yield b"data: [DONE]\n\n"


def trace_of(request_id: str, *, hit: bool) -> dict[str, object]:
    stages = [("lanes", 0.02, 0.02, ""), ("cache", 0.05, 0.31, "exact")]
    if not hit:
        stages += [
            ("classifier", 0.4, 1.9, "simple 0.12"),
            ("router", 2.4, 0.05, "fast"),
            ("upstream", 2.5, 738.0, "local/sim-fast"),
            ("stream", 501.0, 240.0, ""),
        ]
    spans = [
        {"stage": stage, "start_ms": start, "duration_ms": took, "detail": detail, "parent": None}
        for stage, start, took, detail in stages
    ]
    return {
        "request_id": request_id,
        "started_unix_s": time.time(),
        "dialect": "openai_chat",
        "stream": True,
        "status": 200,
        "code": None,
        "requested_model": "auto",
        "model": "small",
        "provider": "local",
        "tier": "fast",
        "cache": {"outcome": "exact" if hit else "miss", "reason": "absent", "entry": None},
        "reason": "a short question of one part",
        "total_ms": 0.5 if hit else 742.0,
        "ttft_ms": 0.4 if hit else 501.0,
        "overhead_ms": None if hit else 2.6,
        "usage": {
            "input_tokens": 12,
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            "output_tokens": 5,
        },
        "cost_usd": 0.0 if hit else 0.0000048,
        "attempts": 0 if hit else 1,
        "disconnect": None,
        "tools": [],
        "spans": spans,
    }


@contextmanager
def console_server() -> Iterator[ConsoleServer]:
    """Serve on a free loopback port, in a thread, until the block ends."""
    made = ConsoleServer()
    server = uvicorn.Server(
        uvicorn.Config(made.app(), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        made.gate.set()
        server.should_exit = True
        thread.join(10)
