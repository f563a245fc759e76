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
_FNV_PRIME, _FOLD, _MASK = np.uint32(0x01000193), np.uint32(15), np.uint32(HASH_COLUMNS - 1)


def columns_of(features: Features) -> NDArray[np.intp]:
    """Distinct columns of a text's words, word pairs and letter groups (of its first 256 bytes)."""
    plain = f" {' '.join(features.text.lower().split())} "
    data = np.frombuffer(plain.encode("utf-8", "replace")[:_READ_BYTES], dtype=np.uint8)
    n = len(data)
    wide = np.zeros(n + _GROUP_BYTES[-1], dtype=np.uint32)
    wide[:n] = data
    # A row for each size, all in step; a row has been told of its whole group after its own size.
    mixed = np.empty((len(_GROUP_BYTES), n), dtype=np.uint32)
    mixed[:] = _GROUP_SEEDS
    for at in range(_GROUP_BYTES[-1]):
        rows = mixed[max(0, at + 1 - _GROUP_BYTES[0]) :]
        rows ^= wide[at : at + n]
        rows *= _FNV_PRIME
    mixed ^= mixed >> _FOLD
    mixed &= _MASK
    groups = [row[: max(0, n - size + 1)] for row, size in zip(mixed, _GROUP_BYTES, strict=True)]
    return distinct(np.concatenate((features.hashed.astype(np.uint32), *groups)))


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
