"""Runs that outlive the request that started them: any number of clients may watch or cancel one.

A run is a task of this registry and not of the connection that started it: a client may leave and come
back. Its events are in the event log, which every run ends with a last event, however it ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from app.domain.agents import Agent, Decision
from app.domain.chat import Message, Tool
from app.domain.run_events import (
    CallEnded,
    Interrupt,
    MessageEnded,
    MessageStarted,
    MessageText,
    ModelUsage,
    RunEvent,
    RunFailed,
    RunFinished,
    RunStarted,
    Status,
)
from app.errors import Conflict, GatewayError, Overloaded, StoreError
from app.pipeline.agent import AgentRun
from app.pipeline.agent_answer import with_system
from app.pipeline.approvals import (
    AnsweredInterrupt,
    InterruptedRun,
    Resumption,
    SiblingRuns,
    match_decisions,
)
from app.pipeline.gateway import Gateway, Turn, cancel_nothing
from app.pipeline.synthesis import missing_note, partial_answer
from app.stores.event_log import EventLog, RunLog

if TYPE_CHECKING:
    from app.stores.redis_runs import SharedRuns  # loads Redis' client

T = TypeVar("T")
_log = logging.getLogger("slipstream.agent")
_CLIENT_CANCELLED = 499


@dataclass(slots=True)
class RunRequest:
    """What a client asks to run."""

    agent: Agent
    run_id: str
    thread_id: str
    messages: tuple[Message, ...]
    client_tools: tuple[Tool, ...] = ()
    approvals: tuple[AnsweredInterrupt, ...] = ()


@dataclass(slots=True)
class LiveRun:
    """One run, running or ended."""

    request: RunRequest
    turn: Turn
    log: RunLog
    state: str = "running"
    """``running``, ``finished``, ``cancelled`` or ``failed``."""
    status: int = 200
    code: str = ""
    client_left: bool = False
    ended_unix_s: float | None = None
    finish: str = ""
    """The reason with which the last model call ended."""
    usages: tuple[ModelUsage, ...] = ()
    """Of every model, once the run is over."""
    run: AgentRun | None = None
    """None again once the run is over: it holds all that the run read."""
    task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Stop it: its tools and upstream calls at once, its log with a cancelled end."""
        if self.task is not None:
            self.task.cancel()

    def usages_so_far(self) -> tuple[ModelUsage, ...]:
        """Tokens of every model that has answered in it."""
        return self.usages if self.run is None else tuple(self.run.usages.values())

    def release(self) -> None:
        """Let go of what only a run under way needs: messages, results, drafts."""
        if self.run is not None:
            self.finish, self.usages = self.run.finish, self.usages_so_far()
        self.run = self.task = None
        self.turn.cancel = cancel_nothing  # a cancelled task holds the frames it was cancelled in
        self.request = replace(self.request, messages=(), client_tools=(), approvals=())


def _no_description(_: LiveRun) -> dict[str, object]:
    """No state: for a registry whose runs no other worker sees."""
    return {}


@dataclass(slots=True)
class Runs:
    """The runs of this process."""

    gateway: Gateway
    events: EventLog
    on_end: Callable[[LiveRun], None]
    """Called with every ended run, for its record."""
    shared: SharedRuns | None = None
    """Where other workers read the runs of this one, and this one theirs; None without Redis."""
    describe: Callable[[LiveRun], dict[str, object]] = _no_description
    """A run's state as JSON, for requests that reach another worker."""
    siblings: SiblingRuns | None = None
    """Finds interrupted runs of this server's other workers; None for a lone worker. Unused with Redis."""
    _runs: dict[tuple[str, str], LiveRun] = field(default_factory=dict)
    _answered: set[tuple[str, str]] = field(default_factory=set)
    """Runs of this worker whose interrupts were answered."""
    _live: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Forget a run when its log is forgotten."""
        self.events.on_forget = self._forget

    def start(self, wanted: RunRequest, turn: Turn) -> LiveRun:
        """Start a run; its first two events are in the log when this returns. Raises ``Conflict``."""
        log = self.events.open(turn.tenant, wanted.run_id)
        if log is None:
            raise _run_exists(wanted.run_id)
        log.append(RunStarted(wanted.run_id, wanted.thread_id, wanted.agent.name))
        log.append(Status("Thinking…", first=True))
        live = LiveRun(wanted, turn, log)
        self._runs[turn.tenant, wanted.run_id] = live
        loop = asyncio.get_running_loop()
        live.task = loop.create_task(self._run(live), name=f"run {wanted.run_id}")
        turn.cancel = live.task.cancel
        self._live.add(live.task)
        live.task.add_done_callback(self._live.discard)
        if self.shared is not None:
            self.shared.copy(
                turn.tenant, log, state=partial(self.describe, live), cancel=live.cancel
            )
        return live

    async def claim_run_id(self, tenant: str, run_id: str) -> None:
        """Raise ``Conflict`` where this worker, or through Redis another one, has a run of that id."""
        if self.events.find(tenant, run_id) is not None:
            raise _run_exists(run_id)
        if self.shared is not None and not await self.shared.claim(tenant, run_id):
            raise _run_exists(run_id)

    def has(self, run_id: str) -> bool:
        """Whether a run of that id, of any tenant, is kept here."""
        return any(key[1] == run_id for key in self._runs)

    @property
    def under_way(self) -> int:
        """Number of running runs."""
        return len(self._live)

    def find(self, tenant: str, run_id: str) -> LiveRun | None:
        """A run of this tenant that is under way or lately was."""
        return self._runs.get((tenant, run_id)) if self.events.find(tenant, run_id) else None

    async def resumption(
        self, tenant: str, decisions: Sequence[Decision], messages: Sequence[Message]
    ) -> Resumption:
        """Check ``decisions`` against the run that they answer, of whichever worker; claims nothing yet.

        Raises ``GatewayError`` where they do not fit it, or another worker could not be asked.
        """
        if not decisions:
            return Resumption()
        run_ids = {each.interrupt_id.rpartition(":")[0] for each in decisions}
        run = await self._interrupted(tenant, min(run_ids)) if len(run_ids) == 1 else None
        return Resumption(match_decisions(decisions, run.interrupts if run else (), messages), run)

    def interrupted_here(self, tenant: str, run_id: str) -> InterruptedRun | None:
        """A run of this worker that ended with calls to approve."""
        log = self.events.find(tenant, run_id)
        interrupts = (
            () if log is None or not log.last else _interrupts(log.after(log.last - 1)[0][1])
        )

        async def claim() -> bool:
            key = (tenant, run_id)
            is_first = key not in self._answered
            self._answered.add(key)
            return is_first

        return InterruptedRun(interrupts, claim) if interrupts else None

    async def _interrupted(self, tenant: str, run_id: str) -> InterruptedRun | None:
        own, shared = self.interrupted_here(tenant, run_id), self.shared
        if shared is not None:
            interrupts = (
                own.interrupts
                if own is not None
                else _interrupts(await from_other_workers(shared.last_event(tenant, run_id)))
            )

            async def claim() -> bool:
                return await from_other_workers(shared.claim_approval(tenant, run_id))

            return InterruptedRun(interrupts, claim) if interrupts else None
        if own is None and self.siblings is not None:
            return await self.siblings.find(tenant, run_id)
        return own

    async def aclose(self) -> None:
        """Cancel what runs and wait until it has stopped."""
        for task in list(self._live):
            task.cancel()
        if self._live:
            await asyncio.wait(set(self._live))

    def _forget(self, tenant: str, run_id: str) -> None:
        self._runs.pop((tenant, run_id), None)
        self._answered.discard((tenant, run_id))

    async def _run(self, live: LiveRun) -> None:
        wanted, turn, log = live.request, live.turn, live.log
        ended: list[CallEnded] = []

        def say(event: RunEvent) -> None:
            log.append(event)
            if isinstance(event, CallEnded):
                ended.append(event)

        run = live.run = AgentRun(
            agent=wanted.agent,
            messages=with_system(wanted.agent, wanted.messages),
            gateway=self.gateway,
            turn=turn,
            emit=say,
            client_tools=wanted.client_tools,
            approvals=wanted.approvals,
            run_id=wanted.run_id,
            interactive=True,
        )
        try:
            async with asyncio.timeout_at(turn.deadline.at_s):
                await run.run()
            _emit_closing_message(run, ended)
            self._end(live, "finished", cancelled=False)
        except asyncio.CancelledError:
            live.status, live.code = _CLIENT_CANCELLED, "cancelled"
            self._end(live, "cancelled", cancelled=True)
            raise
        except GatewayError as error:
            self._fail(live, error.message, error.code, error.status)
        except TimeoutError:
            self._fail(
                live, "the deadline passed before the run was over", "deadline_exceeded", 504
            )
        except Exception:  # noqa: BLE001 - the process edge: a run's own task; the log has it all
            _log.exception("run_failed", extra={"request_id": turn.request_id})
            message = "the gateway failed; the request id finds the cause in its log"
            self._fail(live, message, "internal_error", 500)

    def _fail(self, live: LiveRun, message: str, code: str, status: int) -> None:
        usage = live.usages_so_far()
        live.state, live.status, live.code = "failed", status, code
        live.log.append(RunFailed(message, code, usage))
        self._settle(live)

    def _end(self, live: LiveRun, state: str, *, cancelled: bool) -> None:
        turn, run = live.turn, live.run
        timings = {stage: ns / 1e6 for stage, ns in turn.timeline.stage_times_ns().items()}
        timings["total"] = turn.timeline.elapsed_s() * 1000
        live.state = state
        live.log.append(
            RunFinished(
                live.request.run_id,
                live.request.thread_id,
                cancelled=cancelled,
                usage=live.usages_so_far(),
                timings={stage: round(ms, 3) for stage, ms in timings.items()},
                cost_usd=turn.cost_usd,
                left_out=tuple(dict.fromkeys(run.left_out)) if run is not None else (),
                pending=tuple(run.pending) if run is not None else (),
                interrupts=tuple(run.interrupts) if run is not None and not cancelled else (),
            )
        )
        self._settle(live)

    def _settle(self, live: LiveRun) -> None:
        live.ended_unix_s = time.time()
        live.release()
        self.events.close(live.turn.tenant, live.request.run_id)
        self.on_end(live)


async def from_other_workers(asked: Awaitable[T]) -> T:
    """What Redis has of other workers' runs; raises ``Overloaded`` where it cannot be reached."""
    try:
        return await asked
    except StoreError as error:
        message = f"the runs of other workers cannot be reached: {error.message}"
        raise Overloaded(message, code="store_away", retry_after_s=1) from error


def _run_exists(run_id: str) -> Conflict:
    message = f"there is already a run {run_id!r}: give each run its own id"
    return Conflict(message, code="run_exists", param="runId")


def _interrupts(last: RunEvent | None) -> tuple[Interrupt, ...]:
    return last.interrupts if isinstance(last, RunFinished) else ()


def _emit_closing_message(run: AgentRun, ended: Sequence[CallEnded]) -> None:
    """Emit what the model did not write: the results where it had no time, and what is missing."""
    if run.pending or run.interrupts:
        return
    text = "" if run.text else partial_answer(ended)
    text = (text + missing_note(run.left_out)).strip()
    if text:
        message_id = f"{run.label}-message-closing"
        for event in (
            MessageStarted(message_id),
            MessageText(message_id, text),
            MessageEnded(message_id),
        ):
            run.emit(event)
