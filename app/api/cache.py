"""``/v1/cache/*``: statistics, entries, invalidation and feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.cache_entries import describe_exact, describe_semantic
from app.api.context import AsCaller, Context, InContext
from app.cache.exact import CachedAnswer, ExactCache
from app.domain.invalidation import InvalidationFilter
from app.errors import BadRequest, NotFound, StoreError
from app.pipeline.invalidation import bar_in_progress
from app.pipeline.invalidation import invalidate as forget_everywhere

if TYPE_CHECKING:  # loads learners that a gateway without a semantic cache does not need
    from app.pipeline.semantic_answers import SemanticAnswers

router = APIRouter(prefix="/v1/cache", tags=["cache"])


class Invalidation(BaseModel):
    """What to invalidate: entries that match every given field."""

    model_config = ConfigDict(extra="forbid")
    tags: list[str] = Field(default_factory=list)
    model: str | None = None
    all: bool = False


class Feedback(BaseModel):
    """A verdict on a cached answer: on one request's hit, or on an entry."""

    model_config = ConfigDict(extra="forbid")
    request_id: Annotated[str, Field(max_length=128)] = ""
    entry_id: Annotated[str, Field(max_length=64)] = ""
    verdict: Literal["wrong", "right"]

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if bool(self.request_id) == bool(self.entry_id):
            message = "name either request_id or entry_id"
            raise ValueError(message)
        return self


@router.get("/stats")
async def stats(context: InContext, caller: AsCaller) -> dict[str, object]:
    """Entries, hits by kind and misses by reason, over the turns that the trace ring holds."""
    exact, semantic = context.edge.gateway.exact, context.edge.gateway.semantic
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
        "semantic": {"enabled": False}
        if semantic is None
        else await _semantic(semantic, caller.tenant),
    }


async def _semantic(semantic: SemanticAnswers, tenant: str) -> dict[str, object]:
    """Each route's bound, its evidence, and what audits observed."""
    cache = semantic.cache
    try:
        entries: int | None = await cache.store.count()
    except StoreError:
        entries = None
    return {"enabled": True, "entries": entries, "routes": cache.stats(tenant)}


@router.get("/entries/{entry_id}")
async def entry(context: InContext, caller: AsCaller, entry_id: str) -> dict[str, object]:
    """Describe one entry; never its content."""
    _exact(context)
    semantic = context.edge.gateway.semantic
    held = await _find_entry(context, entry_id)
    if held is None and semantic is not None:
        kept = await semantic.cache.fetch(entry_id, caller.tenant)
        if kept is not None:
            return describe_semantic(*kept)
    found = _require_tenant(held, caller.tenant, entry_id)
    return describe_exact(found, context)


@router.delete("/entries/{entry_id}")
async def forget(context: InContext, caller: AsCaller, entry_id: str) -> dict[str, int]:
    """Forget one entry."""
    _exact(context)
    gateway, held = context.edge.gateway, await _find_entry(context, entry_id)
    semantic = gateway.semantic
    if held is None and semantic is not None:
        similar = await semantic.cache.fetch(entry_id, caller.tenant) is not None
    else:
        similar = False
    if not similar:
        if held is None:  # another worker may have it, and this one be about to
            bar_in_progress(gateway, InvalidationFilter(caller.tenant, entry_id=entry_id))
        _require_tenant(held, caller.tenant, entry_id)
    removed = await forget_everywhere(gateway, InvalidationFilter(caller.tenant, entry_id=entry_id))
    return {"invalidated": max(1, removed)}


@router.post("/invalidate")
async def invalidate(context: InContext, caller: AsCaller, what: Invalidation) -> dict[str, int]:
    """Invalidate this tenant's entries by tag, by model or all; in force for the very next request."""
    if not (what.tags or what.model or what.all):
        message = "say what to forget: tags, model or all"
        raise BadRequest(message)
    if context.edge.gateway.exact is None:
        return {"invalidated": 0}
    wanted = InvalidationFilter(caller.tenant, what.model or "", tuple(what.tags))
    return {"invalidated": await forget_everywhere(context.edge.gateway, wanted)}


@router.post("/feedback")
async def feedback(context: InContext, caller: AsCaller, body: Feedback) -> dict[str, object]:
    """Take a verdict on a hit; a wrong one's entry is removed."""
    if body.entry_id:
        return await _entry_verdict(context, caller.tenant, body)
    trace = context.telemetry.traces.get(body.request_id, caller.tenant)
    if trace is None:
        message = f"no recent request {body.request_id!r} of this tenant"
        raise NotFound(message)
    traced = trace.get("cache")
    cache = traced if isinstance(traced, dict) else {}
    entry_id = cache.get("entry")
    if not entry_id:
        message = f"request {body.request_id!r} was not answered from the cache"
        raise BadRequest(message, code="not_a_hit", param="request_id")
    gateway, wrong, removed = context.edge.gateway, body.verdict == "wrong", False
    if gateway.semantic is not None and cache.get("outcome") == "semantic":
        removed = await gateway.semantic.record_verdict(
            caller.tenant, body.request_id, str(entry_id), agreed=not wrong
        )
    if wrong:
        gone = await forget_everywhere(
            gateway, InvalidationFilter(caller.tenant, entry_id=str(entry_id))
        )
        removed = gone > 0 or removed
    return {
        "request_id": body.request_id,
        "entry_id": str(entry_id),
        "verdict": body.verdict,
        "removed": removed,
    }


async def _entry_verdict(context: Context, tenant: str, body: Feedback) -> dict[str, object]:
    """A verdict on an entry itself: the question is unknown, so only the entry's record learns from it."""
    gateway, wrong, removed = context.edge.gateway, body.verdict == "wrong", False
    held = await _find_entry(context, body.entry_id)
    semantic = gateway.semantic
    if (held is None or held.tenant != tenant) and semantic is not None:
        if await semantic.cache.fetch(body.entry_id, tenant) is None:
            _require_tenant(None, tenant, body.entry_id)
        removed = await semantic.cache.feedback(body.entry_id, agreed=not wrong)
    else:
        _require_tenant(held, tenant, body.entry_id)
    if wrong:
        gone = await forget_everywhere(gateway, InvalidationFilter(tenant, entry_id=body.entry_id))
        removed = gone > 0 or removed
    return {"entry_id": body.entry_id, "verdict": body.verdict, "removed": removed}


def _exact(context: Context) -> ExactCache:
    if context.edge.gateway.exact is None:
        message = "the exact cache is off: cache.exact.enabled"
        raise NotFound(message)
    return context.edge.gateway.exact


async def _find_entry(context: Context, entry_id: str) -> CachedAnswer | None:
    """The entry in this worker's memory, or in Redis."""
    gateway = context.edge.gateway
    held = None if gateway.exact is None else gateway.exact.by_id(entry_id)
    if held is None and gateway.shared is not None:
        return await gateway.shared.find_entry(entry_id)
    return held


def _require_tenant(found: CachedAnswer | None, tenant: str, entry_id: str) -> CachedAnswer:
    if found is None or found.tenant != tenant:
        message = f"no entry {entry_id[:64]!r}"
        raise NotFound(message)
    return found
