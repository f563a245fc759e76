"""Rate and spending counters in Redis, with a fallback to this process while Redis is unavailable.

The time is Redis' own, so that workers whose clocks differ share one bucket. A bucket is one number, the
instant at which it is full again; it lives only until then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from app.domain.limits import Charge, Counters, Grant
from app.errors import StoreError
from app.stores.redis import Redis, Script

_TAKE = Script.of("""
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local longest, refused, left = 0, -1, nil
local full = {}
for i, key in ipairs(KEYS) do
  local unit, burst, cost = tonumber(ARGV[i*3-2]), tonumber(ARGV[i*3-1]), tonumber(ARGV[i*3])
  local at = tonumber(redis.call('GET', key) or '0')
  for j = 1, i - 1 do if KEYS[j] == key then at = full[j] end end
  if at < now then at = now end
  at = math.max(now, at + cost * unit)
  full[i] = at
  local over = at - now - burst * unit
  if cost > burst then over = 1e18 end
  if over > 0.000001 and over > longest then longest = over; refused = i - 1 end
end
local force = ARGV[#KEYS*3+1] == '1'
for i, key in ipairs(KEYS) do
  local unit, burst, cost = tonumber(ARGV[i*3-2]), tonumber(ARGV[i*3-1]), tonumber(ARGV[i*3])
  local has = burst - (full[i] - now) / unit
  if refused >= 0 and not force then has = has + cost end
  if left == nil or has < left then left = has end
  if refused < 0 or force then
    local ttl = math.ceil((full[i] - now) * 1000)
    if ttl > 0 then redis.call('SET', key, string.format('%.6f', full[i]), 'PX', ttl)
    else redis.call('DEL', key) end
  end
end
return {string.format('%.6f', longest), refused, string.format('%.6f', left or 0)}
""")

_ADD = Script.of("""
local had = redis.call('EXISTS', KEYS[1])
if tonumber(ARGV[1]) == 0 then return {redis.call('GET', KEYS[1]) or '0'} end
local sum = redis.call('INCRBYFLOAT', KEYS[1], ARGV[1])
if had == 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {sum}
""")
_NEVER_S = 1e17


class RedisCounters:
    """``Counters`` that all workers share."""

    def __init__(self, redis: Redis) -> None:
        """Use ``redis``, whose owner closes it."""
        self._redis = redis

    async def take(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none where one of them does not fit."""
        if not charges:
            return Grant(allowed=True, remaining=0.0)
        waits, refused, left = await self._charge(charges, force=False)
        if refused < 0:
            return Grant(allowed=True, remaining=max(0.0, left))
        wait_s = math.inf if waits > _NEVER_S else waits
        return Grant(
            allowed=False, remaining=max(0.0, left), retry_after_s=wait_s, refused_index=refused
        )

    async def settle(self, charge: Charge) -> None:
        """Take a charge whatever it does to the bucket."""
        await self._charge((charge,), force=True)

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum and return it."""
        words = (repr(float(amount)), max(1, int(ttl_s * 1000)))
        [total] = await self._redis.run(_ADD, [self._redis.key(b"sum", key)], words)
        return float(total) if isinstance(total, bytes) else 0.0

    async def aclose(self) -> None:
        """Hold nothing of its own."""

    async def _charge(self, charges: Sequence[Charge], *, force: bool) -> tuple[float, int, float]:
        keys = [self._redis.key(b"rate", charge.key) for charge in charges]
        words: list[str] = []
        for charge in charges:
            words += [repr(charge.rate.unit_s), repr(charge.rate.burst), repr(charge.cost)]
        reply = await self._redis.run(_TAKE, keys, [*words, "1" if force else "0"])
        match reply:
            case [bytes(wait), int(refused), bytes(left)]:
                return float(wait), refused, float(left)
            case _:
                raise StoreError("Redis gave an unexpected reply", code="store_refused")


class CountersWithFallback:
    """The shared counters, or this worker's own while Redis is unavailable. Never raises.

    Local counts are not carried over: while Redis is unavailable each worker admits at most what all of them
    may together.
    """

    def __init__(self, shared: Counters, own: Counters) -> None:
        """Prefer ``shared``."""
        self._shared, self._own = shared, own

    async def take(self, charges: Sequence[Charge]) -> Grant:
        """Take all charges, or none where one of them does not fit."""
        try:
            return await self._shared.take(charges)
        except StoreError:
            return await self._own.take(charges)

    async def settle(self, charge: Charge) -> None:
        """Take a charge whatever it does to the bucket."""
        try:
            await self._shared.settle(charge)
        except StoreError:
            await self._own.settle(charge)

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum and return it."""
        try:
            return await self._shared.add(key, amount, ttl_s)
        except StoreError:
            return await self._own.add(key, amount, ttl_s)

    async def aclose(self) -> None:
        """Close both."""
        await self._shared.aclose()
        await self._own.aclose()


class Sums(Protocol):
    """Sums of one host, on disk or in memory."""

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum and return it."""
        ...


class SumsWithLocalCopy:
    """Sums of all workers in Redis, and of this host locally; the larger one counts. Never raises.

    So spent money survives a Redis that is unavailable or comes back empty.
    """

    def __init__(self, shared: Counters, own: Sums) -> None:
        """Add to both."""
        self._shared, self._own = shared, own

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum and return it."""
        own = await self._own.add(key, amount, ttl_s)
        try:
            return max(own, await self._shared.add(key, amount, ttl_s))
        except StoreError:
            return own
