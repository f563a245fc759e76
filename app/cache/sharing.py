"""Who may be shown whose answer, and how much one user may put before the others.

A cache that users share is a way from one user to another, so it can be asked for less than sharing
at once. ``least_askers``: an answer is shown to others only after so many different users had their
own from a model; until then each gets a fresh one. (Whoever can make a model say something odd once
has then not yet said it to everybody.) ``most_of_one_user``: of what was lately kept for hits by
meaning, one named user has at most this share; more of theirs is neither kept nor learned from, so
nobody can fill a neighbourhood of questions alone. ``hit_jitter_s``: a hit waits a random while, so
that its time says less about whether somebody else has asked before.

Users are known by a hash of their name. What is forgotten here (the table is bounded) makes a
miss, never a hit. Requests without ``x-slipstream-user`` count as one user.
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
"""Stands among an entry's askers where the operator put the entry there."""
_MOST_ENTRIES: Final = 65_536
_MOST_TENANTS: Final = 1_024
_MOST_ASKERS: Final = 32
_WINDOW: Final = 200
_WINDOW_S: Final = 3_600.0
_LEAST_WRITES: Final = 4


class Sharing:
    """The rules of sharing; one event loop owns it."""

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

        Of more than ``most_entries`` the longest kept is forgotten.
        """
        self._most_entries = most_entries
        self.share_users = share_users
        self._least_askers = least_askers if share_users else 1
        self._most_of_one_user = most_of_one_user if share_users else 1.0
        self._hit_jitter_s = hit_jitter_s
        self._rng, self._sleep, self._clock = rng, sleep, clock
        self._kept: OrderedDict[bytes, tuple[str, frozenset[str]]] = OrderedDict()
        self._writers: OrderedDict[str, deque[tuple[float, str]]] = OrderedDict()

    def scope_of(self, user: str) -> str:
        """The user in the cache's keys: nobody where the tenant's users share."""
        return "" if self.share_users else user

    # ---------------------------------------------------------------- exact answers

    def kept(self, key: bytes, user: str) -> None:
        """An answer that a model made for ``user`` was kept under ``key``, in place of any other."""
        if self._least_askers <= 1:
            return
        asker = asker_of(user)
        _, before = self._kept.get(key, ("", frozenset[str]()))
        self._keep(key, asker, before if len(before) >= _MOST_ASKERS else before | {asker})

    def admits(self, key: bytes, user: str) -> bool:
        """Whether ``user`` may be shown what is kept, or being said, under ``key``."""
        if self._least_askers <= 1:
            return True
        owner, askers = self._kept.get(key, ("", frozenset[str]()))
        return owner in {asker_of(user), EVERYBODY} or len(askers) >= self._least_askers

    def given(self, key: bytes) -> None:
        """The operator put the answer under ``key`` there: everybody may be shown it."""
        if self._least_askers > 1:
            self._keep(key, EVERYBODY, frozenset({EVERYBODY}))

    def _keep(self, key: bytes, owner: str, askers: frozenset[str]) -> None:
        self._kept.pop(key, None)
        self._kept[key] = (owner, askers)
        if len(self._kept) > self._most_entries:
            self._kept.popitem(last=False)

    # ---------------------------------------------------------------- answers by meaning

    def admits_askers(self, asker: str, own: Sequence[str], agreeing: Sequence[str]) -> bool:
        """Whether ``asker`` may be shown an entry.

        ``own``: the entry's askers, the one whom it was made for first. ``agreeing``: those of all near
        entries with an answer that agrees, its own included.
        """
        if self._least_askers <= 1 or EVERYBODY in own:
            return True
        return own[:1] == (asker,) or len(set(agreeing)) >= self._least_askers

    def may_write(self, tenant: str, user: str) -> bool:
        """Whether one more entry of ``user`` may be kept; counts it if so."""
        if self._most_of_one_user >= 1 or not user:
            return True
        written = self._writers.setdefault(tenant, deque(maxlen=_WINDOW))
        self._writers.move_to_end(tenant)
        if len(self._writers) > _MOST_TENANTS:
            self._writers.popitem(last=False)
        now_s, asker = self._clock(), asker_of(user)
        while written and written[0][0] <= now_s - _WINDOW_S:
            written.popleft()
        limit = max(_LEAST_WRITES, int(self._most_of_one_user * _WINDOW))
        if Counter(who for _, who in written)[asker] >= limit:
            return False
        written.append((now_s, asker))
        return True

    # ---------------------------------------------------------------- time

    async def linger(self) -> None:
        """Wait a random while before a hit is told; not at all where no jitter is configured."""
        if self._hit_jitter_s > 0:
            await self._sleep(self._rng.uniform(0.0, self._hit_jitter_s))


def asker_of(user: str) -> str:
    """The name under which a user's asking is remembered."""
    return blake2b(user.encode(), digest_size=8).hexdigest()
