"""How long a decision takes: features and verifier for eight candidates, and the embedding."""

from __future__ import annotations

from random import Random
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from app.cache.bound import Limits
from app.cache.decision import CandidateView, QueryView, decide
from app.cache.text_view import analyse
from app.cache.verifier import NEIGHBOURS, fit_route
from bench.cache.policies import prepared
from bench.cache.trials import Shuffled

if TYPE_CHECKING:
    from app.stores.onnx_embedder import OnnxEmbedder
    from bench.cache.data import Stream

_ASKED = 300
_LEARNED = 800


def _percentiles(samples_ns: list[int]) -> dict[str, float]:
    ms = np.array(samples_ns) / 1e6
    return {f"p{q}_ms": round(float(np.percentile(ms, q)), 3) for q in (50, 99)}


def measure_speed(stream: Stream, encoder: OnnxEmbedder) -> dict[str, dict[str, float]]:
    """Milliseconds of wall time, one thread, one question after the other."""
    part = Shuffled.of(stream, 0, _LEARNED + _ASKED)
    known = part.questions[:_LEARNED]
    state = prepared(fit_route(known), known, Limits.of(0.05))
    stored = part.vectors[: len(known)]
    decisions, analyses, embeddings = [], [], []
    for i in range(len(known), len(part.questions)):
        question = part.questions[i]
        similar = stored @ question.vector
        near = np.argsort(-similar)[:NEIGHBOURS].tolist()
        candidates = [
            CandidateView(str(j), known[j].view, float(similar[j]), known[j].answer_group)
            for j in near
        ]
        start = perf_counter_ns()
        analysed = analyse(question.view.text)
        middle = perf_counter_ns()
        decide(QueryView(analysed, question.vector), candidates, state, Random(i))
        decisions.append(perf_counter_ns() - middle)
        analyses.append(middle - start)
        start = perf_counter_ns()
        encoder.embed_with_tokens(question.view.text)
        embeddings.append(perf_counter_ns() - start)
    return {
        f"features and verifier, {NEIGHBOURS} candidates": _percentiles(decisions),
        "analysis of the question": _percentiles(analyses),
        "embedding of the question": _percentiles(embeddings),
    }
