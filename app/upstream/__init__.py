"""Our HTTP/1.1 client to the models, and to tools: a sans-IO parser and a warm, bounded, timed pool."""

from __future__ import annotations

from app.upstream.dial import dial_checked
from app.upstream.exchange import BodyCallback, Exchange, ResponseListener, Timeouts, Timing
from app.upstream.head_shapes import HeadShape
from app.upstream.origin import Origin, PoolLimits, PoolStats, default_ssl_context
from app.upstream.pool import Pool

__all__ = [
    "BodyCallback",
    "Exchange",
    "HeadShape",
    "Origin",
    "Pool",
    "PoolLimits",
    "PoolStats",
    "ResponseListener",
    "Timeouts",
    "Timing",
    "default_ssl_context",
    "dial_checked",
]
