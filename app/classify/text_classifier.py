"""A binary classifier of short texts: ridge regression on hashed words and character n-grams.

Character n-grams (3 to 5 bytes) catch endings and names that whole words miss, in any script. They are
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

from app.classify.features import Features, sorted_unique
from app.learn.hashed_linear import HASH_COLUMNS, HashedLinear, HashedRows, fit_hashed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_NGRAM_BYTES = (3, 4, 5)
_MAX_BYTES = 256
_NGRAM_SEEDS = np.array(_NGRAM_BYTES, dtype=np.uint32)[:, None]
_MIN_BYTES, _MAX_NGRAM = min(_NGRAM_BYTES), max(_NGRAM_BYTES)
_COMPLETE_AT = [sum(step >= size for size in _NGRAM_BYTES) for step in range(_MAX_NGRAM)]
# As zero-dimensional arrays: numpy takes a third longer to convert a scalar.
_FNV_PRIME, _FOLD = np.array(0x01000193, dtype=np.uint32), np.array(15, dtype=np.uint32)
_MASK = np.array(HASH_COLUMNS - 1, dtype=np.uint32)


def ngram_columns(features: Features) -> NDArray[np.intp]:
    """Distinct columns of a text's words, word bigrams and character n-grams (of its first 256 bytes)."""
    plain = f" {' '.join(features.text.lower().split())} "
    data = np.frombuffer(plain.encode("utf-8", "replace")[:_MAX_BYTES], dtype=np.uint8)
    if len(data) < _MIN_BYTES:
        return features.hashed
    words, row = features.hashed, len(data) + _MAX_NGRAM
    both = np.empty(len(words) + len(_NGRAM_BYTES) * row, dtype=np.uint32)
    both[: len(words)] = words
    _hash_char_ngrams(data, both[len(words) :], row)
    return sorted_unique(both)


def _hash_char_ngrams(data: NDArray[np.uint8], out: NDArray[np.uint32], row: int) -> None:
    """Fill `out` with the FNV hashes of the n-grams in `data`, three bytes or more: a row for each n.

    All rows are hashed in step; a row is complete after n steps. A step shifts all rows at once: what it
    carries from one row into the one before reaches only positions where an n-gram would exceed the end,
    and those are overwritten with the first n-gram's column.
    """
    n, sizes = len(data), len(_NGRAM_BYTES)
    wide = np.zeros(sizes * row + _MAX_NGRAM, dtype=np.uint32)
    wide[: sizes * row].reshape(sizes, row)[:, :n] = data
    rows = out.reshape(sizes, row)
    rows[:] = _NGRAM_SEEDS
    for step, complete in enumerate(_COMPLETE_AT):
        start = row * complete
        left = out[start:]
        np.bitwise_xor(left, wide[start + step : sizes * row + step], left)
        np.multiply(left, _FNV_PRIME, left)
    np.bitwise_xor(out, np.right_shift(out, _FOLD), out)
    np.bitwise_and(out, _MASK, out)
    first = out.item(0)
    for at, size in enumerate(_NGRAM_BYTES):
        rows[at, max(0, n - size + 1) :].fill(first)


@dataclass(frozen=True, slots=True)
class LinearTextClassifier:
    """A fitted model; `score` is about 0 for no and 1 for yes, not clipped to that range."""

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
    ) -> LinearTextClassifier:
        """Fit to labelled texts. `cues` float[n, m]: hand-made columns beside the words.

        `balanced`: both classes get the same total weight.
        """
        y = np.array(labels, dtype=np.float64)
        weight = np.where(y > 0, 0.5 / max(y.mean(), 1e-9), 0.5 / max(1 - y.mean(), 1e-9))
        rows = HashedRows.of([ngram_columns(text) for text in texts])
        model = fit_hashed(
            rows, y[:, None], penalty=penalty, dense=cues, weight=weight if balanced else None
        )
        return cls(model)

    def score(self, features: Features, cues: Floats | None = None) -> float:
        """Score one text, with the cues that it was fitted with."""
        return self.model.one(ngram_columns(features), cues)

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
    def from_bytes(cls, data: bytes) -> LinearTextClassifier:
        """Restore what `to_bytes` wrote. Raises ValueError or KeyError on other bytes."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            weights = np.zeros((HASH_COLUMNS, 1), dtype=np.float32)
            weights[archive["used"], 0] = archive["weights"]
            idf = archive["idf"].astype(np.float32)
            return cls(HashedLinear(weights, idf, archive["dense"], archive["bias"]))

    @classmethod
    @cache
    def shipped(cls, name: str) -> LinearTextClassifier:
        """The model `name` that comes with the package, read once: "evergreen" or "tool_need"."""
        path = files("app.classify").joinpath("artefacts", f"{name}.npz")
        return cls.from_bytes(path.read_bytes())
