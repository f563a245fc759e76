"""Keeping prefixes alive over a replay of silences: what the pings cost, and what they saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from app.domain.chat import Dialect
from app.prompts.breakpoints import prices
from app.prompts.warm import KeepAlive, Session
from bench.prompts.replay import CLAUDE

_STEP_S = 15.0
_LIFETIME_S = 300.0


@dataclass
class Spent:
    """USD, and how often."""

    pings: int = 0
    ping_usd: float = 0.0
    saved: int = 0
    saved_usd: float = 0.0


SILENCES: dict[str, Callable[[Random], float]] = {
    "log-normal around 400 s": lambda rng: rng.lognormvariate(6.0, 0.7),
    "uniform, 2 to 40 min": lambda rng: rng.uniform(120.0, 2400.0),
}
"""How long those are silent that come back, in seconds."""


def keep_alive(
    seed: int, tokens: int, share_back: float, silence: Callable[[Random], float]
) -> Spent:
    """960 sessions of a day, with prefixes of ``tokens``; ``share_back`` of them come back each time, after
    a ``silence``, the others never. Only misses that a ping prevented count as saved.
    """
    rng = Random(seed)
    plain, cached, write = prices(CLAUDE)
    miss, ping = tokens * (max(plain, write) - cached) / 1e6, tokens * cached / 1e6
    ends = 86_400.0
    arrivals: list[tuple[float, bytes]] = []
    for number in range(24 * 40):
        at = rng.random() * ends
        while True:
            arrivals.append((at, b"%d" % number))
            if rng.random() >= share_back:
                break
            at += silence(rng)
    arrivals.sort()
    keep, spent = KeepAlive(1000.0), Spent()
    live: dict[bytes, tuple[float, float]] = {}  # last asked, last read
    at_s, index = 0.0, 0
    while at_s < ends + 3600.0:
        while index < len(arrivals) and arrivals[index][0] <= at_s:
            now, key = arrivals[index]
            index += 1
            if key in live:
                asked, read = live[key]
                if now - asked >= _LIFETIME_S and now - read < _LIFETIME_S:
                    spent.saved += 1
                    spent.saved_usd += miss
            live[key] = (now, now)
            keep.record_request(key, Session(CLAUDE, tokens, key, Dialect.MESSAGES, "t", now, now))
        for session, _ in keep.due(at_s):
            spent.pings += 1
            spent.ping_usd += ping + CLAUDE.price.output / 1e6
            live[session.body] = (live[session.body][0], at_s)
        at_s += _STEP_S
    return spent
