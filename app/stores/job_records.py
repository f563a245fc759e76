"""Values of the store of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Job:
    """A job and its state. Times are Unix seconds."""

    id: str
    tenant: str
    body: bytes
    agent: str
    tools: str | None
    """Names of the tools that the caller may use, one a line; None: all."""
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
        """A new job."""
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
    """The job's new state: ``queued`` where it is tried again."""
    due: float
    """When the next attempt is due, where there is one."""
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The webhook of a job and its state."""

    job: str
    webhook: str
    state: str
    """``waiting``, ``delivered`` or ``failed``."""
    tries: int
    due: float
    code: str


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How much work there is, over all workers that share the store."""

    queued: int = 0
    """Due now."""
    delayed: int = 0
    """Queued for a later moment: waiting for a retry."""
    running: int = 0
    dead: int = 0
    lag_s: float = 0.0
    """How long the oldest due job has been waiting."""
    undelivered: int = 0
    """Webhooks of ended jobs that are not delivered yet."""
