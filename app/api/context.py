"""What ``bootstrap`` built, for the administrative routes, and the authentication of their callers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from app.api.auth import Caller
from app.api.inference import Edge
from app.jobs.lazy_engine import LazyJobEngine
from app.pipeline.agent_runs import Runs
from app.pipeline.prompt_priming import PromptPriming
from app.telemetry.telemetry import Telemetry
from app.upstream.origin import PoolStats


@dataclass(slots=True)
class Readiness:
    """The state that ``/readyz`` reports."""

    ready: bool = False
    draining: bool = False
    simulated: bool = False
    reload_refused_file: Path | None = None
    """A file with the reason why the last reload was refused; it exists only after a refusal."""
    degraded: dict[str, str] = field(default_factory=dict)
    """Degraded parts: name to reason."""


@dataclass(frozen=True, slots=True)
class Context:
    """Everything the administrative routes use; kept on ``app.state``."""

    edge: Edge
    telemetry: Telemetry
    readiness: Readiness
    runs: Runs
    agents: tuple[str, ...] = ()
    priming: PromptPriming | None = None
    jobs: LazyJobEngine | None = None
    """None where jobs are off, or there is no agent."""
    show_text: bool = False
    """``cache.show_text``."""
    connections: Callable[[], Mapping[str, PoolStats | None]] = dict
    """Connection counts per upstream; None where a vendor's package owns the connections."""
    epoch_unix_s: float = field(default_factory=lambda: time.time() - time.monotonic())
    """Unix time at which the monotonic clock was 0: computed once, so that an entry's time never changes."""


def context_of(request: Request) -> Context:
    """The context of the application that serves ``request``."""
    context: Context = request.app.state.context
    return context


async def caller_of(request: Request) -> Caller:
    """Authenticate the caller and apply its limits; raises ``Unauthenticated`` and ``RateLimited``."""
    caller = _caller(request)
    if caller.guard is not None:
        (await caller.guard.admit(0)).settle(None)
    return caller


def admin_of(request: Request) -> Caller:
    """Authenticate a caller with admin rights; raises as ``Authenticator.admin``."""
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
"""For routes that concern more than one tenant: ``/metrics``, ``/v1/savings``, ``/v1/speculation``."""
