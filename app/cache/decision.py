"""May this cached answer be served? The whole decision, pure: state in, decision out.

How the gateway uses it, per route (a partition's traffic, or any coarser class):

    decision = decide(query, candidates, state, rng)   # < 1 ms for eight candidates
    if decision.serve: ...replay decision.candidate's answer, nothing to learn...
    else: ...call the model, compare answers, then...
        state.learn(query, answer, decision)           # answer: group of agreeing answers
        if state.refit_due: state.refit()              # seconds of CPU: off the event loop

`answer` names a group: a fresh answer that agrees with a stored one joins that one's group, else
it starts a group of its own. Who compares is the caller's choice (`app.cache.agreement` has the
plain comparison). A user's verdict on a served hit goes to `state.feedback`.

A state moves between three modes: ``shadow`` (no certified threshold: nothing is served, every
request is a label), ``open`` (hits from the threshold on), ``closed`` (alarms said that the bound
does not hold any more: as shadow, but old labels are gone). `decision.reasons` are for people.

When answers change. Labels tell of it (`bound.Drift`), and when it began. From the first suspicion
on, only answers that a model has given again since then are served; every other would-be hit is
asked of the model. An alarm makes that lasting: what was kept before is left out until it is
confirmed, old labels go, and the next would-be hits must earn their trust one by one (``careful``).
A second alarm closes the route. What a question means has not changed with its answer: where a fresh
answer to nearly the same question differs from a doubted one, the doubted group has become the fresh
one (``became``), and all that was kept of it speaks for the new answer, though none of it is served.

Randomness (which would-be hits are audited) comes from the `rng` handed in; nothing here reads a
clock. `app.cache.route_archive` writes a state to bytes and back.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import numpy as np

from app.cache.bound import Borrowed, Drift, EntryRecord, Limits, Threshold, certify
from app.cache.neighbourhood import elder_answers
from app.cache.verifier import (
    NEIGHBOURS,
    Calibration,
    Question,
    Rareness,
    RouteVerifier,
    Scored,
    fit_route,
    reach_of,
)
from app.learn.isotonic import Isotonic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from numpy.typing import NDArray

    from app.cache.text_view import TextView
    from app.learn.gbdt import Gbdt

Mode = Literal["shadow", "open", "closed"]
T = TypeVar("T")

MEMORY: Final = 4_000  # labelled questions kept a route, newest last
_MOST_UNBIASED: Final = 2_500  # of them
FIRST_FIT: Final = 120  # labels before the first fit
_MOST_DENIED: Final = 2_000
_MOST_CONFIRMED: Final = 4_000
_MOST_RECORDED: Final = 4_000
# Evidence of a change from which only what was confirmed since is served, long before an alarm.
# Measured: at 2 a change of half the answers costs a quarter of the wrong hits that it costs at 3.
_SUSPICION: Final = 2.0
_WATCHED_SHARE: Final = 0.25  # of would-be hits audited while there is suspicion or after an alarm
_LIKELY: Final = 0.5  # from here on a label says something of a change
# Hits that may be served without such a label between them, for each 1 % of wrong hits per request that
# is promised: where nearly everything is a hit, nothing else would tell of a change. Measured on one order
# of two streams: at 1 %, 3 hits instead of 4 cost a steady route 0 to 5 % of its hits, 2 a seventh; at 5 %,
# 7 instead of 20 cost 4 to 7 %.
_UNSEEN: Final = 2.5
_SAME_QUESTION: Final = 0.85  # from here on another answer means that the answer has changed
_EARNED: Final = 8  # would-be hits in a row that must be found right after an alarm
_GROWTH: Final = 2.0  # refit when the labels have grown by this factor,
_YOUNG: Final = 400  # while there are fewer than these, and from then on
_LATE_GROWTH: Final = 3.0  # by this, as a fit then costs more and gains less,
_MOST_NEW: Final = 2_000  # or by this many;
_MOST_NEW_SHUT: Final = 1_000  # while nothing is served, evidence is all that is missing


@dataclass(frozen=True, slots=True)
class QueryView:
    """The question asked: its analysis and its vector, float32[d] of unit length."""

    view: TextView
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A stored question near the one asked. `answer`: the group of agreeing answers it is in.

    `kept_s`: when its answer was asked for, on the clock of `RouteState.learn`.
    """

    entry: str
    view: TextView
    cosine: float
    answer: str
    kept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why. `serve` and `audit` are never both true.

    `probability`: calibrated chance that the best candidate's answer is right, 0 without one.
    `bound`: upper confidence bound of the share of wrong hits at the threshold in force, 1 without.
    `audit`: it would have been a hit; ask the model all the same and `learn` from it. `reach`:
    calibrated chance that one of `offered`, the candidates' answers, is right; `elder`: those of them that
    were there when the candidate's was last given. `alike`: what `probability` would be had no answer
    changed since the candidate's was kept.
    """

    serve: bool
    audit: bool
    candidate: CandidateView | None
    score: float
    probability: float
    bound: float
    reasons: tuple[str, ...]
    reach: float = 0.0
    offered: tuple[str, ...] = ()
    elder: tuple[str, ...] = ()
    alike: float = 0.0


@dataclass(slots=True)
class RouteState:
    """Everything one route has learned. Not thread-safe: one owner at a time."""

    limits: Limits
    audit_rate: float = 0.02
    prior: Gbdt | None = None
    borrowed: Borrowed = field(default_factory=Borrowed)
    # Labels that count for the bound, and those that are only learned from: each kind pushes out
    # its own oldest, so that a long open spell cannot erase the evidence it rests on.
    unbiased: deque[Question] = field(default_factory=lambda: deque(maxlen=_MOST_UNBIASED))
    biased: deque[Question] = field(default_factory=lambda: deque(maxlen=MEMORY - _MOST_UNBIASED))
    verifier: RouteVerifier = field(init=False)
    threshold: Threshold | None = None
    curve: Isotonic | None = None
    reach: Isotonic | None = None
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
    # When a model last gave each group's answer, latest last.
    confirmed: dict[str, float] = field(default_factory=dict)
    trusted_from_s: float = -1.0  # what was not confirmed after that is not served; -1: all is
    careful: bool = False  # since an alarm, until new labels certify a threshold
    earning: int = 0  # would-be hits that must still be found right before one is served
    unseen: int = 0  # hits served since the last label that would have told of a change
    # What the answers that changed were found to have become: group to group.
    became: dict[str, str] = field(default_factory=dict)

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
        most = _MOST_NEW_SHUT if self.threshold is None else _MOST_NEW
        return self.fitted_at == 0 or self.labels >= self.fitted_at * growth or new >= most

    def learn(
        self, query: QueryView, answer: str, decision: Decision, *, at_s: float = 0.0
    ) -> bool:
        """Take a fresh answer's group for a question that was not served; True if it raised an alarm.

        `at_s`: when it was asked, on any clock that candidates' `kept_s` are on as well.
        """
        unbiased = decision.audit or self.threshold is None
        kept = self.unbiased if unbiased else self.biased
        kept.append(Question(query.view, query.vector, answer, unbiased, at_s))
        self.labels += 1
        self._confirm(answer, at_s)
        candidate = decision.candidate
        if candidate is None:
            return False
        agreed = self.now(candidate.answer) == answer
        self._replace(candidate, answer, decision.alike)
        if decision.audit:
            self._record(candidate.entry, agreed=agreed)
            self.audited += 1
            self.audited_wrong += not agreed
            if self.earning:
                self.earning = self.earning - 1 if agreed else _EARNED
        if self.threshold is None or not self.verifier.fitted:
            return False
        if self.careful and not decision.audit:
            return False  # among so much that is not trusted, only would-be hits mean what they did
        # What a label is held against is chosen before it is seen. A miss says most of a change by whether
        # anything near was right at all. A would-be hit that was wrong says nothing of one where an answer
        # that was there already is the right one; one that came later may have taken the candidate's place.
        chance = decision.probability
        if decision.reach > chance:
            others = decision.elder if chance >= _LIKELY else decision.offered
            agreed = answer in others or (agreed and chance >= _LIKELY)
            chance = decision.reach
        if chance >= _LIKELY:
            self.unseen = 0
        alarm = self.drift.observe(chance, agreed=agreed, at_s=at_s)
        if alarm:
            self._alarm()
        return alarm

    def feedback(self, entry: str, *, agreed: bool) -> bool:
        """Take a user's verdict on a served hit; True if it raised an alarm.

        The caller removes the entry itself.
        """
        self._record(entry, agreed=agreed)
        if agreed or self.threshold is None:
            return False
        alarm = self.drift.report()
        if alarm:
            self._alarm()
        return alarm

    def fresh(self, candidate: CandidateView, since_s: float) -> bool:
        """Whether a model gave the candidate's answer after ``since_s``."""
        return candidate.kept_s > since_s or self.confirmed.get(candidate.answer, -1.0) > since_s

    def now(self, answer: str) -> str:
        """The group that ``answer`` has become, itself where nothing is known of a change."""
        return self.became.get(answer) or answer

    def _replace(self, candidate: CandidateView, answer: str, alike: float) -> None:
        """Note what a doubted answer has become, where a fresh one to nearly the same question says so."""
        self.became.pop(answer, None)  # it is given again
        if alike < _SAME_QUESTION or candidate.answer == answer:
            return
        suspicious = self.drift.evidence >= _SUSPICION
        doubted_s = max(self.trusted_from_s, self.drift.since_s if suspicious else -1.0)
        if self.fresh(candidate, doubted_s):
            return
        known = self.became.setdefault(candidate.answer, answer)
        if known != answer:  # more than one answer by now: it is not known which
            self.became[candidate.answer] = ""
        _forget_oldest(self.became, _MOST_CONFIRMED)

    def _confirm(self, answer: str, at_s: float) -> None:
        self.confirmed.pop(answer, None)
        self.confirmed[answer] = at_s
        _forget_oldest(self.confirmed, _MOST_CONFIRMED)

    def deny(self, query: QueryView, answer: str) -> None:
        """``answer`` was reported wrong for this question: never served for it again, and a negative pair."""
        self.denied[_denial(query, answer)] = None
        _forget_oldest(self.denied, _MOST_DENIED)
        # Reports are no random sample: they are learned from, and do not count for the certificate.
        self.biased.append(Question(query.view, query.vector, f"not {answer}", unbiased=False))

    def _alarm(self) -> None:
        """Trust nothing from before the change; at the second alarm in a row, serve nothing at all."""
        self.alarms += 1
        if self.careful:
            self.close()
            return
        since_s = self.trusted_from_s = max(self.trusted_from_s, self.drift.since_s)
        for kept in (self.unbiased, self.biased):
            newer = [q for q in kept if q.at_s > since_s]
            kept.clear()
            kept.extend(newer)
        self.labels = len(self.unbiased) + len(self.biased)
        self.fitted_at = 0
        self.careful, self.earning = True, _EARNED
        self.drift.reset()

    def close(self) -> None:
        """Stop serving, and forget all labels and what was kept: traffic or answers have changed."""
        self.unbiased.clear()
        self.biased.clear()
        self.labels = 0
        self.fitted_at = 0
        self.threshold, self.curve, self.reach = None, None, None
        self.closed, self.careful, self.earning = True, False, 0
        self.trusted_from_s = max(self.trusted_from_s, self.drift.last_s)
        self.drift.reset()

    def refit(self) -> None:
        """Fit the verifier on the labels, and certify a threshold. Seconds of CPU."""
        verifier, outcomes = fit_route([*self.unbiased, *self.biased], self.prior)
        self.install(verifier, outcomes)

    def install(self, verifier: RouteVerifier, outcomes: Calibration) -> None:
        """Put a fit (perhaps made elsewhere) into force.

        After an alarm the fit in force stays until a new one certifies a threshold: what words mean
        has not changed with the answers, and every hit is watched.
        """
        self.fitted_at = self.labels
        threshold = certify(outcomes, self.limits, self.borrowed)
        if threshold is None and self.careful:
            return
        self.verifier, self.threshold = verifier, threshold
        self.curve = Isotonic.fit(outcomes.scores, outcomes.agreed, prior_weight=1.0)
        self.reach = None
        if len(outcomes.reach):
            self.reach = Isotonic.fit(outcomes.reach, outcomes.reached, prior_weight=1.0)
        self.closed = self.closed and threshold is None
        self.careful, self.earning = False, 0
        self.drift.reset()

    def take(self, fitted: RouteState, labels: int) -> None:
        """Put into force what a copy of this state, taken at `labels` labels, learned in `refit`."""
        self.verifier, self.threshold = fitted.verifier, fitted.threshold
        self.curve, self.reach = fitted.curve, fitted.reach
        self.fitted_at = labels
        self.closed = self.closed and fitted.threshold is None
        if self.careful and fitted.careful:
            return
        self.careful, self.earning = False, 0
        self.drift.reset()

    def copy(self) -> RouteState:
        """A copy that another thread may read while the original goes on learning."""
        made = copy.copy(self)
        made.unbiased = deque(self.unbiased, maxlen=self.unbiased.maxlen)
        made.biased = deque(self.biased, maxlen=self.biased.maxlen)
        made.entries = {name: copy.copy(record) for name, record in self.entries.items()}
        made.denied, made.confirmed = dict(self.denied), dict(self.confirmed)
        made.became = dict(self.became)
        drift = self.drift
        made.drift = replace(drift, wealth=[*drift.wealth], began_s=[*drift.began_s])
        return made

    def _record(self, entry: str, *, agreed: bool) -> None:
        record = self.entries.pop(entry, None) or EntryRecord()
        self.entries[entry] = record
        record.right += agreed
        record.wrong += not agreed
        _forget_oldest(self.entries, _MOST_RECORDED)


def _forget_oldest(table: dict[str, T], most: int) -> None:
    if len(table) > most:
        del table[next(iter(table))]


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
    answers = [state.now(c.answer) for c in near]
    scored = state.verifier.score(
        query.view, [c.view for c in near], [c.cosine for c in near], answers
    )
    allowed = [i for i, s in enumerate(scored) if not s.differences.vetoes]
    if not allowed:
        made = _vetoed(near, scored)
    else:
        best = max(allowed, key=lambda i: scored[i].probability)
        if answers[best] != near[best].answer:  # what is known to have changed speaks for the new
            given = [i for i in allowed if near[i].answer == answers[best]]
            best = max(given, key=lambda i: scored[i].probability, default=best)
        made = _weigh(query, near[best], scored[best], state, rng)
    if made.serve or state.reach is None:
        return made
    trusted = [i for i, c in enumerate(near) if state.fresh(c, state.trusted_from_s)]
    offered = tuple(near[i].answer for i in trusted)
    reach = state.reach.predict_one(reach_of([scored[i].probability for i in trusted], offered))
    elder = elder_answers(made.candidate, [near[i] for i in trusted], state.confirmed)
    return replace(made, reach=float(reach), offered=offered, elder=elder)


def _miss(
    candidate: CandidateView | None,
    reasons: tuple[str, ...],
    score: float = 0.0,
    chance: float = 0.0,
    bound: float = 1.0,
    *,
    serve: bool = False,
    audit: bool = False,
) -> Decision:
    return Decision(serve, audit, candidate, score, chance, bound, reasons, alike=chance)


def _vetoed(near: Sequence[CandidateView], scored: Sequence[Scored]) -> Decision:
    best = max(range(len(near)), key=lambda i: scored[i].probability)
    reasons = tuple(d.words for d in scored[best].differences.vetoes)
    return _miss(near[best], reasons)


def _weigh(
    query: QueryView, candidate: CandidateView, scored: Scored, state: RouteState, rng: Random
) -> Decision:
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
    if state.verifier.rareness.strange(query.view) > threshold.strangest:
        why = "asked in words that hardly any question behind the bound had"
        return _miss(candidate, (why, *notes), score, chance, bound)
    refused = _refused(candidate, chance, score, state)
    if refused is not None:
        # What was kept before a change stays a candidate, of no known chance: without it, one of
        # another meaning would look better than it is.
        known = chance if state.fresh(candidate, state.trusted_from_s) else 0.0
        made = _miss(candidate, (refused, *notes), score, chance, bound)
        return replace(made, probability=known)
    why = (
        f"score {score:.3f} >= {threshold.score:.3f}: of {threshold.hits} labelled questions that"
        f" scored so, {threshold.wrong} had another answer (wrong per hit <= {bound:.3f}, wrong"
        f" per request {threshold.upper_per_request:.4f} <= {state.limits.per_request:g} from"
        f" {threshold.labels} labels)"
    )
    if rng.random() < _audit_share(candidate, state):
        reasons = (why, "audited", *notes)
        return _miss(candidate, reasons, score, chance, bound, audit=True)
    state.hits += 1
    state.unseen += 1
    return _miss(candidate, (why, *notes), score, chance, bound, serve=True)


def _refused(
    candidate: CandidateView, chance: float, score: float, state: RouteState
) -> str | None:
    """Why a score over the threshold is not enough for this entry; None where it is."""
    if not state.fresh(candidate, state.trusted_from_s):
        return "kept before answers changed, and not given since"
    if state.careful and chance < state.limits.surely:
        return (
            f"since answers changed, a chance of {state.limits.surely:.3f} is needed: {chance:.3f}"
        )
    record = state.entries.get(candidate.entry)
    if record is not None and record.shrink(score) < state.limits.floor:
        return f"this entry was found wrong {record.wrong:g} times, right {record.right:g} times"
    return None


def _audit_share(candidate: CandidateView, state: RouteState) -> float:
    """The chance that this would-be hit is asked of the model all the same."""
    suspicious = state.drift.evidence >= _SUSPICION
    doubted = state.careful or not state.fresh(candidate, state.drift.since_s)
    unseen = state.unseen >= _UNSEEN * max(1.0, 100 * state.limits.per_request)
    if state.earning or (unseen and not state.careful) or (suspicious and doubted):
        return 1.0
    if suspicious or state.careful:
        return max(state.audit_rate, _WATCHED_SHARE)
    return state.audit_rate
