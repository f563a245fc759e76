"""A yes/no judgement of a short text by its words and letter groups: one shipped linear table each.

Letter groups (3 to 5 bytes) catch endings and names that whole words miss, in any script. They are
hashed into the same 2^16 columns as the words, vectorised: a question of 80 letters costs 30 us.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from app.classify.features import Features, distinct
from app.learn.hashed_linear import HASH_COLUMNS, HashedLinear, HashedRows, fit_hashed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_GROUP_BYTES = (3, 4, 5)
_READ_BYTES = 256
_GROUP_SEEDS = np.array(_GROUP_BYTES, dtype=np.uint32)[:, None]
_FEWEST_BYTES, _LONGEST = min(_GROUP_BYTES), max(_GROUP_BYTES)
_DONE_BEFORE = [sum(step >= size for size in _GROUP_BYTES) for step in range(_LONGEST)]
# As arrays of no dimension: numpy takes a third longer to read a scalar.
_FNV_PRIME, _FOLD = np.array(0x01000193, dtype=np.uint32), np.array(15, dtype=np.uint32)
_MASK = np.array(HASH_COLUMNS - 1, dtype=np.uint32)


def columns_of(features: Features) -> NDArray[np.intp]:
    """Distinct columns of a text's words, word pairs and letter groups (of its first 256 bytes)."""
    plain = f" {' '.join(features.text.lower().split())} "
    data = np.frombuffer(plain.encode("utf-8", "replace")[:_READ_BYTES], dtype=np.uint8)
    if len(data) < _FEWEST_BYTES:
        return features.hashed
    words, row = features.hashed, len(data) + _LONGEST
    both = np.empty(len(words) + len(_GROUP_BYTES) * row, dtype=np.uint32)
    both[: len(words)] = words
    _hash_groups(data, both[len(words) :], row)
    return distinct(both)


def _hash_groups(data: NDArray[np.uint8], out: NDArray[np.uint32], row: int) -> None:
    """Fill `out` with the columns of the groups in `data`, three bytes or more: a row for each size.

    The rows go in step, and a row has been told of its whole group after its own size. One step is one
    shift of all rows at once: what it carries from a row into the one before reaches only places
    where a group would go beyond the end, and those are given the first group's column again.
    """
    n, sizes = len(data), len(_GROUP_BYTES)
    wide = np.zeros(sizes * row + _LONGEST, dtype=np.uint32)
    wide[: sizes * row].reshape(sizes, row)[:, :n] = data
    rows = out.reshape(sizes, row)
    rows[:] = _GROUP_SEEDS
    for step, done in enumerate(_DONE_BEFORE):
        start = row * done
        left = out[start:]
        np.bitwise_xor(left, wide[start + step : sizes * row + step], left)
        np.multiply(left, _FNV_PRIME, left)
    np.bitwise_xor(out, np.right_shift(out, _FOLD), out)
    np.bitwise_and(out, _MASK, out)
    first = out.item(0)
    for at, size in enumerate(_GROUP_BYTES):
        rows[at, max(0, n - size + 1) :].fill(first)


@dataclass(frozen=True, slots=True)
class TextHead:
    """A fitted table; `score` is about 0 for no and 1 for yes, not limited to that range."""

    model: HashedLinear

    @classmethod
    def fit(
        cls,
        texts: Sequence[Features],
        labels: Sequence[bool],
        *,
        penalty: float,
        cues: Floats | None = None,
        balanced: bool = False,
    ) -> TextHead:
        """Fit to labelled texts. `cues` float[n, m]: hand-made columns beside the words.

        `balanced`: yes and no weigh the same in sum, however many there are of each.
        """
        y = np.array(labels, dtype=np.float64)
        weight = np.where(y > 0, 0.5 / max(y.mean(), 1e-9), 0.5 / max(1 - y.mean(), 1e-9))
        rows = HashedRows.of([columns_of(text) for text in texts])
        model = fit_hashed(
            rows, y[:, None], penalty=penalty, dense=cues, weight=weight if balanced else None
        )
        return cls(model)

    def score(self, features: Features, cues: Floats | None = None) -> float:
        """Judge one text, with the cues that it was fitted with."""
        return self.model.one(columns_of(features), cues)

    def to_bytes(self) -> bytes:
        """Serialise without pickle; weights in 16 bits."""
        used = np.flatnonzero(self.model.weights[:, 0])
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            used=used.astype(np.uint16),
            weights=self.model.weights[used, 0].astype(np.float16),
            idf=self.model.idf.astype(np.float16),
            dense=self.model.dense,
            bias=self.model.bias,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> TextHead:
        """Restore what `to_bytes` wrote. Raises ValueError or KeyError on other bytes."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            weights = np.zeros((HASH_COLUMNS, 1), dtype=np.float32)
            weights[archive["used"], 0] = archive["weights"]
            idf = archive["idf"].astype(np.float32)
            return cls(HashedLinear(weights, idf, archive["dense"], archive["bias"]))

    @classmethod
    @cache
    def shipped(cls, name: str) -> TextHead:
        """The table `name` that comes with the package, read once: "lasting" or "tool_need"."""
        path = files("app.classify").joinpath("artefacts", f"{name}.npz")
        return cls.from_bytes(path.read_bytes())
