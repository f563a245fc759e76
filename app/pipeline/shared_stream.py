"""A leader's events as its followers on other workers read them: records numbered by event.

Each record says at which event it begins, so it may be read twice: a reader skips events it has forwarded,
and notices missing ones.
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
from app.stores.shared_flights import RemoteFlight


class StreamForm(msgspec.Struct, array_like=True, frozen=True):
    """The form of a call's frames."""

    dialect: str
    streamed: bool
    usage_shown: bool


@runtime_checkable
class LeaderTurn(Protocol):
    """The leader's turn, as far as records carry it."""

    model: Model | None
    answered_tier: str
    usage: Usage | None
    cost_usd: float
    finish: str


class StreamRecord(msgspec.Struct, array_like=True):
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
    """Status, code, message, ``retry_after_s``, and whether an error frame was already sent."""

    def describe(self, leader: object) -> None:
        """Add what followers report of the leader's turn."""
        if not isinstance(leader, LeaderTurn):
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
class RemoteProgress:
    """The state of another worker's call so far."""

    forwarded: int = 0
    """Events forwarded."""
    model: str = ""
    tier: str = ""
    usage: Usage | None = None
    cost_usd: float = 0.0
    finish: str = ""
    done: bool = False
    failure: GatewayError | None = None


@dataclass(slots=True)
class RemoteStream:
    """A follower's position in another worker's stream."""

    running: RemoteFlight
    entry_id: str
    clock: Callable[[], float]
    progress: RemoteProgress = field(default_factory=RemoteProgress)
    last_id: bytes = b""
    wakeup: asyncio.Event = field(default_factory=asyncio.Event)
    joined_s: float = 0.0
    last_record_s: float = 0.0
    redis_lost_s: float | None = None

    def __post_init__(self) -> None:
        """Start the clocks now."""
        self.joined_s = self.last_record_s = self.clock()

    def redis_was_lost(self, within_s: float) -> bool:
        """Whether missing records may be due to Redis rather than the leader."""
        return self.redis_lost_s is not None and self.clock() - self.redis_lost_s < within_s

    def new_events(self, record: StreamRecord, events: list[Event]) -> list[Event]:
        """The events of ``record`` that were not forwarded yet; they count as forwarded."""
        progress = self.progress
        if record.start > progress.forwarded:
            return []  # the missing events come when the stream is rewritten
        fresh = events[progress.forwarded - record.start :]
        progress.forwarded += len(fresh)
        progress.model, progress.tier = record.model, record.tier
        if record.done and record.start + len(events) == progress.forwarded:
            progress.done = True
            progress.usage = None if record.usage is None else Usage(*record.usage)
            progress.cost_usd, progress.finish = record.cost_usd, record.finish
            if record.failure is not None:
                status, code, message, retry_after_s, reported = record.failure
                failure = UpstreamError(message, code=code, retry_after_s=retry_after_s)
                failure.status, failure.already_reported = status, reported
                progress.failure = failure
        return fresh
