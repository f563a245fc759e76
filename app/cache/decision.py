"""May this cached answer be served? The whole decision, pure: state in, decision out.

How the gateway uses it, per route (a partition's traffic, or any coarser class the lead chooses):

    decision = decide(query, candidates, state, rng)   # < 1 ms for eight candidates
    if decision.serve: ...replay decision.candidate's answer, nothing to learn...
    else: ...call the model, compare answers, then...
        state.learn(query, answer, decision)           # answer: group of agreeing answers
        if state.refit_due: state.refit()              # seconds of CPU: off the event loop

`answer` names a group: a fresh answer that agrees with a stored one joins that one's group, else
it starts a group of its own. Who compares is the caller's choice (`app.cache.agreement` has the
plain comparison). A user's verdict on a served hit goes to `state.feedback`.

A state moves between three modes: ``shadow`` (no certified threshold: nothing is served, every
request is a label), ``open`` (hits from the threshold on), ``closed`` (an alarm said that the bound
does not hold any more: as shadow, but old labels are gone). `decision.reasons` are for people.

Randomness (which would-be hits are audited) comes from the `rng` handed in; nothing here reads a
clock. `app.cache.route_archive` writes a state to bytes and back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from app.cache.bound import Borrowed, Drift, EntryRecord, Limits, Threshold, certify
from app.cache.verifier import (
    NEIGHBOURS,
    Calibration,
    Question,
    Rareness,
    RouteVerifier,
    Scored,
    fit_route,
)
from app.learn.isotonic import Isotonic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from numpy.typing import NDArray

    from app.cache.text_view import TextView
    from app.learn.gbdt import Gbdt

Mode = Literal["shadow", "open", "closed"]

MEMORY: Final = 4_000  # labelled questions kept a route, newest last
FIRST_FIT: Final = 120  # labels before the first fit
# After a wrong audit or verdict the next would-be hits are audited at this share: a broken bound
# shows within tens of hits, where the usual one in fifty would take hundreds.
_PROBED: Final = 40
_PROBE_SHARE: Final = 0.5
_MOST_DENIED: Final = 2_000
# Evidence against the bound from which every would-be hit is checked, long before it is an alarm.
# Measured (2 streams, 1 seed): half as many wrong hits after a shift, 3 % fewer hits without one.
_SUSPICION: Final = 3.0
_GROWTH: Final = 2.0  # refit when the labels have grown by this factor,
_YOUNG: Final = 400  # while there are fewer than these, and from then on
_LATE_GROWTH: Final = 3.0  # by this, as a fit then costs more and gains less,
_MOST_NEW: Final = 2_000  # or by this many


@dataclass(frozen=True, slots=True)
class QueryView:
    """The question asked: its analysis and its vector, float32[d] of unit length."""

    view: TextView
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A stored question near the one asked. `answer`: the group of agreeing answers it is in."""

    entry: str
    view: TextView
    cosine: float
    answer: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why. `serve` and `audit` are never both true.

    `probability`: calibrated chance that the best candidate's answer is right, 0 without one.
    `bound`: upper confidence bound of the share of wrong hits at the threshold in force, 1 without.
    `audit`: it would have been a hit; ask the model all the same and `learn` from it.
    """

    serve: bool
    audit: bool
    candidate: CandidateView | None
    score: float
    probability: float
    bound: float
    reasons: tuple[str, ...]


@dataclass(slots=True)
class RouteState:
    """Everything one route has learned. Not thread-safe: one owner at a time."""

    limits: Limits
    audit_rate: float = 0.02
    prior: Gbdt | None = None
    borrowed: Borrowed = field(default_factory=Borrowed)
    # Labels that count for the bound, and those that are only learned from: each kind pushes out
    # its own oldest, so that a long open spell cannot erase the evidence it rests on.
    unbiased: deque[Question] = field(default_factory=lambda: deque(maxlen=MEMORY // 2))
    biased: deque[Question] = field(default_factory=lambda: deque(maxlen=MEMORY // 2))
    verifier: RouteVerifier = field(init=False)
    threshold: Threshold | None = None
    curve: Isotonic | None = None
    drift: Drift = field(default_factory=Drift)
    entries: dict[str, EntryRecord] = field(default_factory=dict)
    closed: bool = False
    fitted_at: int = 0  # labels at the last fit
    labels: int = 0  # labels since the state began, or since the last alarm
    requests: int = 0
    hits: int = 0
    alarms: int = 0
    audited: int = 0
    audited_wrong: int = 0
    # Questions whose answer of a group was reported wrong, newest last.
    denied: dict[str, None] = field(default_factory=dict)
    probing: int = 0  # would-be hits still to be audited closely, after one was found wrong

    def __post_init__(self) -> None:
        self.verifier = RouteVerifier(Rareness({}, 0), self.prior)

    @property
    def mode(self) -> Mode:
        """Where the route stands."""
        if self.closed:
            return "closed"
        return "open" if self.threshold is not None else "shadow"

    @property
    def refit_due(self) -> bool:
        """Whether enough labels came in since the last fit for another to be worth it."""
        if self.labels < FIRST_FIT:
            return False
        new = self.labels - self.fitted_at
        growth = _GROWTH if self.fitted_at < _YOUNG else _LATE_GROWTH
        return self.fitted_at == 0 or self.labels >= self.fitted_at * growth or new >= _MOST_NEW

    def learn(self, query: QueryView, answer: str, decision: Decision) -> bool:
        """Take a fresh answer's group for a question that was not served; True if it closed the route."""
        unbiased = decision.audit or self.threshold is None
        kept = self.unbiased if unbiased else self.biased
        kept.append(Question(query.view, query.vector, answer, unbiased))
        self.labels += 1
        candidate = decision.candidate
        if candidate is None:
            return False
        agreed = candidate.answer == answer
        if decision.audit:
            self._record(candidate.entry, agreed=agreed)
            self.audited += 1
            self.audited_wrong += not agreed
        if self.threshold is None or not self.verifier.fitted:
            return False
        if self.drift.observe(decision.probability, agreed=agreed, audited=decision.audit):
            self.close()
            return True
        return False

    def feedback(self, entry: str, *, agreed: bool) -> bool:
        """Take a user's verdict on a served hit; True if it closed the route.

        A wrong verdict counts like a wrong audit. The caller removes the entry itself.
        """
        self._record(entry, agreed=agreed)
        if agreed or self.threshold is None:
            return False
        if self.drift.observe(1.0, agreed=False, audited=True):
            self.close()
            return True
        return False

    def deny(self, query: QueryView, answer: str) -> None:
        """``answer`` was reported wrong for this question: never served for it again, and a negative pair."""
        self.denied[_denial(query, answer)] = None
        if len(self.denied) > _MOST_DENIED:
            del self.denied[next(iter(self.denied))]
        # Reports are no random sample: they are learned from, and do not count for the certificate.
        self.biased.append(Question(query.view, query.vector, f"not {answer}", unbiased=False))

    def close(self) -> None:
        """Stop serving, and forget all labels: the traffic or its answers have changed."""
        self.unbiased.clear()
        self.biased.clear()
        self.labels = 0
        self.fitted_at = 0
        self.threshold, self.curve = None, None
        self.closed = True
        self.alarms += 1
        self.probing = 0
        self.drift.reset()

    def refit(self) -> None:
        """Fit the verifier on the labels, and certify a threshold. Seconds of CPU."""
        verifier, outcomes = fit_route([*self.unbiased, *self.biased], self.prior)
        self.install(verifier, outcomes)

    def install(self, verifier: RouteVerifier, outcomes: Calibration) -> None:
        """Put a fit (perhaps made elsewhere) into force."""
        self.verifier = verifier
        self.threshold = certify(outcomes, self.limits, self.borrowed)
        self.curve = Isotonic.fit(outcomes.scores, outcomes.agreed, prior_weight=1.0)
        self.fitted_at = self.labels
        self.closed = self.closed and self.threshold is None
        self.drift.reset()

    def _record(self, entry: str, *, agreed: bool) -> None:
        record = self.entries.setdefault(entry, EntryRecord())
        if agreed:
            record.right += 1
        else:
            record.wrong += 1
            self.probing = _PROBED


def _denial(query: QueryView, answer: str) -> str:
    said = " ".join(query.view.words)
    return blake2b(f"{answer}\x00{said}".encode(), digest_size=12).hexdigest()


def decide(
    query: QueryView, candidates: Sequence[CandidateView], state: RouteState, rng: Random
) -> Decision:
    """Decide on one question. `candidates`: nearest first, of the same partition only.

    Counts the request in `state`; changes nothing else.
    """
    state.requests += 1
    near = candidates[:NEIGHBOURS]
    if state.denied:
        near = [c for c in near if _denial(query, c.answer) not in state.denied]
    if not near:
        return _miss(None, ("nothing similar is stored",))
    scored = state.verifier.score(
        query.view, [c.view for c in near], [c.cosine for c in near], [c.answer for c in near]
    )
    allowed = [i for i, s in enumerate(scored) if not s.differences.vetoes]
    if not allowed:
        return _vetoed(near, scored)
    best = max(allowed, key=lambda i: scored[i].probability)
    return _weigh(near[best], scored[best], state, rng)


def _miss(
    candidate: CandidateView | None,
    reasons: tuple[str, ...],
    score: float = 0.0,
    chance: float = 0.0,
    bound: float = 1.0,
) -> Decision:
    return Decision(
        serve=False,
        audit=False,
        candidate=candidate,
        score=score,
        probability=chance,
        bound=bound,
        reasons=reasons,
    )


def _vetoed(near: Sequence[CandidateView], scored: Sequence[Scored]) -> Decision:
    best = max(range(len(near)), key=lambda i: scored[i].probability)
    reasons = tuple(d.words for d in scored[best].differences.vetoes)
    return _miss(near[best], reasons)


def _weigh(candidate: CandidateView, scored: Scored, state: RouteState, rng: Random) -> Decision:
    score = scored.probability
    chance = score if state.curve is None else float(state.curve.predict_one(score))
    notes = tuple(d.words for d in scored.differences.found)
    threshold = state.threshold
    if threshold is None:
        waiting = "closed after an alarm" if state.closed else "shadow mode"
        why = f"{waiting}: {state.labels} labelled questions certify no threshold yet"
        return _miss(candidate, (why, *notes), score, chance)
    bound = threshold.upper_per_hit
    if score < threshold.score:
        why = f"score {score:.3f} is below the certified {threshold.score:.3f}"
        return _miss(candidate, (why, *notes), score, chance, bound)
    record = state.entries.get(candidate.entry)
    if record is not None and record.shrink(score) < state.limits.floor:
        why = f"this entry was found wrong {record.wrong:g} times, right {record.right:g} times"
        return _miss(candidate, (why, *notes), score, chance, bound)
    why = (
        f"score {score:.3f} >= {threshold.score:.3f}: of {threshold.hits} labelled questions that"
        f" scored so, {threshold.wrong} had another answer (wrong per hit <= {bound:.3f}, wrong"
        f" per request {threshold.upper_per_request:.4f} <= {state.limits.per_request:g} from"
        f" {threshold.labels} labels)"
    )
    share = state.audit_rate
    if state.probing:
        state.probing -= 1
        share = max(share, _PROBE_SHARE)
    if state.drift.evidence >= _SUSPICION:
        share = 1.0
    if rng.random() < share:
        reasons = (why, "audited", *notes)
        return replace(_miss(candidate, reasons, score, chance, bound), audit=True)
    state.hits += 1
    return replace(_miss(candidate, (why, *notes), score, chance, bound), serve=True)
