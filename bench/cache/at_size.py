"""How long a whole decision takes with many questions kept: `SIZE=100000 python -m bench.cache.at_size`.

Key, partition, embedding, the nearest ten from the vector process over its socket, guards and
verifier, asked 50 times a second as a gateway would. The questions kept are those of a stream and
noisy copies of their vectors, all in one partition: the hardest case for the index.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from app.cache.bound import Limits
from app.cache.decision import CandidateView, QueryView, decide
from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.cache.text_view import view
from app.domain.chat import ChatRequest, Dialect
from app.domain.vectors import KeptQuestion, Unreadable
from app.stores.edge import EdgeStore
from app.stores.sidecar_client import VectorProcess
from bench.cache.__main__ import _files
from bench.cache.data import SHARED, cache_dir, embedder, load_stream
from bench.cache.policies import fit_shadow, prepared
from bench.cache.trials import Shuffled

if TYPE_CHECKING:
    from app.cache.decision import RouteState
    from app.stores.onnx_embedder import OnnxEmbedder

_LEARNED, _ASKED, _PER_S, _NEAREST, _BATCH, _MOST_WORDS = 800, 500, 50, 10, 1_000, 24
_SCOPE = CacheScope("t", "", "small")


def _request(text: str) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": text}]}
    return ChatRequest(Dialect.CHAT, "small", stream=False, body=body, raw=b"")


def _fill(folder: Path, size: int, encoder: OnnxEmbedder, part: Shuffled) -> None:
    store = EdgeStore(
        folder, build_id=encoder.build_id, dimension=encoder.dimension, max_points=2 * size
    )
    rng = np.random.default_rng(0)
    partition = partition_key(_SCOPE, _request("any")) or ""
    ends_s = time.time() + 86_400
    for start in range(0, size, _BATCH):
        items = []
        for number in range(start, min(size, start + _BATCH)):
            at = number % len(part.questions)
            vector = part.vectors[at]
            if number >= len(part.questions):
                vector = vector + rng.normal(scale=0.03, size=vector.shape)
            made = (vector / max(1e-9, float(np.linalg.norm(vector)))).astype("<f4").tobytes()
            text = part.questions[at].view.text
            items.append((KeptQuestion(f"{number:032x}", partition, "t", "small", (), 0.0, ends_s,
                                       text, part.labels[at]), made))  # fmt: skip
        store.keep(items)
    store.tend()
    store.close()


async def _ask(process: VectorProcess, state: RouteState, text: str) -> float:
    """One decision; milliseconds."""
    start = time.perf_counter()
    request = _request(text)
    exact_key(_SCOPE, request)
    recalled = await process.recall(text, partition_key(_SCOPE, request) or "", _NEAREST)
    if isinstance(recalled, Unreadable):
        return 0.0
    query = QueryView(view(text), np.frombuffer(recalled.vector, dtype="<f4"))
    candidates = [
        CandidateView(n.question.id, view(n.question.text), n.cosine, n.question.body)
        for n in recalled.near
    ]
    decide(query, candidates, state, Random(0))
    return (time.perf_counter() - start) * 1000


async def _measure(folder: Path, state: RouteState, texts: list[str]) -> list[float]:
    process = VectorProcess(folder, cache_dir() / "embedder-int8", on_state=lambda _: None)
    await process.start()
    try:
        await process.there.wait()
        took = []
        begun = time.perf_counter()
        for number, text in enumerate(texts):
            await asyncio.sleep(max(0.0, begun + number / _PER_S - time.perf_counter()))
            took.append(await _ask(process, state, text))
    finally:
        await process.aclose()
    return took


def main() -> int:
    """Fill, ask, print percentiles."""
    size = int(os.environ.get("SIZE", "100000"))
    encoder = embedder()
    stream = load_stream(_files("STREAMS", SHARED / "streams")[0], encoder)
    part = Shuffled.of(stream, 0, 1_000_000)
    known = part.questions[:_LEARNED]
    state = prepared(fit_shadow(known, None), known, Limits.of(0.05), None)
    short = [q.view.text for q in part.questions[_LEARNED:] if len(q.view.words) <= _MOST_WORDS]
    texts = [f"{text} please" for text in short[:_ASKED]]  # new texts: each is embedded
    with tempfile.TemporaryDirectory() as made:
        begun = time.perf_counter()
        _fill(Path(made), size, encoder, part)
        filled_s = time.perf_counter() - begun
        took = np.array(asyncio.run(_measure(Path(made), state, texts)))
    p50, p99 = np.percentile(took, (50, 99))
    print(
        f"{size:,} questions kept ({filled_s:.0f} s to fill), {len(took)} decisions at {_PER_S}/s:"
        f" p50 {p50:.2f} ms (wanted 3), p99 {p99:.2f} ms (wanted 10)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
