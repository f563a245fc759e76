"""Hits by meaning: a kept answer serves another wording, where the bound of error is proven.

Theory of operation. A route (`app.cache.routes`) starts in shadow mode. There, nothing is asked of
the vector process while a client waits: the look-up, the decision, the comparison of the fresh
answer with the stored ones (a label), and the keeping all happen after the answer was sent
(`settle`). Once the route's labels certify a threshold it is open, and `look` asks on the request's
path, within a budget; what comes too late counts as a miss and is learned from all the same.

What is kept: answers that are text alone. The whole answer lies beside its vector, so hits survive a
restart and need no other store. An entry has the id of the exact cache's entry for the same request,
so that invalidation and verdicts reach both by one name.

Invalidation is a barrier in this process first (in force for the very next look-up, and for answers
that are still being made), then a removal in the store, repeated until the store has done it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final, Literal, Protocol

import msgspec
import numpy as np

from app.cache.agreement import answers_agree
from app.cache.decision import CandidateView, Decision, QueryView, decide
from app.cache.kept import KeptAnswer, answer_of, askers_of
from app.cache.owed import Owed
from app.cache.routes import Route, Routes
from app.cache.sharing import Sharing
from app.cache.text_view import TextView, view
from app.cache.verifier import NEIGHBOURS
from app.domain.invalidation import Forget
from app.domain.vectors import (
    Embedder,
    KeptQuestion,
    Neighbour,
    Recalled,
    Unreadable,
    VectorStore,
    Which,
)
from app.errors import StoreError

Word = Literal[
    "hit", "absent", "below_bound", "vetoed", "audited", "unshared", "late", "away", "too_long"
]
"""What became of a look-up; the values of the metric's label and the reasons of misses."""

BUDGET_S: Final = 0.005
MAX_CHARS: Final = 1_500
"""Longer texts are over the encoder's window in any language: not sent to it at all."""
_MAX_ANSWER_CHARS: Final = 200_000
_LATE_IN_A_ROW: Final = 5
_REST_S: Final = 1.0
_VIEWS: Final = 4_096
_BARRIERS: Final = 512
_ID: Final = re.compile(r"[0-9a-f]{32}")


class Memory(VectorStore, Embedder, Protocol):
    """Where questions are kept; asked for vector and neighbours in one round trip."""

    @property
    def build_id(self) -> str:
        """Names the encoder; "" while it is away."""
        ...

    async def recall(self, text: str, partition: str, k: int) -> Recalled | Unreadable:
        """The vector of ``text`` and the ``k`` nearest live questions of ``partition``."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, as the cache sees it."""

    entry_id: str
    """The exact cache's id of this request."""
    partition: str
    route: str
    text: str
    tenant: str
    at_unix_s: float
    asker: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look-up found; ``hit`` only where it may be served."""

    word: Word
    query: QueryView | None = None
    near: tuple[Neighbour, ...] = ()
    decision: Decision | None = None
    hit: tuple[KeptQuestion, KeptAnswer] | None = None


@dataclass(frozen=True, slots=True)
class Fresh:
    """A whole answer from a model, to be compared and kept."""

    answer: KeptAnswer
    """Its ``group`` is not known yet."""
    model: str
    tags: tuple[str, ...]
    ttl_s: float


class SemanticCache:
    """One gateway worker's view on the questions kept; one event loop owns it."""

    def __init__(
        self,
        memory: Memory,
        routes: Routes,
        *,
        rng: Random,
        on_look: Callable[[Word], None],
        budget_s: float = BUDGET_S,
        sharing: Sharing | None = None,
        owed: Owed | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``budget_s``: the longest a look-up may hold a request up. ``clock``: unix seconds.

        ``owed``: removals that the store could not do yet.
        """
        self.memory, self.routes = memory, routes
        self.budget_s = budget_s
        self._sharing = sharing
        self._rng, self._on_look, self._clock = rng, on_look, clock
        self._views: OrderedDict[str, TextView] = OrderedDict()
        self._late, self._rest_until_s = 0, 0.0
        self._barriers: deque[tuple[Which, float]] = deque()
        self._floor_unix_s = 0.0
        """What began by then may match a barrier that is not remembered any more."""
        self._gone: OrderedDict[str, float] = OrderedDict()
        self._owed = Owed(None) if owed is None else owed
        self.on_fault: Callable[[str], None] = lambda _: None
        """Told what is wrong with what is kept, and "" once it is well again."""
        self._trouble = ""

    # ---------------------------------------------------------------- on the request's path

    def rests(self) -> bool:
        """Whether nothing is looked up for a while, as several were late; counted as another one."""
        if self._clock() >= self._rest_until_s:
            return False
        self._on_look("late")
        return True

    async def look(self, asked: Asked) -> Look:
        """Look for an answer that may be served, for at most the budget; never raises."""
        found = await self._look(asked)
        self._on_look(found.word)
        return found

    async def _look(self, asked: Asked) -> Look:
        route = self.routes.known(asked.route)
        if route is None or self._clock() < self._rest_until_s:
            return Look("late" if route is not None else "absent")
        if self._owed:  # what was invalidated may still be there
            return Look("away")
        # Runs once the question is on its way: the encoder takes its time in another process.
        asyncio.get_running_loop().call_soon(self._view, asked.text)
        try:
            async with asyncio.timeout(self.budget_s):
                recalled = await self.memory.recall(asked.text, asked.partition, NEIGHBOURS)
        except TimeoutError:
            self._late += 1
            if self._late >= _LATE_IN_A_ROW:  # the next look after the rest is the probe
                self._late, self._rest_until_s = _LATE_IN_A_ROW - 1, self._clock() + _REST_S
                self._say(
                    f"{_LATE_IN_A_ROW} look-ups in a row took over {self.budget_s * 1000:g} ms"
                )
            return Look("late")
        except StoreError:
            return Look("away")
        self._late = 0
        if self._trouble:
            self._say("")
        return self._judge(asked, recalled, route)

    def _judge(self, asked: Asked, recalled: Recalled | Unreadable, route: Route) -> Look:
        if isinstance(recalled, Unreadable):
            return Look("too_long")
        near = tuple(each for each in recalled.near if self._live(each.question, asked))
        query = QueryView(self._view(asked.text), np.frombuffer(recalled.vector, dtype="<f4"))
        answers = [answer_of(each.question) for each in near]
        candidates = [
            CandidateView(
                n.question.id,
                self._view(n.question.text),
                n.cosine,
                a.group,
                n.question.kept_unix_s,
            )
            for n, a in zip(near, answers, strict=True)
            if a is not None
        ]
        decision = decide(query, candidates, route.state, self._rng)
        word = _word(decision)
        hit = None
        if decision.serve and decision.candidate is not None:
            entry = decision.candidate.entry
            hit = next(
                ((n.question, a) for n, a in zip(near, answers, strict=True)
                 if a is not None and n.question.id == entry), None,
            )  # fmt: skip
        if hit is not None and not self._shared(asked, hit[1], answers):
            # The model is asked instead, so it teaches like an audit.
            route.state.hits -= 1
            decision, word, hit = replace(decision, serve=False, audit=True), "unshared", None
        return Look(word, query, near, decision, hit)

    def _shared(
        self, asked: Asked, chosen: KeptAnswer, answers: Sequence[KeptAnswer | None]
    ) -> bool:
        """Whether enough users had the chosen answer from a model for this one to be shown it."""
        if self._sharing is None:
            return True
        agreeing = [who for a in answers if a and a.group == chosen.group for who in a.askers]
        return self._sharing.admits_askers(asked.asker, chosen.askers, agreeing)

    def _live(self, question: KeptQuestion, asked: Asked) -> bool:
        """Whether ``question`` may be shown at all: its own partition, not expired, not invalidated."""
        if question.partition != asked.partition or question.tenant != asked.tenant:
            return False
        return question.expires_unix_s > self._clock() and not self._barred(question)

    def _barred(self, question: KeptQuestion) -> bool:
        removed_at = self._gone.get(question.id)
        if removed_at is not None and question.kept_unix_s <= removed_at:
            return True
        return any(
            question.kept_unix_s <= at and which.matches(question) for which, at in self._barriers
        )

    def _view(self, text: str) -> TextView:
        known = self._views.get(text)
        if known is None:
            known = self._views[text] = view(text)
            if len(self._views) > _VIEWS:
                self._views.popitem(last=False)
        return known

    # ---------------------------------------------------------------- after the answer

    async def _prepare(self, recalled: Recalled | Unreadable) -> None:
        """Analyse what will be compared, a text at a time."""
        for each in () if isinstance(recalled, Unreadable) else recalled.near:
            self._view(each.question.text)
            await asyncio.sleep(0)

    async def settle(self, asked: Asked, fresh: Fresh, look: Look | None) -> None:
        """Compare, learn and keep; raises ``StoreError`` where the store cannot be asked.

        ``look``: what the request's own look-up found; None where none was made in time.
        """
        await self._pay()
        if not self.memory.build_id:
            raise StoreError("the vector process is away", code="store_away")
        route = await self.routes.get(asked.route)
        if look is None or look.decision is None:
            recalled = await self.memory.recall(asked.text, asked.partition, NEIGHBOURS)
            await self._prepare(recalled)
            look = self._judge(asked, recalled, route)
            if look.word == "too_long":
                self._on_look("too_long")
        if look.query is None or look.decision is None:
            return
        decision = look.decision
        if decision.serve:  # it came too late to be served: a would-be hit that the model was asked
            route.state.hits -= 1
            decision = replace(decision, serve=False, audit=True)
        group = await self._group(fresh.answer.text, look.near, asked.entry_id)
        if self._sharing is not None:
            askers = askers_of((asked.entry_id, asked.asker), group, look.near)
            fresh = replace(fresh, answer=msgspec.structs.replace(fresh.answer, askers=askers))
        route.state.learn(look.query, group, decision, at_s=asked.at_unix_s)
        route.changes += 1
        # Verdicts were on the answer that this replaces.
        route.state.entries.pop(asked.entry_id, None)
        await self._keep(asked, fresh, group, look.query)
        if route.state.refit_due:
            await self.routes.fit(route)

    async def _group(self, text: str, near: tuple[Neighbour, ...], entry_id: str) -> str:
        """The group of the first stored answer that agrees, nearest first, or a new one."""
        differing = set()
        for each in near:
            answer = answer_of(each.question)
            if answer is None or answer.group in differing:
                continue
            await asyncio.sleep(0)  # a comparison takes up to a millisecond: requests come between
            if answers_agree(text, answer.text):
                return answer.group
            differing.add(answer.group)
        return f"{entry_id}:{self._clock():.3f}"

    async def give(self, asked: Asked, fresh: Fresh) -> bool:
        """Keep an answer that no request asked for; learns nothing from it. False: too long to be met."""
        await self._pay()
        if not self.memory.build_id:
            raise StoreError("the vector process is away", code="store_away")
        recalled = await self.memory.recall(asked.text, asked.partition, NEIGHBOURS)
        if isinstance(recalled, Unreadable):
            return False
        near = tuple(each for each in recalled.near if self._live(each.question, asked))
        group = await self._group(fresh.answer.text, near, asked.entry_id)
        vector = np.frombuffer(recalled.vector, dtype="<f4")
        await self._keep(asked, fresh, group, QueryView(self._view(asked.text), vector))
        return True

    def read(self, question: KeptQuestion) -> KeptAnswer | None:
        """The answer of a kept question, if it may still be shown."""
        return None if self._barred(question) else answer_of(question)

    async def _keep(self, asked: Asked, fresh: Fresh, group: str, query: QueryView) -> None:
        if len(fresh.answer.text) > _MAX_ANSWER_CHARS:
            return
        question = KeptQuestion(
            id=asked.entry_id,
            partition=asked.partition,
            tenant=asked.tenant,
            model=fresh.model,
            tags=fresh.tags,
            kept_unix_s=asked.at_unix_s,
            expires_unix_s=self._clock() + fresh.ttl_s,
            text=asked.text,
            body=msgspec.json.encode(msgspec.structs.replace(fresh.answer, group=group)).decode(),
        )
        if question.kept_unix_s <= self._floor_unix_s or self._barred(question):
            return
        try:
            await self.memory.keep(question, query.vector.astype("<f4").tobytes())
        except StoreError as exc:
            self._say(f"an answer could not be kept: {exc.message}")
            raise
        if self._trouble:
            self._say("")

    def _say(self, trouble: str) -> None:
        """Tell, once, what is wrong with the store, or that it is well again."""
        if trouble != self._trouble:
            self._trouble = trouble
            self.on_fault(trouble)

    # ---------------------------------------------------------------- verdicts and invalidation

    async def feedback(
        self, entry_id: str, *, agreed: bool, query: QueryView | None = None
    ) -> bool:
        """Take a verdict on a served hit; a wrong one's entry is removed. Says whether it was there.

        ``query``: what was asked; a wrong answer to it, in whatever words it is kept, is not served again.
        """
        try:
            question = await self.memory.fetch(entry_id)
        except StoreError:
            question = None
        answer = None if question is None else answer_of(question)
        if answer is not None:
            route = await self.routes.get(answer.route)
            route.state.feedback(entry_id, agreed=agreed)
            if query is not None and not agreed:
                route.state.deny(query, answer.group)
            route.changes += 1
        return not agreed and await self.remove(entry_id)

    async def fetch(self, entry_id: str, tenant: str) -> tuple[KeptQuestion, KeptAnswer] | None:
        """One live entry of ``tenant``; None also where the store cannot be asked."""
        try:
            question = await self.memory.fetch(entry_id) if _ID.fullmatch(entry_id) else None
        except StoreError:
            return None
        if question is None or question.tenant != tenant or self._barred(question):
            return None
        answer = answer_of(question)
        return None if answer is None else (question, answer)

    async def remove(self, entry_id: str) -> bool:
        """Forget one entry from now on; says whether the store had it."""
        if _ID.fullmatch(entry_id) is None:
            return False
        self.bar(Forget("", entry_id=entry_id))
        try:
            return bool(await self.memory.remove((entry_id,)))
        except StoreError:
            self._owed.add((entry_id,))
            return False

    def bar(self, what: Forget) -> None:
        """Show nothing that matches from now on, whatever the store still has."""
        now_s = self._clock()
        if not what.entry_id:
            self._bar(Which(what.tenant, what.model, what.tags), now_s)
            return
        self._gone[what.entry_id] = now_s
        self._gone.move_to_end(what.entry_id)
        if len(self._gone) > _BARRIERS:
            self._floor_unix_s = max(self._floor_unix_s, self._gone.popitem(last=False)[1])

    def _bar(self, which: Which, now_s: float) -> None:
        self._barriers.append((which, now_s))
        if len(self._barriers) > _BARRIERS:
            self._floor_unix_s = max(self._floor_unix_s, self._barriers.popleft()[1])

    async def invalidate(self, which: Which) -> int:
        """Forget what matches from now on; says how many the store had (0 where it is away)."""
        self._bar(which, self._clock())
        try:
            return await self.memory.remove_where(which)
        except StoreError:
            self._owed.add(which)
            return 0

    async def _pay(self) -> None:
        """Do the removals that the store could not do when they were asked for."""
        while self._owed:
            owed = self._owed.first()
            if isinstance(owed, Which):
                await self.memory.remove_where(owed)
            else:
                await self.memory.remove(owed)
            self._owed.done()

    # ---------------------------------------------------------------- what it says about itself

    def stats(self, tenant: str) -> list[dict[str, object]]:
        """Each route of ``tenant``: its mode, the bound in force and the evidence for it."""
        told = []
        for route in self.routes.all():
            owner, _, model = route.name.partition("\x00")
            if owner != tenant:
                continue
            state, threshold = route.state, route.state.threshold
            told.append(
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
                    "careful": state.careful,
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
        return told

    async def aclose(self) -> None:
        """Write down what was learned."""
        self.routes.stop()
        await self.routes.save()


def route_name(tenant: str, model: str) -> str:
    """The route of a tenant's requests for ``model``, as asked."""
    return f"{tenant}\x00{model}"


def _word(decision: Decision) -> Word:
    if decision.serve:
        return "hit"
    if decision.audit:
        return "audited"
    if decision.candidate is None:
        return "absent"
    return "vetoed" if decision.score == 0.0 else "below_bound"
