"""``GET /v1/cache/entries``: pages of entries, and how an entry is described.

Exact and semantic entries are listed apart. Exact ones lie in the workers' memories, newest first; the
cursor is the last entry's time and id, so that the pages of several workers can be merged. Semantic ones
lie in their store, which pages by id. A large memory is walked in slices, so that no request waits for it.
"""

from __future__ import annotations

import asyncio
import heapq
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, Query

from app.api.context import AsCaller, Context, InContext
from app.cache.exact import CachedAnswer
from app.errors import BadRequest, NotFound, Overloaded, StoreError, UpstreamError
from app.pipeline.replay import read_answer

if TYPE_CHECKING:  # loads learners that a gateway without a semantic cache does not need
    from app.api.auth import Caller
    from app.cache.stored_answer import StoredAnswer
    from app.domain.vectors import StoredQuestion

router = APIRouter(prefix="/v1/cache", tags=["cache"])

MAX_PAGE = 200
_SLICE = 2_000
_MAX_CHARS = 500
_CURSORS = {
    "exact": re.compile(r"([0-9]{1,16})-([0-9a-f]{32})"),
    "semantic": re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}
Description = dict[str, object]


@router.get("/entries")
async def entries(
    context: InContext,
    caller: AsCaller,
    kind: Literal["exact", "semantic"] = "exact",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    after: Annotated[str, Query(max_length=64)] = "",
) -> dict[str, object]:
    """A page of this tenant's entries; ``next`` goes into ``after`` for the following one, "" at the end.

    ``exact`` entries come newest first, ``semantic`` ones in the order of their ids. Words are shown
    where ``cache.show_text`` is on and, where keys exist, to admin keys alone.
    """
    if after and _CURSORS[kind].fullmatch(after) is None:
        message = "after must be the `next` of the page before, or be left out"
        raise BadRequest(message, param="after")
    text = context.show_text and _may_read_text(context, caller)
    if kind == "exact":
        found = await _newest(context, caller.tenant, after, limit)
        page_entries = [describe_exact(each, context, text=text) for each in found]
        return {
            "entries": page_entries,
            "next": cursor_of(page_entries[-1]) if len(page_entries) == limit else "",
        }
    semantic = context.edge.gateway.semantic
    if semantic is None:
        message = "hits by meaning are off: cache.semantic.enabled"
        raise NotFound(message)
    try:
        page, following = await semantic.cache.store.page(caller.tenant, after, limit)
    except StoreError as error:
        message = f"the store of questions cannot be asked: {error.message}"
        raise Overloaded(message, code="store_away", retry_after_s=1) from error
    page_entries = [
        describe_semantic(question, answer, text=text)
        for question in page
        if (answer := semantic.cache.live_answer(question)) is not None
    ]
    return {"entries": page_entries, "next": following}


def cursor_of(entry: Description) -> str:
    """The cursor of the page after ``entry``."""
    return f"{entry['kept_unix_ms']}-{entry['id']}"


async def _newest(context: Context, tenant: str, after: str, limit: int) -> list[CachedAnswer]:
    """The ``limit`` newest live entries of ``tenant`` after the cursor ``after``."""
    exact = context.edge.gateway.exact
    if exact is None:
        message = "the exact cache is off: cache.exact.enabled"
        raise NotFound(message)
    everything = exact.entries()
    now_s = time.monotonic()
    cursor = _parse_cursor(after)
    best: list[tuple[int, str, CachedAnswer]] = []
    for start in range(0, len(everything), _SLICE):
        if start:
            await asyncio.sleep(0)
        for each in everything[start : start + _SLICE]:
            if each.tenant != tenant or now_s >= each.expires_at_s:
                continue
            place = (_kept_unix_ms(each, context), each.id)
            if cursor is not None and place >= cursor:
                continue
            if len(best) < limit:
                heapq.heappush(best, (*place, each))
            elif place > best[0][:2]:
                heapq.heapreplace(best, (*place, each))
    return [each for _, _, each in sorted(best, key=lambda item: item[:2], reverse=True)]


def _parse_cursor(cursor: str) -> tuple[int, str] | None:
    kept_unix_ms, _, entry_id = cursor.partition("-")
    return (int(kept_unix_ms), entry_id) if cursor else None


def _kept_unix_ms(entry: CachedAnswer, context: Context) -> int:
    return round((context.epoch_unix_s + entry.stored_at_s) * 1000)


def _may_read_text(context: Context, caller: Caller) -> bool:
    return context.edge.authenticator.is_admin(caller)


def describe_exact(
    entry: CachedAnswer, context: Context, *, text: bool = False
) -> dict[str, object]:
    """Describe an exact entry; its question is not stored, only its key."""
    now_s, kept_unix_ms = time.monotonic(), _kept_unix_ms(entry, context)
    description: dict[str, object] = {
        "id": entry.id,
        "kind": "exact",
        "model": entry.model,
        "tier": entry.tier,
        "request_id": entry.request_id,
        "kept_at": _iso_time(kept_unix_ms / 1000),
        "kept_unix_ms": kept_unix_ms,
        "dialect": entry.dialect.value,
        "tags": list(entry.tags),
        "hits": entry.hits,
        "size_bytes": entry.size_bytes,
        "age_s": round(now_s - entry.stored_at_s, 3),
        "expires_in_s": round(entry.expires_at_s - now_s, 3),
        "cost_usd": entry.cost_usd,
    }
    return {**description, "text": {"answer": _answer(entry, context)}} if text else description


def _answer(entry: CachedAnswer, context: Context) -> str | None:
    try:
        answer = entry.answer or read_answer(
            context.edge.gateway.codecs[entry.dialect], entry.pieces, streamed=entry.streamed
        )
    except UpstreamError:
        return None
    return answer.text[:_MAX_CHARS]


def describe_semantic(
    question: StoredQuestion, answer: StoredAnswer, *, text: bool = False
) -> dict[str, object]:
    """Describe a semantic entry, with its provenance."""
    now_s = time.time()
    description: dict[str, object] = {
        "id": question.id,
        "kind": "semantic",
        "model": question.model,
        "tier": answer.tier,
        "said_by": answer.model,
        "request_id": answer.request_id,
        "kept_at": _iso_time(question.kept_unix_s),
        "kept_unix_ms": round(question.kept_unix_s * 1000),
        "askers": len(answer.askers),
        "tags": list(question.tags),
        "age_s": round(now_s - question.kept_unix_s, 3),
        "expires_in_s": round(question.expires_unix_s - now_s, 3),
        "cost_usd": answer.cost_usd,
    }
    shown = {"question": question.text[:_MAX_CHARS], "answer": answer.text[:_MAX_CHARS]}
    return {**description, "text": shown} if text else description


def _iso_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
