"""A vendor's prompt cache: which prefix of a prompt was read before, and what that saves.

Theory of operation
-------------------
A prompt is rendered as a row of blocks: tools, then system, then messages. The cache knows
prefixes of that row, never single blocks: block i is named by a hash over blocks 0 to i, so one
changed byte anywhere renames everything behind it. An entry lives at a *mark* (a breakpoint) that
some earlier request wrote, and nowhere else: that is why a look-up walks back from each of its own
marks over the positions before it, at most `look_back` of them, until it meets an entry.

What is found is read, and reading restarts its lifetime; what lies between the end of that prefix
and the last mark that is long enough is written. Everything behind is plain input. A written entry
becomes readable when `commit` is called, which the simulator does when its answer begins to stream:
requests that run before that moment each pay for the write, as they do with the vendors.

Rules followed: Anthropic, at most four marks, 5 minutes or 1 hour, 20 positions of look-back, a
minimum length per model that is silent below; OpenAI, implicit or explicit marks, 1,024 tokens,
30 minutes or 12 hours, no limit on look-back. This module knows marks, lifetimes and minimums as
numbers only; `messages`, `chat` and `responses` say which.

Pure but for the clock that is passed in; not thread-safe, made for one event loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

FIVE_MINUTES_S = 300
HALF_HOUR_S = 1_800
ONE_HOUR_S = 3_600
TWELVE_HOURS_S = 43_200
_DIGEST_BYTES = 16
_MAX_ENTRIES = 200_000


@dataclass(frozen=True, slots=True)
class PromptBlock:
    """One block of a rendered prompt: what identifies it, and how many tokens it counts."""

    content: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A breakpoint behind block `position` (from 0), whose entry lives `ttl_s` seconds."""

    position: int
    ttl_s: int


@dataclass(frozen=True, slots=True)
class CacheRules:
    """One request's marks in ascending order, and the model's rules for them."""

    marks: Sequence[Mark]
    minimum_tokens: int
    look_back: int | None = None
    """How many positions a mark looks at, itself included; None: all before it."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How a prompt's tokens divide: `read + sum(written) + uncached` is its whole length."""

    read_tokens: int
    written_tokens: dict[int, int]
    """Tokens written, by the lifetime of the entry in seconds."""
    uncached_tokens: int
    entries: tuple[tuple[bytes, int], ...] = ()
    """What `commit` will make readable: prefix name and lifetime."""

    @property
    def total_tokens(self) -> int:
        """The whole prompt."""
        return self.read_tokens + self.all_written_tokens + self.uncached_tokens

    @property
    def all_written_tokens(self) -> int:
        """Tokens written, whatever their lifetime."""
        return sum(self.written_tokens.values())


@dataclass(slots=True)
class _Entry:
    ttl_s: int
    expires_at_s: float


class PromptCache:
    """The prefixes that one simulated vendor still remembers.

    `now` gives monotonic seconds. `scope` keeps models, tenants and cache keys apart.
    """

    def __init__(self, now: Callable[[], float], *, max_entries: int = _MAX_ENTRIES) -> None:
        self._now = now
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def look_up(self, scope: str, blocks: Sequence[PromptBlock], rules: CacheRules) -> CacheUse:
        """Divide a prompt's tokens, and restart the lifetime of what it reads."""
        total = sum(block.tokens for block in blocks)
        if not rules.marks:
            return CacheUse(0, {}, total)
        names, lengths = _prefixes(scope, blocks)
        found = self._longest(names, rules)
        read_tokens = lengths[found] if found >= 0 else 0
        if found >= 0:
            self._refresh(names, found, rules.marks)
        written: dict[int, int] = {}
        entries: list[tuple[bytes, int]] = []
        end = read_tokens
        for mark in rules.marks:
            length = lengths[mark.position]
            if mark.position <= found or length < rules.minimum_tokens:
                continue
            written[mark.ttl_s] = written.get(mark.ttl_s, 0) + length - end
            entries.append((names[mark.position], mark.ttl_s))
            end = length
        return CacheUse(read_tokens, written, total - end, tuple(entries))

    def commit(self, use: CacheUse) -> None:
        """Make what `use` writes readable from now on. Calling it twice changes nothing."""
        for name, ttl_s in use.entries:
            self._entries[name] = _Entry(ttl_s, self._now() + ttl_s)
            self._entries.move_to_end(name)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def _longest(self, names: Sequence[bytes], rules: CacheRules) -> int:
        """The last position whose prefix is known and in sight of a mark, or -1."""
        best = -1
        for mark in rules.marks:
            reach = mark.position + 1 if rules.look_back is None else rules.look_back
            lowest = max(mark.position - reach, best)
            for position in range(mark.position, lowest, -1):
                if self._is_live(names[position]):
                    best = position
                    break
        return best

    def _is_live(self, name: bytes) -> bool:
        entry = self._entries.get(name)
        if entry is None:
            return False
        if entry.expires_at_s <= self._now():
            del self._entries[name]
            return False
        return True

    def _refresh(self, names: Sequence[bytes], found: int, marks: Sequence[Mark]) -> None:
        """Restart the lifetime of what was read and of the marked prefixes within it."""
        read = {found, *(mark.position for mark in marks if mark.position < found)}
        for position in read:
            if self._is_live(names[position]):
                entry = self._entries[names[position]]
                entry.expires_at_s = self._now() + entry.ttl_s
                self._entries.move_to_end(names[position])


def _prefixes(scope: str, blocks: Sequence[PromptBlock]) -> tuple[list[bytes], list[int]]:
    """For each position the name of the prefix that ends there, and its tokens."""
    running = blake2b(scope.encode(), digest_size=_DIGEST_BYTES)
    names: list[bytes] = []
    lengths: list[int] = []
    length = 0
    for block in blocks:
        # The length goes first, so that no two rows of blocks can spell the same bytes.
        running.update(len(block.content).to_bytes(8, "big"))
        running.update(block.content)
        length += block.tokens
        names.append(running.digest())
        lengths.append(length)
    return names, lengths
