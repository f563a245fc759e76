"""``/v1/runs``: read the state of a run, its events, and cancel it.

The event stream is sse-starlette's, which ends streams at shutdown. That is right here: the reader of a log
loses nothing and reconnects with ``Last-Event-ID``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse, Response

from app.api.context import AsAdmin, AsCaller, context_of
from app.domain.run_events import RunFailed
from app.errors import BadRequest, NotFound
from app.pipeline.agent_runs import LiveRun, from_other_workers
from app.stores.event_log import RunLog
from app.wire.ag_ui import to_json, usage_list

if TYPE_CHECKING:
    from app.stores.redis_runs import RemoteRun  # loads Redis' client

router = APIRouter(tags=["agents"])
_PING_S = 10
_MOST_DIGITS = 18


async def _find_run(request: Request, tenant: str, run_id: str) -> LiveRun | RemoteRun:
    runs = context_of(request).runs
    live = runs.find(tenant, run_id)
    if live is not None:
        return live
    shared = runs.shared
    elsewhere = None if shared is None else await from_other_workers(shared.find(tenant, run_id))
    if elsewhere is not None:
        return elsewhere
    message = f"there is no run {run_id[:80]!r}: it never existed or is no longer kept"
    raise NotFound(message, code="run_not_found")


@router.get("/v1/speculation")
async def speculation(request: Request, _: AsAdmin) -> Response:
    """What speculation has saved and cost, by tool, and how well its probabilities are calibrated."""
    return JSONResponse(context_of(request).edge.gateway.speculation.to_json())


@router.post("/v1/speculation")
async def set_halted(request: Request, _: AsAdmin, halted: Annotated[bool, Query()]) -> Response:
    """Halt or resume speculation at once, on every worker of the server."""
    gateway = context_of(request).edge.gateway
    gateway.speculation.halted = halted
    return JSONResponse(gateway.speculation.to_json())


@router.get("/v1/runs/{run_id}")
async def run(request: Request, caller: AsCaller, run_id: str) -> Response:
    """Return the state of a run."""
    return JSONResponse(_state(await _find_run(request, caller.tenant, run_id)))


@router.post("/v1/runs/{run_id}/cancel")
async def cancel(request: Request, caller: AsCaller, run_id: str) -> Response:
    """Cancel a run with its tool and model calls; its events end as cancelled. Idempotent."""
    live = await _find_run(request, caller.tenant, run_id)
    if not isinstance(live, LiveRun):
        if live.state.get("state") == "running":
            await from_other_workers(live.cancel())
    elif live.state == "running":
        live.cancel()
        seq = live.log.last
        while await live.log.more(seq):
            seq = live.log.last
    return JSONResponse(_state(live))


@router.get("/v1/runs/{run_id}/events")
async def events(
    request: Request,
    caller: AsCaller,
    run_id: str,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream a run's events from the beginning, or after the one that is named."""
    live = await _find_run(request, caller.tenant, run_id)
    seq = starting_after if starting_after is not None else _seq_of(last_event_id, run_id)
    log: RunLog | RemoteRun
    if isinstance(live, LiveRun):
        log = live.log
        log.after(seq)  # raises before the status is sent if they are gone
    else:
        log = live
        await from_other_workers(log.load(seq))
    return EventSourceResponse(
        _event_stream(log, seq), ping=_PING_S, sep="\n", headers={"cache-control": "no-cache"}
    )


async def _event_stream(log: RunLog | RemoteRun, seq: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        try:
            events = log.after(seq)
        except NotFound as late:  # a slow reader: the events it needs were dropped from the log
            lost = RunFailed(late.message, late.code)
            yield ServerSentEvent(data=to_json(lost, log.run_id), sep="\n")
            return
        for number, event in events:
            event_id = f"{log.run_id}:{number}"
            yield ServerSentEvent(data=to_json(event, log.run_id), id=event_id, sep="\n")
            seq = number
        if not await log.more(seq):
            return


def _seq_of(last_event_id: str | None, run_id: str) -> int:
    """The number in ``<run>:<seq>``; raises ``BadRequest`` for another run's id."""
    if not last_event_id:
        return 0
    run, _, seq = last_event_id.rpartition(":")
    if run != run_id or not (seq.isascii() and seq.isdigit()) or len(seq) > _MOST_DIGITS:
        message = f"last-event-id must be {run_id}:<number>, as the events' own ids are"
        raise BadRequest(message, param="last-event-id")
    return int(seq)


def _state(run: LiveRun | RemoteRun) -> dict[str, object]:
    return state_of(run) if isinstance(run, LiveRun) else run.state


def state_of(live: LiveRun) -> dict[str, object]:
    """The state of a run, as ``GET /v1/runs/{id}`` returns it."""
    turn = live.turn
    return {
        "id": live.request.run_id,
        "thread_id": live.request.thread_id,
        "agent": live.request.agent.name,
        "state": live.state,
        "code": live.code or None,
        "started_at": turn.started_unix_s,
        "ended_at": live.ended_unix_s,
        "events": live.log.last,
        "request_id": turn.request_id,
        "usage": usage_list(live.usages_so_far()),
        "cost_usd": turn.cost_usd,
        "tools": [{"name": use.name, "outcome": use.outcome} for use in turn.tools],
    }
