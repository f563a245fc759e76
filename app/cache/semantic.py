"""Semantic hits: a stored answer serves another wording, where the bound on wrong hits is certified.

A route (`app.cache.routes`) starts in shadow mode. There the store is not asked while a client waits:
look-up, decision, comparison of the fresh answer with the stored ones (a label) and storing all happen
after the answer was sent (`learn`). Once the route's labels certify a threshold it is open, and `lookup`
runs on the request's path, within a budget; what comes too late counts as a miss and is learned from.

Only text answers are stored. The whole answer lies beside its vector, so hits survive a restart and
need no other store. An entry has the id of the exact cache's entry for the same request, so that
invalidation and verdicts reach both by one id.

Invalidation is a barrier in this process first (in force for the very next look-up, and for answers
still being made), then a removal in the store, repeated until the store has done it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal, Protocol

import msgspec
import numpy as np

from app.cache.agreement import answers_agree
from app.cache.decision import CandidateView, Decision, QueryView, decide
from app.cache.pending_removals import PendingRemovals
from app.cache.question_barriers import QuestionBarriers
from app.cache.routes import Route, RouteStore
from app.cache.sharing import Sharing
from app.cache.stored_answer import StoredAnswer, answer_of, askers_of
from app.cache.text_view import TextView, analyse
from app.cache.verifier import NEIGHBOURS
from app.domain.invalidation import InvalidationFilter
from app.domain.vectors import (
    Embedder,
    Neighbour,
    QuestionFilter,
    StoredQuestion,
    TextTooLong,
    VectorSearchResult,
    VectorStore,
)
from app.errors import StoreError

LookupOutcome = Literal[
    "hit", "absent", "below_bound", "vetoed", "audited", "unshared", "late", "away", "too_long"
]
"""How a look-up ended: the values of the metric's label, and the reasons of misses."""

BUDGET_S: Final = 0.005
MAX_CHARS: Final = 1_500
"""Longer texts are over the encoder's window in any language: not sent to it at all."""
_MAX_ANSWER_CHARS: Final = 200_000
_MAX_LATE_IN_A_ROW: Final = 5
_SUSPENSION_S: Final = 1.0
_MAX_VIEWS: Final = 4_096
_ID: Final = re.compile(r"[0-9a-f]{32}")


class QuestionStore(VectorStore, Embedder, Protocol):
    """Encoder and vector store in one: vector and neighbours of a text in one round trip."""

    @property
    def build_id(self) -> str:
        """Names the encoder; "" while it is away."""
        ...

    async def recall(self, text: str, partition: str, k: int) -> VectorSearchResult | TextTooLong:
        """The vector of ``text`` and the ``k`` nearest live questions of ``partition``."""
        ...


@dataclass(frozen=True, slots=True)
class SemanticQuery:
    """A question, as the semantic cache sees it."""

    entry_id: str
    """The exact cache's id of this request."""
    partition: str
    route: str
    text: str
    tenant: str
    asked_unix_s: float
    asker: str = ""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The result of a look-up; ``hit`` only where it may be served."""

    outcome: LookupOutcome
    query: QueryView | None = None
    neighbours: tuple[Neighbour, ...] = ()
    decision: Decision | None = None
    hit: tuple[StoredQuestion, StoredAnswer] | None = None


@dataclass(frozen=True, slots=True)
class FreshAnswer:
    """A whole answer from a model, to be compared with the stored ones and stored."""

    answer: StoredAnswer
    """With its ``group`` still empty."""
    model: str
    tags: tuple[str, ...]
    ttl_s: float


class SemanticCache:
    """One gateway worker's semantic cache; one event loop owns it."""

    def __init__(
        self,
        memory: QuestionStore,
        routes: RouteStore,
        *,
        rng: Random,
        on_lookup: Callable[[LookupOutcome], None],
        budget_s: float = BUDGET_S,
        sharing: Sharing | None = None,
        pending_removals: PendingRemovals | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``budget_s``: the longest that a look-up may delay a request. ``clock``: unix seconds.

        ``pending_removals``: what the store could not remove yet.
        """
        self.store, self.routes = memory, routes
        self.budget_s = budget_s
        self._sharing = sharing
        self._rng, self._on_lookup, self._clock = rng, on_lookup, clock
        self._views: OrderedDict[str, TextView] = OrderedDict()
        self._late_in_a_row, self._suspended_until_s = 0, 0.0
        self._barriers = QuestionBarriers()
        self._pending_removals = (
            PendingRemovals(None) if pending_removals is None else pending_removals
        )
        self.on_fault: Callable[[str], None] = lambda _: None
        """Called with what is wrong with the store, and with "" once it works again."""
        self._fault = ""

    # ---------------------------------------------------------------- on the request's path

    def is_suspended(self) -> bool:
        """Whether look-ups are suspended because several were late; counts this one as late."""
        if self._clock() >= self._suspended_until_s:
            return False
        self._on_lookup("late")
        return True

    async def lookup(self, asked: SemanticQuery) -> Lookup:
        """Look for an answer that may be served, within the budget; never raises."""
        found = await self._lookup_within_budget(asked)
        self._on_lookup(found.outcome)
        return found

    async def _lookup_within_budget(self, asked: SemanticQuery) -> Lookup:
        route = self.routes.loaded(asked.route)
        if route is None or self._clock() < self._suspended_until_s:
            return Lookup("late" if route is not None else "absent")
        if self._pending_removals:  # what was invalidated may still be in the store
            return Lookup("away")
        # Runs once the question is sent: the encoder works in another process meanwhile.
        asyncio.get_running_loop().call_soon(self._analysed, asked.text)
        try:
            async with asyncio.timeout(self.budget_s):
                recalled = await self.store.recall(asked.text, asked.partition, NEIGHBOURS)
        except TimeoutError:
            self._late_in_a_row += 1
            if (
                self._late_in_a_row >= _MAX_LATE_IN_A_ROW
            ):  # the next one after the suspension is the probe
                self._late_in_a_row, self._suspended_until_s = (
                    _MAX_LATE_IN_A_ROW - 1,
                    self._clock() + _SUSPENSION_S,
                )
                self._report_fault(
                    f"{_MAX_LATE_IN_A_ROW} look-ups in a row took over {self.budget_s * 1000:g} ms"
                )
            return Lookup("late")
        except StoreError:
            return Lookup("away")
        self._late_in_a_row = 0
        if self._fault:
            self._report_fault("")
        return self._decide(asked, recalled, route)

    def _decide(
        self, asked: SemanticQuery, recalled: VectorSearchResult | TextTooLong, route: Route
    ) -> Lookup:
        if isinstance(recalled, TextTooLong):
            return Lookup("too_long")
        near = tuple(each for each in recalled.near if self._is_live(each.question, asked))
        query = QueryView(self._analysed(asked.text), np.frombuffer(recalled.vector, dtype="<f4"))
        answers = [answer_of(each.question) for each in near]
        candidates = [
            CandidateView(
                n.question.id,
                self._analysed(n.question.text),
                n.cosine,
                a.group,
                n.question.kept_unix_s,
            )
            for n, a in zip(near, answers, strict=True)
            if a is not None
        ]
        decision = decide(query, candidates, route.state, self._rng)
        word = _outcome(decision)
        hit = None
        if decision.serve and decision.candidate is not None:
            entry = decision.candidate.entry
            hit = next(
                ((n.question, a) for n, a in zip(near, answers, strict=True)
                 if a is not None and n.question.id == entry), None,
            )  # fmt: skip
        if hit is not None and not self._admits(asked, hit[1], answers):
            # The model is asked instead, so it is learned from like an audit.
            route.state.hits -= 1
            decision, word, hit = replace(decision, serve=False, audit=True), "unshared", None
        return Lookup(word, query, near, decision, hit)

    def _admits(
        self, asked: SemanticQuery, chosen: StoredAnswer, answers: Sequence[StoredAnswer | None]
    ) -> bool:
        """Whether enough users had the chosen answer from a model for this one to see it."""
        if self._sharing is None:
            return True
        agreeing = [who for a in answers if a and a.group == chosen.group for who in a.askers]
        return self._sharing.admits_entry(asked.asker, chosen.askers, agreeing)

    def _is_live(self, question: StoredQuestion, asked: SemanticQuery) -> bool:
        """Whether ``question`` may be served at all: same partition, not expired, not invalidated."""
        if question.partition != asked.partition or question.tenant != asked.tenant:
            return False
        return question.expires_unix_s > self._clock() and not self._barriers.blocks(question)

    def _analysed(self, text: str) -> TextView:
        known = self._views.get(text)
        if known is None:
            known = self._views[text] = analyse(text)
            if len(self._views) > _MAX_VIEWS:
                self._views.popitem(last=False)
        return known

    # ---------------------------------------------------------------- after the answer

    async def _analyse_neighbours(self, recalled: VectorSearchResult | TextTooLong) -> None:
        """Analyse the neighbours' texts, yielding to the loop after each."""
        for each in () if isinstance(recalled, TextTooLong) else recalled.near:
            self._analysed(each.question.text)
            await asyncio.sleep(0)

    async def learn(self, asked: SemanticQuery, fresh: FreshAnswer, look: Lookup | None) -> None:
        """Label, learn from and store a fresh answer; raises ``StoreError`` where the store is away.

        ``look``: the request's own look-up; None where none was made in time.
        """
        await self._apply_pending_removals()
        if not self.store.build_id:
            raise StoreError("the vector process is away", code="store_away")
        route = await self.routes.load(asked.route)
        if look is None or look.decision is None:
            recalled = await self.store.recall(asked.text, asked.partition, NEIGHBOURS)
            await self._analyse_neighbours(recalled)
            look = self._decide(asked, recalled, route)
            if look.outcome == "too_long":
                self._on_lookup("too_long")
        if look.query is None or look.decision is None:
            return
        decision = look.decision
        if decision.serve:  # too late to be served: it counts as an audited hit
            route.state.hits -= 1
            decision = replace(decision, serve=False, audit=True)
        group = await self._answer_group(fresh.answer.text, look.neighbours, asked.entry_id)
        if self._sharing is not None:
            askers = askers_of((asked.entry_id, asked.asker), group, look.neighbours)
            fresh = replace(fresh, answer=msgspec.structs.replace(fresh.answer, askers=askers))
        route.state.learn(look.query, group, decision, at_s=asked.asked_unix_s)
        route.unsaved_changes += 1
        # Its verdicts were on the answer that this one replaces.
        route.state.entries.pop(asked.entry_id, None)
        await self._store_answer(asked, fresh, group, look.query)
        if route.state.refit_due:
            await self.routes.fit(route)

    async def _answer_group(self, text: str, near: tuple[Neighbour, ...], entry_id: str) -> str:
        """Return the group of the first stored answer that agrees, nearest first, or a new one."""
        differing = set()
        for each in near:
            answer = answer_of(each.question)
            if answer is None or answer.group in differing:
                continue
            await asyncio.sleep(0)  # a comparison takes up to a millisecond: let requests run
            if answers_agree(text, answer.text):
                return answer.group
            differing.add(answer.group)
        return f"{entry_id}:{self._clock():.3f}"

    async def import_answer(self, asked: SemanticQuery, fresh: FreshAnswer) -> bool:
        """Store an answer that no request asked for, without a label. False: over the encoder's window."""
        await self._apply_pending_removals()
        if not self.store.build_id:
            raise StoreError("the vector process is away", code="store_away")
        recalled = await self.store.recall(asked.text, asked.partition, NEIGHBOURS)
        if isinstance(recalled, TextTooLong):
            return False
        near = tuple(each for each in recalled.near if self._is_live(each.question, asked))
        group = await self._answer_group(fresh.answer.text, near, asked.entry_id)
        vector = np.frombuffer(recalled.vector, dtype="<f4")
        await self._store_answer(asked, fresh, group, QueryView(self._analysed(asked.text), vector))
        return True

    def live_answer(self, question: StoredQuestion) -> StoredAnswer | None:
        """The answer of a stored question, unless it is invalidated or another version's."""
        return None if self._barriers.blocks(question) else answer_of(question)

    async def _store_answer(
        self, asked: SemanticQuery, fresh: FreshAnswer, group: str, query: QueryView
    ) -> None:
        if len(fresh.answer.text) > _MAX_ANSWER_CHARS:
            return
        question = StoredQuestion(
            id=asked.entry_id,
            partition=asked.partition,
            tenant=asked.tenant,
            model=fresh.model,
            tags=fresh.tags,
            kept_unix_s=asked.asked_unix_s,
            expires_unix_s=self._clock() + fresh.ttl_s,
            text=asked.text,
            body=msgspec.json.encode(msgspec.structs.replace(fresh.answer, group=group)).decode(),
        )
        if question.kept_unix_s <= self._barriers.floor_unix_s or self._barriers.blocks(question):
            return
        try:
            await self.store.keep(question, query.vector.astype("<f4").tobytes())
        except StoreError as exc:
            self._report_fault(f"an answer could not be kept: {exc.message}")
            raise
        if self._fault:
            self._report_fault("")

    def _report_fault(self, trouble: str) -> None:
        """Report what is wrong with the store, or "" that it works again; once each."""
        if trouble != self._fault:
            self._fault = trouble
            self.on_fault(trouble)

    # ---------------------------------------------------------------- verdicts and invalidation

    async def feedback(
        self, entry_id: str, *, agreed: bool, query: QueryView | None = None
    ) -> bool:
        """Take a verdict on a served hit; a wrong one's entry is removed. Returns whether it was stored.

        ``query``: what was asked; its wrong answer's whole group is never served for it again.
        """
        try:
            question = await self.store.fetch(entry_id)
        except StoreError:
            question = None
        answer = None if question is None else answer_of(question)
        if answer is not None:
            route = await self.routes.load(answer.route)
            route.state.feedback(entry_id, agreed=agreed)
            if query is not None and not agreed:
                route.state.report_wrong(query, answer.group)
            route.unsaved_changes += 1
        return not agreed and await self.remove(entry_id)

    async def fetch(self, entry_id: str, tenant: str) -> tuple[StoredQuestion, StoredAnswer] | None:
        """One live entry of ``tenant``; None also where the store cannot be asked."""
        try:
            question = await self.store.fetch(entry_id) if _ID.fullmatch(entry_id) else None
        except StoreError:
            return None
        if question is None or question.tenant != tenant or self._barriers.blocks(question):
            return None
        answer = answer_of(question)
        return None if answer is None else (question, answer)

    async def remove(self, entry_id: str) -> bool:
        """Remove one entry, in force at once; returns whether the store had it."""
        if _ID.fullmatch(entry_id) is None:
            return False
        self.block(InvalidationFilter("", entry_id=entry_id))
        try:
            return bool(await self.store.remove((entry_id,)))
        except StoreError:
            self._pending_removals.add((entry_id,))
            return False

    def block(self, what: InvalidationFilter) -> None:
        """Serve nothing that matches and was asked by now, whatever the store still has."""
        if what.entry_id:
            self._barriers.add_entry(what.entry_id, self._clock())
        else:
            self._barriers.add(QuestionFilter(what.tenant, what.model, what.tags), self._clock())

    async def invalidate(self, which: QuestionFilter) -> int:
        """Remove what matches, in force at once; returns how many the store had (0 where it is away)."""
        self._barriers.add(which, self._clock())
        try:
            return await self.store.remove_where(which)
        except StoreError:
            self._pending_removals.add(which)
            return 0

    async def _apply_pending_removals(self) -> None:
        """Do the removals that the store could not do before; raises ``StoreError`` if it still cannot."""
        while self._pending_removals:
            pending = self._pending_removals.oldest()
            if isinstance(pending, QuestionFilter):
                await self.store.remove_where(pending)
            else:
                await self.store.remove(pending)
            self._pending_removals.remove_oldest()

    # ---------------------------------------------------------------- statistics

    def stats(self, tenant: str) -> list[dict[str, object]]:
        """Each of the tenant's routes: its mode, the bound in force and its evidence."""
        rows = []
        for route in self.routes.all_loaded():
            owner, _, model = route.name.partition("\x00")
            if owner != tenant:
                continue
            state, threshold = route.state, route.state.threshold
            rows.append(
                {
                    "model": model,
                    "mode": state.mode,
                    "labels": state.labels,
                    "requests": state.requests,
                    "hits": state.hits,
                    "audited": state.audited,
                    "audited_wrong": state.audited_wrong,
                    "observed_false_hit_rate": (
                        state.audited_wrong / state.audited if state.audited else None
                    ),
                    "alarms": state.alarms,
                    "careful": state.on_probation,
                    "evidence_of_change": round(state.drift.evidence, 2),
                    "denied": len(state.denied),
                    "limit_per_request": state.limits.per_request,
                    "limit_per_hit": state.limits.per_hit,
                    "threshold": None if threshold is None else threshold.score,
                    "bound_per_request": None if threshold is None else threshold.upper_per_request,
                    "bound_per_hit": None if threshold is None else threshold.upper_per_hit,
                    "evidence_labels": 0 if threshold is None else threshold.labels,
                    "evidence_hits": 0 if threshold is None else threshold.hits,
                    "evidence_wrong": 0 if threshold is None else threshold.wrong,
                }
            )
        return rows

    async def aclose(self) -> None:
        """Write what was learned."""
        self.routes.stop_fit()
        await self.routes.save()


def route_name(tenant: str, model: str) -> str:
    """The route of a tenant's requests for ``model``, as asked."""
    return f"{tenant}\x00{model}"


def _outcome(decision: Decision) -> LookupOutcome:
    if decision.serve:
        return "hit"
    if decision.audit:
        return "audited"
    if decision.candidate is None:
        return "absent"
    return "vetoed" if decision.score == 0.0 else "below_bound"
