"""Our HTTP/1.1 client to the models, and to tools: a sans-IO parser and a warm, bounded, timed pool."""

from __future__ import annotations

from app.upstream.dial import judged
from app.upstream.exchange import Exchange, Listener, Taker, Timeouts, Timing
from app.upstream.known_heads import Shape
from app.upstream.origin import Origin, PoolLimits, PoolStats, default_ssl_context
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
    "default_ssl_context",
    "judged",
]
