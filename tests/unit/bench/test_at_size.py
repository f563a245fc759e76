"""The bench of decisions at size times hits: what it learns from keeps them coming, and none is an error."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from app.cache.bound import Limits, Threshold
from app.cache.decision import CandidateView, QueryView, decide
from app.cache.route_state import RouteState
from app.cache.semantic import Lookup
from app.cache.stored_answer import StoredAnswer
from app.cache.text_view import analyse
from app.domain.vectors import StoredQuestion
from bench.cache.at_size import FewHitsError, Model

TEXTS = [f"how do i reset the password of account {name}" for name in "abcdefghij" * 10]
SURE = Threshold(0.1, labels=1_000, hits=900, wrong=0, upper_per_request=0.001, upper_per_hit=0.002)


def route() -> RouteState:
    state = RouteState(Limits.of(0.05), audit_rate=0.0)
    state.threshold = SURE
    return state


def looked(state: RouteState, text: str, rng: Random) -> Lookup:
    """What a look-up of ``text`` finds where the very words are kept."""
    query = QueryView(analyse(text), np.ones(4, dtype=np.float32) / 2)
    decision = decide(query, [CandidateView("e", query.view, 0.99, text, 1.0)], state, rng)
    if not decision.serve:
        return Lookup("audited", query, (), decision)
    question = StoredQuestion("e", "p", "t", "m", (), 1.0, 2.0, text, "")
    answer = StoredAnswer(text, "an answer", "stop", "m", "fast", "m", "r")
    return Lookup("hit", query, (), decision, (question, answer))


def test_hits_go_on_where_what_was_asked_of_the_model_is_learned():
    state, rng = route(), Random(0)
    state.verifier = _Fitted(state)
    model = Model(state, {text: text for text in TEXTS})
    for text in TEXTS:
        model.settle(text, looked(state, text, rng))
    assert model.hits > 0.8 * len(TEXTS)
    assert model.wrong == 0
    model.check(len(TEXTS))


def test_where_nothing_is_learned_there_are_soon_no_hits_and_that_is_an_error():
    state, rng = route(), Random(0)
    model = Model(route(), {text: text for text in TEXTS})  # learns for somebody else
    for text in TEXTS:
        model.settle(text, looked(state, text, rng))
    assert 0 < model.hits < 20
    with pytest.raises(FewHitsError, match=f"{model.hits} of 100 decisions were hits"):
        model.check(len(TEXTS))


def test_a_hit_that_says_something_else_is_counted_as_wrong():
    state = route()
    model = Model(state, {TEXTS[0]: "another answer"})
    model.settle(TEXTS[0], looked(state, TEXTS[0], Random(0)))
    assert (model.hits, model.wrong) == (1, 1)


class _Fitted:
    """The verifier of a route that has learned: `learn` only heeds labels of such."""

    fitted = True

    def __init__(self, state: RouteState) -> None:
        self.score, self.idf = state.verifier.score, state.verifier.idf
