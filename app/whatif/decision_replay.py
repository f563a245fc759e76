"""Replay a trace with prompts: every request is decided again by the gateway's own code.

Theory of operation. Time is virtual and advances from arrival to arrival. A request passes the lanes, the
exact cache under its real key, calls in flight, the classifier, and the router with its moving threshold, as
in
``pipeline/turn.py``. An answer enters the cache when its call would have ended. A call takes as long as
recorded if the same tier was asked then; else a recorded call of that tier is drawn. Classification does not
depend on the settings and is done once for all of them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.cache.exact import CachedAnswer, ExactCache
from app.cache.key import exact_key
from app.classify.classifier import Classifier
from app.domain.chat import Dialect
from app.domain.decisions import Classification, PromptView, Tier
from app.domain.models import AUTO
from app.lanes.rules import Lanes
from app.providers.profiles import abilities
from app.routing.router_settings import router_from_settings
from app.whatif.outcome import FIXED, Outcomes
from app.whatif.traffic import Arrival, TraceError
from app.wire.answered_by_text import is_answered_by_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from app.domain.chat import ChatRequest
    from app.routing.router import Router
    from app.settings import ModelSettings, Settings
    from app.whatif.recorded_calls import Pools

_CHARS_PER_TOKEN = 4.0
_PROGRESS_EVERY = 100


def classify_arrivals(
    arrivals: Sequence[Arrival], progress: Callable[[int], None]
) -> list[tuple[Classification, PromptView, ChatRequest]]:
    """Classify each arrival; ``progress`` is called with the number done. Raises ``TraceError`` without a
    prompt.
    """
    classifier = Classifier()
    found = []
    for at, arrival in enumerate(arrivals):
        if arrival.view is None or arrival.request is None:
            raise TraceError([f"{arrival.place}: holds no prompt"])
        found.append((classifier.classify(arrival.view), arrival.view, arrival.request))
        if not at % _PROGRESS_EVERY:
            progress(at)
    return found


def _router(settings: Settings) -> Router:
    """The router that a fresh gateway of ``settings`` has."""
    fast = (
        (model.context_tokens, _sees_images(model, settings))
        for model in settings.models
        if model.tier is Tier.FAST
    )
    return router_from_settings(settings.routing, fast)


def _sees_images(model: ModelSettings, settings: Settings) -> bool:
    kind = settings.providers[model.provider].kind
    return abilities(kind, model.model, model.abilities.model_dump(exclude_none=True)).images


@dataclass(slots=True)
class _PendingEntry:
    """A cache entry whose call has not ended yet."""

    key: bytes
    tenant: str
    model: str
    tier: str


class DecisionReplay:
    """One run of a trace under one configuration."""

    def __init__(
        self, settings: Settings, pools: Pools, lanes: Lanes | None, rng: np.random.Generator
    ) -> None:
        """``lanes``: those of ``settings``, None where they are off."""
        self._settings, self._pools, self._lanes, self._rng = settings, pools, lanes, rng
        self._now_s = 0.0
        exact = settings.cache.exact
        self._exact = (
            ExactCache(ttl_s=exact.ttl_s, max_bytes=exact.max_bytes, clock=lambda: self._now_s)
            if exact.enabled
            else None
        )
        self._router = _router(settings)
        self._by_user = settings.cache.sharing.scope == "user"
        self._in_flight: dict[bytes, float] = {}
        self._pending_entries: list[tuple[float, int, _PendingEntry]] = []
        self._pending_outcomes: list[tuple[float, int, Tier, float, float]] = []
        self.outcomes = Outcomes()

    def run(
        self,
        arrivals: Sequence[Arrival],
        known: Sequence[tuple[Classification, PromptView, ChatRequest]],
    ) -> Outcomes:
        """Replay ``arrivals``; ``known`` is what ``classify_arrivals`` returned for them."""
        for arrival, (classification, view, request) in zip(arrivals, known, strict=True):
            self._advance_to(arrival.at_s)
            self._replay(arrival, classification, view, request)
        return self.outcomes

    def _advance_to(self, until_s: float) -> None:
        """Advance the clock to ``until_s``, storing each answer at the time its call ends."""
        while self._pending_entries and self._pending_entries[0][0] <= until_s:
            self._now_s, _, pending = heapq.heappop(self._pending_entries)
            if self._in_flight.get(pending.key) == self._now_s:
                del self._in_flight[pending.key]
            if self._exact is not None:
                self._exact.put(pending.key, _entry(pending))
        while self._pending_outcomes and self._pending_outcomes[0][0] <= until_s:
            _, _, tier, usd, took_s = heapq.heappop(self._pending_outcomes)
            self._router.record_outcome(tier, usd, took_s)
        self._now_s = until_s

    def _replay(
        self,
        arrival: Arrival,
        classification: Classification,
        view: PromptView,
        request: ChatRequest,
    ) -> None:
        named = arrival.requested if arrival.requested != AUTO else ""
        if named and named not in self._pools.prices:
            raise TraceError([f"{arrival.place}: the model {named[:80]!r} is not configured"])
        if not named and self._lanes is not None and view.is_plain_question:
            lane = self._lanes.match(view.text)
            if lane is not None and is_answered_by_text(request.body, lane.text):
                self._hit("lane")
                return
        key = self._key(arrival, request)
        if key is not None and self._serves(key, classification):
            self._hit("exact")
            return
        ends_s = None if key is None else self._in_flight.get(key)
        if ends_s is not None and self._settings.cache.coalesce:
            self.outcomes.add("coalesced", ends_s - arrival.at_s, 0.0)
            return
        decided = None
        if named:
            tier, pool = self._pools.tiers[named], self._pools.model(named)
        else:
            decided = self._router.decide(classification, view, arrival.tenant, None)
            tier = decided.tier.value
            pool = self._pools.tier(tier)
        took_s, usd = self._call(arrival, tier, named, pool, view)
        if decided is not None and not decided.forced and self._router.has_mean_target:
            number = len(self.outcomes.pool)
            end = (arrival.at_s + took_s, number, decided.tier, usd, took_s)
            heapq.heappush(self._pending_outcomes, end)
        if key is not None:
            self._in_flight[key] = ends_s = arrival.at_s + took_s
            pending = _PendingEntry(key, arrival.tenant, named, tier)
            heapq.heappush(self._pending_entries, (ends_s, len(self.outcomes.pool), pending))

    def _key(self, arrival: Arrival, request: ChatRequest) -> bytes | None:
        if self._exact is None:
            return None
        user = arrival.user if self._by_user else ""
        return exact_key((arrival.tenant, user, request.model, "", 0), request)

    def _serves(self, key: bytes, classification: Classification) -> bool:
        """Whether the cache answers, as in ``pipeline/replay.py``: the question's class may shorten an
        entry's TTL.
        """
        exact = self._exact
        entry = None if exact is None else exact.get(key)
        if exact is None or entry is None:
            return False
        if entry.gate_passed:
            return True
        entry.gate_passed = True
        return classification.ttl_s is None or exact.shorten(key, classification.ttl_s)

    def _hit(self, source: str) -> None:
        pool = self._pools.all[self._pools.HITS]
        at = int(self._rng.integers(len(pool.total_s)))
        self.outcomes.add(
            source, float(pool.total_s[at]), 0.0, pool=self._pools.HITS, fixed_usd=0.0
        )

    def _call(
        self, arrival: Arrival, tier: str, named: str, pool: int, view: PromptView
    ) -> tuple[float, float]:
        """Record a call; its duration and cost: as recorded where the same model was called, else drawn."""
        own = arrival.recorded
        if (
            own is not None
            and own.called
            and own.model in self._pools.prices
            and (own.model == named if named else self._pools.tiers[own.model] == tier)
        ):
            cost_usd = self._pools.prices[own.model].cost_usd(own.usage)
            self.outcomes.add(tier, own.total_s, cost_usd, pool=FIXED)
            return own.total_s, cost_usd
        drawn = self._pools.all[pool]
        at = int(self._rng.integers(len(drawn.total_s)))
        told = own.usage.prompt_tokens if own is not None else 0
        tokens = float(told or max(1.0, view.total_chars / _CHARS_PER_TOKEN))
        took_s = float(drawn.total_s[at])
        usd = float(tokens * drawn.prompt_usd[at] + drawn.output_usd[at])
        self.outcomes.add(tier, took_s, usd, pool=pool, prompt_tokens=tokens)
        return took_s, usd


def _entry(pending: _PendingEntry) -> CachedAnswer:
    return CachedAnswer(
        key=pending.key,
        dialect=Dialect.CHAT,
        streamed=False,
        usage_shown=False,
        pieces=(),
        model=pending.model,
        tier=pending.tier,
        tenant=pending.tenant,
        stored_at_s=0.0,
        expires_at_s=0.0,
        request_id="",
    )
