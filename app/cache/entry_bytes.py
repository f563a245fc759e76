"""An exact entry as bytes, for a store shared with other workers and other versions of this program.

``SLPA``, a version, the length and the CRC-32 of what follows, then msgpack. Anything else (truncated,
corrupt, another version's, foreign) raises ``UnreadableEntryError``: a counted miss. Times are wall-clock, as
monotonic clocks mean nothing to another machine.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import msgspec

from app.cache.exact import CachedAnswer
from app.domain.chat import Dialect
from app.domain.usage import Usage

_HEAD = struct.Struct(">4sBII")
_MAGIC = b"SLPA"
VERSION = 1
"""Raise it with any change of ``_Body`` or of its meaning."""


class UnreadableEntryError(ValueError):
    """The bytes are no entry of this version; the message is the metric's label."""


class _Body(msgspec.Struct, array_like=True, frozen=True):
    key: bytes
    incarnation: bytes
    epoch: int
    dialect: str
    streamed: bool
    usage_shown: bool
    content: bytes
    model: str
    tier: str
    tenant: str
    stored_unix_s: float
    expires_unix_s: float
    request_id: str
    tags: tuple[str, ...]
    usage: tuple[int, int, int, int, int] | None
    cost_usd: float
    upstream_s: float


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as read from the store."""

    entry: CachedAnswer
    """Its two times are 0: the reader sets them on its own clock."""
    incarnation: bytes
    epoch: int
    """The invalidation epoch in force when its question was asked, in that incarnation of the store."""
    expires_unix_s: float


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode


def to_bytes(
    entry: CachedAnswer, *, incarnation: bytes, epoch: int, stored_unix_s: float, ttl_s: float
) -> bytes:
    """Encode an entry, which must hold the upstream's ``pieces``."""
    body = _encode(
        _Body(
            entry.key,
            incarnation,
            epoch,
            entry.dialect.value,
            entry.streamed,
            entry.usage_shown,
            b"".join(entry.pieces),
            entry.model,
            entry.tier,
            entry.tenant,
            stored_unix_s,
            stored_unix_s + ttl_s,
            entry.request_id,
            entry.tags,
            None if entry.usage is None else entry.usage.counts,
            entry.cost_usd,
            entry.upstream_s,
        )
    )
    return _HEAD.pack(_MAGIC, VERSION, len(body), zlib.crc32(body)) + body


def from_bytes(data: bytes, entry_id: str) -> StoredEntry:
    """Decode an entry; raises ``UnreadableEntryError`` for anything but a whole one of that id."""
    if len(data) < _HEAD.size:
        raise UnreadableEntryError("cut")
    magic, version, length, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != _MAGIC:
        raise UnreadableEntryError("foreign")
    if version != VERSION:
        raise UnreadableEntryError("version")
    if len(body) != length or zlib.crc32(body) != crc:
        raise UnreadableEntryError("corrupt")
    try:
        read = _decode(body)
        dialect = Dialect(read.dialect)
    except (msgspec.DecodeError, ValueError) as exc:
        raise UnreadableEntryError("corrupt") from exc
    entry = CachedAnswer(
        read.key,
        dialect,
        read.streamed,
        read.usage_shown,
        (read.content,),
        read.model,
        read.tier,
        read.tenant,
        0.0,
        0.0,
        read.request_id,
        read.tags,
        None if read.usage is None else Usage(*read.usage),
        read.cost_usd,
        read.upstream_s,
    )
    entry.gate_passed = True  # only what the cacheability gate passed is written
    if entry.id != entry_id:
        raise UnreadableEntryError("foreign")
    return StoredEntry(entry, read.incarnation, read.epoch, read.expires_unix_s)
