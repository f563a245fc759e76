"""Hints about the health of upstreams, in Redis: one key per deployment, which expires with the hint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from app.stores.redis import Argument, Redis, Script

_BUDGET_S: Final = 0.5
_EXCHANGE = Script.of("""
local own = tonumber(ARGV[1])
for i = 1, own do
  local left = tonumber(ARGV[i + 1])
  if redis.call('PTTL', KEYS[i]) < left then redis.call('SET', KEYS[i], 1, 'PX', left) end
end
local found = {}
for i = own + 1, #KEYS do table.insert(found, redis.call('PTTL', KEYS[i])) end
return found
""")


class RedisHealth:
    """See ``app.pipeline.shared_health.HintBoard``."""

    def __init__(self, redis: Redis) -> None:
        """Write to ``redis``."""
        self._redis = redis

    async def exchange(self, own: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        """Write and read in one step; raises ``StoreError``."""
        keys = [self._redis.key(b"health", name.encode()) for name in (*own, *names)]
        words: list[Argument] = [len(own), *(max(1, int(left_s * 1000)) for left_s in own.values())]
        found = await self._redis.run(_EXCHANGE, keys, words, budget_s=_BUDGET_S)
        return {
            name: each / 1000
            for name, each in zip(names, found, strict=False)
            if isinstance(each, int) and each > 0
        }
