"""How administrative routes reach what ``bootstrap`` built, and who may use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from app.api.auth import Caller
from app.api.inference import Edge
from app.jobs.door import JobsDoor
from app.pipeline.agent_runs import Runs
from app.pipeline.priming import Priming
from app.telemetry.telemetry import Telemetry
from app.upstream.origin import PoolStats


@dataclass(slots=True)
class Readiness:
    """What ``/readyz`` says."""

    ready: bool = False
    draining: bool = False
    simulated: bool = False
    refusal: Path | None = None
    """The file that says why the last reload of the configuration was refused, while there is one."""
    degraded: dict[str, str] = field(default_factory=dict)
    """What works less well than it should, and why: name to reason."""


@dataclass(frozen=True, slots=True)
class Context:
    """Everything the administrative routes use; kept on ``app.state``."""

    edge: Edge
    telemetry: Telemetry
    readiness: Readiness
    runs: Runs
    agents: tuple[str, ...] = ()
    priming: Priming | None = None
    jobs: JobsDoor | None = None
    """None where jobs are off, or there is no agent."""
    show_text: bool = False
    """``cache.show_text``."""
    connections: Callable[[], Mapping[str, PoolStats | None]] = dict
    """How the connections to each upstream stand; None where a vendor's package keeps them."""
    epoch_unix_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    """When the monotonic clock was 0: one value for the process, so that an entry's time stays the same."""


def context_of(request: Request) -> Context:
    """The context of the application that serves ``request``."""
    context: Context = request.app.state.context
    return context


async def caller_of(request: Request) -> Caller:
    """Who calls; raises ``Unauthenticated`` where a key is required and missing, ``RateLimited`` over
    a limit.
    """
    caller = _caller(request)
    if caller.guard is not None:
        (await caller.guard.enter(0)).leave(None)
    return caller


def admin_of(request: Request) -> Caller:
    """Who calls, with admin rights where any key exists or is required; raises as ``Authenticator.admin``."""
    return context_of(request).edge.authenticator.admin(_caller(request))


def _caller(request: Request) -> Caller:
    authenticator = context_of(request).edge.authenticator
    headers = request.headers
    authorization, api_key = headers.get("authorization"), headers.get("x-api-key")
    return authenticator.caller(
        None if authorization is None else authorization.encode("latin-1"),
        None if api_key is None else api_key.encode("latin-1"),
    )


InContext = Annotated[Context, Depends(context_of)]
AsCaller = Annotated[Caller, Depends(caller_of)]
AsAdmin = Annotated[Caller, Depends(admin_of)]
"""For what concerns more than one tenant: ``/metrics``, ``/v1/savings``, ``/v1/speculation``."""
