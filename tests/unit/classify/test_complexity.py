from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classify import features, labels
from app.classify.calibration import apgr, apgr_interval, expected_calibration_error
from app.classify.complexity import (
    Complexity,
    GainFeatures,
    fit_head,
    fit_head_reusing_calibration,
    score,
)
from app.classify.features import DENSE_COLUMNS, DENSE_NAMES, extract
from app.domain.decisions import PromptView

COMPLEXITY = Complexity()


def point(text: str) -> GainFeatures:
    return COMPLEXITY.features_of(extract(PromptView(text=text, total_chars=len(text))))


def traffic(n: int, seed: int) -> tuple[list[GainFeatures], np.ndarray]:
    """Questions on law gain from the powerful model, on cooking they do not."""
    rng = np.random.default_rng(seed)
    law = ("statute", "plaintiff", "appeal", "tort", "clause", "verdict")
    food = ("soup", "bread", "onion", "butter", "oven", "garlic")
    points, gains = [], []
    for _ in range(n):
        hard = rng.random() < 0.4
        words = rng.choice(law if hard else food, 4)
        points.append(point(f"Tell me about {' and '.join(words)} please"))
        gains.append(float(rng.random() < (0.6 if hard else 0.1)) - float(rng.random() < 0.1))
    return points, np.array(gains)


def test_features_have_names_and_are_finite_for_any_text():
    assert len(DENSE_NAMES) == DENSE_COLUMNS == len(set(DENSE_NAMES))
    for text in ("", "a", "\ud800", "x" * 5000, "1 + 1\nA. x\nB. y"):
        features = extract(PromptView(text=text, total_chars=len(text)))
        assert features.dense.shape == (DENSE_COLUMNS,)
        assert np.isfinite(features.dense).all()
        assert (np.diff(features.hashed) > 0).all()


@pytest.mark.parametrize(
    "letters", ["?", "1 ", "(", "a,", "\u00e9", "\\", ".\n", "\n- ", "\n(A) ", "'=", "\ud800"]
)
def test_any_count_of_a_long_text_has_a_place_in_its_row(letters: str):
    found = extract(PromptView(text=letters * 3000, turns=10**6, max_tokens=10**9))
    assert np.isfinite(found.dense).all()


@given(st.text(st.sampled_from("ab1.,?!()'\"=$\\_{\x00\u00e9"), min_size=1, max_size=24))
def test_a_piece_that_is_read_from_its_parts_is_told_as_when_read_whole(text: str):
    piece = text.encode()
    told, whole = (
        np.frombuffer(each, np.uint32)
        for each in (features._PieceCache()[piece], features._encode(piece))
    )
    words = features._LAST_CRC_ARRAY
    assert (told[told <= words] == whole[whole <= words]).all()
    assert sorted(told.tolist()) == sorted(whole.tolist())


def test_only_the_ends_of_a_long_text_are_read():
    middle = "x " * 5000
    one = extract(PromptView(text="a" * 1200 + middle + "b" * 600))
    other = extract(PromptView(text="a" * 1200 + middle.upper() + "b" * 600))
    assert (one.hashed == other.hashed).all()


def test_the_prior_knows_kinds_and_tosses_a_steady_coin_within_one():
    latex = COMPLEXITY(extract(PromptView(text=r"Find $\int_0^1 x^2 dx$ and show your work")))
    plain = [COMPLEXITY(extract(PromptView(text=f"Tell me about {w}"))) for w in ("tea", "cats")]
    assert latex > max(plain)
    assert plain[0] != plain[1]
    assert abs(plain[0] - plain[1]) <= 0.02


def test_a_head_learns_which_kind_gains_and_says_how_probable_it_is():
    points, gains = traffic(500, 0)
    head = fit_head(points, gains.tolist())
    assert head is not None
    fresh, truth = traffic(600, 1)
    stated = np.array([score(head, one) for one in fresh])
    before = np.array([score(None, one) for one in fresh])
    assert apgr(stated, truth) > apgr(before, truth) + 0.1
    assert expected_calibration_error(stated, (truth > 0).astype(float)) < 0.12


def test_with_trees_one_row_still_scores_as_in_training():
    points, gains = traffic(1100, 2)
    head = fit_head(points, gains.tolist())
    assert head is not None
    assert head.trees is not None
    assert apgr(np.array([head.gain(one) for one in points]), gains) > 0.6


def test_a_head_that_ranks_no_better_than_a_coin_gives_way_to_the_prior():
    points, _ = traffic(200, 3)
    rng = np.random.default_rng(7)
    found = False
    for seed in range(6):
        noise = rng.choice([-1.0, 0.0, 1.0], 200)
        head = fit_head(points, noise.tolist(), seed=seed)
        if head is not None and head.lower_bound < 0.5:
            found = True
            assert all(score(head, one) == score(None, one) for one in points[:20])
    assert found


def test_a_rival_ranks_as_its_own_labels_say_and_states_what_another_was_calibrated_to():
    points, gains = traffic(300, 0)
    other, own = fit_head(points, gains.tolist()), fit_head(points[:200], gains[:200].tolist())
    assert other is not None
    assert own is not None
    rival = fit_head_reusing_calibration(other, points[:200], gains[:200].tolist())
    assert rival is not None
    assert [rival.gain(one) for one in points] == [own.gain(one) for one in points]
    assert rival.isotonic_calibration is other.isotonic_calibration
    assert fit_head_reusing_calibration(other, points[:39], gains[:39].tolist()) is None


def test_few_labels_or_equal_ones_make_no_head():
    points, gains = traffic(39, 0)
    assert fit_head(points, gains.tolist()) is None
    points, _ = traffic(60, 0)
    assert fit_head(points, [0.0] * 60) is None


def test_the_head_is_the_same_for_the_same_labels():
    points, gains = traffic(200, 0)
    one, other = fit_head(points, gains.tolist()), fit_head(points, gains.tolist())
    assert one is not None
    assert other is not None
    assert score(one, points[0]) == score(other, points[0])


def test_labels_are_saved_and_restored_without_any_text():
    points, gains = traffic(50, 0)
    saved = [
        labels.SavedLabel(one, float(gain), 0.5) for one, gain in zip(points, gains, strict=True)
    ]
    data = labels.to_bytes(saved)
    assert b"statute" not in data
    back = labels.from_bytes(data, topics=len(points[0].topics))
    assert len(back) == 50
    assert all(
        (a.features.hashed == b.features.hashed).all() for a, b in zip(saved, back, strict=True)
    )
    assert [one.gain for one in back] == [one.gain for one in saved]
    assert labels.from_bytes(labels.to_bytes([]), topics=3) == []


@pytest.mark.parametrize("data", [b"", b"rubbish"])
def test_saved_rubbish_is_refused(data: bytes):
    with pytest.raises(ValueError, match="router labels"):
        labels.from_bytes(data, topics=3)


def test_labels_of_another_table_are_refused():
    points, gains = traffic(5, 0)
    saved = [labels.SavedLabel(one, float(g), 1.0) for one, g in zip(points, gains, strict=True)]
    with pytest.raises(ValueError, match="topics"):
        labels.from_bytes(labels.to_bytes(saved), topics=len(points[0].topics) + 1)


def test_apgr_is_half_for_a_coin_and_more_for_an_oracle():
    rng = np.random.default_rng(11)
    gain = (rng.random(4000) < 0.2).astype(float)
    assert apgr(np.zeros(4000), gain) == pytest.approx(0.5, abs=0.03)
    assert apgr(gain, gain) == pytest.approx(0.9, abs=0.02)
    assert apgr(-gain, gain) == pytest.approx(0.1, abs=0.02)
    low, high = apgr_interval(gain, gain)
    assert low < 0.9 < high


def test_apgr_without_a_gap_to_win_is_half():
    assert apgr(np.arange(4.0), np.array([0.0, -1.0, 0.0, 0.0])) == 0.5
    assert apgr(np.zeros(0), np.zeros(0)) == 0.5
