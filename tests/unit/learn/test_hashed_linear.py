from __future__ import annotations

import numpy as np
import pytest

from app.learn.hashed_linear import HashedRows, fit_hashed


def rows(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.unique(rng.integers(0, 300, rng.integers(3, 12))) for _ in range(n)]


def test_it_finds_the_words_that_matter():
    train, test = rows(1500), rows(300, 1)
    value = np.random.default_rng(2).normal(size=300)
    truth = [
        np.array([value[row].sum() / np.sqrt(len(row)) for row in part]) for part in (train, test)
    ]
    model = fit_hashed(HashedRows.of(train), truth[0][:, None], penalty=1.0)
    guess = model.many(HashedRows.of(test))[:, 0]
    assert np.corrcoef(guess, truth[1])[0, 1] > 0.9


def test_one_row_and_many_rows_agree():
    data = rows(50)
    dense = np.random.default_rng(0).normal(size=(50, 3))
    target = np.random.default_rng(1).normal(size=(50, 2))
    model = fit_hashed(HashedRows.of(data), target, penalty=1.0, dense=dense)
    many = model.many(HashedRows.of(data), dense)
    for at, row in enumerate(data):
        assert model.one(row, dense[at]) == pytest.approx(many[at][0], abs=1e-4)


def test_it_solves_the_ridge_system():
    data, n = rows(40), 40
    target = np.random.default_rng(1).normal(size=(n, 1))
    weight = np.random.default_rng(2).uniform(0.5, 2.0, n)
    model = fit_hashed(HashedRows.of(data), target, penalty=2.0, weight=weight, steps=200)
    idf = HashedRows.of(data).idf()
    matrix = np.zeros((n, 300))
    for line, row in zip(matrix, data, strict=True):
        line[row] = idf[row] / np.linalg.norm(idf[row])
    bias = weight @ target[:, 0] / weight.sum()
    noise = np.diag(2.0 / (weight / weight.mean()))
    dual = np.linalg.solve(matrix @ matrix.T + noise, target[:, 0] - bias)
    expected = bias + matrix @ matrix.T @ dual
    assert model.many(HashedRows.of(data))[:, 0] == pytest.approx(expected, abs=1e-3)


def test_a_row_without_words_gets_the_bias():
    model = fit_hashed(HashedRows.of(rows(20)), np.ones((20, 1)) * 3, penalty=1.0)
    assert model.one(np.zeros(0, dtype=np.intp)) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("n", "target", "penalty"),
    [
        (0, np.zeros((0, 1)), 1.0),
        (2, np.zeros((3, 1)), 1.0),
        (2, np.zeros(2), 1.0),
        (2, np.zeros((2, 1)), 0.0),
    ],
)
def test_rubbish_is_refused(n: int, target: np.ndarray, penalty: float):
    with pytest.raises(ValueError, match="hashed linear"):
        fit_hashed(HashedRows.of(rows(n)), target, penalty=penalty)
