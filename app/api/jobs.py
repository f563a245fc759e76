"""``/v1/jobs``: runs of agents that outlive their connection and their worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse, Response

from app.api.context import AsCaller, Context, context_of
from app.api.runs import _PING_S, _seq_of
from app.domain.agents import AGENT_MODEL_PREFIX
from app.errors import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from app.jobs.job_json import job_json
from app.stores.job_records import Job
from app.wire.ag_ui import read_input

if TYPE_CHECKING:
    from app.jobs.engine import JobEngine

router = APIRouter(tags=["jobs"])
_LONGEST_KEY = 255
JobState = Literal["queued", "running", "finished", "cancelled", "dead"]
_MOST_URGENT = 100


async def _engine(context: Context) -> JobEngine:
    if context.jobs is None:
        message = "there are no jobs here: jobs.enabled is false, or no agent is configured"
        raise NotFound(message, code="jobs_off")
    return await context.jobs.engine()


async def _found(request: Request, tenant: str, job_id: str) -> tuple[JobEngine, Job]:
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
    webhook: Annotated[str | None, Query()] = None,
) -> Response:
    """Keep an agent's run to be done in the background; the same key gives the same job.

    It is on disk when this answers. More urgent jobs, of a higher ``priority``, begin first. ``webhook``
    names a configured receiver that is told of its end.
    """
    context = context_of(request)
    jobs = await _engine(context)
    if idempotency_key is not None and not 0 < len(idempotency_key) <= _LONGEST_KEY:
        message = f"idempotency-key must be 1 to {_LONGEST_KEY} characters"
        raise BadRequest(message, param="idempotency-key")
    if webhook is not None:
        _may_name(context, caller.tenant, webhook)
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
        message = f"the key {access.id} may not ask for {AGENT_MODEL_PREFIX + agent!r}"
        raise Forbidden(message, code="model_not_allowed", param="forwardedProps.agent")
    tools = None if access is None or access.tools is None else "\n".join(sorted(access.tools))
    now = time.time()
    wanted = Job.queued(
        id=f"job-{uuid.uuid4().hex}",
        tenant=caller.tenant,
        body=raw,
        agent=agent,
        tools=tools,
        priority=priority,
        due=now,
        created=now,
    )
    charge = None if guard is None else guard.charge_job
    job, new = await jobs.submit(wanted, idempotency_key, charge, webhook or "")
    if not new and (job.body != raw or job.agent != agent):
        message = "this idempotency-key came before with another body: use a new key"
        raise Conflict(message, code="idempotency_key_reused", param="idempotency-key")
    return JSONResponse(
        job_json(job, await jobs.delivery(job.id)), 202, {"location": f"/v1/jobs/{job.id}"}
    )


def _may_name(context: Context, tenant: str, webhook: str) -> None:
    hooks = {} if context.jobs is None else context.jobs.webhooks
    if webhook not in hooks or hooks[webhook] not in {None, tenant}:
        message = f"jobs.webhooks has no {webhook[:80]!r} that this tenant may name"
        raise BadRequest(message, code="webhook_not_found", param="webhook")


@router.get("/v1/jobs")
async def list_jobs(
    request: Request,
    caller: AsCaller,
    state: Annotated[JobState | None, Query()] = None,
    before: Annotated[float | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """List the tenant's jobs, newest first: those in one ``state``, created ``before`` a Unix time.

    ``state=dead`` is what failed for good: the dead letters.
    """
    jobs = await _engine(context_of(request))
    found = await jobs.list_jobs(caller.tenant, state, before or time.time() + 1, limit)
    return JSONResponse({"jobs": [job_json(each) for each in found]})


@router.post("/v1/jobs/{job_id}/retry")
async def retry(request: Request, caller: AsCaller, job_id: str) -> Response:
    """Retry a dead job from the step where it failed."""
    jobs, _ = await _found(request, caller.tenant, job_id)
    if not await jobs.revive(caller.tenant, job_id):
        message = f"only a dead job can be retried: see GET /v1/jobs/{job_id}"
        raise Conflict(message, code="job_not_dead")
    return JSONResponse(job_json((await _found(request, caller.tenant, job_id))[1]), 202)


@router.get("/v1/jobs/{job_id}")
async def job(request: Request, caller: AsCaller, job_id: str) -> Response:
    """Return a job's state."""
    jobs, found = await _found(request, caller.tenant, job_id)
    return JSONResponse(job_json(found, await jobs.delivery(job_id)))


@router.post("/v1/jobs/{job_id}/cancel")
async def cancel(request: Request, caller: AsCaller, job_id: str) -> Response:
    """Cancel a job: at once where it is queued or runs in this worker, else within a second. Idempotent."""
    jobs, _ = await _found(request, caller.tenant, job_id)
    await jobs.cancel(caller.tenant, job_id)
    return JSONResponse(job_json((await _found(request, caller.tenant, job_id))[1]))


@router.get("/v1/jobs/{job_id}/events")
async def events(
    request: Request,
    caller: AsCaller,
    job_id: str,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream a job's events, as AG-UI, from the beginning or after the named one."""
    _, found = await _found(request, caller.tenant, job_id)
    seq = starting_after if starting_after is not None else _seq_of(last_event_id, job_id)
    return EventSourceResponse(
        _event_stream(request, found, seq),
        ping=_PING_S,
        sep="\n",
        headers={"cache-control": "no-cache"},
    )


async def _event_stream(request: Request, job: Job, seq: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        jobs = await _engine(context_of(request))  # a reload may have put another in its place
        now = await jobs.find(job.tenant, job.id)  # before the events: its last ones are there then
        for number, _, data in await jobs.events_after(job.id, seq):
            yield ServerSentEvent(data=data, id=f"{job.id}:{number}", sep="\n")
            seq = number
        if now is None or now.ended is not None:
            return
        await jobs.wait_for_events(job.id)


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
