"""Tool results kept for a while: per tenant, user, tool and canonical arguments, never wider.

Least recently used results leave first when there are too many or they are too large together. One
event loop owns it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import msgspec

from app.domain.chat import Json
from app.domain.tools import ToolCaller, ToolResult


def call_key(tool: str, arguments: Json, caller: ToolCaller) -> bytes:
    """Name a call: equal arguments in any order and spelling give one key, another user never does."""
    said = json.dumps(
        [caller.tenant, caller.user, tool, arguments],
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class OutputCache:
    """Results by ``call_key``."""

    def __init__(
        self,
        *,
        max_entries: int = 4096,
        max_bytes: int = 32 << 20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; ``clock`` gives seconds on any monotonic scale."""
        self._max_entries, self._max_bytes, self._clock = max_entries, max_bytes, clock
        self._entries: OrderedDict[bytes, tuple[float, ToolResult, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> ToolResult | None:
        """The live result of ``key``, marked as cached."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry[0]:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return replace(entry[1], cached=True)

    def put(self, key: bytes, result: ToolResult, ttl_s: float) -> None:
        """Keep ``result`` for ``ttl_s`` seconds."""
        if key in self._entries:
            self._drop(key)
        size_bytes = _size_bytes(result)
        self._entries[key] = (self._clock() + ttl_s, result, size_bytes)
        self._bytes += size_bytes
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self._bytes -= self._entries.pop(key)[2]


def _size_bytes(result: ToolResult) -> int:
    """About what a result holds: its text and, where that is cut, the whole value behind it."""
    if not result.cut:
        return len(result.text)
    value = result.value
    return len(result.text) + len(value if isinstance(value, str) else msgspec.json.encode(value))
