"""Whether a cached answer may be served: the whole decision, pure (state in, decision out).

How the gateway uses it, per route:

    decision = decide(query, candidates, state, rng)   # < 1 ms for eight candidates
    if decision.serve: ...replay decision.candidate's answer, nothing to learn...
    else: ...call the model, compare answers, then...
        state.learn(query, answer, decision)           # answer: group of agreeing answers
        if state.refit_due: state.refit()              # seconds of CPU: off the event loop

`answer` names a group: a fresh answer that agrees with a stored one joins that one's group, else
it starts a group of its own. Who compares is the caller's choice (`app.cache.agreement` has the
plain comparison). A user's verdict on a served hit goes to `state.feedback`. `decision.reasons` are
for people.

Randomness (which would-be hits are audited) comes from the `rng` handed in; nothing here reads a
clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from app.cache.neighbourhood import earlier_groups
from app.cache.verifier import NEIGHBOURS, CandidateScore, any_right_score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from numpy.typing import NDArray

    from app.cache.route_state import RouteState
    from app.cache.text_view import TextView


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


def decide(
    query: QueryView, candidates: Sequence[CandidateView], state: RouteState, rng: Random
) -> Decision:
    """Decide on one question. `candidates`: nearest first, of the same partition only.

    Counts the request in `state`; changes nothing else.
    """
    state.requests += 1
    near = candidates[:NEIGHBOURS]
    if state.denied:
        near = [c for c in near if not state.is_denied(query, c.answer_group)]
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
    if rng.random() < state.audit_propensity(candidate):
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
