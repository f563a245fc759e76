from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.learn.gbdt import Gbdt, GbdtParams


def wavy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8))
    return x, np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + rng.normal(size=n) * 0.2


def test_it_learns_a_nonlinear_function_on_unseen_rows():
    x, y = wavy(4000)
    model = Gbdt.fit(x[:3000], y[:3000])
    rest = y[3000:]
    assert 1 - ((model.predict(x[3000:]) - rest) ** 2).mean() / rest.var() > 0.75


def test_logistic_loss_gives_probabilities_that_match_the_frequencies():
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, size=(6000, 3))
    truth = 1 / (1 + np.exp(-3 * x[:, 0]))
    y = (rng.uniform(size=6000) < truth).astype(float)
    params = GbdtParams(loss="logistic", trees=40, depth=3)
    p = Gbdt.fit(x, y, params=params).predict(x)
    assert p.min() > 0
    assert p.max() < 1
    assert np.abs(p - truth).mean() < 0.06


def test_one_row_and_many_rows_agree_exactly():
    x, y = wavy(500)
    model = Gbdt.fit(x, y, params=GbdtParams(loss="squared", trees=20))
    many = model.predict(x)
    assert all(
        model.predict_one(row) == pytest.approx(many[i], abs=1e-12) for i, row in enumerate(x)
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_a_few_rows_and_many_agree_to_the_last_bit(depth):
    """They take different ways through the trees; rows with something missing too."""
    rng = np.random.default_rng(depth)
    x = rng.normal(size=(200, 6))
    x[rng.random(x.shape) < 0.05] = np.nan
    y = (np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1] * x[:, 2]) > 0).astype(float)
    model = Gbdt.fit(x, y, params=GbdtParams(loss="logistic", trees=9, depth=depth))
    few = np.concatenate([model.margin(x[at : at + 8]) for at in range(0, 200, 8)])
    assert (few == model.margin(x)).all()


def test_the_same_data_and_seed_give_the_same_model():
    x, y = wavy(400)
    assert Gbdt.fit(x, y).to_bytes() == Gbdt.fit(x, y).to_bytes()


def test_bytes_restore_the_model():
    x, y = wavy(300)
    model = Gbdt.fit(x, y)
    assert (Gbdt.from_bytes(model.to_bytes()).predict(x) == model.predict(x)).all()


@pytest.mark.parametrize("data", [b"", b"rubbish", b"PK\x03\x04" + b"\0" * 40])
def test_bytes_of_anything_else_are_refused(data: bytes):
    with pytest.raises(ValueError, match="gbdt"):
        Gbdt.from_bytes(data)


def test_missing_values_go_the_same_way_in_training_and_prediction():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1000, 2))
    x[rng.uniform(size=1000) < 0.4, 0] = np.nan
    y = np.isnan(x[:, 0]).astype(float) * 3
    model = Gbdt.fit(x, y, params=GbdtParams(feature_share=1.0))
    assert model.predict_one(np.array([np.nan, 0.0])) > 2
    assert model.predict_one(np.array([0.5, 0.0])) < 1


def test_a_constant_feature_and_a_constant_target_are_harmless():
    model = Gbdt.fit(np.ones((50, 2)), np.full(50, 7.0))
    assert model.predict_one(np.array([3.0, 4.0])) == pytest.approx(7.0)


def test_rows_of_no_weight_teach_nothing():
    x, y = wavy(400)
    y[200:] += 100
    weight = np.r_[np.ones(200), np.zeros(200)]
    assert Gbdt.fit(x, y, weight=weight).predict(x).max() < 20


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((0, 3)), np.zeros(0)),
        (np.zeros((3, 0)), np.zeros(3)),
        (np.zeros((3, 2)), np.zeros(4)),
        (np.zeros(3), np.zeros(3)),
        (np.zeros((2, 2)), np.array([0.0, np.nan])),
    ],
)
def test_rubbish_is_refused_with_a_reason(x: np.ndarray, y: np.ndarray):
    with pytest.raises(ValueError, match="gbdt"):
        Gbdt.fit(x, y)


def test_a_tree_that_was_not_dealt_the_first_feature_is_cut_too():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 8))
    y = np.where(x[:, 7] > 0, 1.0, -1.0)
    params = GbdtParams(trees=200, depth=1, feature_share=0.125, row_share=1.0)
    grown = Gbdt.fit(x, y, params=params)
    # One feature a tree: an eighth of the trees have the telling one, none of which has the first.
    assert np.corrcoef(grown.predict(x), y)[0, 1] > 0.9


def test_kept_columns_are_in_every_draw():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 8))
    y = np.where(x[:, 0] > 0, 1.0, -1.0)
    params = GbdtParams(trees=1, depth=1, feature_share=0.25, kept_columns=1, learning_rate=1.0)
    for seed in range(10):
        grown = Gbdt.fit(x, y, params=replace(params, seed=seed))
        assert np.corrcoef(grown.predict(x), y)[0, 1] > 0.9
