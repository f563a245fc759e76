"""Whether a cached answer may be served: the whole decision, pure (state in, decision out).

How the gateway uses it, per route:

    decision = decide(query, candidates, state, rng)   # < 1 ms for eight candidates
    if decision.serve: ...replay decision.candidate's answer, nothing to learn...
    else: ...call the model, compare answers, then...
        state.learn(query, answer, decision)           # answer: group of agreeing answers
        if state.refit_due: state.refit()              # seconds of CPU: off the event loop

`answer` names a group: a fresh answer that agrees with a stored one joins that one's group, else
it starts a group of its own. Who compares is the caller's choice (`app.cache.agreement` has the
plain comparison). A user's verdict on a served hit goes to `state.feedback`.

A state has three modes: ``shadow`` (no certified threshold: nothing is served, every request is a
label), ``open`` (hits from the threshold on), ``closed`` (two alarms: as shadow, but old labels are
gone). `decision.reasons` are for people.

When answers change. `bound.DriftDetector` weighs the evidence in the labels and estimates when the
change began. From the first suspicion on, only answers that a model has given again since then are
served; every other would-be hit is asked of the model. An alarm makes that lasting (``on_probation``):
what was stored before the change is not served until a fresh answer confirms it, older labels go, and
the next would-be hits must be found right before one is served. A second alarm closes the route. What
a question means does not change with its answer: where a fresh answer to nearly the same question
differs from a doubted one, the fresh group replaces the doubted one (``replaced_by``), and all its
stored questions count as candidates for the new answer, though none of their own answers is served.

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

from app.cache.bound import DriftDetector, EntryRecord, Limits, PseudoCounts, Threshold, certify
from app.cache.neighbourhood import earlier_groups
from app.cache.verifier import (
    NEIGHBOURS,
    CandidateScore,
    Idf,
    LabelledQuestion,
    OutOfFoldScores,
    RouteVerifier,
    any_right_score,
    fit_route,
)
from app.learn.isotonic import Isotonic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from numpy.typing import NDArray

    from app.cache.text_view import TextView

Mode = Literal["shadow", "open", "closed"]
T = TypeVar("T")

MAX_LABELS: Final = 4_000  # labelled questions held a route, newest last
_MAX_UNBIASED: Final = 2_500  # of them
MIN_LABELS_TO_FIT: Final = 120
_MAX_DENIED: Final = 2_000
_MAX_CONFIRMED: Final = 4_000
_MAX_RECORDED: Final = 4_000
# E-value of a change from which only what was confirmed since is served, long before an alarm.
# Measured: at 2 a change of half the answers costs a quarter of the wrong hits that it costs at 3.
_SUSPICIOUS_EVIDENCE: Final = 2.0
_RAISED_AUDIT_RATE: Final = 0.25  # of would-be hits, under suspicion or on probation
_INFORMATIVE: Final = 0.5  # a label held against less than this says little of a change
# Hits that may be served without an informative label between them, for each 1 % of wrong hits per request
# that is promised: where nearly everything is a hit, nothing else would tell of a change. Measured on one
# order of two streams: at 1 %, 3 hits instead of 4 cost a steady route 0 to 5 % of its hits, 2 a seventh; at
# 5 %, 7 instead of 20 cost 4 to 7 %.
_MAX_UNTESTED_HITS_PER_PERCENT: Final = 2.5
_SAME_QUESTION: Final = (
    0.85  # from this probability on another answer means that the answer has changed
)
_PROBATION_LABELS: Final = 8  # would-be hits in a row that must be found right after an alarm
_GROWTH: Final = 2.0  # refit when the labels have grown by this factor
_YOUNG: Final = 400  # while there are fewer than these,
_LATE_GROWTH: Final = 3.0  # later by this factor, as a fit costs more and gains less,
_REFIT_AFTER: Final = 2_000  # or by this many labels;
_REFIT_AFTER_SHADOW: Final = 1_000  # in shadow mode, where evidence is all that is missing


@dataclass(frozen=True, slots=True)
class QueryView:
    """The question asked: its analysis and its vector, float32[d] of unit length."""

    view: TextView
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A stored question near the one asked. `answer_group` names the agreeing answers that its own is among.

    `kept_s`: when its answer was asked for, on the clock of `RouteState.learn`.
    """

    entry: str
    view: TextView
    cosine: float
    answer_group: str
    kept_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why. `serve` and `audit` are never both true.

    `probability`: calibrated probability that the best candidate's answer is right, 0 without one.
    `bound`: upper confidence bound of the share of wrong hits at the threshold in force, 1 without.
    `audit`: it would have been a hit; ask the model all the same and `learn` from it. `any_right`:
    calibrated probability that one of `offered_groups`, the candidates' answers, is right;
    `earlier_groups`: those of them that were stored when the candidate's was last given.
    `probability_if_unchanged`: what `probability` would be had no answer changed since.
    """

    serve: bool
    audit: bool
    candidate: CandidateView | None
    score: float
    probability: float
    bound: float
    reasons: tuple[str, ...]
    any_right: float = 0.0
    offered_groups: tuple[str, ...] = ()
    earlier_groups: tuple[str, ...] = ()
    probability_if_unchanged: float = 0.0


@dataclass(slots=True)
class RouteState:
    """Everything one route has learned. Not thread-safe: one owner at a time."""

    limits: Limits
    audit_rate: float = 0.02
    pseudo_counts: PseudoCounts = field(default_factory=PseudoCounts)
    # Labels that count for the bound, and those that are only learned from: each kind evicts its own
    # oldest, so that a long open spell cannot erase the evidence it rests on.
    unbiased: deque[LabelledQuestion] = field(default_factory=lambda: deque(maxlen=_MAX_UNBIASED))
    biased: deque[LabelledQuestion] = field(
        default_factory=lambda: deque(maxlen=MAX_LABELS - _MAX_UNBIASED)
    )
    verifier: RouteVerifier = field(init=False)
    threshold: Threshold | None = None
    curve: Isotonic | None = None
    any_right_curve: Isotonic | None = None
    drift: DriftDetector = field(default_factory=DriftDetector)
    entries: dict[str, EntryRecord] = field(default_factory=dict)
    closed: bool = False
    fitted_at: int = 0  # labels at the last fit
    labels: int = 0  # labels since the state began, or since the last alarm
    requests: int = 0
    hits: int = 0
    alarms: int = 0
    audited: int = 0
    audited_wrong: int = 0
    # Keys of (question, group) pairs that were reported wrong, newest last.
    denied: dict[str, None] = field(default_factory=dict)
    # When a model last gave each group, latest last.
    confirmed_at_s: dict[str, float] = field(default_factory=dict)
    trusted_from_s: float = -1.0  # what was not confirmed after that is not served; -1: all may be
    on_probation: bool = False  # since an alarm, until new labels certify a threshold
    probation_left: int = 0  # would-be hits that must still be found right before one is served
    hits_since_informative: int = (
        0  # hits served since the last label that would have told of a change
    )
    # The group that replaced each changed one; "" where more than one did.
    replaced_by: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.verifier = RouteVerifier(Idf({}, 0))

    @property
    def mode(self) -> Mode:
        """Where the route stands."""
        if self.closed:
            return "closed"
        return "open" if self.threshold is not None else "shadow"

    @property
    def refit_due(self) -> bool:
        """Whether enough labels came in since the last fit for another to be worth it."""
        if self.labels < MIN_LABELS_TO_FIT:
            return False
        new = self.labels - self.fitted_at
        growth = _GROWTH if self.fitted_at < _YOUNG else _LATE_GROWTH
        most = _REFIT_AFTER_SHADOW if self.threshold is None else _REFIT_AFTER
        return self.fitted_at == 0 or self.labels >= self.fitted_at * growth or new >= most

    def learn(
        self, query: QueryView, answer: str, decision: Decision, *, at_s: float = 0.0
    ) -> bool:
        """Take a fresh answer's group for a question that was not served; True if it raised an alarm.

        `at_s`: when it was asked, on any clock that candidates' `kept_s` are on as well.
        """
        unbiased = decision.audit or self.threshold is None
        kept = self.unbiased if unbiased else self.biased
        kept.append(LabelledQuestion(query.view, query.vector, answer, unbiased, at_s))
        self.labels += 1
        self._note_confirmation(answer, at_s)
        candidate = decision.candidate
        if candidate is None:
            return False
        agreed = self.current_group(candidate.answer_group) == answer
        self._note_replacement(candidate, answer, decision.probability_if_unchanged)
        if decision.audit:
            self._record(candidate.entry, agreed=agreed)
            self.audited += 1
            self.audited_wrong += not agreed
            if self.probation_left:
                self.probation_left = self.probation_left - 1 if agreed else _PROBATION_LABELS
        if self.threshold is None or not self.verifier.fitted:
            return False
        if self.on_probation and not decision.audit:
            return False  # among so much that is not trusted, only would-be hits mean what they did
        # What a label is held against is chosen before it is seen (predictable, as the e-value needs). A miss
        # says most of a change by whether anything near was right at all. A would-be hit that was wrong says
        # nothing of one where an answer stored before it is the right one; a later one may have replaced it.
        chance = decision.probability
        if decision.any_right > chance:
            others = decision.earlier_groups if chance >= _INFORMATIVE else decision.offered_groups
            agreed = answer in others or (agreed and chance >= _INFORMATIVE)
            chance = decision.any_right
        if chance >= _INFORMATIVE:
            self.hits_since_informative = 0
        alarm = self.drift.observe(chance, agreed=agreed, at_s=at_s)
        if alarm:
            self._alarm()
        return alarm

    def feedback(self, entry: str, *, agreed: bool) -> bool:
        """Take a user's verdict on a served hit; True if it raised an alarm. The caller removes the entry."""
        self._record(entry, agreed=agreed)
        if agreed or self.threshold is None:
            return False
        alarm = self.drift.observe_report()
        if alarm:
            self._alarm()
        return alarm

    def is_confirmed_since(self, candidate: CandidateView, since_s: float) -> bool:
        """Whether a model gave the candidate's answer after ``since_s``."""
        return (
            candidate.kept_s > since_s
            or self.confirmed_at_s.get(candidate.answer_group, -1.0) > since_s
        )

    def current_group(self, answer: str) -> str:
        """The group that replaced ``answer``, or itself."""
        return self.replaced_by.get(answer) or answer

    def _note_replacement(self, candidate: CandidateView, answer: str, alike: float) -> None:
        """Note what replaced a doubted answer, where a fresh one to nearly the same question says so."""
        self.replaced_by.pop(answer, None)  # it is given again
        if alike < _SAME_QUESTION or candidate.answer_group == answer:
            return
        suspicious = self.drift.evidence >= _SUSPICIOUS_EVIDENCE
        doubted_s = max(self.trusted_from_s, self.drift.since_s if suspicious else -1.0)
        if self.is_confirmed_since(candidate, doubted_s):
            return
        known = self.replaced_by.setdefault(candidate.answer_group, answer)
        if known != answer:  # more than one answer by now: it is not known which
            self.replaced_by[candidate.answer_group] = ""
        _forget_oldest(self.replaced_by, _MAX_CONFIRMED)

    def _note_confirmation(self, answer: str, at_s: float) -> None:
        self.confirmed_at_s.pop(answer, None)
        self.confirmed_at_s[answer] = at_s
        _forget_oldest(self.confirmed_at_s, _MAX_CONFIRMED)

    def report_wrong(self, query: QueryView, answer: str) -> None:
        """Never serve ``answer`` for this question again, and learn the pair as a negative."""
        self.denied[_denial_key(query, answer)] = None
        _forget_oldest(self.denied, _MAX_DENIED)
        # Reports are no random sample: they are learned from, and are no evidence for the certificate.
        self.biased.append(
            LabelledQuestion(query.view, query.vector, f"not {answer}", unbiased=False)
        )

    def _alarm(self) -> None:
        """Go on probation: trust nothing from before the change. A second alarm in a row closes the route."""
        self.alarms += 1
        if self.on_probation:
            self.close()
            return
        since_s = self.trusted_from_s = max(self.trusted_from_s, self.drift.since_s)
        for kept in (self.unbiased, self.biased):
            newer = [q for q in kept if q.at_s > since_s]
            kept.clear()
            kept.extend(newer)
        self.labels = len(self.unbiased) + len(self.biased)
        self.fitted_at = 0
        self.on_probation, self.probation_left = True, _PROBATION_LABELS
        self.drift.reset()

    def close(self) -> None:
        """Stop serving, and forget all labels: traffic or answers have changed."""
        self.unbiased.clear()
        self.biased.clear()
        self.labels = 0
        self.fitted_at = 0
        self.threshold, self.curve, self.any_right_curve = None, None, None
        self.closed, self.on_probation, self.probation_left = True, False, 0
        self.trusted_from_s = max(self.trusted_from_s, self.drift.last_s)
        self.drift.reset()

    def refit(self) -> None:
        """Fit the verifier on the labels, and certify a threshold. Seconds of CPU."""
        verifier, outcomes = fit_route([*self.unbiased, *self.biased])
        self.apply_fit(verifier, outcomes)

    def apply_fit(self, verifier: RouteVerifier, outcomes: OutOfFoldScores) -> None:
        """Put a fit (perhaps made elsewhere) into force.

        On probation the fit in force stays until a new one certifies a threshold: what words mean has
        not changed with the answers, and would-be hits are audited.
        """
        self.fitted_at = self.labels
        threshold = certify(outcomes, self.limits, self.pseudo_counts)
        if threshold is None and self.on_probation:
            return
        self.verifier, self.threshold = verifier, threshold
        self.curve = Isotonic.fit(outcomes.scores, outcomes.agreed, prior_weight=1.0)
        self.any_right_curve = None
        if len(outcomes.any_right_scores):
            self.any_right_curve = Isotonic.fit(
                outcomes.any_right_scores, outcomes.any_right, prior_weight=1.0
            )
        self.closed = self.closed and threshold is None
        self.on_probation, self.probation_left = False, 0
        self.drift.reset()

    def adopt_fit(self, fitted: RouteState, labels: int) -> None:
        """Put into force what a copy of this state, made at `labels` labels, fitted in `refit`."""
        self.verifier, self.threshold = fitted.verifier, fitted.threshold
        self.curve, self.any_right_curve = fitted.curve, fitted.any_right_curve
        self.fitted_at = labels
        self.closed = self.closed and fitted.threshold is None
        if self.on_probation and fitted.on_probation:
            return
        self.on_probation, self.probation_left = False, 0
        self.drift.reset()

    def copy(self) -> RouteState:
        """A copy that another thread may read while the original goes on learning."""
        made = copy.copy(self)
        made.unbiased = deque(self.unbiased, maxlen=self.unbiased.maxlen)
        made.biased = deque(self.biased, maxlen=self.biased.maxlen)
        made.entries = {name: copy.copy(record) for name, record in self.entries.items()}
        made.denied, made.confirmed_at_s = dict(self.denied), dict(self.confirmed_at_s)
        made.replaced_by = dict(self.replaced_by)
        drift = self.drift
        made.drift = replace(drift, wealth=[*drift.wealth], began_s=[*drift.began_s])
        return made

    def _record(self, entry: str, *, agreed: bool) -> None:
        record = self.entries.pop(entry, None) or EntryRecord()
        self.entries[entry] = record
        record.right += agreed
        record.wrong += not agreed
        _forget_oldest(self.entries, _MAX_RECORDED)


def _forget_oldest(table: dict[str, T], most: int) -> None:
    if len(table) > most:
        del table[next(iter(table))]


def _denial_key(query: QueryView, answer: str) -> str:
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
        near = [c for c in near if _denial_key(query, c.answer_group) not in state.denied]
    if not near:
        return _decision(None, ("nothing similar is stored",))
    answers = [state.current_group(c.answer_group) for c in near]
    scored = state.verifier.score(
        query.view, [c.view for c in near], [c.cosine for c in near], answers
    )
    allowed = [i for i, s in enumerate(scored) if not s.differences.vetoes]
    if not allowed:
        made = _vetoed(near, scored)
    else:
        best = max(allowed, key=lambda i: scored[i].probability)
        if (
            answers[best] != near[best].answer_group
        ):  # replaced: serve the new answer itself, if near
            given = [i for i in allowed if near[i].answer_group == answers[best]]
            best = max(given, key=lambda i: scored[i].probability, default=best)
        made = _decide_best(query, near[best], scored[best], state, rng)
    if made.serve or state.any_right_curve is None:
        return made
    trusted = [i for i, c in enumerate(near) if state.is_confirmed_since(c, state.trusted_from_s)]
    offered = tuple(near[i].answer_group for i in trusted)
    score = any_right_score([scored[i].probability for i in trusted], offered)
    return replace(
        made,
        any_right=float(state.any_right_curve.predict_one(score)),
        offered_groups=offered,
        earlier_groups=earlier_groups(
            made.candidate, [near[i] for i in trusted], state.confirmed_at_s
        ),
    )


def _decision(
    candidate: CandidateView | None,
    reasons: tuple[str, ...],
    score: float = 0.0,
    chance: float = 0.0,
    bound: float = 1.0,
    *,
    serve: bool = False,
    audit: bool = False,
) -> Decision:
    return Decision(
        serve, audit, candidate, score, chance, bound, reasons, probability_if_unchanged=chance
    )


def _vetoed(near: Sequence[CandidateView], scored: Sequence[CandidateScore]) -> Decision:
    best = max(range(len(near)), key=lambda i: scored[i].probability)
    reasons = tuple(d.words for d in scored[best].differences.vetoes)
    return _decision(near[best], reasons)


def _decide_best(
    query: QueryView,
    candidate: CandidateView,
    scored: CandidateScore,
    state: RouteState,
    rng: Random,
) -> Decision:
    score = scored.probability
    chance = score if state.curve is None else float(state.curve.predict_one(score))
    notes = tuple(d.words for d in scored.differences.found)
    threshold = state.threshold
    if threshold is None:
        waiting = "closed after an alarm" if state.closed else "shadow mode"
        why = f"{waiting}: {state.labels} labelled questions certify no threshold yet"
        return _decision(candidate, (why, *notes), score, chance)
    bound = threshold.upper_per_hit
    if score < threshold.score:
        why = f"score {score:.3f} is below the certified {threshold.score:.3f}"
        return _decision(candidate, (why, *notes), score, chance, bound)
    if state.verifier.idf.unseen_share(query.view) > threshold.max_unseen_share:
        why = "asked in words that hardly any question behind the bound had"
        return _decision(candidate, (why, *notes), score, chance, bound)
    objection = _objection(candidate, chance, score, state)
    if objection is not None:
        # What was stored before a change stays a candidate, of no known probability: without it, one of
        # another meaning would look better than it is.
        known = chance if state.is_confirmed_since(candidate, state.trusted_from_s) else 0.0
        made = _decision(candidate, (objection, *notes), score, chance, bound)
        return replace(made, probability=known)
    why = (
        f"score {score:.3f} >= {threshold.score:.3f}: of {threshold.hits} labelled questions that"
        f" scored so, {threshold.wrong} had another answer (wrong per hit <= {bound:.3f}, wrong"
        f" per request {threshold.upper_per_request:.4f} <= {state.limits.per_request:g} from"
        f" {threshold.labels} labels)"
    )
    if rng.random() < _audit_propensity(candidate, state):
        reasons = (why, "audited", *notes)
        return _decision(candidate, reasons, score, chance, bound, audit=True)
    state.hits += 1
    state.hits_since_informative += 1
    return _decision(candidate, (why, *notes), score, chance, bound, serve=True)


def _objection(
    candidate: CandidateView, chance: float, score: float, state: RouteState
) -> str | None:
    """Why a score over the threshold is not enough for this entry; None where it is."""
    if not state.is_confirmed_since(candidate, state.trusted_from_s):
        return "kept before answers changed, and not given since"
    if state.on_probation and chance < state.limits.min_probability_after_alarm:
        needed = state.limits.min_probability_after_alarm
        return f"since answers changed, a chance of {needed:.3f} is needed: {chance:.3f}"
    record = state.entries.get(candidate.entry)
    if record is not None and record.posterior_mean(score) < state.limits.min_probability:
        return f"this entry was found wrong {record.wrong:g} times, right {record.right:g} times"
    return None


def _audit_propensity(candidate: CandidateView, state: RouteState) -> float:
    """The probability that this would-be hit is audited: asked of the model all the same."""
    suspicious = state.drift.evidence >= _SUSPICIOUS_EVIDENCE
    doubted = state.on_probation or not state.is_confirmed_since(candidate, state.drift.since_s)
    unseen = state.hits_since_informative >= _MAX_UNTESTED_HITS_PER_PERCENT * max(
        1.0, 100 * state.limits.per_request
    )
    if state.probation_left or (unseen and not state.on_probation) or (suspicious and doubted):
        return 1.0
    if suspicious or state.on_probation:
        return max(state.audit_rate, _RAISED_AUDIT_RATE)
    return state.audit_rate
