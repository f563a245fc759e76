"""What the store of jobs holds, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times are Unix seconds."""

    id: str
    tenant: str
    body: bytes
    agent: str
    tools: str | None
    """Names of the tools that its caller may use, by line; None: all."""
    priority: int
    state: str
    """``queued``, ``running``, ``finished``, ``cancelled`` or ``dead``."""
    due: float
    attempts: int
    crashes: int
    cancel: int
    code: str
    message: str
    created: float
    ended: float | None

    @classmethod
    def queued(
        cls,
        *,
        id: str,  # noqa: A002 - the field's name
        tenant: str,
        body: bytes,
        agent: str,
        due: float,
        created: float,
        tools: str | None = None,
        priority: int = 0,
    ) -> Self:
        """A job that nobody has begun."""
        return cls(
            id=id,
            tenant=tenant,
            body=body,
            agent=agent,
            tools=tools,
            priority=priority,
            state="queued",
            due=due,
            attempts=0,
            crashes=0,
            cancel=0,
            code="",
            message="",
            created=created,
            ended=None,
        )


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How an attempt at a job ended."""

    state: str
    """The job's from now on: ``queued`` where it is to be begun again."""
    due: float
    """When, in that case."""
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whom a job's end is told, and how that stands."""

    job: str
    hook: str
    state: str
    """``waiting``, ``delivered`` or ``failed``."""
    tries: int
    due: float
    code: str


@dataclass(frozen=True, slots=True)
class Depth:
    """How much there is to do, over all workers that share the store."""

    queued: int = 0
    """Due now."""
    delayed: int = 0
    """Waiting for a later moment: to be tried again."""
    running: int = 0
    dead: int = 0
    lag_s: float = 0.0
    """How long the job that waits longest has been due."""
    undelivered: int = 0
    """Webhooks of ended jobs that were not taken yet."""
