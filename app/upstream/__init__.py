"""Our HTTP/1.1 client to the models: a sans-IO parser and a warm, bounded, timed pool."""

from __future__ import annotations

from app.upstream.exchange import Exchange, Listener, Taker, Timeouts, Timing
from app.upstream.known_heads import Shape
from app.upstream.origin import Origin, PoolLimits, PoolStats
from app.upstream.pool import Pool

__all__ = [
    "Exchange",
    "Listener",
    "Origin",
    "Pool",
    "PoolLimits",
    "PoolStats",
    "Shape",
    "Taker",
    "Timeouts",
    "Timing",
]
