"""Traces, savings, metrics and health."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from app.api.context import AsAdmin, AsCaller, InContext
from app.errors import NotFound

router = APIRouter(tags=["observability"])
_DAY_S = 86_400
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/v1/traces")
async def traces(
    context: InContext, caller: AsCaller, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> dict[str, object]:
    """The waterfalls of the newest requests, newest first."""
    return {"traces": context.telemetry.traces.latest(limit, caller.tenant)}


@router.get("/v1/traces/{request_id}")
async def trace(context: InContext, caller: AsCaller, request_id: str) -> dict[str, object]:
    """The waterfall of one request, by its ``x-request-id``."""
    found = context.telemetry.traces.get(request_id, caller.tenant)
    if found is None:
        message = f"no recent request {request_id[:128]!r}: only the newest are kept"
        raise NotFound(message)
    semantic, cache = context.edge.gateway.semantic, found.get("cache")
    words = () if semantic is None else semantic.decisions.reasons(caller.tenant, request_id)
    if words and isinstance(cache, dict):  # why this was a hit by meaning, or why it was none
        return {**found, "cache": {**cache, "words": list(words)}}
    return found


@router.get("/v1/savings")
async def savings(
    context: InContext, _: AsAdmin, window_s: Annotated[int | None, Query(ge=1, le=86_400)] = None
) -> dict[str, object]:
    """Time and money saved, by technique, against the same traffic without it. `prompt_cache`: what the
    vendors' prompt caches did since the start, by model and for the newest conversations.
    """
    prompts = context.edge.gateway.prompts
    of_prompts = {} if prompts is None else prompts.savings()
    return {**context.telemetry.ledger.savings(window_s), "prompt_cache": of_prompts}


@router.get("/v1/ledger", response_class=StreamingResponse)
async def ledger(
    context: InContext,
    _: AsAdmin,
    tenant: str | None = None,
    since_unix_s: Annotated[float | None, Query(ge=0)] = None,
    until_unix_s: Annotated[float | None, Query(ge=0)] = None,
) -> StreamingResponse:
    """The ledger's rows as CSV: what each turn took, cost and saved. Default: the last day, all tenants."""
    file = context.telemetry.ledger_file
    if file is None:
        raise NotFound("no ledger is kept: telemetry.ledger_days is 0")
    until = time.time() if until_unix_s is None else until_unix_s
    since = until - _DAY_S if since_unix_s is None else since_unix_s
    rows = file.as_csv(since, until, tenant)
    headers = {"content-disposition": 'attachment; filename="slipstream-ledger.csv"'}
    return StreamingResponse(rows, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/metrics")
async def metrics(context: InContext, _: AsAdmin) -> Response:
    """Prometheus' text format."""
    return Response(await context.telemetry.metrics.render(), media_type=_METRICS_TYPE)


@router.get("/livez")
async def livez() -> Response:
    """Liveness: the process runs."""
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(context: InContext) -> Response:
    """Readiness: 503 while warming or draining, with the reasons for degraded parts."""
    readiness = context.readiness
    ready = readiness.ready and not readiness.draining
    degraded = dict(readiness.degraded)
    if readiness.reload_refused_file is not None and readiness.reload_refused_file.exists():
        degraded["configuration"] = readiness.reload_refused_file.read_text()
    body = {
        "status": "ready" if ready else "draining" if readiness.draining else "warming",
        "simulated": readiness.simulated,
        "degraded": degraded,
    }
    return JSONResponse(body, 200 if ready else 503)
