"""What one route has learned: its labels, fit, threshold, drift evidence, and how each changes.

A state has three modes: ``shadow`` (no certified threshold: nothing is served, every request is a
label), ``open`` (hits from the threshold on), ``closed`` (two alarms: as shadow, but old labels are
gone).

When answers change. `bound.DriftDetector` weighs the evidence in the labels and estimates when the
change began. From the first suspicion on, only answers that a model has given again since then are
served; every other would-be hit is asked of the model. An alarm makes that lasting (``on_probation``):
what was stored before the change is not served until a fresh answer confirms it, older labels go, and
the next would-be hits must be found right before one is served. A second alarm closes the route. What
a question means does not change with its answer: where a fresh answer to nearly the same question
differs from a doubted one, the fresh group replaces the doubted one (``replaced_by``), and all its
stored questions count as candidates for the new answer, though none of their own answers is served.

`app.cache.route_archive` writes a state to bytes and back.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from app.cache.bound import DriftDetector, EntryRecord, Limits, PseudoCounts, Threshold, certify
from app.cache.verifier import (
    Idf,
    LabelledQuestion,
    OutOfFoldScores,
    RouteVerifier,
    fit_route,
)
from app.learn.isotonic import Isotonic

if TYPE_CHECKING:
    from app.cache.decision import CandidateView, Decision, QueryView

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
    hits_since_informative: int = 0  # served since the last label that says much of a change
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

    def audit_propensity(self, candidate: CandidateView) -> float:
        """The probability that this would-be hit is audited: asked of the model all the same."""
        suspicious = self.drift.evidence >= _SUSPICIOUS_EVIDENCE
        doubted = self.on_probation or not self.is_confirmed_since(candidate, self.drift.since_s)
        most = _MAX_UNTESTED_HITS_PER_PERCENT * max(1.0, 100 * self.limits.per_request)
        untested = self.hits_since_informative >= most
        if self.probation_left or (untested and not self.on_probation) or (suspicious and doubted):
            return 1.0
        if suspicious or self.on_probation:
            return max(self.audit_rate, _RAISED_AUDIT_RATE)
        return self.audit_rate

    def is_denied(self, query: QueryView, answer: str) -> bool:
        """Whether ``answer`` was reported wrong for this question."""
        return _denial_key(query, answer) in self.denied

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
