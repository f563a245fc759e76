"""Run a plan: every node starts the moment its last input is there.

Goals: wall time is the critical path's, whatever else is slow or fails; at most 15 us a node with
deadlines, cancellation and one event per node on. Plan: a node is one task, and at its end that
task is the scheduler: it settles the node, counts down its dependents' open inputs and starts those
with none left. There are no supersteps, no polling and no queue between a result and its consumers.
All deadlines share one timer over a heap.

Invariants:

* A node that failed, timed out or was cancelled blocks only what needs it; that is settled as
  skipped, at once.
* A node that ignores its cancellation still counts as timed out at its deadline: dependents do not
  wait for it. Its task is awaited when the fan-out is left, as every task is: none outlives the
  ``async with`` block.
* Nodes may be added while others run (a model writes the plan, or calls tools mid-stream). ``seal``
  says that no more will come. A node may only refer to nodes that were added before, so a circle
  cannot arise.
* ``enough`` does not wait for stragglers that may be left out; they are settled as timed out.
* ``on_event`` is called once a node, when it is settled, in the order in which nodes end; it must
  not raise.

Measured: see ``bench/agent`` (overhead a node beside the asyncio floor, wall against the critical
path).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from heapq import heappop, heappush
from math import ceil
from types import TracebackType
from typing import Self

from app.domain.plan import Ending, Node, Outcome, PlanError

Work = Callable[[Node, Mapping[str, object]], Coroutine[object, object, object]]
"""Do a node's work with the values of what it needs, by id; failed ones are absent (tolerant nodes
only).
"""


LATE = "late"
"""Cancellation message of a task whose node timed out."""


class _State:
    """The scheduler's record of a node."""

    __slots__ = ("deadline_s", "inputs", "node", "outcome", "ready_s", "started_s", "task", "waits")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.waits = 0
        self.inputs: dict[str, object] = {}
        self.task: asyncio.Task[object] | None = None
        self.outcome: Outcome | None = None
        self.ready_s = 0.0
        self.started_s = 0.0
        self.deadline_s = 0.0


class Fanout:
    """A running plan, as ``async with Fanout(work) as fanout``: add nodes, ``await fanout.finished()``.

    Leaving the block cancels whatever still runs and waits for it. One event loop owns it.
    """

    def __init__(
        self,
        work: Work,
        *,
        limit: int | None = None,
        on_event: Callable[[Outcome], None] | None = None,
    ) -> None:
        """Run nodes with ``work``, at most ``limit`` at once (None: as many as are ready)."""
        self._work = work
        self._limit = limit if limit is not None else 1 << 60
        self._on_event = on_event
        self._states: dict[str, _State] = {}
        self._dependents: dict[str, list[_State]] = {}
        self._ready: deque[_State] = deque()
        self._tasks: dict[asyncio.Task[object], _State] = {}
        self._running = 0
        self._open = 0
        self._sealed = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._all_done: asyncio.Future[None] = self._loop.create_future()
        self._enough: asyncio.Future[None] | None = None
        self._done = 0
        self._wanted = 0
        self._deadlines: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.cancel()
        for task in self._tasks:
            task.cancel()  # also one that timed out and is still at it
        interrupted: asyncio.CancelledError | None = None
        while running := [task for task in self._tasks if not task.done()]:
            try:
                await asyncio.wait(running)
            except (
                asyncio.CancelledError
            ) as again:  # the owner is cancelled meanwhile: still leave nothing behind
                interrupted = again
        if interrupted is not None:
            raise interrupted

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """What is settled so far, by id, in the order in which the nodes were added."""
        return {
            node_id: state.outcome
            for node_id, state in self._states.items()
            if state.outcome is not None
        }

    def add(self, node: Node) -> None:
        """Take a node in and start it if it waits for nothing; raises ``PlanError`` and takes
        nothing in.
        """
        if self._sealed or self._closed:
            raise PlanError(f"node {node.id!r} comes after the plan's end")
        states = self._states
        if node.id in states:
            raise PlanError(f"the plan names {node.id!r} twice: give each node its own id")
        for needed in node.needs:
            if needed not in states:
                raise PlanError(
                    f"node {node.id!r} refers to {needed!r}, which is not among the nodes before it"
                )
        states[node.id] = state = _State(node)
        self._open += 1
        failed = self._link(state)
        if failed:
            self._settle(state, Outcome(node.id, Ending.SKIPPED, because=failed))
        elif not state.waits:
            self._make_ready(state, self._loop.time())
            self._start_ready()

    def _link(self, state: _State) -> str:
        """Take what is there of a new node's inputs; the id of one that it cannot have, or ""."""
        failed = ""
        for needed in dict.fromkeys(state.node.needs):
            outcome = self._states[needed].outcome
            if outcome is None:
                state.waits += 1
                self._dependents.setdefault(needed, []).append(state)
            elif outcome.ending is Ending.DONE:
                state.inputs[needed] = outcome.value
            elif not state.node.tolerant:
                failed = failed or needed
        return failed

    def seal(self) -> None:
        """No more nodes will come."""
        self._sealed = True
        self._check_done()

    async def finished(self) -> dict[str, Outcome]:
        """Seal, wait until every node is settled, and give the outcomes in the order of adding."""
        self.seal()
        await self._all_done
        return self.outcomes

    async def finish_with_quorum(
        self, share: float, patience_s: float, spare: Callable[[Node], bool]
    ) -> dict[str, Outcome]:
        """As ``finished``, but once ``share`` (0 to 1) of the nodes gave a result the others have
        ``patience_s`` seconds; what ``spare`` then gives up is left out, the rest is waited for.
        """
        self.seal()
        self._wanted = ceil(share * len(self._states))
        if self._wanted < len(self._states) and not self._all_done.done():
            self._enough = self._loop.create_future()
            self._check_done()
            await asyncio.wait({self._all_done, self._enough}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({self._all_done}, timeout=patience_s)
            self.expire(spare)
        await self._all_done
        return self.outcomes

    def expire(self, spare: Callable[[Node], bool] = lambda _: True) -> None:
        """The time is up now for every node that is not settled and that ``spare`` gives up. A tolerant
        one that has not begun runs with what there is.
        """
        for state in list(self._states.values()):
            tolerant = state.node.tolerant and not state.started_s
            if state.outcome is None and not tolerant and spare(state.node):
                self._leave_out(state, self._loop.time())
        self._start_ready()

    def cancel(self, node_id: str | None = None) -> None:
        """Cancel one node, or everything: what has not begun is settled at once, what runs when it
        has stopped.
        """
        states = list(self._states.values()) if node_id is None else [self._states[node_id]]
        for state in states:
            self._cancel(state)
        self._start_ready()  # a tolerant dependent of what was cancelled

    def _cancel(self, state: _State) -> None:
        if state.outcome is not None:
            return
        if state.task is not None:
            state.task.cancel()
            if state.started_s:
                return  # it settles itself when it has stopped
            self._running -= 1  # cancelled before its first step, a task never takes it
        self._settle(state, Outcome(state.node.id, Ending.CANCELLED, ready_s=state.ready_s))

    def _make_ready(self, state: _State, now_s: float) -> None:
        state.ready_s = now_s
        self._ready.append(state)

    def _start_ready(self) -> None:
        ready, loop = self._ready, self._loop
        while ready and self._running < self._limit:
            state = ready.popleft()
            if state.outcome is not None:
                continue
            node = state.node
            self._running += 1
            state.task = task = loop.create_task(self._run(state))
            self._tasks[task] = state
            if node.deadline_s is not None:
                self._watch(state, loop.time() + node.deadline_s)

    async def _run(self, state: _State) -> None:
        """Do one node's work and schedule what follows, all in the node's own task: no hop through
        the loop.
        """
        clock, node = self._loop.time, state.node
        state.started_s = clock()
        value: object = None
        error: BaseException | None = None
        try:
            value = await self._work(node, state.inputs)
            ending = Ending.DONE
        except asyncio.CancelledError:
            ending = Ending.CANCELLED
        except Exception as exc:  # noqa: BLE001 - handed on, whole, in the outcome: a failure is a result
            ending, error = Ending.FAILED, exc
        del self._tasks[state.task]  # type: ignore[arg-type]
        if state.outcome is not None:
            return  # it timed out before, and has now stopped
        self._running -= 1
        outcome = Outcome(
            node.id, ending, value, error, "", state.ready_s, state.started_s, clock()
        )
        self._settle(state, outcome)
        if self._ready:
            self._start_ready()

    def _watch(self, state: _State, deadline_s: float) -> None:
        state.deadline_s = deadline_s
        heappush(self._deadlines, (deadline_s, state.node.id))
        if self._timer is None or deadline_s < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline_s
            self._timer = self._loop.call_at(deadline_s, self._on_deadline)

    def _on_deadline(self) -> None:
        deadlines, now_s = self._deadlines, self._loop.time()
        self._timer = None
        while deadlines:
            state = self._states[deadlines[0][1]]
            if state.outcome is None and deadlines[0][0] > now_s:
                self._timer_at = deadlines[0][0]
                self._timer = self._loop.call_at(self._timer_at, self._on_deadline)
                return
            heappop(deadlines)
            if state.outcome is None and state.task is not None and not state.task.done():
                self._leave_out(state, now_s)
                self._start_ready()

    def _leave_out(self, state: _State, now_s: float) -> None:
        """Settle a node as timed out, whether or not its task stops."""
        if state.task is not None:
            state.task.cancel(LATE)
            self._running -= 1
            if not state.started_s:
                del self._tasks[state.task]  # cancelled before its first step, it never takes it
        late = Outcome(
            state.node.id,
            Ending.TIMED_OUT,
            ready_s=state.ready_s,
            started_s=state.started_s,
            ended_s=now_s,
        )
        self._settle(state, late)

    def _settle(self, state: _State, outcome: Outcome) -> None:
        """Record a node's end and release its dependents; skips propagate in a loop, without
        recursion.
        """
        settled = [(state, outcome)]
        while settled:
            state, outcome = settled.pop()
            if state.outcome is not None:
                continue
            state.outcome = outcome
            self._open -= 1
            if self._on_event is not None:
                self._on_event(outcome)
            node_id, done = state.node.id, outcome.ending is Ending.DONE
            self._done += done
            for dependent in self._dependents.pop(node_id, ()):
                if dependent.outcome is not None:
                    continue
                if done:
                    dependent.inputs[node_id] = outcome.value
                elif not dependent.node.tolerant:
                    settled.append(
                        (dependent, Outcome(dependent.node.id, Ending.SKIPPED, because=node_id))
                    )
                    continue
                dependent.waits -= 1
                if not dependent.waits and not self._closed:
                    self._make_ready(dependent, outcome.ended_s)
        self._check_done()

    def _check_done(self) -> None:
        if self._sealed and not self._open and not self._all_done.done():
            self._all_done.set_result(None)
        waiter = self._enough
        if waiter is not None and self._done >= self._wanted and not waiter.done():
            waiter.set_result(None)


async def run_plan(
    nodes: tuple[Node, ...],
    work: Work,
    *,
    limit: int | None = None,
    on_event: Callable[[Outcome], None] | None = None,
) -> dict[str, Outcome]:
    """Run nodes that ``checked`` has put in order to their end; the outcomes by id."""
    async with Fanout(work, limit=limit, on_event=on_event) as fanout:
        for node in nodes:
            fanout.add(node)
        return await fanout.finished()
