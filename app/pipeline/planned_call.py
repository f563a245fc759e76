"""The tool calls of a plan, declared or written by a model, with the events of an ordinary call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from app.domain.plan import ITEM, Node, filled
from app.domain.run_events import CallArguments, CallEnded, CallOpened, CallSealed, Status
from app.domain.tools import ToolCaller, ToolResult
from app.domain.turn_record import ToolUse
from app.errors import GatewayError, ToolError
from app.pipeline.fanout import LATE, run_plan
from app.pipeline.synthesis import shorten_result

if TYPE_CHECKING:
    from app.domain.chat import Json
    from app.pipeline.agent import AgentRun
    from app.tools.registry import RegisteredTool

_FINE = frozenset({"ok", "cached"})
_MOST_ELEMENTS = 10_000
"""Most elements of a list that a plan maps over: each becomes a node."""


async def planned_call(
    run: AgentRun,
    name: str,
    arguments: Json,
    offered: Mapping[str, RegisteredTool],
    until_s: float | None = None,
) -> ToolResult:
    """Call one of ``offered``, or another agent that the run may ask; raises ``ToolError``.

    Cancelled after ``until_s`` (loop clock) it ends as left out, before that as cancelled.
    """
    call_id = _opened(run, name, arguments)
    return await made_call(run, call_id, name, arguments, offered, until_s=until_s)


async def made_call(
    run: AgentRun,
    call_id: str,
    name: str,
    arguments: Json,
    offered: Mapping[str, RegisteredTool],
    *,
    until_s: float | None = None,
    approved: bool = False,
) -> ToolResult:
    """As ``planned_call``, for a call whose first events are emitted already; ``approved``: by a person,
    where its tool needs that.
    """
    if not approved and (refusal := _unapproved(name, offered)):
        run.emit(CallEnded(call_id, name, f"{name} {refusal.message}", "error", refusal.code))
        raise refusal
    span = run.turn.timeline.stage("tools", name)
    ended = CallEnded(call_id, name, f"{name} failed", "error", "tool_failed")
    try:
        result = await _result(run, call_id, name, arguments, offered)
        for_s = None if until_s is None else max(0.0, until_s - asyncio.get_running_loop().time())
        result = await shorten_result(run, name, result, for_s)
        ended = CallEnded(call_id, name, result.text, "cached" if result.cached else "ok")
    except asyncio.CancelledError as stop:
        ended = CallEnded(call_id, name, f"{name} was cancelled", "cancelled", "cancelled")
        now_s = asyncio.get_running_loop().time()
        if LATE in stop.args or (until_s is not None and now_s >= until_s):
            text = f"{name} did not finish in the time that this run has"
            ended = CallEnded(call_id, name, text, "left_out", "deadline_exceeded")
        raise
    except GatewayError as error:
        kind = "timeout" if error.code == "tool_timeout" else "error"
        ended = CallEnded(call_id, name, f"{name} {error.message}", kind, error.code)
        run.any_call_failed = True
        raise
    finally:
        span.end()
        took_ns = span.end_ns - span.start_ns
        run.emit(
            CallEnded(call_id, name, ended.text, ended.outcome, ended.code, max(0, took_ns) / 1e9)
        )
        outcome = ended.outcome if ended.outcome in _FINE else "error"
        start_ns = span.start_ns - run.turn.timeline.started_ns
        run.turn.record_tool(ToolUse(name, start_ns, took_ns, outcome))
    return result


def refused_call(run: AgentRun, name: str, arguments: Json, message: str, code: str) -> None:
    """Tell a call of a plan that cannot be made: nothing of it has run."""
    call_id = _opened(run, name, arguments)
    run.emit(CallEnded(call_id, name, message, "invalid", code))


def _unapproved(name: str, offered: Mapping[str, RegisteredTool]) -> ToolError | None:
    registered = offered.get(name)
    if registered is None or not registered.spec.approval:
        return None
    return ToolError("needs a person's approval, so it cannot be planned", code="tool_approval")


def _opened(run: AgentRun, name: str, arguments: Json) -> str:
    call_id = run.new_call_id()
    run.emit(CallOpened(call_id, name))
    run.emit(CallArguments(call_id, msgspec.json.encode(arguments).decode()))
    run.emit(CallSealed(call_id))
    return call_id


async def _result(
    run: AgentRun, call_id: str, name: str, arguments: Json, offered: Mapping[str, RegisteredTool]
) -> ToolResult:
    if name in run.subagents:
        task = arguments.get("task")
        if not isinstance(task, str) or not task:
            raise ToolError("the arguments must hold a task, as text", code="tool_arguments")
        return await run.delegate(call_id, run.subagents[name], task)
    tools, registered = run.gateway.tools, offered.get(name)
    if tools is None or registered is None:
        raise ToolError(f"there is no tool {name[:64]!r}", code="tool_unknown")
    run.called_tools[name] = registered
    run.emit(Status(registered.spec.status_text(arguments)))
    return await tools.call(name, arguments, ToolCaller(run.turn.tenant, run.turn.user))


@dataclass(slots=True)
class RenderedResult:
    """What a node of a plan gave: the value for references, and the text for the model."""

    value: object
    text: str


def rendered(results: ToolResult | list[ToolResult]) -> RenderedResult:
    """A call's result, or a map's."""
    if isinstance(results, ToolResult):
        return RenderedResult(
            results.text if results.value is None else results.value, results.text
        )
    each = [rendered(one) for one in results]
    return RenderedResult([one.value for one in each], f"[{', '.join(one.text for one in each)}]")


async def map_call(
    node: Node,
    values: Mapping[str, object],
    call: Callable[[str, object], Awaitable[ToolResult]],
    *,
    limit: int,
    most: int = _MOST_ELEMENTS,
) -> list[ToolResult]:
    """A map node's results for all elements at once, in their order; the first failure fails the node.

    Raises ``ToolError`` before anything is called where there are more than ``most`` elements.
    """
    assert isinstance(node.arguments, Mapping)  # noqa: S101 - so it was made
    over = filled(node.arguments["over"], values)
    if not isinstance(over, list):
        raise ToolError(f"{node.id} goes over something that is no list", code="tool_arguments")
    if len(over) > most:
        message = (
            f"{node.id} goes over {len(over)} elements, more than the {most} calls that are left"
        )
        raise ToolError(message, code="tool_limit")
    template = node.arguments["arguments"]

    async def one(each: Node, _: Mapping[str, object]) -> object:
        return await call(node.name, filled(template, {**values, ITEM: over[int(each.id)]}))

    nodes = tuple(Node(str(index)) for index in range(len(over)))
    outcomes = await run_plan(nodes, one, limit=limit)
    for outcome in outcomes.values():
        if outcome.error is not None:
            raise outcome.error
    return [each.value for each in outcomes.values() if isinstance(each.value, ToolResult)]
