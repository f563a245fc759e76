"""Sharing between users: who may see whose answer, and how much one user may store.

``least_askers``: an answer is shown to others only after so many different users had their own from a
model (k-anonymity of askers); until then each gets a fresh one, so one poisoned answer reaches nobody
else. ``most_of_one_user``: one named user has at most this share of the recent semantic entries; more of
theirs are neither stored nor learned from, so nobody fills a neighbourhood of questions alone.
``hit_jitter_s``: a hit is delayed at random, so that its time says less about whether somebody else asked.

Users are known by a hash of their name. What the bounded tables forget makes a miss, never a hit.
Requests without ``x-slipstream-user`` count as one user.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from random import Random
from typing import Final

EVERYBODY: Final = "*"
"""Among an entry's askers: the operator imported it, everybody may see it."""
_MOST_ENTRIES: Final = 65_536
_MOST_TENANTS: Final = 1_024
_MOST_ASKERS: Final = 32
_WINDOW: Final = 200
_WINDOW_S: Final = 3_600.0
_LEAST_WRITES: Final = 4


class Sharing:
    """The sharing rules and their counts; one event loop owns it."""

    def __init__(
        self,
        *,
        share_users: bool,
        least_askers: int = 1,
        most_of_one_user: float = 1.0,
        hit_jitter_s: float = 0.0,
        most_entries: int = _MOST_ENTRIES,
        rng: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``share_users``: the users of a tenant share answers. ``clock``: seconds on any scale.

        Of more than ``most_entries`` the oldest is forgotten.
        """
        self._most_entries = most_entries
        self.share_users = share_users
        self._least_askers = least_askers if share_users else 1
        self._most_of_one_user = most_of_one_user if share_users else 1.0
        self._hit_jitter_s = hit_jitter_s
        self._rng, self._sleep, self._clock = rng, sleep, clock
        self._askers_by_key: OrderedDict[bytes, tuple[str, frozenset[str]]] = OrderedDict()
        self._writers: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()

    def scope_of(self, user: str) -> str:
        """The user in the cache's keys: "" where the tenant's users share."""
        return "" if self.share_users else user

    # ---------------------------------------------------------------- exact answers

    def record_answer(self, key: bytes, user: str) -> None:
        """Record that a model's answer for ``user`` was stored under ``key``, replacing any other."""
        if self._least_askers <= 1:
            return
        asker = asker_hash(user)
        _, before = self._askers_by_key.get(key, ("", frozenset[str]()))
        self._set_askers(key, asker, before if len(before) >= _MOST_ASKERS else before | {asker})

    def admits(self, key: bytes, user: str) -> bool:
        """Whether ``user`` may see what is stored, or being streamed, under ``key``."""
        if self._least_askers <= 1:
            return True
        owner, askers = self._askers_by_key.get(key, ("", frozenset[str]()))
        return owner in {asker_hash(user), EVERYBODY} or len(askers) >= self._least_askers

    def admit_everybody(self, key: bytes) -> None:
        """Let everybody see the answer under ``key``: the operator imported it."""
        if self._least_askers > 1:
            self._set_askers(key, EVERYBODY, frozenset({EVERYBODY}))

    def _set_askers(self, key: bytes, owner: str, askers: frozenset[str]) -> None:
        self._askers_by_key.pop(key, None)
        self._askers_by_key[key] = (owner, askers)
        if len(self._askers_by_key) > self._most_entries:
            self._askers_by_key.popitem(last=False)

    # ---------------------------------------------------------------- semantic entries

    def admits_entry(self, asker: str, own: Sequence[str], agreeing: Sequence[str]) -> bool:
        """Whether ``asker`` may see an entry.

        ``own``: the entry's askers, first the one whom it was made for. ``agreeing``: those of all near
        entries with an agreeing answer, its own included.
        """
        if self._least_askers <= 1 or EVERYBODY in own:
            return True
        return own[:1] == (asker,) or len(set(agreeing)) >= self._least_askers

    def admit_write(self, tenant: str, user: str) -> bool:
        """Whether one more entry of ``user`` may be stored; counts it if so."""
        if self._most_of_one_user >= 1 or not user:
            return True
        written = self._writers.setdefault(tenant, deque(maxlen=_WINDOW))
        self._writers.move_to_end(tenant)
        if len(self._writers) > _MOST_TENANTS:
            self._writers.popitem(last=False)
        now_s, asker = self._clock(), asker_hash(user)
        while written and written[0][0] <= now_s - _WINDOW_S:
            written.popleft()
        limit = max(_LEAST_WRITES, int(self._most_of_one_user * _WINDOW))
        if Counter(who for _, who in written)[asker] >= limit:
            return False
        written.append((now_s, asker))
        return True

    # ---------------------------------------------------------------- time

    async def jitter(self) -> None:
        """Delay a hit at random; not at all where no jitter is configured."""
        if self._hit_jitter_s > 0:
            await self._sleep(self._rng.uniform(0.0, self._hit_jitter_s))


def asker_hash(user: str) -> str:
    """Return the hash by which a user is counted."""
    return blake2b(user.encode(), digest_size=8).hexdigest()
