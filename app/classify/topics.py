"""A topic classifier: what a prompt is about, as probabilities over 60 public kinds of question.

Most of what a router can learn is which kinds of prompt the powerful model is better at, without labels of
the kinds. This small linear model, trained once on public benchmark questions and their subjects (no model's
answer, no quality label), gives it features that generalise: what was learned from ten chemistry questions
holds for the eleventh. The shipped file is described in artefacts/README.md.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from app.learn.hashed_linear import HASH_COLUMNS, HashedLinear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_INVERSE_TEMPERATURE = (
    8.0  # inverse temperature: makes a softmax of ridge estimates of 0/1 about calibrated
)
_INT8 = 127
_BLOCK = 128
_ONES = np.ones(_BLOCK, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Topics:
    """Quantised weights: row `row_of_column[column]` of `weights` is what a column adds, in units of `scale`.

    Columns without a row of their own map to row 0, which is zero. Rows are int8 and sorted by frequency, so
    that those of common words share cache lines.

    `weights` int8[rows, topics], `row_of_column` uint16[2^16], `idf` float32[2^16], `scale` and `bias`
    float32[topics].
    """

    names: tuple[str, ...]
    weights: NDArray[np.int8]
    row_of_column: NDArray[np.uint16]
    idf: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    sharp_scale: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    sharp_bias: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    bias_only: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    ones: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Fold the inverse temperature into scale and bias."""
        sharpness = np.float32(_INVERSE_TEMPERATURE)
        object.__setattr__(self, "sharp_scale", sharpness * self.scale.astype(np.float32))
        object.__setattr__(self, "sharp_bias", sharpness * self.bias.astype(np.float32))
        object.__setattr__(self, "bias_only", np.exp(self.sharp_bias))
        object.__setattr__(self, "ones", np.ones(len(self.bias), dtype=np.float32))

    def probabilities(self, columns: NDArray[np.intp]) -> Floats:
        """Probabilities float64[topics], summing to 1, of a prompt's distinct hashed columns."""
        power = self.bias_only
        if len(columns):
            idf = self.idf.take(columns)
            rows = self.weights.take(self.row_of_column.take(columns), axis=0).astype(np.float32)
            # Multiplying by a row of ones sums them (integers: exact), in a quarter of numpy's time; in
            # blocks
            # too small for BLAS to start threads.
            total = _ONES[: len(rows)].dot(rows[:_BLOCK])
            for start in range(_BLOCK, len(rows), _BLOCK):
                block = rows[start : start + _BLOCK]
                total += _ONES[: len(block)].dot(block)
            total *= self.sharp_scale
            total *= 1.0 / max(math.sqrt(idf.dot(idf)), 1e-9)
            total += self.sharp_bias
            # The maximum is not subtracted first: with unit-length rows no text exceeds 82 with the shipped
            # weights, and float32's exp overflows at 88.
            power = np.exp(total, total)
        return (power * (1.0 / float(power.dot(self.ones)))).astype(np.float64)

    @classmethod
    def _of_rows(
        cls,
        names: tuple[str, ...],
        used: NDArray[np.intp],
        rows: NDArray[np.int8],
        rest: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    ) -> Topics:
        """Order the `rows` of the columns `used` by frequency; `rest`: idf, scale, bias."""
        idf, scale, bias = rest
        order = np.argsort(idf[used], kind="stable")
        places = np.zeros(HASH_COLUMNS, dtype=np.uint16)
        places[used[order]] = np.arange(1, len(used) + 1)
        weights = np.concatenate((np.zeros((1, len(names)), dtype=np.int8), rows[order]))
        return cls(names, weights, places, idf, scale, bias)

    @classmethod
    def of_linear(
        cls, names: tuple[str, ...], model: HashedLinear, used: NDArray[np.intp]
    ) -> Topics:
        """Quantise a fitted model: keep the columns in `used`, eight bits a weight."""
        kept = model.weights[used].astype(np.float64)
        scale = (np.maximum(np.abs(kept).max(axis=0), 1e-9) / _INT8).astype(np.float32)
        rows = np.round(kept / scale).astype(np.int8)
        there = rows.any(axis=1)
        rest = (model.idf, scale, model.bias.astype(np.float32))
        return cls._of_rows(names, used[there].astype(np.intp), rows[there], rest)

    def to_bytes(self) -> bytes:
        """Serialise without pickle."""
        used = np.flatnonzero(self.row_of_column)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(self.names),
            used=used.astype(np.uint16),
            weights=self.weights[self.row_of_column[used]],
            idf=self.idf.astype(np.float16),
            scale=self.scale,
            bias=self.bias,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Topics:
        """Restore what `to_bytes` wrote. Raises ValueError or KeyError on other bytes."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            rest = (archive["idf"].astype(np.float32), archive["scale"], archive["bias"])
            names = tuple(str(name) for name in archive["names"])
            return cls._of_rows(names, archive["used"].astype(np.intp), archive["weights"], rest)

    @classmethod
    @cache
    def shipped(cls) -> Topics:
        """The model that comes with the package; read once a process, so that no reload blocks on it."""
        return cls.from_bytes(
            files("app.classify").joinpath("artefacts", "topics.npz").read_bytes()
        )
