"""``/v1/jobs``: an agent's run that outlives its connection and its worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse, Response

from app.api.context import AsCaller, Context, context_of
from app.api.runs import _PING_S, _seq_of
from app.domain.agents import PREFIX
from app.errors import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from app.stores.job_store import Job
from app.wire.ag_ui import read_input

if TYPE_CHECKING:
    from app.jobs.engine import Jobs

router = APIRouter(tags=["jobs"])
_LONGEST_KEY = 255
_MOST_URGENT = 100


async def _engine(context: Context) -> Jobs:
    if context.jobs is None:
        message = "there are no jobs here: jobs.enabled is false, or no agent is configured"
        raise NotFound(message, code="jobs_off")
    return await context.jobs.jobs()


async def _found(request: Request, tenant: str, job_id: str) -> tuple[Jobs, Job]:
    jobs = await _engine(context_of(request))
    job = await jobs.find(tenant, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id[:80]!r}", code="job_not_found")
    return jobs, job


@router.post(
    "/v1/jobs",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "An AG-UI RunAgentInput, as for /v1/agent.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
)
async def submit(
    request: Request,
    caller: AsCaller,
    idempotency_key: Annotated[str | None, Header()] = None,
    priority: Annotated[int, Query(ge=-_MOST_URGENT, le=_MOST_URGENT)] = 0,
) -> Response:
    """Keep an agent's run to be done in the background; the same key gives the same job.

    It is on disk when this answers. More urgent jobs, of a higher ``priority``, begin first.
    """
    context = context_of(request)
    jobs = await _engine(context)
    if idempotency_key is not None and not 0 < len(idempotency_key) <= _LONGEST_KEY:
        message = f"idempotency-key must be 1 to {_LONGEST_KEY} characters"
        raise BadRequest(message, param="idempotency-key")
    raw = await _body(request, context.edge.max_body_bytes)
    given = read_input(raw)
    if given.tools:
        message = "a job has no client that could answer calls of its own tools"
        raise BadRequest(message, param="tools")
    agent = given.agent or (context.agents[0] if len(context.agents) == 1 else "")
    if agent not in context.agents:
        message = f"forwardedProps.agent is one of {', '.join(sorted(context.agents)[:12])}"
        raise NotFound(message, code="agent_not_found", param="forwardedProps.agent")
    guard, access = caller.guard, caller.access
    if access is not None and access.agents is not None and agent not in access.agents:
        message = f"the key {access.id} may not ask for {PREFIX + agent!r}"
        raise Forbidden(message, code="model_not_allowed", param="forwardedProps.agent")
    tools = None if access is None or access.tools is None else "\n".join(sorted(access.tools))
    now = time.time()
    wanted = Job(
        id=f"job-{uuid.uuid4().hex}",
        tenant=caller.tenant,
        body=raw,
        agent=agent,
        tools=tools,
        priority=priority,
        state="queued",
        due=now,
        attempts=0,
        crashes=0,
        cancel=0,
        code="",
        message="",
        created=now,
        ended=None,
    )
    charge = None if guard is None else guard.charge
    job, new = await jobs.submit(wanted, idempotency_key, charge)
    if not new and (job.body != raw or job.agent != agent):
        message = "this idempotency-key came before with another body: use a new key"
        raise Conflict(message, code="idempotency_key_reused", param="idempotency-key")
    return JSONResponse(_state(job), 202, {"location": f"/v1/jobs/{job.id}"})


@router.get("/v1/jobs/{job_id}")
async def job(request: Request, caller: AsCaller, job_id: str) -> Response:
    """Say how a job stands."""
    return JSONResponse(_state((await _found(request, caller.tenant, job_id))[1]))


@router.post("/v1/jobs/{job_id}/cancel")
async def cancel(request: Request, caller: AsCaller, job_id: str) -> Response:
    """End a job: at once where it waits or runs in this worker, else within a second. Idempotent."""
    jobs, _ = await _found(request, caller.tenant, job_id)
    await jobs.cancel(caller.tenant, job_id)
    return JSONResponse(_state((await _found(request, caller.tenant, job_id))[1]))


@router.get("/v1/jobs/{job_id}/events")
async def events(
    request: Request,
    caller: AsCaller,
    job_id: str,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream a job's events, as AG-UI, from the beginning or from behind the one that is named."""
    jobs, found = await _found(request, caller.tenant, job_id)
    seq = starting_after if starting_after is not None else _seq_of(last_event_id, job_id)
    return EventSourceResponse(
        _told(jobs, found, seq), ping=_PING_S, sep="\n", headers={"cache-control": "no-cache"}
    )


async def _told(jobs: Jobs, job: Job, seq: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        now = await jobs.find(job.tenant, job.id)  # before the events: its last ones are there then
        for number, _, data in await jobs.told(job.id, seq):
            yield ServerSentEvent(data=data, id=f"{job.id}:{number}", sep="\n")
            seq = number
        if now is None or now.ended is not None:
            return
        await jobs.news(job.id)


async def _body(request: Request, most: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            message = f"the body is over {most} bytes (server.max_body_bytes)"
            raise TooLarge(message)
        pieces.append(piece)
    return b"".join(pieces)


def _state(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "agent": job.agent,
        "state": job.state,
        "priority": job.priority,
        "attempts": job.attempts,
        "crashes": job.crashes,
        "code": job.code or None,
        "message": job.message or None,
        "created_at": _iso(job.created),
        "due_at": _iso(job.due),
        "ended_at": None if job.ended is None else _iso(job.ended),
    }


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
