"""What a prompt is about, as probabilities over 60 public kinds of question.

Most of what a router can learn is which kinds of prompt the powerful model is better at, and it must
learn that without being told the kinds. This small table, trained once on public benchmark questions
and their subjects (no model's answer, no label of quality), gives it coordinates: what was learned from ten
chemistry questions holds for the eleventh. The shipped file is described in artefacts/README.md.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from app.learn.hashed_linear import HASH_COLUMNS, HashedLinear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_SHARPNESS = 8.0  # scores are ridge estimates of 0/1; this makes a softmax of them about calibrated
_INT8 = 127


@dataclass(frozen=True, slots=True)
class Topics:
    """The table: `weights` float32[2^16, topics] is what a column adds; whole numbers of `scale`.

    `idf` float32[2^16], `scale` and `bias` float32[topics].
    """

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    idf: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    def of(self, columns: NDArray[np.intp]) -> Floats:
        """Probabilities float64[topics], summing to 1, of a prompt's distinct hashed columns."""
        score = self.bias
        if len(columns):
            idf = self.idf.take(columns)
            total = np.add.reduce(self.weights.take(columns, axis=0), axis=0)
            score = score + total / max(math.sqrt(float(idf @ idf)), 1e-9)
        power: Floats = np.exp(_SHARPNESS * (score - np.maximum.reduce(score)).astype(np.float64))
        power /= np.add.reduce(power)
        return power

    @classmethod
    def of_linear(
        cls, names: tuple[str, ...], model: HashedLinear, used: NDArray[np.intp]
    ) -> Topics:
        """Compress a fitted model: keep the columns in `used`, eight bits a weight."""
        kept = model.weights[used].astype(np.float64)
        scale = (np.maximum(np.abs(kept).max(axis=0), 1e-9) / _INT8).astype(np.float32)
        weights = np.zeros((HASH_COLUMNS, len(names)), dtype=np.float32)
        weights[used] = np.round(kept / scale) * scale
        return cls(names, weights, model.idf, scale, model.bias.astype(np.float32))

    def to_bytes(self) -> bytes:
        """Serialise without pickle."""
        used = np.flatnonzero(self.weights.any(axis=1))
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(self.names),
            used=used.astype(np.uint16),
            weights=np.round(self.weights[used] / self.scale).astype(np.int8),
            idf=self.idf.astype(np.float16),
            scale=self.scale,
            bias=self.bias,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Topics:
        """Restore what `to_bytes` wrote. Raises ValueError or KeyError on other bytes."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            scale = archive["scale"]
            weights = np.zeros((HASH_COLUMNS, len(scale)), dtype=np.float32)
            weights[archive["used"]] = archive["weights"] * scale
            return cls(
                tuple(str(name) for name in archive["names"]),
                weights,
                archive["idf"].astype(np.float32),
                scale,
                archive["bias"],
            )

    @classmethod
    def shipped(cls) -> Topics:
        """The table that comes with the package."""
        return cls.from_bytes(
            files("app.classify").joinpath("artefacts", "topics.npz").read_bytes()
        )
