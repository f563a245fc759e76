"""The parts of one decision, each alone and in CPU time, which a shared machine can still measure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from app.cache.decision import CandidateView, QueryView, decide
from app.cache.route_state import RouteState
from app.cache.stored_answer import answer_of
from app.cache.text_view import analyse
from app.cache.verifier import NEIGHBOURS
from app.stores.onnx_embedder import TooLong
from app.stores.vectors import Answered, Found
from bench.cache.filled import opened
from bench.figures import Figure

if TYPE_CHECKING:
    from app.cache.semantic import SemanticQuery
    from app.domain.vectors import Neighbour
    from app.stores.onnx_embedder import OnnxEmbedder

NEAREST = 10
_ASKED, _COMPARED = 300, 100


class _Clock:
    """CPU milliseconds by part; of all threads, for the engine searches in its own."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.process_time_ns()
        yield
        self.took.setdefault(name, []).append((time.process_time_ns() - begun) / 1e6)


def parts(
    folder: Path, size: int, encoder: OnnxEmbedder, state: RouteState, asked: list[SemanticQuery]
) -> list[Figure]:
    """CPU of each part, median and 99th percentile, and how many of the nearest the index finds."""
    clock, store = _Clock(), opened(folder, size, encoder)
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(Answered).decode
    tokens: list[int] = []
    shares: list[float] = []
    for one in asked[:_ASKED]:
        with clock.part("embedding"):
            made = encoder.embed_with_tokens(one.text)
        if isinstance(made, TooLong):
            continue
        tokens.append(len(made.pieces) + 2)
        vector = made.vector.astype("<f4").tobytes()
        with clock.part("search"):
            near = store.nearest(vector, one.partition, NEAREST)
        if len(shares) < _COMPARED:
            exact = store.nearest(vector, one.partition, NEAREST, exact=True)
            best = {each.question.id for each in exact}
            shares.append(len(best.intersection(n.question.id for n in near)) / len(best))
        with clock.part("reply written and read"):
            decode(encode(Answered(1, Found(vector, tuple(near)))))
        _judge(clock, one, made.vector.tobytes(), near, state)
    store.close()
    head = f"{size:,} kept"
    made_of = [
        Figure(f"{head}: tokens of a question, p50", float(np.median(tokens)), "", len(tokens))
    ]
    for name, took in clock.took.items():
        for q in (50, 99):
            value = float(np.percentile(took, q))
            made_of.append(Figure(f"{head}: CPU of {name}, p{q}", value, " ms", len(took)))
    recall = 100 * float(np.mean(shares))
    made_of.append(Figure(f"{head}: of the nearest {NEAREST} found", recall, " %", len(shares)))
    return made_of


def _judge(
    clock: _Clock, one: SemanticQuery, vector: bytes, near: list[Neighbour], state: RouteState
) -> None:
    with clock.part("the question's analysis"):
        query = QueryView(analyse(one.text), np.frombuffer(vector, dtype="<f4"))
    with clock.part(f"the analysis of {NEAREST} candidates"):
        views = [analyse(each.question.text) for each in near]
    with clock.part("answers read"):
        answers = [answer_of(each.question) for each in near]
    candidates = [
        CandidateView(n.question.id, v, n.cosine, a.group, n.question.kept_unix_s)
        for n, v, a in zip(near, views, answers, strict=True)
        if a is not None
    ]
    with clock.part(f"guards and verifier, {NEIGHBOURS} candidates"):
        decide(query, candidates, state, Random(0))
