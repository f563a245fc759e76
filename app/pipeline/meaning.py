"""What the pipeline does with hits by meaning: look on the path where it pays, learn off it always.

``open`` is the guard on the hot path: two dictionary look-ups. Only where a route has proven its bound
does a request wait, for the look-up's budget. What a model answered is put into a bounded queue, and
one task works through it slowly: reading, judging, comparing, keeping. A full queue drops what comes:
learning may lag behind the traffic, but never slows it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from app.cache.exact import CachedAnswer
from app.cache.explanation import explain
from app.cache.kept_answer import KeptAnswer
from app.cache.key import CacheScope
from app.cache.partition import partition_key
from app.cache.refusal import refuses
from app.cache.semantic import (
    MAX_CHARS,
    FreshAnswer,
    Lookup,
    SemanticCache,
    SemanticQuery,
    route_name,
)
from app.cache.sharing import Sharing, asker_of
from app.cache.standalone import standalone
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import CacheMode, CacheOutcome, Classification, PromptView
from app.domain.events import Answer, Emit, FinishReason, Frames, TextBlock, Whole
from app.domain.replay import replay
from app.domain.usage import Usage
from app.errors import BadRequest, StoreError, UpstreamError
from app.pipeline.decision_log import DecisionLog, SemanticDecision
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.replay import read_answer
from app.ports import Codec
from app.wire.beyond_neutral import tells_more

Settled = Literal["kept", "unfit", "crowding", "unreadable", "away", "dropped", "failed"]
"""What became of an answer that might have been kept; the values of the metric's label."""

Looked = tuple[SemanticQuery, Lookup]
"""A question and what its look-up found."""

_DEFAULT = CacheMode.DEFAULT  # named once: it costs as much as the rest of a look
_MAX_WAITING = 256
_MOST_PER_S = 20.0
"""Learning from an answer costs the vector process about 10 ms: a fifth of a core at this rate. Under more
traffic a sample teaches as well, and the requests keep the machine."""
_MOST_WAITING_AT_ONCE = 64
_MAX_BODY_BYTES = 64 * 1024
_PAUSE_S = 0.01
_PAUSE_UNDER_LOAD_S = 0.05
_LOAD = 32
_SAVE_AFTER = 100
"""Labels that a kill may cost a route."""
_MAX_TEMPERATURE = 1.0
"""Who asks for more wants variety, not what another wording was answered."""
_WHOLE = frozenset({FinishReason.STOP, FinishReason.STOP_SEQUENCE})


@dataclass(frozen=True, slots=True)
class _Job:
    """One whole answer, to be learned from."""

    request: ChatRequest
    scope: CacheScope
    entry: CachedAnswer
    at_unix_s: float
    classification: Classification | None
    looked: Looked | None
    user: str


class Meaning:
    """The semantic cache as the pipeline uses it; one event loop owns it."""

    def __init__(
        self,
        cache: SemanticCache,
        *,
        classify: Callable[[PromptView, str], Classification],
        codecs: Mapping[Dialect, Codec],
        ttl_s: float,
        on_settled: Callable[[Settled, int], None],
        sharing: Sharing | None = None,
        race_for: Collection[str] = (),
        on_race: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing runs until ``run`` does. ``on_settled`` is told what became of how many answers.

        ``race_for``: the tenants whose misses do not wait for the look-up, ``*`` for all; ``on_race`` is told
        who was first, ``look`` or ``model``.
        """
        self._race_for, self.on_race = frozenset(race_for), on_race
        self.cache = cache
        self._routes = cache.routes.by_name
        self._classify, self._codecs = classify, codecs
        self._ttl_s, self._on_settled = ttl_s, on_settled
        self._sharing = sharing
        self._jobs: deque[_Job] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.most_per_s = _MOST_PER_S
        """Answers a second that are learned from; the rest are dropped."""
        self.decisions = DecisionLog()
        self._allowed = float(_MOST_WAITING_AT_ONCE)
        self._allowed_at_s = time.monotonic()
        self._shut_until_s = 0.0
        """Until then nothing is learned, so that most answers under load cost one look at the clock."""
        self._dropped = 0
        """Not told yet."""

    # ---------------------------------------------------------------- on the request's path

    def open(self, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn) -> bool:
        """Whether it may pay to look: the route is open, and no identical request is in flight to join."""
        mode = turn.cache_mode
        if mode is not _DEFAULT and mode is not CacheMode.ONLY:
            return False
        is_open = self.is_open(turn.tenant, request.model)
        return is_open and gateway.flights.running(key) is None

    def races(self, tenant: str) -> bool:
        """Whether this tenant pays for asking the model while the look-up runs."""
        return tenant in self._race_for or "*" in self._race_for

    async def look(self, key: bytes, request: ChatRequest, turn: Turn) -> Looked | None:
        """Look for an answer to another wording; None where that is out of the question.

        While look-ups rest, the request need not even be judged.
        """
        if self.cache.is_suspended():
            turn.cache_reason = "late"
            return None
        with turn.timeline.stage("classifier"):
            view = self._codecs[request.dialect].view(request.body)
            if turn.classification is None:
                turn.classification = self._classify(view, turn.tenant)
            asked = _asked(
                (key, turn.started_unix_s, turn.user),
                request,
                view,
                self._scope(request, turn),
                turn.classification,
            )
        if asked is None:
            return None
        with turn.timeline.stage("embed", "semantic"):
            look = await self.cache.lookup(asked)
        turn.cache_reason = look.outcome
        if look.query is not None and look.decision is not None:
            route = self.cache.routes.loaded(asked.route)
            threshold = None if route is None else route.state.threshold
            words = explain(look.query.view, look.decision, threshold)
            if look.outcome == "unshared":
                words = (*words, "too few users had this answer yet")
            self.decisions.record(
                turn.tenant, turn.request_id, SemanticDecision(words, asked, look)
            )
        return asked, look

    async def tell(
        self, look: Lookup, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
    ) -> None:
        """Tell the hit's answer, kept for other words of the same meaning, in the form that was asked for."""
        if look.hit is None:
            raise ValueError("only a hit can be told")
        if self._sharing is not None:
            await self._sharing.linger()
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
            await emit(Whole(codec.write_answer(answer, request)))
            return
        writer = codec.writer(request)
        pieces = [writer.write(event) for event in replay(answer)]
        await emit(Frames(b"".join([*pieces, writer.end()])))

    async def verdict(self, tenant: str, request_id: str, entry_id: str, *, agreed: bool) -> bool:
        """Take a user's verdict on a hit; a wrong one's entry goes. Says whether it was there."""
        told = self.decisions.get(tenant, request_id)
        query = None if told is None else told.lookup.query
        return await self.cache.feedback(entry_id, agreed=agreed, query=query)

    # ---------------------------------------------------------------- after the answer

    def remember(
        self,
        key: bytes,
        request: ChatRequest,
        gateway: Gateway,
        turn: Turn,
        looked: Looked | None,
    ) -> None:
        """Learn some time later from the answer that was just kept under ``key``, if one was."""
        if self.sated(complete=turn.complete):
            return
        entry = None if gateway.exact is None else gateway.exact.get(key)
        if entry is None or entry.request_id != turn.request_id:
            return  # it did not come whole
        if len(request.raw) > _MAX_BODY_BYTES:
            return
        if len(self._jobs) >= _MAX_WAITING or not self._may_learn():
            self._dropped += 1
            self._tell_dropped()
            return
        scope, at_unix_s = self._scope(request, turn), turn.started_unix_s
        known = turn.classification
        self._jobs.append(_Job(request, scope, entry, at_unix_s, known, looked, turn.user))
        self._idle.clear()
        self._news.set()

    def sated(self, *, complete: bool) -> bool:
        """Whether nothing more is learned now; a ``complete`` answer then counts as dropped."""
        if time.monotonic() < self._shut_until_s:
            self._dropped += complete
            return True
        return False

    def is_open(self, tenant: str, model: str) -> bool:
        """Whether it may pay to look for another wording of what ``tenant`` asks ``model``."""
        return self.has_opened(route_name(tenant, model))

    def has_opened(self, route: str) -> bool:
        """As ``is_open``, by the route's name."""
        found = self._routes.get(route)
        return found is not None and found.state.threshold is not None

    def looks(self, route: str) -> bool:
        """Whether a question of that route is looked up now: it is open, and look-ups do not rest."""
        return self.has_opened(route) and not self.cache.is_suspended()

    def question_of(
        self, key: bytes, request: ChatRequest, scope: CacheScope
    ) -> tuple[SemanticQuery, float] | None:
        """A request as a question that may be met by meaning, and how long its answer lasts, in seconds."""
        view = self._codecs[request.dialect].view(request.body)
        judged = self._classify(view, scope.tenant)
        asked = _asked((key, time.time(), ""), request, view, scope, judged)
        ttl_s = self._ttl_s if judged.ttl_s is None else min(self._ttl_s, judged.ttl_s)
        return None if asked is None or ttl_s <= 0 else (asked, ttl_s)

    def _may_learn(self) -> bool:
        """Take one from the allowance of this second, if any is left."""
        now_s = time.monotonic()
        earned = (now_s - self._allowed_at_s) * self.most_per_s
        self._allowed = min(max(_MOST_WAITING_AT_ONCE, self.most_per_s), self._allowed + earned)
        self._allowed_at_s = now_s
        if self._allowed < 1:
            self._shut_until_s = now_s + (1 - self._allowed) / self.most_per_s
            return False
        self._allowed -= 1
        return True

    def _tell_dropped(self) -> None:
        if self._dropped:
            self._on_settled("dropped", self._dropped)
            self._dropped = 0

    def _scope(self, request: ChatRequest, turn: Turn) -> CacheScope:
        tier = "" if turn.tier is None else turn.tier.value
        user = turn.user if self._sharing is None else self._sharing.scope_of(turn.user)
        return CacheScope(turn.tenant, user, request.model, tier)

    async def settled(self) -> None:
        """Wait until everything that was remembered so far has been worked through."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work through what was remembered, until cancelled."""
        while True:
            await asyncio.sleep(_PAUSE_S)  # the answer's last bytes go out first
            while self._jobs:
                self._on_settled(await self._settle(self._jobs[0]), 1)
                self._tell_dropped()
                self._jobs.popleft()
                if self._jobs:
                    crowded = len(self._jobs) > _LOAD
                    await asyncio.sleep(_PAUSE_UNDER_LOAD_S if crowded else _PAUSE_S)
            self._idle.set()
            self._news.clear()
            await self.cache.routes.save(least_changes=_SAVE_AFTER)
            await self._news.wait()

    async def _settle(self, job: _Job) -> Settled:
        try:
            return await self._learn(job)
        except StoreError:
            return "away"
        except (UpstreamError, BadRequest):
            return "unreadable"
        except Exception as exc:  # noqa: BLE001 - the edge of a task that must outlive any one answer
            structlog.get_logger().error("semantic_learning_failed", error=type(exc).__name__)
            return "failed"

    async def _learn(self, job: _Job) -> Settled:
        request, entry = job.request, job.entry
        view = self._codecs[request.dialect].view(request.body)
        judged = job.classification or self._classify(view, job.scope.tenant)
        await asyncio.sleep(0)
        asked = (
            job.looked[0]
            if job.looked is not None
            else _asked((entry.key, job.at_unix_s, job.user), request, view, job.scope, judged)
        )
        answer = None if asked is None else self._answer(entry)
        if asked is None or answer is None:
            return "unfit"
        ttl_s = self._ttl_s if judged.ttl_s is None else min(self._ttl_s, judged.ttl_s)
        if ttl_s <= 0:
            return "unfit"
        if self._sharing is not None and not self._sharing.may_write(asked.tenant, job.user):
            return "crowding"
        kept = KeptAnswer(
            group="",
            text=answer.text,
            finish=answer.finish.value,
            model=answer.model,
            tier=entry.tier,
            request_id=entry.request_id,
            route=asked.route,
            usage=(entry.usage or answer.usage).counts,
            cost_usd=entry.cost_usd,
            upstream_s=entry.upstream_s,
        )
        fresh = FreshAnswer(kept, entry.model, entry.tags, ttl_s)
        await self.cache.learn(asked, fresh, None if job.looked is None else job.looked[1])
        return "kept"

    def _answer(self, entry: CachedAnswer) -> Answer | None:
        """The answer, if it is whole and text alone, and says nothing beside it."""
        if tells_more(entry.pieces):
            return None
        answer = entry.answer or read_answer(
            self._codecs[entry.dialect], entry.pieces, streamed=entry.streamed
        )
        plain = answer.finish in _WHOLE and bool(answer.text.strip()) and not refuses(answer.text)
        return answer if plain and all(isinstance(b, TextBlock) for b in answer.blocks) else None


def _reason(look: Lookup) -> str:
    """The decision's reasons without any word of a question: what is said here ends up in logs."""
    decision = look.decision
    if decision is None:
        return ""
    first, *notes = decision.reasons
    return "; ".join([first, *(note.partition(":")[0] for note in notes)])


def _asked(
    known: tuple[bytes, float, str],
    request: ChatRequest,
    view: PromptView,
    scope: CacheScope,
    judged: Classification,
) -> SemanticQuery | None:
    """The question, if an answer to another wording of it may be considered at all.

    ``known``: its exact key, when it was asked, in unix seconds, and by which user.
    """
    text = view.text.strip()
    if not judged.semantic_ok or not text or len(text) > MAX_CHARS:
        return None
    if view.has_images or view.after_tool_result or view.tool_names:
        return None
    if view.turns > 1 and not standalone(text):
        return None
    temperature = request.body.get("temperature")
    if isinstance(temperature, int | float) and temperature > _MAX_TEMPERATURE:
        return None
    partition = partition_key(scope, request)
    if partition is None:
        return None
    route = route_name(scope.tenant, scope.model)
    asker = asker_of(known[2])
    return SemanticQuery(known[0][:16].hex(), partition, route, text, scope.tenant, known[1], asker)
