"""Words that no evidence speaks for, and what words are worth: what the verifier adds to the trees' rows."""

import numpy as np
import pytest

from app.cache.bound import Limits, certify
from app.cache.text_view import analyse
from app.cache.token_weights import CONTRIBUTIONS, Bags, TokenWeights, hashed_features
from app.cache.verifier import Idf, OutOfFoldScores

KNOWN = [analyse(t) for t in ("flights to denver", "fares to denver", "flights to boston")]


def test_a_question_is_as_strange_as_its_share_of_words_that_none_had():
    idf = Idf.of(KNOWN)
    assert idf.unseen_share(analyse("fares to boston")) == 0.0
    assert idf.unseen_share(analyse("rivers in ohio")) == 1.0
    assert idf.unseen_share(analyse("flights to ohio")) == pytest.approx(0.5)


def test_a_labelled_question_s_own_words_do_not_make_it_ordinary():
    idf = Idf.of(KNOWN)
    assert idf.unseen_share(KNOWN[1]) == 0.0
    assert idf.unseen_share(KNOWN[1], own=1) == pytest.approx(0.5), "fares was asked once"


def test_a_text_without_content_is_not_strange():
    assert Idf.of(KNOWN).unseen_share(analyse("to the")) == 0.0


def _outcomes(strange: list[float]) -> OutOfFoldScores:
    count = len(strange)
    scores = np.linspace(1.0, 0.9, count)
    return OutOfFoldScores(scores, np.ones(count), np.ones(count), unseen_shares=np.array(strange))


def test_a_bound_speaks_for_no_stranger_question_than_its_evidence():
    threshold = certify(_outcomes([0.0] * 190 + [0.25] * 10), Limits.of(0.05))
    assert threshold is not None
    assert threshold.max_unseen_share == 0.25


def test_one_odd_question_among_fifty_does_not_widen_what_the_bound_speaks_for():
    threshold = certify(_outcomes([0.0] * 198 + [0.9] * 2), Limits.of(0.05))
    assert threshold is not None
    assert threshold.max_unseen_share == 0.0


def test_a_bound_without_such_evidence_allows_every_question():
    outcomes = OutOfFoldScores(np.full(200, 0.95), np.ones(200), np.ones(200))
    threshold = certify(outcomes, Limits.of(0.05))
    assert threshold is not None
    assert threshold.max_unseen_share == 1.0


def test_parts_of_a_margin_add_up_and_name_the_worst_word_and_the_unknown():
    pairs = [(analyse(f"flights to {x}"), analyse(f"{how} flights to {y}"))
             for x in ("denver", "boston", "dallas") for y in ("denver", "boston", "dallas")
             for how in ("please", "show")]  # fmt: skip
    bags = Bags.of([hashed_features(a, b) for a, b in pairs])
    same = np.array([float(a.words[-1] == b.words[-1]) for a, b in pairs])
    fitted = TokenWeights.fit(bags, same)
    parts = fitted.contributions(bags)
    assert parts.shape == (len(pairs), CONTRIBUTIONS)
    each = [fitted.margin(hashed_features(a, b)) for a, b in pairs]
    assert np.allclose(parts[:, 0], each)
    assert np.allclose(parts[:, 2] + parts[:, 3] + fitted.intercept, parts[:, 0])
    assert (parts[:, 1] >= parts[:, 2] - 1e-9).all()
    assert not parts[:, 4].any()
    unknown = fitted.contributions(
        Bags.of([hashed_features(analyse("rivers in ohio"), analyse("lakes in iowa"))])
    )
    assert unknown[0, 4] > 0
