"""Ridge regression on hashed words and a few dense columns: the learner for small numbers of labels.

Words fall into 2^16 columns by their hash, so there is no vocabulary to keep. A row is the idf-weighted
set of its columns, scaled to length one, beside its dense part. Ridge with the label noise as its
penalty is the posterior mean of a Gaussian process with a linear kernel: from 50 labels it says
little and says so by staying near zero. It is solved by conjugate gradients on the n x n system
without ever forming it; 10,000 rows of 120 words take about 0.3 s.

Several targets may be fitted at once (`target` float[n, outputs]).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.intp]

HASH_BITS = 16
HASH_COLUMNS = 1 << HASH_BITS


@dataclass(frozen=True, slots=True)
class HashedRows:
    """Rows of distinct columns, laid end to end: row i is `columns[starts[i]:starts[i + 1]]`."""

    columns: Ints
    starts: Ints

    @classmethod
    def of(cls, rows: Sequence[Ints]) -> HashedRows:
        """Lay rows of column numbers end to end."""
        sizes = np.array([len(row) for row in rows], dtype=np.intp)
        columns = np.concatenate([np.zeros(0, dtype=np.intp), *rows])
        starts = np.concatenate([np.zeros(1, dtype=np.intp), np.cumsum(sizes)])
        return cls(columns.astype(np.intp), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def idf(self) -> Floats:
        """Inverse document frequency of each of the 2^16 columns: ln((1 + n) / (1 + df)) + 1."""
        frequency = np.bincount(self.columns, minlength=HASH_COLUMNS)
        out: Floats = np.log((1.0 + len(self)) / (1.0 + frequency)) + 1.0
        return out


@dataclass(frozen=True, slots=True)
class HashedLinear:
    """A fitted model: `weights` float32[2^16, outputs] (idf folded in), `dense` float64[m, outputs].

    A row's output is `bias + sum(weights[columns]) / norm(idf[columns]) + dense_row @ dense`.
    `paired` complex64[2^16]: the first output's weights and the squared idf side by side, so that one
    row costs one look into memory a column, and one sum.
    """

    weights: NDArray[np.float32]
    idf: NDArray[np.float32]
    dense: Floats
    bias: Floats
    paired: NDArray[np.complex64] = field(init=False, repr=False, compare=False)
    first_dense: Floats = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay the first output out for `one`."""
        together = np.column_stack((self.weights[:, 0], self.idf * self.idf)).astype(np.float32)
        object.__setattr__(self, "paired", together.view(np.complex64).ravel())
        object.__setattr__(self, "first_dense", np.ascontiguousarray(self.dense[:, 0]))

    def one(self, columns: Ints, dense: Floats | None = None) -> float:
        """The first output of one row: its distinct columns and its dense part, if any."""
        out = float(self.bias[0])
        if len(columns):
            total = complex(np.add.reduce(self.paired.take(columns)))
            out += total.real / max(math.sqrt(total.imag), 1e-9)
        return out if dense is None else out + float(dense.dot(self.first_dense))

    def many(self, rows: HashedRows, dense: Floats | None = None) -> Floats:
        """Outputs float64[n, outputs] of many rows."""
        matrix = _Matrix(rows, self.idf.astype(np.float64))
        # The fitted weights carry idf once already; the matrix would apply it again.
        safe = np.where(self.idf > 0, self.idf, 1.0).astype(np.float64)
        out = matrix.times(self.weights / safe[:, None]) + self.bias
        return out if dense is None else out + dense @ self.dense


def fit_hashed(
    rows: HashedRows,
    target: Floats,
    *,
    penalty: float,
    idf: Floats | None = None,
    dense: Floats | None = None,
    weight: Floats | None = None,
    steps: int = 30,
) -> HashedLinear:
    """Fit `target` float[n, outputs]. `penalty`: label noise variance over prior variance of the fit.

    `dense` float[n, m] is used as it is: its scale says how much it may matter beside the words, whose
    rows have length one. `weight` float[n] > 0. Raises ValueError on empty or unequal input.
    """
    y = np.asarray(target, dtype=np.float64)
    n = len(rows)
    if y.ndim != 2 or len(y) != n or not n or penalty <= 0:  # noqa: PLR2004
        raise ValueError(f"hashed linear: {n} rows, target {y.shape}, penalty {penalty} do not fit")
    w = np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64)
    scale = rows.idf() if idf is None else np.asarray(idf, dtype=np.float64)
    wide = np.zeros((n, 0)) if dense is None else np.asarray(dense, dtype=np.float64)
    if len(w) != n or len(wide) != n or (w <= 0).any():
        raise ValueError(f"hashed linear: {n} rows need {n} positive weights and dense rows")
    bias = (w @ y) / w.sum()
    matrix = _Matrix(rows, scale)
    noise = penalty / (w / w.mean())

    def system(v: Floats) -> Floats:
        out: Floats = matrix.times(matrix.transposed(v)) + wide @ (wide.T @ v) + noise[:, None] * v
        return out

    dual = _conjugate_gradients(system, y - bias, steps)
    weights = matrix.transposed(dual) * scale[:, None]
    return HashedLinear(
        weights.astype(np.float32), scale.astype(np.float32), wide.T @ dual, np.asarray(bias)
    )


class _Matrix:
    """The idf-weighted, length-one rows as a matrix [n, 2^16] that is only ever multiplied."""

    def __init__(self, rows: HashedRows, idf: Floats) -> None:
        self._rows = rows
        sizes = np.diff(rows.starts)
        self._row_of = np.repeat(np.arange(len(rows)), sizes)
        value = idf[rows.columns]
        norm = np.sqrt(np.bincount(self._row_of, weights=value * value, minlength=len(rows)))
        self._value = value / np.maximum(norm, 1e-9)[self._row_of]
        self._filled = np.flatnonzero(sizes)
        self._begins = rows.starts[:-1][self._filled]

    def times(self, columns: Floats | NDArray[np.float32]) -> Floats:
        """Multiply by [2^16, outputs]."""
        out = np.zeros((len(self._rows), columns.shape[1]))
        if len(self._filled):
            for at in range(columns.shape[1]):
                picked = columns[:, at].take(self._rows.columns) * self._value
                # A row's values lie together: summed so in a quarter of what counting takes.
                out[self._filled, at] = np.add.reduceat(picked, self._begins)
        return out

    def transposed(self, v: Floats) -> Floats:
        """Multiply the transpose by [n, outputs]."""
        out = np.empty((HASH_COLUMNS, v.shape[1]))
        for at in range(v.shape[1]):
            part = self._value * v[self._row_of, at]
            out[:, at] = np.bincount(self._rows.columns, weights=part, minlength=HASH_COLUMNS)
        return out


def _conjugate_gradients(system: _Operator, right: Floats, steps: int) -> Floats:
    """Solve for all outputs at once; stops when every residual has shrunk to 1e-4 of its start."""
    solution = np.zeros_like(right)
    residual = right.copy()
    direction = residual.copy()
    square = (residual * residual).sum(axis=0)
    goal = 1e-8 * square
    for _ in range(steps):
        if (square <= goal).all():
            break
        image = system(direction)
        step = square / np.maximum((direction * image).sum(axis=0), 1e-300)
        solution += step * direction
        residual -= step * image
        after = (residual * residual).sum(axis=0)
        direction = residual + (after / np.maximum(square, 1e-300)) * direction
        square = after
    return solution


if TYPE_CHECKING:
    from collections.abc import Callable

    _Operator = Callable[[Floats], Floats]
