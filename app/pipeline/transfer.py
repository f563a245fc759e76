"""Answers brought in and taken out: a cache that is warm before its first request.

An imported answer is what the operator says, not what a model said: it is kept as if a plain question
(one user turn, at most a system prompt) had been answered so, for everybody in the tenant. It makes
an exact hit for the same question, and a candidate for other wordings. It is no label: what may be
served by meaning is still decided by the bound that the route's own traffic has earned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.cache.exact import CachedAnswer
from app.cache.kept_answer import KeptAnswer
from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.cache.semantic import FreshAnswer, SemanticQuery
from app.cache.sharing import EVERYBODY
from app.domain.chat import ChatRequest, Dialect
from app.domain.events import Answer, FinishReason, TextBlock
from app.domain.models import AUTO
from app.errors import BadRequest

if TYPE_CHECKING:
    from app.domain.vectors import KeptQuestion
    from app.pipeline.gateway import Gateway

IMPORTED = "imported"
"""Stands where a request's id does."""


@dataclass(frozen=True, slots=True)
class Given:
    """One question with its answer, as a file holds it."""

    question: str
    answer: str
    tags: tuple[str, ...] = ()
    model: str = ""
    """The model's name that is asked for; empty: ``auto``."""
    system: str = ""
    """The system prompt under which it is asked."""
    partition: str = ""
    """Of an exported entry that no plain question has: it is brought back there, to be hit by meaning."""
    id: str = ""
    """An exported entry's, with ``partition``."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one given answer."""

    exact: bool
    similar: bool


async def take_in(given: Given, tenant: str, gateway: Gateway, *, repeated: bool = False) -> Taken:
    """Keep ``given`` for ``tenant``; ``repeated``: in this worker's own memory alone.

    Raises ``BadRequest`` for what can never be asked for, and ``StoreError`` where Redis or the vector
    process is away; the exact answer is kept here by then, and all may be given again.
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
        entry = _keep_exactly((key, tenant, given.tags), answer, request, gateway)
        if gateway.shared is not None and not repeated:
            await gateway.shared.give(entry)
    if repeated:
        return Taken(exact=exact, similar=False)
    similar = await _keep_by_meaning(key, given, request, scope, gateway)
    return Taken(exact=exact, similar=similar)


def _request(given: Given, model: str) -> ChatRequest:
    system = [{"role": "system", "content": given.system}] if given.system else []
    turns = [*system, {"role": "user", "content": given.question}]
    return ChatRequest(
        Dialect.CHAT, model, stream=False, body={"model": model, "messages": turns}, raw=b""
    )


def _keep_exactly(
    where: tuple[bytes, str, tuple[str, ...]],
    answer: Answer,
    request: ChatRequest,
    gateway: Gateway,
) -> CachedAnswer:
    """``where``: the key, the tenant and the tags."""
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
        gateway.sharing.given(key)
    return entry


async def _keep_by_meaning(
    key: bytes, given: Given, request: ChatRequest, scope: CacheScope, gateway: Gateway
) -> bool:
    meaning = gateway.meaning
    if meaning is None:
        return False
    judged = meaning.question_of(key, request, scope)
    if judged is None:
        return False
    asked, ttl_s = judged
    if given.partition:
        asked = SemanticQuery(
            given.id, given.partition, asked.route, asked.text, asked.tenant, asked.asked_unix_s
        )
    kept = KeptAnswer(
        group="",
        text=given.answer,
        finish=FinishReason.STOP.value,
        model=request.model,
        tier="",
        request_id=IMPORTED,
        route=asked.route,
        askers=(EVERYBODY,),
    )
    model = "" if request.model == AUTO else request.model
    return await meaning.cache.import_answer(asked, FreshAnswer(kept, model, given.tags, ttl_s))


async def take_out(
    tenant: str, after: str, limit: int, gateway: Gateway
) -> tuple[list[Given], str]:
    """A page of the answers that are kept for hits by meaning, and where the next begins ("" at the end).

    Raises ``StoreError`` where the vector process is away.
    """
    if gateway.meaning is None:
        return [], ""
    found, next_one = await gateway.meaning.cache.store.page(tenant, after, limit)
    read = (_given(each, gateway) for each in found)
    return [each for each in read if each is not None], next_one


def _given(question: KeptQuestion, gateway: Gateway) -> Given | None:
    kept = None if gateway.meaning is None else gateway.meaning.cache.live_answer(question)
    if kept is None:
        return None
    tenant, _, model = kept.route.partition("\x00")
    plain = Given(question.text, kept.text, question.tags, model if model in gateway.models else "")
    scope = CacheScope(tenant, "", model, "")
    if partition_key(scope, _request(plain, model)) == question.partition:
        return plain
    return Given(
        plain.question, plain.answer, plain.tags, plain.model,
        partition=question.partition, id=question.id,
    )  # fmt: skip
