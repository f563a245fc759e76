"""Tool results shared by all workers, behind each worker's own cache: in Redis, by the ``KeyValue`` port.

A result is read within the store's time budget and written in the background, with bounded concurrency.
A store that is away, or an unreadable entry, counts as a miss.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from app.domain.tools import ToolResult
from app.errors import StoreError
from app.ports import KeyValue

_VERSION: Final = 1
"""Raise it with any change of ``_Kept``: another version's entry is none."""
_MOST_AT_ONCE: Final = 64
_MAX_BYTES: Final = 1 << 20


class _Kept(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    version: int
    until_unix_s: float
    text: str
    value: object
    cut: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


class SharedOutputs:
    """Results by ``call_key``, for all workers; one event loop owns it."""

    def __init__(self, store: KeyValue, *, clock: Callable[[], float] = time.time) -> None:
        """Keep results in ``store``; ``clock`` gives Unix seconds."""
        self._store, self._clock = store, clock
        self._writing: set[asyncio.Task[None]] = set()

    async def get(self, key: bytes) -> tuple[ToolResult, float] | None:
        """The live result of ``key``, marked as cached, and the seconds that it may still be used."""
        try:
            data = await self._store.get(key)
            kept = None if data is None else _decode(data)
        except (StoreError, msgspec.DecodeError):
            return None
        if kept is None or kept.version != _VERSION:
            return None
        left_s = kept.until_unix_s - self._clock()
        if left_s <= 0:
            return None
        return ToolResult(kept.text, kept.value, kept.cut, cached=True), left_s

    def put(self, key: bytes, result: ToolResult, ttl_s: float) -> None:
        """Keep ``result`` for ``ttl_s`` seconds, soon; not at all where too much is being written."""
        if len(self._writing) >= _MOST_AT_ONCE:
            return
        try:
            data = _encode(
                _Kept(_VERSION, self._clock() + ttl_s, result.text, result.value, result.cut)
            )
        except (TypeError, ValueError, OverflowError, RecursionError):
            return  # a value that is not JSON: it stays with the worker that has it
        if len(data) > _MAX_BYTES:
            return
        task = asyncio.get_running_loop().create_task(self._write(key, data, ttl_s))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def settled(self) -> None:
        """Wait until everything has been written."""
        if self._writing:
            await asyncio.wait(set(self._writing))

    async def _write(self, key: bytes, data: bytes, ttl_s: float) -> None:
        with suppress(StoreError):
            await self._store.set(key, data, ttl_s)
