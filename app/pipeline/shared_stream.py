"""What one worker's running call says to another: records, numbered by the events before them.

A record repeats nothing and may be read twice: it says at which event it begins, so a reader that has
already handed some of them on passes over those, and one that misses some knows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import msgspec

from app.domain.events import Event
from app.domain.models import Model
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamError
from app.stores.shared_flights import Running


class Form(msgspec.Struct, array_like=True, frozen=True):
    """In which form a call's frames are."""

    dialect: str
    streamed: bool
    usage_shown: bool


@runtime_checkable
class Leader(Protocol):
    """What a record tells of the turn that makes the call."""

    model: Model | None
    answered_tier: str
    usage: Usage | None
    cost_usd: float
    finish: str


class Record(msgspec.Struct, array_like=True):
    """One entry of a flight's stream."""

    start: int
    events: bytes
    done: bool = False
    model: str = ""
    tier: str = ""
    usage: tuple[int, int, int, int, int] | None = None
    cost_usd: float = 0.0
    finish: str = ""
    failure: tuple[int, str, str, float | None, bool] | None = None
    """Status, code, message, when to come back, and whether a frame has already said so."""

    def describe(self, leader: object) -> None:
        """Say of the leader's turn what followers tell their clients."""
        if not isinstance(leader, Leader):
            return
        self.model = "" if leader.model is None else leader.model.name
        self.tier = leader.answered_tier
        usage = leader.usage
        if self.done and usage is not None:
            self.usage = usage.counts
            self.cost_usd = leader.cost_usd
        if self.done:
            self.finish = leader.finish


@dataclass(slots=True)
class Said:
    """What is known of another worker's call so far."""

    shown: int = 0
    """Events handed on."""
    model: str = ""
    tier: str = ""
    usage: Usage | None = None
    cost_usd: float = 0.0
    finish: str = ""
    done: bool = False
    failure: GatewayError | None = None


@dataclass(slots=True)
class FollowedElsewhere:
    """Where a follower stands in another worker's stream."""

    running: Running
    entry_id: str
    clock: Callable[[], float]
    said: Said = field(default_factory=Said)
    after: bytes = b""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    joined_s: float = 0.0
    heard_s: float = 0.0
    redis_lost_s: float | None = None

    def __post_init__(self) -> None:
        """Begin to count from now."""
        self.joined_s = self.heard_s = self.clock()

    def redis_was_lost(self, within_s: float) -> bool:
        """Whether what the stream does not say may be Redis' fault, not the leader's."""
        return self.redis_lost_s is not None and self.clock() - self.redis_lost_s < within_s

    def take(self, record: Record, events: list[Event]) -> list[Event]:
        """The events of ``record`` that were not handed on yet; they count as handed on."""
        said = self.said
        if record.start > said.shown:
            return []  # what lies between comes with the stream's next beginning
        fresh = events[said.shown - record.start :]
        said.shown += len(fresh)
        said.model, said.tier = record.model, record.tier
        if record.done and record.start + len(events) == said.shown:
            said.done = True
            said.usage = None if record.usage is None else Usage(*record.usage)
            said.cost_usd, said.finish = record.cost_usd, record.finish
            if record.failure is not None:
                status, code, message, retry_after_s, told = record.failure
                failure = UpstreamError(message, code=code, retry_after_s=retry_after_s)
                failure.status, failure.already_reported = status, told
                said.failure = failure
        return fresh
