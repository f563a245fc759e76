"""The semantic cache in the pipeline: look up on the request's path where it pays, learn off it always.

``may_look_up`` is the guard on the hot path: two dictionary look-ups. Only where a route has proven its
bound does a request wait, for the look-up's budget. Answers of models go into a bounded queue that one task
works through slowly: parse, classify, compare, store. A full queue drops new ones: learning may lag behind
the traffic, but never slows it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import structlog

from app.cache.admission import admits_answer, admits_question
from app.cache.exact import CachedAnswer
from app.cache.key import CacheScope
from app.cache.partition import partition_key
from app.cache.semantic import (
    FreshAnswer,
    Lookup,
    SemanticCache,
    SemanticQuery,
    route_name,
)
from app.cache.sharing import Sharing, asker_hash
from app.cache.stored_answer import StoredAnswer
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import CacheMode, CacheOutcome, Classification, PromptView
from app.domain.events import Answer, Emit, FinishReason, Frames, TextBlock, WholeBody
from app.domain.replay import replay
from app.domain.usage import Usage
from app.errors import BadRequest, StoreError, UpstreamError
from app.pipeline.decision_log import DecisionLog, SemanticDecision
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.replay import read_answer
from app.ports import Codec
from app.wire.untranslatable import has_untranslatable_content

LearningOutcome = Literal["kept", "unfit", "crowding", "unreadable", "away", "dropped", "failed"]
"""The outcome of learning from one answer; the values of the metric's label."""


_DEFAULT = CacheMode.DEFAULT  # resolved once: it costs as much as the rest of the guard
_MAX_WAITING = 256
_MAX_PER_S = 20.0
"""Learning from one answer costs the vector process about 10 ms: a fifth of a core at this rate. Under more
traffic a sample suffices."""
_MAX_BURST = 64
_MAX_BODY_BYTES = 64 * 1024
_PAUSE_S = 0.01
_PAUSE_UNDER_LOAD_S = 0.05
_LOAD = 32
_SAVE_AFTER = 100
"""Labels that a killed process may lose, by route."""


class SemanticLookup(NamedTuple):
    """A question and what its look-up found."""

    query: SemanticQuery
    result: Lookup


@dataclass(frozen=True, slots=True)
class _Job:
    """One complete answer to learn from."""

    request: ChatRequest
    scope: CacheScope
    entry: CachedAnswer
    asked_unix_s: float
    classification: Classification | None
    lookup: SemanticLookup | None
    user: str


class SemanticAnswers:
    """The semantic cache as the pipeline uses it; one event loop owns it."""

    def __init__(
        self,
        cache: SemanticCache,
        *,
        classify: Callable[[PromptView, str], Classification],
        codecs: Mapping[Dialect, Codec],
        ttl_s: float,
        on_settled: Callable[[LearningOutcome, int], None],
        sharing: Sharing | None = None,
        race_for: Collection[str] = (),
        on_race: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing runs until ``run``. ``on_settled`` is called with an outcome and a number of answers.

        ``race_for``: the tenants whose misses do not wait for the look-up, ``*`` for all; ``on_race`` is
        called with the winner, ``look`` or ``model``.
        """
        self._race_for, self.on_race = frozenset(race_for), on_race
        self.cache = cache
        self._routes = cache.routes.by_name
        self._classify, self._codecs = classify, codecs
        self._ttl_s, self._on_settled = ttl_s, on_settled
        self._sharing = sharing
        self._jobs: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.max_per_s = _MAX_PER_S
        """The rate of answers to learn from; the rest are dropped."""
        self.decisions = DecisionLog()
        self._allowance = float(_MAX_BURST)
        self._allowance_at_s = time.monotonic()
        self._paused_until_s = 0.0
        """Until then answers are dropped at the cost of reading the clock."""
        self._dropped = 0
        """Drops that are not reported yet."""

    # ---------------------------------------------------------------- on the request's path

    def may_look_up(self, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn) -> bool:
        """Whether to look up: the route is open, and no identical request is in flight to join."""
        mode = turn.cache_mode
        if mode is not _DEFAULT and mode is not CacheMode.ONLY:
            return False
        is_open = self.is_open(turn.tenant, request.model)
        return is_open and gateway.flights.running(key) is None

    def races_for(self, tenant: str) -> bool:
        """Whether this tenant's misses race the look-up with the model."""
        return tenant in self._race_for or "*" in self._race_for

    async def look_up(self, key: bytes, request: ChatRequest, turn: Turn) -> SemanticLookup | None:
        """Look for an answer to another wording; None where the question is not admitted, or look-ups are
        suspended (then the request is not even classified).
        """
        if self.cache.is_suspended():
            turn.cache_reason = "late"
            return None
        with turn.timeline.stage("classifier"):
            view = self._codecs[request.dialect].view(request.body)
            if turn.classification is None:
                turn.classification = self._classify(view, turn.tenant)
            query = _query_from(
                (key, turn.started_unix_s, turn.user),
                request,
                view,
                self._scope(request, turn),
                turn.classification,
            )
        if query is None:
            return None
        with turn.timeline.stage("embed", "semantic"):
            look = await self.cache.lookup(query)
        turn.cache_reason = look.outcome
        if look.query is not None and look.decision is not None:
            route = self.cache.routes.loaded(query.route)
            threshold = None if route is None else route.state.threshold
            self.decisions.record(
                turn.tenant, turn.request_id, SemanticDecision(query, look, threshold)
            )
        return SemanticLookup(query, look)

    async def serve_hit(
        self, look: Lookup, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        """Emit a hit's answer in the client's dialect and form, and account for it in ``turn``."""
        if look.hit is None:
            raise ValueError("the look-up found no hit to serve")
        if self._sharing is not None:
            await self._sharing.jitter()
        question, kept = look.hit
        usage = Usage(*kept.usage)
        turn.cache, turn.cache_reason = CacheOutcome.SEMANTIC, "semantic"
        turn.reason = _reason(look)
        turn.model, turn.answered_tier = gateway.models.get(question.model), kept.tier
        turn.entry_id, turn.usage = question.id, usage
        turn.saved_usd, turn.saved_s = kept.cost_usd, kept.upstream_s
        turn.complete = True
        answer = Answer(
            id=turn.request_id,
            model=kept.model,
            blocks=(TextBlock(kept.text),),
            finish=FinishReason(kept.finish),
            usage=usage,
            created_s=int(question.kept_unix_s),
        )
        codec = self._codecs[request.dialect]
        if not request.stream:
            await emit(WholeBody(codec.write_answer(answer, request)))
            return
        writer = codec.writer(request)
        pieces = [writer.write(event) for event in replay(answer)]
        await emit(Frames(b"".join([*pieces, writer.end()])))

    async def record_verdict(
        self, tenant: str, request_id: str, entry_id: str, *, agreed: bool
    ) -> bool:
        """Take a user's verdict on a hit; a wrong one's entry is removed. Returns whether it existed."""
        decision = self.decisions.get(tenant, request_id)
        query = None if decision is None else decision.lookup.query
        return await self.cache.feedback(entry_id, agreed=agreed, query=query)

    # ---------------------------------------------------------------- after the answer

    def learn_later(
        self,
        key: bytes,
        request: ChatRequest,
        gateway: Gateway,
        turn: Turn,
        lookup: SemanticLookup | None,
    ) -> None:
        """Queue the answer just stored under ``key``, if there is one, for learning."""
        if self.sheds(complete=turn.complete):
            return
        entry = None if gateway.exact is None else gateway.exact.get(key)
        if entry is None or entry.request_id != turn.request_id:
            return  # the answer was incomplete
        if len(request.raw) > _MAX_BODY_BYTES:
            return
        if len(self._jobs) >= _MAX_WAITING or not self._may_learn():
            self._dropped += 1
            self._report_dropped()
            return
        scope, asked_unix_s = self._scope(request, turn), turn.started_unix_s
        known = turn.classification
        self._jobs.append(_Job(request, scope, entry, asked_unix_s, known, lookup, turn.user))
        self._idle.clear()
        self._wake.set()

    def sheds(self, *, complete: bool) -> bool:
        """Whether learning is paused; a ``complete`` answer then counts as dropped."""
        if time.monotonic() < self._paused_until_s:
            self._dropped += complete
            return True
        return False

    def is_open(self, tenant: str, model: str) -> bool:
        """Whether the route of ``tenant`` and ``model`` has proven its bound."""
        return self.route_is_open(route_name(tenant, model))

    def route_is_open(self, route: str) -> bool:
        """As ``is_open``, by the route's name."""
        found = self._routes.get(route)
        return found is not None and found.state.threshold is not None

    def looks_up(self, route: str) -> bool:
        """Whether questions of that route are looked up now: it is open, and look-ups are not suspended."""
        return self.route_is_open(route) and not self.cache.is_suspended()

    def query_for(
        self, key: bytes, request: ChatRequest, scope: CacheScope
    ) -> tuple[SemanticQuery, float] | None:
        """The question of a request, and its answer's time to live in seconds; None where not admitted."""
        view = self._codecs[request.dialect].view(request.body)
        judged = self._classify(view, scope.tenant)
        query = _query_from((key, time.time(), ""), request, view, scope, judged)
        ttl_s = self._ttl_s if judged.ttl_s is None else min(self._ttl_s, judged.ttl_s)
        return None if query is None or ttl_s <= 0 else (query, ttl_s)

    def _may_learn(self) -> bool:
        """Take one answer from the rate's allowance, if any is left."""
        now_s = time.monotonic()
        earned = (now_s - self._allowance_at_s) * self.max_per_s
        self._allowance = min(max(_MAX_BURST, self.max_per_s), self._allowance + earned)
        self._allowance_at_s = now_s
        if self._allowance < 1:
            self._paused_until_s = now_s + (1 - self._allowance) / self.max_per_s
            return False
        self._allowance -= 1
        return True

    def _report_dropped(self) -> None:
        if self._dropped:
            self._on_settled("dropped", self._dropped)
            self._dropped = 0

    def _scope(self, request: ChatRequest, turn: Turn) -> CacheScope:
        tier = "" if turn.tier is None else turn.tier.value
        user = turn.user if self._sharing is None else self._sharing.scope_of(turn.user)
        return CacheScope(turn.tenant, user, request.model, tier)

    async def drained(self) -> None:
        """Wait until the queue has been worked through."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work through the queue, until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE_S)  # let the answer's last bytes go out first
            while self._jobs:
                self._on_settled(await self._settle(self._jobs[0]), 1)
                self._report_dropped()
                self._jobs.popleft()
                if self._jobs:
                    crowded = len(self._jobs) > _LOAD
                    await asyncio.sleep(_PAUSE_UNDER_LOAD_S if crowded else _PAUSE_S)
            self._idle.set()
            self._wake.clear()
            await self.cache.routes.save(least_changes=_SAVE_AFTER)
            await self._wake.wait()

    async def _settle(self, job: _Job) -> LearningOutcome:
        try:
            return await self._learn(job)
        except StoreError:
            return "away"
        except (UpstreamError, BadRequest):
            return "unreadable"
        except Exception as exc:  # noqa: BLE001 - the edge of a task that must outlive any one answer
            structlog.get_logger().error("semantic_learning_failed", error=type(exc).__name__)
            return "failed"

    async def _learn(self, job: _Job) -> LearningOutcome:
        request, entry = job.request, job.entry
        view = self._codecs[request.dialect].view(request.body)
        judged = job.classification or self._classify(view, job.scope.tenant)
        await asyncio.sleep(0)
        query = (
            job.lookup.query
            if job.lookup is not None
            else _query_from(
                (entry.key, job.asked_unix_s, job.user), request, view, job.scope, judged
            )
        )
        answer = None if query is None else self._answer(entry)
        if query is None or answer is None:
            return "unfit"
        ttl_s = self._ttl_s if judged.ttl_s is None else min(self._ttl_s, judged.ttl_s)
        if ttl_s <= 0:
            return "unfit"
        if self._sharing is not None and not self._sharing.admit_write(query.tenant, job.user):
            return "crowding"
        kept = StoredAnswer(
            group="",
            text=answer.text,
            finish=answer.finish.value,
            model=answer.model,
            tier=entry.tier,
            request_id=entry.request_id,
            route=query.route,
            usage=(entry.usage or answer.usage).counts,
            cost_usd=entry.cost_usd,
            upstream_s=entry.upstream_s,
        )
        fresh = FreshAnswer(kept, entry.model, entry.tags, ttl_s)
        await self.cache.learn(query, fresh, None if job.lookup is None else job.lookup.result)
        return "kept"

    def _answer(self, entry: CachedAnswer) -> Answer | None:
        """The stored answer, if it is admitted and its frames carry nothing beside it."""
        if has_untranslatable_content(entry.pieces):
            return None
        answer = entry.answer or read_answer(
            self._codecs[entry.dialect], entry.pieces, streamed=entry.streamed
        )
        return answer if admits_answer(answer) else None


def _reason(look: Lookup) -> str:
    """The decision's reasons without any word of a question, as they end up in logs."""
    decision = look.decision
    if decision is None:
        return ""
    first, *notes = decision.reasons
    return "; ".join([first, *(note.partition(":")[0] for note in notes)])


def _query_from(
    known: tuple[bytes, float, str],
    request: ChatRequest,
    view: PromptView,
    scope: CacheScope,
    judged: Classification,
) -> SemanticQuery | None:
    """The question to look up or learn; None where it is not admitted.

    ``known``: its exact key, when it was asked, in unix seconds, and by which user.
    """
    partition = (
        partition_key(scope, request) if admits_question(view, judged, request.body) else None
    )
    if partition is None:
        return None
    key, asked_unix_s, user = known
    route = route_name(scope.tenant, scope.model)
    text, asker = view.text.strip(), asker_hash(user)
    return SemanticQuery(key[:16].hex(), partition, route, text, scope.tenant, asked_unix_s, asker)
