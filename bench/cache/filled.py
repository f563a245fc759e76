"""A vector engine filled with as many questions as wanted, without embedding as many texts.

The first are a stream's own questions with their own vectors. Every other one is a copy whose vector was
moved by Gaussian noise (0.03 a dimension, a cosine of 0.86 to the original), so that an index of a million
takes minutes, not the hour of a million embeddings, and is as crowded around a question as a real one. All
lie in one partition: the hardest case for the index. Answers are as long as a short real one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from app.cache.kept import KeptAnswer
from app.domain.vectors import KeptQuestion
from app.stores.edge import EdgeStore

if TYPE_CHECKING:
    from app.stores.onnx_embedder import OnnxEmbedder
    from bench.cache.trials import Shuffled

NOISE = 0.03
_ANSWER_CHARS = 400
_BATCH = 1_000
_NOTE = "filled.json"


def opened(folder: Path, size: int, encoder: OnnxEmbedder) -> EdgeStore:
    """The store in ``folder``, with room for twice ``size``."""
    return EdgeStore(
        folder, build_id=encoder.build_id, dimension=encoder.dimension, max_points=2 * size
    )


def fill(
    folder: Path, size: int, encoder: OnnxEmbedder, part: Shuffled, *, partition: str, route: str
) -> float:
    """Fill and merge; seconds. 0 where ``folder`` was filled so before."""
    wanted = {"size": size, "build": encoder.build_id, "stream": part.name, "partition": partition}
    note = folder / _NOTE
    if note.is_file() and json.loads(note.read_text()) == wanted:
        return 0.0
    begun_s = time.perf_counter()
    store = opened(folder, size, encoder)
    rng = np.random.default_rng(0)
    own = len(part.questions)
    bodies: dict[str, str] = {}
    ends_s = time.time() + 30 * 86_400
    for start in range(0, size, _BATCH):
        numbers = np.arange(start, min(size, start + _BATCH))
        vectors = part.vectors[numbers % own].astype(np.float64)
        moved = numbers >= own
        vectors[moved] += rng.normal(scale=NOISE, size=(int(moved.sum()), vectors.shape[1]))
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        packed = vectors.astype("<f4")
        items = []
        for number, vector in zip(numbers.tolist(), packed, strict=True):
            at = number % own
            group = part.labels[at]
            body = bodies.get(group) or bodies.setdefault(group, _body(group, route))
            text = part.questions[at].view.text
            items.append((KeptQuestion(f"{number:032x}", partition, "t", "small", (), 1.0, ends_s,
                                       text, body), vector.tobytes()))  # fmt: skip
        store.keep(items)
    store.tend()
    store.close()
    note.write_text(json.dumps(wanted))
    return time.perf_counter() - begun_s


def _body(group: str, route: str) -> str:
    text = (f"The answer of {group}. " * _ANSWER_CHARS)[:_ANSWER_CHARS]
    answer = KeptAnswer(group, text, "stop", "bench", "small", "bench", route)
    return msgspec.json.encode(answer).decode()
