"""The router's control: the fast share under shifts, and latency with hedging on a simulated clock."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.classify.complexity import fit_head, score
from app.domain.decisions import Cacheability, Classification, Tier
from app.routing.score import RoutePolicy, route
from app.routing.threshold import FastShareTracker
from bench.router.data import view
from bench.router.quality import Stream
from bench.router.report import Figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TARGET = 0.70
_SEGMENT = 2_500
_SEGMENTS = 5
_SPAN = 500
_LABELS = 500
_SEEDS = 5

_FAST_S, _POWERFUL_S, _JITTER = 0.5, 2.5, 0.25
_CALLS = 20_000
_TTFT_S, _TTFT_JITTER, _SLOW_SHARE, _SLOW_S = 0.3, 0.3, 0.02, 6.0
_HEDGE_SHARE = 0.03


def fast_share(mixed: Stream, parts: Sequence[Stream]) -> list[Figure]:
    """Share of 500-request windows whose fast share is within 3 points, over four unannounced shifts."""
    kinds = sorted(parts, key=len, reverse=True)
    inside: dict[str, list[float]] = {"online tracker": [], "fixed threshold": []}
    for seed in range(_SEEDS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(mixed))[:_LABELS]
        # Odd seeds serve with the prior, even ones with a head: both must hold the share.
        head = None
        if seed % 2 == 0:
            head = fit_head([mixed.points[at] for at in order], mixed.gain[order].tolist())
        pools = [np.array([score(head, point) for point in kind.points]) for kind in kinds]
        segments = [rng.choice(pools[at % len(pools)], _SEGMENT) for at in range(_SEGMENTS)]
        stream = np.concatenate(segments)
        fixed = stream <= np.quantile(segments[0], TARGET)
        inside["online tracker"].append(_within(_route(stream)))
        inside["fixed threshold"].append(_within(fixed))
    note = f"{_SEEDS} seeds, {_SEGMENTS} segments of {_SEGMENT}"
    return [
        Figure(
            f"windows within 3 points, {name}",
            float(np.mean(values)),
            0.95 if name == "online tracker" else None,
            note=f"least {min(values):.3f}; {note}",
        )
        for name, values in inside.items()
    ]


def _route(scores: Floats) -> Bools:
    """Which requests the router sends to the fast tier, with its moving threshold."""
    tracker, policy, plain = FastShareTracker(TARGET), RoutePolicy(), view("")
    fast = np.empty(len(scores), dtype=np.bool_)
    for at, value in enumerate(scores.tolist()):
        judged = Classification(value, Cacheability.UNKNOWN, None, semantic_ok=False)
        decision = route(judged, plain, policy, tracker.threshold("bench"))
        tracker.observe("bench", value, decision.tier)
        fast[at] = decision.tier is Tier.FAST
    return fast


def _within(fast: Bools) -> float:
    shares = np.convolve(fast.astype(np.float64), np.ones(_SPAN) / _SPAN, "valid")
    return float((np.abs(shares - TARGET) <= 0.03).mean())


def latency(mixed: Stream) -> list[Figure]:
    """Mean latency and quality at 70 % fast, and the effect of delayed hedging on a heavy tail."""
    if len(mixed) < 2 * _LABELS:
        return []
    order = np.random.default_rng(0).permutation(len(mixed))
    train, serve = order[:_LABELS], order[_LABELS:]
    head = fit_head([mixed.points[at] for at in train], mixed.gain[train].tolist())
    fast = _route(np.array([score(head, mixed.points[at]) for at in serve]))
    rng = np.random.default_rng(1)
    jitter = rng.lognormal(0, _JITTER, (2, len(serve)))
    spent = np.where(fast, _FAST_S * jitter[0], _POWERFUL_S * jitter[1])
    always = _POWERFUL_S * jitter[1]
    rows = [mixed.rows[at] for at in serve]
    quality = np.mean(
        [row.fast if one else row.powerful for row, one in zip(rows, fast, strict=True)]
    )
    best = np.mean([row.powerful for row in rows])
    coin = rng.random(len(serve)) < fast.mean()
    tossed = np.mean(
        [row.fast if one else row.powerful for row, one in zip(rows, coin, strict=True)]
    )
    plain, hedged, extra = _hedging(rng)
    return [
        Figure("fast share", float(fast.mean()), note="target 0.70"),
        Figure(
            "mean latency over always-powerful", float(spent.mean() / always.mean()), 0.45, "<="
        ),
        Figure("quality over always-powerful", float(quality / best), note="after 500 labels"),
        Figure("quality over always-powerful, random at that share", float(tossed / best)),
        Figure("p99 first token, s, no hedge", float(np.quantile(plain, 0.99))),
        Figure("p99 first token, s, delayed hedge", float(np.quantile(hedged, 0.99))),
        Figure(
            "cut of the p99 first token by hedging",
            1 - float(np.quantile(hedged, 0.99) / np.quantile(plain, 0.99)),
            0.50,
        ),
        Figure("extra calls by hedging", extra, _HEDGE_SHARE, "<="),
    ]


def _hedging(rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """First-token times without and with a second call after the learned quantile has passed.

    2 % of the calls take 6 s longer. The delay is the quantile of the last 1,000 times that would
    spend the budget; a bucket keeps the calls within it whatever the tail does.
    """
    first, second = _first_tokens(rng), _first_tokens(rng)
    out, hedges, allowed = first.copy(), 0, 0.0
    recent: deque[float] = deque()
    ranked: list[float] = []
    for at, took in enumerate(first.tolist()):
        allowed += _HEDGE_SHARE
        if len(ranked) >= 100:
            delay = ranked[int((1 - 0.9 * _HEDGE_SHARE) * len(ranked))]
            if took > delay and hedges + 1 <= allowed:
                hedges += 1
                out[at] = min(took, delay + second[at])
        # Hedged or not, what the first call would have taken is known only up to its cancelling.
        known = min(took, out[at])
        recent.append(known)
        insort(ranked, known)
        if len(recent) > 1_000:
            ranked.remove(recent.popleft())
    return first, out, hedges / len(first)


def _first_tokens(rng: np.random.Generator) -> Floats:
    base = rng.lognormal(np.log(_TTFT_S), _TTFT_JITTER, _CALLS)
    out: Floats = base + np.where(rng.random(_CALLS) < _SLOW_SHARE, _SLOW_S, 0.0)
    return out
