"""Statistics learned from usage counters: token lengths, cache minimums, and prefix reuse.

Where the vendors' documents conflict (the minimum length of a cacheable prefix is given three ways for some
models), the counters decide: a marked prefix that was neither read nor written was too short.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from app.domain.usage import Usage

_FORGET = 0.97
_HOUR_S = 3_600.0
_TTFT_PRIOR_S = 30e-6
"""Seconds a prompt token costs before anything was measured: 20.87 s for 151,629 tokens was published for a
large model, a fifth of that for small ones."""
_MOST_S = 1e-3
_LEAST_SPREAD_TOKENS = 256.0


@dataclass(slots=True)
class RequestRate:
    """Requests per hour, exponentially weighted."""

    _weight: float = 0.0
    _first_s: float = 0.0
    _at_s: float = 0.0

    def record(self, now_s: float) -> None:
        """Count a request."""
        if not self._weight:
            self._first_s = now_s
        self._weight = self._weight * math.exp((self._at_s - now_s) / _HOUR_S) + 1.0
        self._at_s = now_s

    def per_hour(self, now_s: float) -> float:
        """The current rate; less than a minute of data counts as a minute."""
        if not self._weight:
            return 0.0
        seen = 1.0 - math.exp(-max(60.0, now_s - self._first_s) / _HOUR_S)
        return self._weight * math.exp((self._at_s - now_s) / _HOUR_S) / seen


@dataclass(slots=True)
class ModelCacheStats:
    """What one deployment's counters have shown; owned by one event loop."""

    minimum_tokens: int
    """The shortest prefix that is cached: from the profile, corrected by what was seen."""
    tokens_per_estimate: float = 1.0
    """True tokens per estimated one."""
    read_share: float = 1.0
    """Moving average of the share of expected cached tokens that were read."""
    _n: float = 0.0
    _x: float = 0.0
    _y: float = 0.0
    _xx: float = 0.0
    _xy: float = 0.0

    def tokens(self, estimate: int) -> int:
        """Tokens for an estimate."""
        return round(estimate * self.tokens_per_estimate)

    def learn_length(self, estimate: int, usage: Usage) -> None:
        """Correct the estimates by what the vendor counted."""
        if estimate > 0 and usage.prompt_tokens > 0:
            ratio = min(4.0, max(0.25, usage.prompt_tokens / estimate))
            self.tokens_per_estimate += 0.1 * (ratio - self.tokens_per_estimate)

    def learn_minimum(self, marked_tokens: int, usage: Usage) -> None:
        """Learn from a request whose longest marked prefix had ``marked_tokens``."""
        if usage.cached_tokens or usage.cache_write_tokens:
            cached = usage.cached_tokens + usage.cache_write_tokens
            self.minimum_tokens = min(self.minimum_tokens, cached)
        elif marked_tokens > self.minimum_tokens:
            self.minimum_tokens = marked_tokens + 1

    def learn_read(self, expected_tokens: int, read_tokens: int) -> None:
        """Learn how much of a prefix that should be warm is read."""
        if expected_tokens > 0:
            share = min(1.0, read_tokens / expected_tokens)
            self.read_share += 0.1 * (share - self.read_share)

    def learn_first_token(self, uncached_tokens: int, ttft_s: float) -> None:
        """Update the regression of time to first token on uncached tokens."""
        x, y = float(uncached_tokens), ttft_s
        self._n, self._x, self._y = (
            self._n * _FORGET + 1,
            self._x * _FORGET + x,
            self._y * _FORGET + y,
        )
        self._xx, self._xy = self._xx * _FORGET + x * x, self._xy * _FORGET + x * y

    @property
    def token_s(self) -> float:
        """Seconds to the first token per uncached token: the slope of the regression."""
        spread = self._n * self._xx - self._x * self._x
        if self._n < 4 or spread < (self._n * _LEAST_SPREAD_TOKENS) ** 2:  # noqa: PLR2004 - too few to fit
            return _TTFT_PRIOR_S
        slope = (self._n * self._xy - self._x * self._y) / spread
        return min(_MOST_S, max(0.0, slope))


@dataclass(slots=True)
class ReuseRate:
    """A share with Laplace smoothing, decaying over about a hundred observations."""

    yes: float = 0.0
    all: float = 0.0

    def add(self, *, came: bool) -> None:
        """Count one."""
        self.yes = self.yes * 0.98 + came
        self.all = self.all * 0.98 + 1

    @property
    def value(self) -> float:
        """The share, 0.5 before anything is known."""
        return (self.yes + 1) / (self.all + 2)


@dataclass(slots=True)
class SeenPrefix:
    """A prefix that was sent before."""

    times: int
    last_s: float
    written: bool = False
    """The vendor was asked to keep it, and answered."""
    reuse_key: tuple[str, str] | None = None
    """Tenant and place for which its reuse is counted, until that is decided."""


@dataclass(slots=True)
class PrefixReuse:
    """By tenant and place: the share of prefixes that are read again within the cache's lifetime."""

    shares: dict[tuple[str, str], ReuseRate] = field(default_factory=dict)
    _due: deque[tuple[float, SeenPrefix]] = field(default_factory=deque)

    def probability(self, tenant: str, place: str) -> float:
        """P(read again in time) of what ends at ``place``."""
        share = self.shares.get((tenant, place))
        return 0.5 if share is None else share.value

    def expect(self, seen: SeenPrefix, tenant: str, place: str, until_s: float) -> None:
        """Expect ``seen`` to be sent again before ``until_s``."""
        if seen.reuse_key is None:
            seen.reuse_key = (tenant, place)
            self._due.append((until_s, seen))

    def record_reuse(self, seen: SeenPrefix) -> None:
        """Record that it was sent again."""
        if seen.reuse_key is not None:
            self._of(seen.reuse_key).add(came=True)
            seen.reuse_key = None

    def expire(self, now_s: float) -> None:
        """Count expired expectations as not reused."""
        due = self._due
        while due and due[0][0] <= now_s:
            _, seen = due.popleft()
            if seen.reuse_key is not None:
                self._of(seen.reuse_key).add(came=False)
                seen.reuse_key = None

    def _of(self, key: tuple[str, str]) -> ReuseRate:
        share = self.shares.get(key)
        if share is None:
            if len(self.shares) >= _MOST_SHARES:
                self.shares.clear()
            share = self.shares[key] = ReuseRate()
        return share


_MOST_SHARES = 10_000
