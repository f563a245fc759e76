"""``/v1/cache/*``: what is kept, and how to be rid of it."""

from __future__ import annotations

import time
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from app.api.context import AsCaller, Context, InContext
from app.cache.exact import CachedAnswer, ExactCache
from app.errors import BadRequest, NotFound

router = APIRouter(prefix="/v1/cache", tags=["cache"])


class Invalidation(BaseModel):
    """What to forget: entries that match every field that is given."""

    model_config = ConfigDict(extra="forbid")
    tags: list[str] = Field(default_factory=list)
    model: str | None = None
    all: bool = False


class Feedback(BaseModel):
    """A verdict on a cached answer."""

    model_config = ConfigDict(extra="forbid")
    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    verdict: Literal["wrong", "right"]


@router.get("/stats")
async def stats(context: InContext, caller: AsCaller) -> dict[str, object]:
    """Entries, hits by kind and misses by reason, over the turns that the trace ring holds."""
    exact = context.edge.gateway.exact
    hits: dict[str, int] = {}
    misses: dict[str, int] = {}
    for trace in context.telemetry.traces.latest(1_000_000, caller.tenant):
        cache = trace.get("cache")
        if not isinstance(cache, dict):
            continue
        outcome, reason = str(cache.get("outcome") or ""), str(cache.get("reason") or "")
        if outcome in {"exact", "semantic", "coalesced"}:
            hits[outcome] = hits.get(outcome, 0) + 1
        elif outcome in {"miss", "bypass"}:
            misses[reason or outcome] = misses.get(reason or outcome, 0) + 1
    return {
        "entries": 0 if exact is None else len(exact),
        "size_bytes": 0 if exact is None else exact.size_bytes,
        "hits": hits,
        "misses": misses,
    }


@router.get("/entries/{entry_id}")
async def entry(context: InContext, caller: AsCaller, entry_id: str) -> dict[str, object]:
    """Describe one entry; never its content."""
    found = _entry(_exact(context), caller.tenant, entry_id)
    now_s = time.monotonic()
    return {
        "id": found.id,
        "kind": "exact",
        "model": found.model,
        "tier": found.tier,
        "request_id": found.request_id,
        "tags": list(found.tags),
        "hits": found.hits,
        "size_bytes": found.size_bytes,
        "age_s": round(now_s - found.stored_at_s, 3),
        "expires_in_s": round(found.expires_at_s - now_s, 3),
        "cost_usd": found.cost_usd,
    }


@router.delete("/entries/{entry_id}")
async def forget(context: InContext, caller: AsCaller, entry_id: str) -> dict[str, int]:
    """Forget one entry."""
    exact = _exact(context)
    _entry(exact, caller.tenant, entry_id)
    return {"invalidated": int(exact.remove(entry_id))}


@router.post("/invalidate")
async def invalidate(context: InContext, caller: AsCaller, what: Invalidation) -> dict[str, int]:
    """Forget this tenant's entries by tag, by model or all; in force for the very next request."""
    if not (what.tags or what.model or what.all):
        message = "say what to forget: tags, model or all"
        raise BadRequest(message)
    exact = context.edge.gateway.exact
    if exact is None:
        return {"invalidated": 0}
    return {"invalidated": exact.invalidate(tenant=caller.tenant, model=what.model, tags=what.tags)}


@router.post("/feedback")
async def feedback(context: InContext, caller: AsCaller, said: Feedback) -> dict[str, object]:
    """Take a verdict on a hit: a wrong one's entry is forgotten."""
    trace = context.telemetry.traces.get(said.request_id, caller.tenant)
    if trace is None:
        message = f"no recent request {said.request_id!r} of this tenant"
        raise NotFound(message)
    cache = trace.get("cache")
    entry_id = cache.get("entry") if isinstance(cache, dict) else None
    if not entry_id:
        message = f"request {said.request_id!r} was not answered from the cache"
        raise BadRequest(message, code="not_a_hit", param="request_id")
    exact = context.edge.gateway.exact
    removed = said.verdict == "wrong" and exact is not None and exact.remove(str(entry_id))
    return {"request_id": said.request_id, "verdict": said.verdict, "removed": removed}


def _exact(context: Context) -> ExactCache:
    if context.edge.gateway.exact is None:
        message = "the exact cache is off: cache.exact.enabled"
        raise NotFound(message)
    return context.edge.gateway.exact


def _entry(exact: ExactCache, tenant: str, entry_id: str) -> CachedAnswer:
    found = exact.by_id(entry_id)
    if found is None or found.tenant != tenant:
        message = f"no entry {entry_id[:64]!r}"
        raise NotFound(message)
    return found
