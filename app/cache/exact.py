"""The exact cache in process: whole answers by key, bounded in bytes and in time.

An answer is stored as it came (the upstream's bytes and their dialect) and parsed only at its first hit:
most answers are never asked for twice, so a miss pays for one dict entry. What was rendered for one kind
of client is stored beside it, so that a second hit costs one look-up.

Least recently used entries leave first. Not thread-safe: one event loop owns it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.cache.barriers import Barriers
from app.domain.chat import Dialect
from app.domain.events import Answer
from app.domain.invalidation import InvalidationFilter
from app.domain.usage import Usage

_BARRIERS = 512
_ENTRY_OVERHEAD_BYTES = 600
RenderedHit = tuple[object, bytes, bytes, tuple[object, ...], tuple[object, ...]]
"""The client it was rendered for, the response's head and body, and two pieces of the turn's record."""
_new = object.__new__


@dataclass
class CachedAnswer:
    """One entry; owned by the cache, read by the pipeline.

    Without slots: what most entries never need stands in the class alone, see ``put_fresh``.
    """

    key: bytes
    dialect: Dialect
    streamed: bool
    usage_shown: bool
    """Chat dialect, streamed: the usage chunk is among the frames."""
    pieces: tuple[bytes, ...]
    """The upstream's bytes: SSE frames when ``streamed``, else one JSON body. Empty once only
    ``answer`` is kept.
    """
    model: str
    """The configured name of the model that answered."""
    tier: str
    tenant: str
    stored_at_s: float
    expires_at_s: float
    request_id: str
    tags: tuple[str, ...] = ()
    usage: Usage | None = None
    cost_usd: float = 0.0
    upstream_s: float = 0.0
    """The upstream call's duration: the time that a hit saves."""
    answer: Answer | None = None
    gate_passed: bool = False
    """The cacheability gate has passed the question behind this entry."""
    readable: bool | None = None
    """Whether ``pieces`` hold a whole answer; None until the first hit."""
    is_form_dependent: bool | None = None
    """Whether any other form would lose part of ``pieces``; None until one is asked for."""
    rendered: dict[tuple[Dialect, bool, bool], bytes] | None = None
    ready: RenderedHit | None = None
    """The last rendering, to be sent again; its first item identifies whom it was made for."""
    hits: int = 0
    size_bytes: int = 0

    @property
    def id(self) -> str:
        """Names the entry towards operators: the first 16 bytes of the key, in hex."""
        return self.key[:16].hex()


class ExactCache:
    """Whole answers by exact key; ``max_bytes`` bounds what is kept."""

    def __init__(
        self,
        *,
        ttl_s: float,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; ``clock`` gives seconds on any monotonic scale."""
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._most_of_one_bytes = max_bytes // 8
        self._clock = clock
        self._entries: OrderedDict[bytes, CachedAnswer] = OrderedDict()
        self._bytes = 0
        self._barriers = Barriers(most=_BARRIERS)
        """Invalidations against answers in flight; their epochs are instants of ``perf_counter_ns``."""
        self.blocked_ns = -1
        """The last invalidation on ``perf_counter_ns``: what began later needs no look at the barriers."""

    def __len__(self) -> int:
        """How many entries there are, including expired ones that nobody asked for."""
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """An estimate of the memory held."""
        return self._bytes

    @property
    def ttl_s(self) -> float:
        """How long an entry lives unless its question's class says less."""
        return self._ttl_s

    def get(self, key: bytes) -> CachedAnswer | None:
        """The live entry of ``key``; an expired one is removed and counts as absent."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if self._clock() >= entry.expires_at_s:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, entry: CachedAnswer) -> None:
        """Store ``entry``, replacing an older one. One larger than an eighth of the room is not stored."""
        entry.stored_at_s = now_s = self._clock()
        entry.expires_at_s = now_s + self._ttl_s
        size_bytes = _ENTRY_OVERHEAD_BYTES
        for piece in entry.pieces:
            size_bytes += len(piece)
        entry.size_bytes = size_bytes
        if size_bytes > self._most_of_one_bytes:
            return
        self._place(key, entry)

    def put_fresh(  # noqa: PLR0913, PLR0917 - by position once a request
        self,
        key: bytes,
        dialect: Dialect,
        streamed: bool,  # noqa: FBT001
        usage_shown: bool,  # noqa: FBT001
        content: bytes,
        model: str,
        tier: str,
        tenant: str,
        request_id: str,
        usage: Usage | None,
        cost_usd: float,
        upstream_s: float,
    ) -> None:
        """As ``put``, of an answer in one piece: cheaper than making an entry first."""
        size_bytes = _ENTRY_OVERHEAD_BYTES + len(content)
        if size_bytes > self._most_of_one_bytes:
            return
        entry, now_s = _new(CachedAnswer), self._clock()
        # Three at a time: more would be packed into a tuple first.
        entry.key, entry.dialect, entry.streamed = key, dialect, streamed
        entry.usage_shown, entry.pieces, entry.model = usage_shown, (content,), model
        entry.tier, entry.tenant, entry.request_id = tier, tenant, request_id
        entry.usage, entry.cost_usd, entry.upstream_s = usage, cost_usd, upstream_s
        entry.stored_at_s, entry.expires_at_s = now_s, now_s + self._ttl_s
        entry.size_bytes = size_bytes
        self._place(key, entry)

    def _place(self, key: bytes, entry: CachedAnswer) -> None:
        """Keep ``entry``, whose size is known and allowed; the oldest make room for it."""
        entries = self._entries
        if key in entries:
            self._drop(key)
        entries[key] = entry
        self._bytes += entry.size_bytes
        while self._bytes > self._max_bytes:
            self._drop(next(iter(entries)))

    def shorten(self, key: bytes, ttl_s: float) -> bool:
        """Let the entry live ``ttl_s`` from when it was stored; False when it is thereby gone."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry.expires_at_s = min(entry.expires_at_s, entry.stored_at_s + ttl_s)
        if self._clock() >= entry.expires_at_s:
            self._drop(key)
            return False
        return True

    def by_id(self, entry_id: str) -> CachedAnswer | None:
        """The live entry that operators know as ``entry_id``."""
        key = self._key_of(entry_id)
        return None if key is None else self.get(key)

    def entries(self) -> tuple[CachedAnswer, ...]:
        """All entries as they are now, least recently used first, expired ones included."""
        return tuple(self._entries.values())

    def add_bytes(self, entry: CachedAnswer, extra_bytes: int) -> None:
        """Account for bytes that were rendered and stored beside an entry."""
        if self._entries.get(entry.key) is entry:
            entry.size_bytes += extra_bytes
            self._bytes += extra_bytes

    def remove(self, entry_id: str) -> bool:
        """Remove one entry; returns whether it was there."""
        key = self._key_of(entry_id)
        if key is None:
            return False
        self._drop(key)
        return True

    def invalidate(
        self,
        *,
        tenant: str | None = None,
        model: str | None = None,
        tags: Iterable[str] = (),
        everything: bool = False,
    ) -> int:
        """Remove every entry that matches all given fields; in force for the very next ``get``.

        ``tenant`` narrows any of the others. With nothing but a tenant, all of that tenant's entries go.
        """
        wanted = frozenset(tags)
        if not (everything or wanted or model or tenant):
            return 0
        doomed = [
            key
            for key, entry in self._entries.items()
            if (tenant is None or entry.tenant == tenant)
            and (model is None or entry.model == model)
            and (not wanted or wanted.intersection(entry.tags))
        ]
        for key in doomed:
            self._drop(key)
        return len(doomed)

    def clear(self) -> None:
        """Remove everything."""
        self._entries.clear()
        self._bytes = 0

    def block(self, what: InvalidationFilter) -> None:
        """Store nothing that matches and whose call has begun by now."""
        self.blocked_ns = time.perf_counter_ns()
        self._barriers.add(what, self.blocked_ns + 1)

    def block_all(self) -> None:
        """Store nothing whose call has begun by now."""
        self.blocked_ns = time.perf_counter_ns()
        self._barriers.clear(self.blocked_ns + 1)

    def blocks(
        self, since_ns: int, key: bytes, tenant: str, model: str, tags: tuple[str, ...]
    ) -> bool:
        """Whether an answer whose call began at ``since_ns`` has been invalidated meanwhile."""
        return since_ns <= self.blocked_ns and self._barriers.blocks(
            since_ns, tenant, model, tags, key[:16].hex()
        )

    def _key_of(self, entry_id: str) -> bytes | None:
        """The key behind an operator's id: a walk, because operators ask seldom and answers come often."""
        try:
            start = bytes.fromhex(entry_id)
        except ValueError:
            return None
        return next((key for key in self._entries if key[:16] == start), None)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key)
        self._bytes -= entry.size_bytes
