"""Serialised labels: what a learner saves, restores and shares. They hold no prompt text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.classify.complexity import GainFeatures
from app.classify.features import DENSE_COLUMNS
from app.learn.archive_errors import ARCHIVE_READ_ERRORS
from app.learn.hashed_linear import HASH_COLUMNS

LABELS_VERSION = 1
"""Incremented when features or tables change their meaning; older labels are then rejected."""


@dataclass(frozen=True, slots=True)
class SavedLabel:
    """A prompt's features, its gain in -1..1, and the propensity in (0, 1] of observing it."""

    features: GainFeatures
    gain: float
    propensity: float


def to_bytes(labels: Sequence[SavedLabel], *, compressed: bool = True) -> bytes:
    """Serialise labels, oldest first, as a numpy archive without pickle; `compressed`: by zlib."""
    sizes = [len(label.features.hashed) for label in labels]
    hashed = [label.features.hashed.astype(np.uint16) for label in labels]
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(
        buffer,
        version=np.array(LABELS_VERSION),
        dense=np.array([label.features.dense for label in labels], dtype=np.float32),
        topics=np.array([label.features.topics for label in labels], dtype=np.float32),
        hashed=np.concatenate([np.zeros(0, dtype=np.uint16), *hashed]),
        sizes=np.array(sizes, dtype=np.int64),
        gain=np.array([label.gain for label in labels]),
        propensity=np.array([label.propensity for label in labels]),
    )
    return buffer.getvalue()


def from_bytes(data: bytes, *, topics: int) -> list[SavedLabel]:
    """Restore what `to_bytes` wrote. `topics`: the table's number of topics.

    Raises ValueError when the bytes are no such archive, of another version or another table.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
    except ARCHIVE_READ_ERRORS as exc:
        # Numpy's own words would advise to load it as a pickle.
        why = f"they are no whole archive ({type(exc).__name__})"
        raise ValueError(
            f"router labels: these {len(data)} bytes cannot be restored: {why}"
        ) from exc
    try:
        return _labels(parts, topics)
    except ARCHIVE_READ_ERRORS as exc:
        raise ValueError(
            f"router labels: these {len(data)} bytes cannot be restored: {exc}"
        ) from exc


def _labels(parts: dict[str, np.ndarray], topics: int) -> list[SavedLabel]:
    if int(parts["version"]) != LABELS_VERSION:
        raise ValueError(f"version {int(parts['version'])}, not {LABELS_VERSION}")
    sizes = parts["sizes"].astype(np.int64)
    n = len(sizes)
    if not n:
        return []
    shapes = (parts["dense"].shape, parts["topics"].shape, parts["gain"].shape)
    if shapes != ((n, DENSE_COLUMNS), (n, topics), (n,)) or parts["propensity"].shape != (n,):
        raise ValueError(f"shapes {shapes} do not fit {n} labels of {topics} topics")
    if (sizes < 0).any() or int(sizes.sum()) != len(parts["hashed"]):
        raise ValueError("the words do not fit their counts")
    if parts["hashed"].size and int(parts["hashed"].max()) >= HASH_COLUMNS:
        raise ValueError("a word lies outside the hashed columns")
    gains, chances = parts["gain"], parts["propensity"]
    sound = (np.abs(gains) <= 1).all() and ((chances > 0) & (chances <= 1)).all()
    if not sound or not (np.isfinite(parts["dense"]).all() and np.isfinite(parts["topics"]).all()):
        raise ValueError("a gain, a propensity or a feature lies outside its range")
    words = np.split(parts["hashed"].astype(np.intp), np.cumsum(sizes)[:-1])
    dense, topic = parts["dense"].astype(np.float64), parts["topics"].astype(np.float64)
    gain, propensity = parts["gain"].tolist(), parts["propensity"].tolist()
    return [
        SavedLabel(GainFeatures(dense[at], words[at], topic[at]), gain[at], propensity[at])
        for at in range(n)
    ]
