"""A stream against a policy: shadow traffic first, then served, store on miss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app.cache.verifier import NEIGHBOURS
from bench.cache.policies import Ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench.cache.policies import Policy

SHADOW_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was served of `requests`; `history` has one code a request: 0 miss, 1 right, 2 wrong."""

    requests: int
    hits: int
    wrong: int
    history: NDArray[np.int8]

    @property
    def hit_rate(self) -> float:
        """Served share of all requests."""
        return self.hits / max(1, self.requests)

    @property
    def wrong_per_request(self) -> float:
        """Wrongly served share of all requests."""
        return self.wrong / max(1, self.requests)

    @property
    def wrong_per_hit(self) -> float:
        """Wrong share of what was served; 0 when nothing was."""
        return self.wrong / max(1, self.hits)

    def window(self, start: int, end: int) -> Outcome:
        """The same for requests start..end."""
        part = self.history[start:end]
        return Outcome(len(part), int((part > 0).sum()), int((part == 2).sum()), part)


class _Store:
    """Stored questions' vectors in one growing block; nearest by brute force."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._all = vectors
        self._block = np.empty_like(vectors)
        self._places: list[int] = []

    def add(self, place: int) -> None:
        self._block[len(self._places)] = self._all[place]
        self._places.append(place)

    def fork(self, vectors: NDArray[np.float32]) -> _Store:
        """The same questions, to go on with those of another stream."""
        made = _Store(vectors)
        for place in self._places:
            made.add(place)
        return made

    def nearest(self, place: int) -> tuple[list[int], list[float]]:
        count = len(self._places)
        if not count:
            return [], []
        similar = self._block[:count] @ self._all[place]
        k = min(NEIGHBOURS, count)
        top = np.argpartition(-similar, k - 1)[:k]
        top = top[np.argsort(-similar[top], kind="stable")]
        return [self._places[t] for t in top.tolist()], similar[top].astype(float).tolist()


class Replay:
    """A policy on its way through a stream; can be continued on another one from where it stands."""

    def __init__(
        self,
        policy: Policy,
        vectors: NDArray[np.float32],
        labels: Sequence[str],
        shadow: int,
    ) -> None:
        self._policy, self._vectors, self._labels, self._shadow = policy, vectors, labels, shadow
        self._store = _Store(vectors)
        self._history = np.zeros(len(labels) - shadow, dtype=np.int8)
        self._place = 0

    def run(self, until: int, *, teach_shadow: bool = False) -> None:
        """Go on to the place ``until``."""
        for place in range(self._place, until):
            if place < self._shadow and not teach_shadow:
                self._store.add(place)
            else:
                self._ask(place)
        self._place = until

    def _ask(self, place: int) -> None:
        near, cosines = self._store.nearest(place)
        ask = Ask(place, near, cosines)
        served = self._policy.serve(ask) if place >= self._shadow else None
        if served is None:
            self._policy.learn(ask)
            self._store.add(place)
        else:
            right = self._labels[served] == self._labels[place]
            self._history[place - self._shadow] = 1 if right else 2

    def fork(self, policy: Policy, vectors: NDArray[np.float32], labels: Sequence[str]) -> Replay:
        """The same past, another future: the streams are equal up to where this one stands."""
        made = Replay(policy, vectors, labels, self._shadow)
        made._store = self._store.fork(vectors)
        done = self._place - self._shadow
        made._history[:done] = self._history[:done]
        made._place = self._place
        return made

    @property
    def outcome(self) -> Outcome:
        """Everything so far."""
        history = self._history
        return Outcome(len(history), int((history > 0).sum()), int((history == 2).sum()), history)


def replay(
    policy: Policy,
    vectors: NDArray[np.float32],
    labels: Sequence[str],
    shadow: int,
    *,
    teach_shadow: bool = False,
) -> Outcome:
    """Run a policy over the stream; the first `shadow` requests are misses that are stored.

    `teach_shadow`: tell the policy of the shadow requests one by one (for those that learn online).
    """
    run = Replay(policy, vectors, labels, shadow)
    run.run(len(labels), teach_shadow=teach_shadow)
    return run.outcome


def ceiling(labels: Sequence[str], shadow: int) -> float:
    """Share of the served requests whose answer was asked for before."""
    seen = set(labels[:shadow])
    possible = 0
    for label in labels[shadow:]:
        possible += label in seen
        seen.add(label)
    return possible / max(1, len(labels) - shadow)
