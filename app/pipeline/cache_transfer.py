"""Import and export of cached answers: a cache that is warm before its first request.

An imported answer is stored as if a plain question (one user turn, at most a system prompt) had been answered
so, for everybody in the tenant. It makes an exact hit for the same question, and a candidate for other
wordings. It is no label: semantic hits still depend on the bound that the route's own traffic has earned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.exact import CachedAnswer
from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.cache.semantic import FreshAnswer, SemanticQuery
from app.cache.sharing import EVERYBODY
from app.cache.stored_answer import StoredAnswer
from app.domain.chat import ChatRequest, Dialect
from app.domain.events import Answer, FinishReason, TextBlock
from app.domain.models import AUTO
from app.errors import BadRequest

if TYPE_CHECKING:
    from app.domain.vectors import StoredQuestion
    from app.pipeline.gateway import Gateway

IMPORTED = "imported"
"""In place of a request's id."""


@dataclass(frozen=True, slots=True)
class TransferEntry:
    """One question with its answer, as a file holds it."""

    question: str
    answer: str
    tags: tuple[str, ...] = ()
    model: str = ""
    """The requested model's name; empty: ``auto``."""
    system: str = ""
    """The system prompt of the question."""
    partition: str = ""
    """Of an exported entry that no plain question has: it is imported there, for semantic hits only."""
    id: str = ""
    """An exported entry's, with ``partition``."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """Where one answer was stored: in the exact cache, in the semantic cache."""

    exact: bool
    similar: bool


async def import_answer(
    given: TransferEntry, tenant: str, gateway: Gateway, *, repeated: bool = False
) -> ImportResult:
    """Store ``given`` for ``tenant``; ``repeated``: in this worker's own memory only.

    Raises ``BadRequest`` for an unknown model, and ``StoreError`` where Redis or the vector process is down:
    the exact answer is stored here by then, and the import may be repeated.
    """
    model = given.model or AUTO
    if model != AUTO and model not in gateway.models:
        message = f"the model {model[:80]!r} is not configured"
        raise BadRequest(message, param="model")
    request = _request(given, model)
    scope = CacheScope(tenant, "", model, "")
    key = exact_key(scope, request)
    answer = Answer(
        id=IMPORTED,
        model=model,
        blocks=(TextBlock(given.answer),),
        finish=FinishReason.STOP,
        created_s=int(time.time()),
    )
    exact = not given.partition and gateway.exact is not None
    if exact:
        entry = _store_exact((key, tenant, given.tags), answer, request, gateway)
        if gateway.shared is not None and not repeated:
            await gateway.shared.store_answer(entry)
    if repeated:
        return ImportResult(exact=exact, similar=False)
    similar = await _store_semantic(key, given, request, scope, gateway)
    return ImportResult(exact=exact, similar=similar)


def _request(given: TransferEntry, model: str) -> ChatRequest:
    system = [{"role": "system", "content": given.system}] if given.system else []
    turns = [*system, {"role": "user", "content": given.question}]
    return ChatRequest(
        Dialect.CHAT, model, stream=False, body={"model": model, "messages": turns}, raw=b""
    )


def _store_exact(
    where: tuple[bytes, str, tuple[str, ...]],
    answer: Answer,
    request: ChatRequest,
    gateway: Gateway,
) -> CachedAnswer:
    """``where``: key, tenant and tags."""
    key, tenant, tags = where
    entry = CachedAnswer(
        key=key,
        dialect=request.dialect,
        streamed=False,
        usage_shown=False,
        pieces=(gateway.codecs[request.dialect].write_answer(answer, request),),
        model="" if request.model == AUTO else request.model,
        tier="",
        tenant=tenant,
        stored_at_s=0.0,
        expires_at_s=0.0,
        request_id=IMPORTED,
        tags=tags,
    )
    if gateway.exact is not None:
        gateway.exact.put(key, entry)
    if gateway.sharing is not None:
        gateway.sharing.admit_everybody(key)
    return entry


async def _store_semantic(
    key: bytes, given: TransferEntry, request: ChatRequest, scope: CacheScope, gateway: Gateway
) -> bool:
    semantic = gateway.semantic
    if semantic is None:
        return False
    judged = semantic.query_for(key, request, scope)
    if judged is None:
        return False
    query, ttl_s = judged
    if given.partition:
        query = SemanticQuery(
            given.id, given.partition, query.route, query.text, query.tenant, query.asked_unix_s
        )
    kept = StoredAnswer(
        group="",
        text=given.answer,
        finish=FinishReason.STOP.value,
        model=request.model,
        tier="",
        request_id=IMPORTED,
        route=query.route,
        askers=(EVERYBODY,),
    )
    model = "" if request.model == AUTO else request.model
    return await semantic.cache.import_answer(query, FreshAnswer(kept, model, given.tags, ttl_s))


async def export_page(
    tenant: str, after: str, limit: int, gateway: Gateway
) -> tuple[list[TransferEntry], str]:
    """A page of the semantic cache's answers, and the cursor of the next ("" at the end).

    Raises ``StoreError`` where the vector process is down.
    """
    if gateway.semantic is None:
        return [], ""
    found, next_one = await gateway.semantic.cache.store.page(tenant, after, limit)
    read = (_entry_of(each, gateway) for each in found)
    return [each for each in read if each is not None], next_one


def _entry_of(question: StoredQuestion, gateway: Gateway) -> TransferEntry | None:
    kept = None if gateway.semantic is None else gateway.semantic.cache.live_answer(question)
    if kept is None:
        return None
    tenant, _, model = kept.route.partition("\x00")
    plain = TransferEntry(
        question.text, kept.text, question.tags, model if model in gateway.models else ""
    )
    scope = CacheScope(tenant, "", model, "")
    if partition_key(scope, _request(plain, model)) == question.partition:
        return plain
    return TransferEntry(
        plain.question, plain.answer, plain.tags, plain.model,
        partition=question.partition, id=question.id,
    )  # fmt: skip
