"""What a prompt is about, as probabilities over 60 public kinds of question.

Most of what a router can learn is which kinds of prompt the powerful model is better at, and it must
learn that without being told the kinds. This small table, trained once on public benchmark questions
and their subjects (no model's answer, no label of quality), gives it coordinates: what was learned from ten
chemistry questions holds for the eleventh. The shipped file is described in artefacts/README.md.
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

_SHARPNESS = 8.0  # scores are ridge estimates of 0/1; this makes a softmax of them about calibrated
_INT8 = 127
_PART = 128
_ONES = np.ones(_PART, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Topics:
    """The table: row `places[column]` of `weights` is what a column adds, in units of `scale`.

    A column that is in no row of its own is at row 0, which is all zero. Rows stand in the order of
    their frequency, a byte a weight: what common words ask for lies together, and a CPU has it at hand.

    `weights` int8[rows, topics], `places` uint16[2^16], `idf` float32[2^16], `scale` and `bias`
    float32[topics].
    """

    names: tuple[str, ...]
    weights: NDArray[np.int8]
    places: NDArray[np.uint16]
    idf: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    sharp_scale: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    sharp_bias: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    alone: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    ones: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare what every prompt asks for: scale and bias as the exponential takes them."""
        sharpness = np.float32(_SHARPNESS)
        object.__setattr__(self, "sharp_scale", sharpness * self.scale.astype(np.float32))
        object.__setattr__(self, "sharp_bias", sharpness * self.bias.astype(np.float32))
        object.__setattr__(self, "alone", np.exp(self.sharp_bias))
        object.__setattr__(self, "ones", np.ones(len(self.bias), dtype=np.float32))

    def of(self, columns: NDArray[np.intp]) -> Floats:
        """Probabilities float64[topics], summing to 1, of a prompt's distinct hashed columns."""
        power = self.alone
        if len(columns):
            idf = self.idf.take(columns)
            rows = self.weights.take(self.places.take(columns), axis=0).astype(np.float32)
            # The product with a row of ones is their sum (of whole numbers: exact), and BLAS adds in a
            # quarter of numpy's steps; in parts too small for it to wake other threads.
            total = _ONES[: len(rows)].dot(rows[:_PART])
            for start in range(_PART, len(rows), _PART):
                part = rows[start : start + _PART]
                total += _ONES[: len(part)].dot(part)
            total *= self.sharp_scale
            total *= 1.0 / max(math.sqrt(idf.dot(idf)), 1e-9)
            total += self.sharp_bias
            # No largest score is taken off first: with rows of length one no text can bring the shipped
            # table's beyond 82, and a float32 bears 88.
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
        """Lay out the `rows` of the columns `used`; `rest`: idf, scale, bias."""
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
        """Compress a fitted model: keep the columns in `used`, eight bits a weight."""
        kept = model.weights[used].astype(np.float64)
        scale = (np.maximum(np.abs(kept).max(axis=0), 1e-9) / _INT8).astype(np.float32)
        rows = np.round(kept / scale).astype(np.int8)
        there = rows.any(axis=1)
        rest = (model.idf, scale, model.bias.astype(np.float32))
        return cls._of_rows(names, used[there].astype(np.intp), rows[there], rest)

    def to_bytes(self) -> bytes:
        """Serialise without pickle."""
        used = np.flatnonzero(self.places)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(self.names),
            used=used.astype(np.uint16),
            weights=self.weights[self.places[used]],
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
        """The table that comes with the package; read once, so that a reload does not stop for it."""
        return cls.from_bytes(
            files("app.classify").joinpath("artefacts", "topics.npz").read_bytes()
        )
