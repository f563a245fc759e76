"""Prime the vendors' prompt caches before traffic comes, and keep warm the prompts where that pays.

Calls go through the ordinary provider, so that a primed prompt gets the breakpoints of the real request. One
task does what is due, one call at a time; every call is in the trace ring with its cost calculation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.events import Event
from app.domain.model_call import ModelCall
from app.domain.models import Model
from app.domain.turn_record import TurnRecord
from app.domain.usage import Usage
from app.errors import GatewayError, NotFound
from app.pipeline.gateway import Gateway
from app.prompts.conversations import conversation_key
from app.prompts.prefix import RenderedPrompt
from app.prompts.warm import KeepAlive, Session, priming_body

_REQUEST_ID_PREFIX = "warm_"
_TIMEOUT_S = 60.0
_EVERY_S = 5.0
_bits = Random().getrandbits  # noqa: S311 - unique, not secret


@dataclass(frozen=True, slots=True)
class PrimeResult:
    """The result of one priming call."""

    model: Model
    usage: Usage | None
    cost_usd: float
    seconds: float
    request_id: str


@dataclass(slots=True)
class ScheduledPrompt:
    """A prompt that the configuration keeps warm."""

    body: bytes
    dialect: Dialect
    model: Model
    every_s: float
    next_s: float = 0.0


class PromptPriming:
    """Primes prompts on request, by schedule and to keep them warm; one event loop owns it."""

    def __init__(
        self,
        gateway: Gateway,
        keep_alive: KeepAlive,
        trace: Callable[[TurnRecord], None],
        schedules: Sequence[ScheduledPrompt] = (),
        *,
        follow: bool = False,
    ) -> None:
        """``follow``: keep alive every conversation where it pays, not only those requested."""
        self._gateway = gateway
        self._trace = trace
        self._schedules = list(schedules)
        self._follow = follow
        self.keep_alive = keep_alive
        if gateway.prompts is not None:
            gateway.prompts.on_learned = self._on_settled

    async def prime(
        self, body: bytes, dialect: Dialect, model: Model, tenant: str, why: str = "asked"
    ) -> PrimeResult:
        """Prime ``model``'s vendor with the prompt of ``body``. Raises ``UnreadableError``, ``GatewayError``."""  # noqa: E501
        gateway = self._gateway
        raw = priming_body(self.as_sent(body, dialect, model, tenant), dialect)
        read = msgspec.json.decode(raw, type=dict[str, object])
        request = ChatRequest(dialect, str(read.get("model", model.name)), False, read, raw)  # noqa: FBT003
        call = ModelCall(model, stream=False, deadline=Deadline.after(gateway.clock(), _TIMEOUT_S))
        call.tenant, call.prompts = tenant, gateway.prompts
        call.request_id = _REQUEST_ID_PREFIX + _bits(96).to_bytes(12, "big").hex()
        provider = gateway.providers[model.provider]
        if dialect in provider.dialects():
            call.native = request
        else:
            call.conversation = gateway.codecs[dialect].read(read)
        began_s = time.monotonic()
        code, status = "", 200
        try:
            await provider.stream(call, _discard)
        except GatewayError as error:
            code, status = error.code, error.status
            raise
        finally:
            if call.prompt_shape is not None and call.prompts is not None:
                call.prompts.settle(call)
            cost = 0.0 if call.usage is None else model.price.cost_usd(call.usage)
            took_s = time.monotonic() - began_s
            self._trace(
                TurnRecord(
                    request_id=call.request_id,
                    dialect=dialect,
                    status=status,
                    total_s=took_s,
                    started_unix_s=time.time() - took_s,
                    code=code,
                    tenant=tenant,
                    requested_model=model.name,
                    model=model.name,
                    provider=model.provider,
                    tier=model.tier.value,
                    reason=f"prompt kept warm: {why}",
                    upstream_s=took_s,
                    usage=call.usage,
                    cost_usd=cost,
                    attempts=1,
                )
            )
        return PrimeResult(model, call.usage, cost, took_s, call.request_id)

    def as_sent(self, body: bytes, dialect: Dialect, model: Model, tenant: str) -> bytes:
        """``body`` as the real request would be sent: under its route's contract and layout."""
        gateway = self._gateway
        if gateway.contracts is None and gateway.layouts is None:
            return body
        read = msgspec.json.decode(body, type=dict[str, object])
        request = ChatRequest(dialect, str(read.get("model", model.name)), False, read, body)  # noqa: FBT003
        if gateway.contracts is not None:
            request = gateway.contracts.apply(request, tenant)
        if gateway.layouts is not None:
            request = gateway.layouts.apply(request, tenant)
        if request.terms is not None:
            request, _ = request.terms.of_many().native(request, model)
        return request.raw

    def keep_warm(
        self, body: bytes, rendered: RenderedPrompt, model: Model, tenant: str, for_s: float
    ) -> None:
        """Keep the prompt of ``body`` warm for ``for_s`` seconds, within the budget."""
        now_s = self._gateway.clock()
        tokens = sum(block.tokens for block in rendered.blocks)
        session = Session(
            model,
            tokens,
            body,
            rendered.dialect,
            tenant,
            now_s,
            now_s,
            now_s + for_s,
            requested=True,
        )
        self.keep_alive.record_request(conversation_key(tenant, rendered.opening), session)

    def model_named(self, name: str) -> Model:
        """The configured model ``name``; raises ``NotFound``."""
        model = self._gateway.models.get(name)
        if model is None:
            message = f"the model {name[:80]!r} is not configured: name the model to prime"
            raise NotFound(message, code="model_not_found", param="model")
        return model

    async def run(self) -> None:
        """Do what is due every few seconds, until cancelled."""
        while True:
            await self.run_due()
            await asyncio.sleep(_EVERY_S)

    async def run_due(self) -> None:
        """Make the priming calls that are due now."""
        now_s = self._gateway.clock()
        for each in self._schedules:
            if now_s >= each.next_s:
                each.next_s = now_s + each.every_s
                await self._prime_quietly(each.body, each.dialect, each.model, "", "schedule")
        for session, total in self.keep_alive.due(now_s):
            why = f"asked for; {total}" if session.requested else str(total)
            await self._prime_quietly(
                session.body, session.dialect, session.model, session.tenant, why
            )

    async def _prime_quietly(
        self, body: bytes, dialect: Dialect, model: Model, tenant: str, why: str
    ) -> None:
        """Prime; a failure is traced, and costs only a cache miss."""
        try:
            await self.prime(body, dialect, model, tenant, why)
        except (GatewayError, ValueError):
            return

    def _on_settled(self, call: ModelCall, rendered: RenderedPrompt, key: bytes) -> None:
        """Offer a conversation with a cached prompt to ``keep_alive``."""
        if not self._follow or call.request_id.startswith(_REQUEST_ID_PREFIX) or call.usage is None:
            return
        held = call.usage.cached_tokens + call.usage.cache_write_tokens
        if held and not call.single_attempt:  # a repeat would change the state kept at the vendor
            now_s = self._gateway.clock()
            session = Session(
                call.model, held, rendered.raw, rendered.dialect, call.tenant, now_s, now_s
            )
            self.keep_alive.record_request(key, session)


async def _discard(_: Event) -> None:
    """Ignore the answer of a priming call."""
