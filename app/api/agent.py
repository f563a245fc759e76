"""``POST /v1/agent``: run an agent and stream what happens, as AG-UI or as Vercel's UI message
stream.

The first frames (run started, first status) are sent with the head, before a model is called. The response
reads the run's log like any other reader, so a client that lost its connection can continue at
``GET /v1/runs/{id}/events`` with the same event numbers. The stream is our own rather than sse-starlette's,
which ends live streams on SIGTERM; here a run continues until the shutdown grace is over (measured: 20 of 20
runs finished, against 0 of 20).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from app.api.content_encoding import counted
from app.api.inference import (
    ClientLeft,
    Edge,
    read_body,
    read_headers,
    read_options,
    refusal_head,
)
from app.api.outlet import AsgiOutlet, Outlet, outlet_of
from app.api.problems import problem
from app.api.request_parsing import request_id_of
from app.domain.agents import AGENT_MODEL_PREFIX, Agent
from app.domain.chat import Dialect
from app.domain.deadline import Deadline
from app.domain.run_events import RunFailed
from app.domain.turn_record import TurnRecord
from app.errors import BadRequest, GatewayError, MethodNotAllowed, NotFound
from app.pipeline.agent_runs import LiveRun, RunRequest, Runs
from app.pipeline.approvals import Resumption
from app.pipeline.gateway import Turn
from app.stores.event_log import RunLog
from app.telemetry.timeline import Timeline
from app.wire.ag_ui import AgentInput, frame, read_input, unnumbered_frame
from app.wire.vercel import HEADERS, VercelWriter

_STREAM_HEAD = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\nx-request-id: %s\r\n"
)
_COMMENT = b": keep-alive\n\n"
_FORMATS = ("ag-ui", "vercel")


class AgentEndpoint:
    """The endpoint, as pure ASGI beside the inference endpoints."""

    def __init__(self, edge: Edge, runs: Runs, silence_s: float) -> None:
        """Start runs in ``runs``; send a comment after ``silence_s`` seconds of silence."""
        self._edge, self._runs, self._silence_s = edge, runs, silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        outlet = outlet_of(scope, receive, send)
        with self._edge.bodies.lease() as lease:
            came = counted(receive, scope["headers"], lease, outlet)
            await self._serve(scope, came, outlet)

    async def _serve(self, scope: Scope, receive: Receive, outlet: Outlet) -> None:
        timeline = Timeline()
        headers, _ = read_headers(scope["headers"])
        request_id = request_id_of(headers.get(b"x-request-id"))
        try:
            if scope["method"] != "POST":
                message = f"{scope['path']} takes POST, not {scope['method']}"
                raise MethodNotAllowed(message)
            in_flight = self._edge.in_flight
            if in_flight.draining:
                outlet.keep_alive = False
            if in_flight.now >= in_flight.most:
                raise in_flight.overloaded()
            caller = self._edge.authenticator.caller(
                headers.get(b"authorization"), headers.get(b"x-api-key")
            )
            wire_format = _format_of(scope["query_string"])
            raw = await read_body(outlet, receive, headers, self._edge.max_body_bytes)
            given = read_input(raw)
            turn = Turn(request_id, caller.tenant, timeline, Deadline(None), time.time())
            read_options(turn, headers, self._edge.clock)
            ticket = None if caller.guard is None else await caller.guard.admit(len(raw))
            try:
                agent = self._agent(given)
                if ticket is not None:
                    ticket.apply_to(turn, AGENT_MODEL_PREFIX + agent.name, Dialect.CHAT)
                resumption = await self._runs.resumption(turn.tenant, given.resume, given.messages)
                await self._runs.claim_run_id(turn.tenant, given.run_id)
                await resumption.claim()
                live = self._start(given, agent, turn, resumption)
            except BaseException:
                if ticket is not None:
                    ticket.settle(None)
                raise
        except ClientLeft:
            return
        except GatewayError as error:
            await _refuse(error, request_id, outlet)
            return
        stream = _Stream(live.log, wire_format, outlet, request_id, self._silence_s)
        in_flight.now += 1
        try:
            await stream.run(live, detach=given.on_disconnect == "detach")
        finally:
            in_flight.now -= 1

    def _agent(self, given: AgentInput) -> Agent:
        agents = self._edge.gateway.agents
        name = given.agent or (next(iter(agents)) if len(agents) == 1 else "")
        agent = agents.get(name)
        if agent is None:
            known = ", ".join(sorted(agents)[:12]) or "none"
            what = f"there is no agent {name[:80]!r}" if name else "name the agent to run"
            message = f"{what}: forwardedProps.agent is one of {known}"
            raise NotFound(message, code="agent_not_found", param="forwardedProps.agent")
        return agent

    def _start(
        self, given: AgentInput, agent: Agent, turn: Turn, resumption: Resumption
    ) -> LiveRun:
        now_s = asyncio.get_running_loop().time()
        turn.deadline = Deadline.after(now_s, turn.deadline.sooner(now_s, agent.deadline_s))
        messages, tools, answers = given.messages, given.tools, resumption.answers
        return self._runs.start(
            RunRequest(agent, given.run_id, given.thread_id, messages, tools, answers), turn
        )


@dataclass(slots=True)
class _Stream:
    """One client reading one run from its beginning."""

    log: RunLog
    wire_format: str
    outlet: Outlet
    request_id: str
    silence_s: float

    async def run(self, live: LiveRun, *, detach: bool) -> None:
        """Write until the run ends or the client disconnects, which cancels the run unless ``detach``."""

        def on_left() -> None:
            live.client_left = True
            if not detach:
                live.cancel()
            self.log.wake()

        self.outlet.abort = on_left
        loop, outlet = asyncio.get_running_loop(), self.outlet
        watcher = loop.create_task(outlet.watch()) if isinstance(outlet, AsgiOutlet) else None
        try:
            await self._write()
        finally:
            self.outlet.abort = None
            if watcher is not None:
                watcher.cancel()

    async def _write(self) -> None:
        vercel = VercelWriter() if self.wire_format == "vercel" else None
        head = _STREAM_HEAD % self.request_id.encode("latin-1")
        head += b"".join(b"%s: %s\r\n" % header for header in (HEADERS if vercel else ()))
        seq, began = 0, False
        while not self.outlet.client_left:
            try:
                events = self.log.after(seq)
            except NotFound as late:  # a slow reader: the events it needs were dropped from the log
                lost = RunFailed(late.message, late.code)
                run_id = self.log.run_id
                await self.outlet.write(
                    vercel.write(lost) if vercel else unnumbered_frame(lost, run_id)
                )
                await self.outlet.end(vercel.end() if vercel else b"")
                return
            if events:
                seq = events[-1][0]
                data = b"".join(
                    vercel.write(event) if vercel else frame(event, self.log.run_id, number)
                    for number, event in events
                )
                await (self.outlet.write(data) if began else self.outlet.begin(200, head, data))
                began = True
            if self.log.last > seq:
                continue
            if self.log.ended:
                await self.outlet.end(vercel.end() if vercel else b"")
                return
            try:
                async with asyncio.timeout(self.silence_s):
                    await self.log.wait_for_append()
                await asyncio.sleep(0)  # tools and model calls that start now go before our write
            except TimeoutError:
                await self.outlet.write(_COMMENT)


def _format_of(query: bytes) -> str:
    asked = parse_qs(query.decode("latin-1")).get("format", ["ag-ui"])[-1]
    if asked not in _FORMATS:
        message = f"format must be one of {', '.join(_FORMATS)}"
        raise BadRequest(message, param="format")
    return asked


async def _refuse(error: GatewayError, request_id: str, outlet: Outlet) -> None:
    more: dict[str, object] = {"param": error.param} if error.param else {}
    body = problem(error.status, error.code, error.message, None, **more).body
    head = refusal_head(error, b"application/problem+json", request_id, Dialect.CHAT)
    await outlet.respond(error.status, head, bytes(body))


def record_of(live: LiveRun) -> TurnRecord:
    """The telemetry record of a run."""
    turn = live.turn
    turn.timeline.settle()
    model = turn.model
    total_s = turn.timeline.elapsed_s()
    return TurnRecord(
        request_id=turn.request_id,
        dialect="ag_ui",
        status=live.status,
        code=live.code,
        total_s=total_s,
        started_unix_s=turn.started_unix_s,
        stream=True,
        tenant=turn.tenant,
        requested_model=f"agent/{live.request.agent.name}",
        model=model.name if model is not None else "",
        provider=model.provider if model is not None else "",
        tier=turn.answered_tier,
        routed=turn.routed,
        band=turn.band,
        complexity=turn.score,
        threshold=turn.threshold,
        cache="bypass",
        cache_reason="run",
        reason=turn.reason,
        finish=live.finish,
        upstream_s=turn.upstream_ns / 1e9,
        overhead_s=None,
        usage=turn.usage,
        output_tokens_seen=turn.tokens_streamed,
        cost_usd=turn.cost_usd,
        disconnect="mid_stream" if live.client_left and live.state == "cancelled" else "",
        attempts=turn.attempts,
        tools=tuple(turn.tools),
        times=turn.timeline,
        traceparent=turn.traceparent,
    )
