"""A vector engine filled with as many questions as wanted, without embedding as many texts.

The first are a stream's own questions with their own vectors. Every other one is a copy whose vector was
moved by Gaussian noise (0.03 a dimension, a cosine of 0.86 to the original), so that an index of a million
takes minutes, not the hour of a million embeddings, and is as crowded around a question as a real one. All
lie in one partition: the hardest case for the index. Answers are as long as a short real one.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from app.cache.stored_answer import StoredAnswer
from app.domain.vectors import StoredQuestion
from app.stores.embedded_qdrant import EmbeddedQdrant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from app.stores.onnx_embedder import OnnxEmbedder

NOISE = 0.03
_ANSWER_CHARS = 400
_BATCH = 1_000
_NOTE = "filled.json"
_KEPT_FOR_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Source:
    """Embedded texts; `groups`: whose answers agree. They are kept as one partition's."""

    name: str
    texts: Sequence[str]
    vectors: NDArray[np.float32]
    groups: Sequence[str]
    partition: str
    tenant: str
    model: str
    route: str
    answer: str = ""
    """What every answer says; "": each group's own, as long as a short real one."""


def opened(folder: Path, size: int, encoder: OnnxEmbedder) -> EmbeddedQdrant:
    """The store in ``folder``, with room for twice ``size``."""
    return EmbeddedQdrant(
        folder, build_id=encoder.build_id, dimension=encoder.dimension, max_points=2 * size
    )


def fill(folder: Path, size: int, encoder: OnnxEmbedder, source: Source) -> float:
    """Fill and merge; seconds. 0 where ``folder`` was filled so before."""
    wanted = {"size": size, "build": encoder.build_id, "stream": source.name,
              "partition": source.partition}  # fmt: skip
    note = folder / _NOTE
    if note.is_file() and json.loads(note.read_text()) == wanted:
        return 0.0
    begun_s = time.perf_counter()
    store = opened(folder, size, encoder)
    rng = np.random.default_rng(0)
    for start in range(0, size, _BATCH):
        store.keep(_batch(source, range(start, min(size, start + _BATCH)), rng))
    store.tend()
    store.close()
    note.write_text(json.dumps(wanted))
    return time.perf_counter() - begun_s


def _batch(
    source: Source, numbers: range, rng: np.random.Generator
) -> list[tuple[StoredQuestion, bytes]]:
    own, places = len(source.texts), np.array(numbers)
    vectors = source.vectors[places % own].astype(np.float64)
    moved = places >= own
    vectors[moved] += rng.normal(scale=NOISE, size=(int(moved.sum()), vectors.shape[1]))
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    packed, ends_s = vectors.astype("<f4"), time.time() + _KEPT_FOR_S
    kept = []
    for number, vector in zip(numbers, packed, strict=True):
        text, group = source.texts[number % own], source.groups[number % own]
        body = _body(group, source.route, source.answer)
        question = StoredQuestion(f"{number:032x}", source.partition, source.tenant, source.model, (), 1.0,
                                ends_s, text, body)  # fmt: skip
        kept.append((question, vector.tobytes()))
    return kept


@lru_cache(maxsize=4_096)
def _body(group: str, route: str, said: str) -> str:
    text = said or (f"The answer of {group}. " * _ANSWER_CHARS)[:_ANSWER_CHARS]
    answer = StoredAnswer(group, text, "stop", "bench", "fast", "bench", route)
    return msgspec.json.encode(answer).decode()
