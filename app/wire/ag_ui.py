"""AG-UI 1.0: parse a run's input, serialise its events.

The input is validated with the protocol's own models; events are written as plain JSON, because a model
object per token would cost more than everything else (the tests validate every frame with those models). One
of our events is at most one AG-UI event, so that ``id: <run>:<seq>`` identifies the same event on every
worker and in every replay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, assert_never

import msgspec

from app.domain.agents import Decision
from app.domain.chat import (
    ImagePart,
    Json,
    Message,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from app.domain.run_events import (
    CallArguments,
    CallEnded,
    CallOpened,
    CallSealed,
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
    StepFinished,
    StepStarted,
    SubagentEnded,
    SubagentStarted,
    Within,
)
from app.errors import BadRequest
from app.wire.json_text import decode_arguments

if TYPE_CHECKING:
    from ag_ui.core import Message as AgUiMessage
    from ag_ui.core import ResumeEntry

PROTOCOL_VERSION = "1.0"
_ID_CHARS = 200
_REASON_CHARS = 500
_APPROVAL = {
    "type": "object",
    "properties": {
        "approved": {"type": "boolean"},
        "arguments": {"type": "object"},
        "reason": {"type": "string"},
    },
    "required": ["approved"],
}
"""JSON Schema of the answer to an interrupt."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class AgentInput:
    """A parsed request to run an agent."""

    run_id: str
    thread_id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    """The client's own tools, whose calls it executes itself."""
    agent: str = ""
    on_disconnect: str = "cancel"
    """``cancel`` or ``detach``: what happens to the run when its client disconnects."""
    resume: tuple[Decision, ...] = ()
    """Answers to the interrupts of an earlier run."""
    model: str = ""
    forwarded: Json = field(default_factory=dict)


def preload_models() -> None:
    """Import the protocol's models now: the first run would wait 0.4 s for them (measured)."""
    read_input(b'{"threadId": "t", "runId": "r", "messages": []}')


def read_input(raw: bytes) -> AgentInput:
    """Parse ``RunAgentInput``; raises ``BadRequest`` naming the field."""
    from ag_ui.core import RunAgentInput  # generated models: 0.15 s that only agents need
    from pydantic import ValidationError

    try:
        given = RunAgentInput.model_validate_json(raw)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise BadRequest(f"{where or 'the body'}: {fault['msg']}", param=where or None) from exc
    for name, value in (("runId", given.run_id), ("threadId", given.thread_id)):
        if not 0 < len(value) <= _ID_CHARS or not value.isprintable() or not value.isascii():
            message = f"{name} must be 1 to {_ID_CHARS} printable ASCII characters"
            raise BadRequest(message, param=name)
    forwarded = given.forwarded_props if isinstance(given.forwarded_props, dict) else {}
    on_disconnect = forwarded.get("on_disconnect", forwarded.get("onDisconnect", "cancel"))
    if on_disconnect not in {"cancel", "detach"}:
        message = "forwardedProps.on_disconnect must be cancel or detach"
        raise BadRequest(message, param="forwardedProps.on_disconnect")
    return AgentInput(
        run_id=given.run_id,
        thread_id=given.thread_id,
        messages=_messages(given.messages),
        tools=tuple(
            Tool(tool.name, tool.description or "", tool.parameters or {})
            for tool in given.tools or ()
        ),
        agent=str(forwarded.get("agent", "")),
        on_disconnect=on_disconnect,
        resume=tuple(_decision(entry) for entry in given.resume or ()),
        forwarded=forwarded,
    )


def _decision(entry: ResumeEntry) -> Decision:
    """The answer to an interrupt: a boolean, or an object with ``approved``."""
    payload = entry.payload
    given = payload if isinstance(payload, dict) else {"approved": payload}
    approved, arguments = given.get("approved"), given.get("arguments")
    if entry.status == "cancelled":
        approved = False
    if not isinstance(approved, bool) or not (arguments is None or isinstance(arguments, dict)):
        message = "resume[].payload must say approved: true or false, and may hold arguments"
        raise BadRequest(message, param="resume")
    reason = str(given.get("reason", ""))[:_REASON_CHARS]
    return Decision(entry.interrupt_id, approved, arguments, reason)


def _messages(given: Sequence[AgUiMessage]) -> tuple[Message, ...]:
    """The conversation as vendors accept it: results are adjacent, a call without a result gets a
    placeholder, a result without an open call is dropped, and arguments are an object.
    """
    found: list[Message] = []
    open_calls: dict[str, None] = {}
    for index, message in enumerate(given):
        if message.role == "tool":
            if message.tool_call_id in open_calls:
                del open_calls[message.tool_call_id]
                said = _text(message.content)
                _add_result(found, message.tool_call_id, said, bool(message.error))
            continue
        if message.role in {"activity", "reasoning"}:
            continue
        _close_calls(found, open_calls)
        origin = f"messages.{index}"
        if message.role == "assistant":
            calls = message.tool_calls or []
            text = (TextPart(message.content),) if message.content else ()
            parts = tuple(
                ToolCallPart(c.id, c.function.name, _object(c.function.arguments)) for c in calls
            )
            if text or parts:
                found.append(Message(Role.ASSISTANT, (*text, *parts), origin=origin))
            open_calls = dict.fromkeys(call.id for call in calls)
        elif message.role == "user":
            found.append(Message(Role.USER, _parts(message.content, origin), origin=origin))
        else:
            found.append(Message(Role.SYSTEM, (TextPart(_text(message.content)),), origin=origin))
    _close_calls(found, open_calls)
    return tuple(found)


def _object(arguments: str) -> str:
    """A call's arguments; ``{}`` where they are not an object, as after an aborted call."""
    return arguments if arguments and decode_arguments(arguments) is not None else "{}"


def _add_result(found: list[Message], call_id: str, text: str, is_error: bool) -> None:  # noqa: FBT001 - data
    part = ToolResultPart(call_id, (TextPart(text),), is_error)
    if found and found[-1].role is Role.TOOL:
        found[-1] = Message(Role.TOOL, (*found[-1].parts, part))
    else:
        found.append(Message(Role.TOOL, (part,)))


def _close_calls(found: list[Message], open_calls: dict[str, None]) -> None:
    """Add placeholder results: vendors reject a call without a result."""
    for call_id in list(open_calls):
        _add_result(found, call_id, "no result: the call was cancelled", is_error=True)
        del open_calls[call_id]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part.text for part in parts if getattr(part, "type", "") == "text")


def _parts(content: object, origin: str) -> tuple[TextPart | ImagePart, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    found: list[TextPart | ImagePart] = []
    for part in content if isinstance(content, list) else []:
        if part.type == "text":
            found.append(TextPart(part.text))
        elif part.type == "image" and part.source.type == "url":
            found.append(ImagePart(url=part.source.value))
        elif part.type == "image" and part.source.type == "data":
            found.append(ImagePart(data=part.source.value, media_type=part.source.mime_type))
        else:
            message = f"content of type {part.type!r} is not supported: send text or images"
            raise BadRequest(message, param=origin)
    return tuple(found)


def frame(event: RunEvent, run_id: str, seq: int) -> bytes:
    """One SSE frame."""
    return b"id: %s:%d\ndata: %s\n\n" % (
        run_id.encode(),
        seq,
        _encode(to_json_object(event, run_id)),
    )


def unnumbered_frame(event: RunFailed, run_id: str) -> bytes:
    """The frame that ends one reader's stream, not the run: without an id, so that nobody resumes from it."""
    return b"data: %s\n\n" % _encode(to_json_object(event, run_id))


def to_json(event: RunEvent, run_id: str) -> str:
    """One event as JSON text."""
    return _encode(to_json_object(event, run_id)).decode()


def to_json_object(event: RunEvent, run_id: str) -> dict[str, object]:  # noqa: PLR0911 - one return a kind
    """One event as AG-UI's JSON object."""
    match event:
        case Within(subagent_id, inner):
            return {**to_json_object(inner, run_id), "subagentRunId": subagent_id}
        case RunStarted() | RunFinished() | RunFailed():
            return _of_run(event)
        case Status():
            return _status(event, run_id)
        case StepStarted() | StepFinished():
            word = "STARTED" if isinstance(event, StepStarted) else "FINISHED"
            return {"type": f"STEP_{word}", "stepName": event.name}
        case MessageStarted() | MessageText() | MessageEnded():
            return _message(event)
        case CallOpened() | CallArguments() | CallSealed() | CallEnded():
            return _call(event)
        case SubagentStarted() | SubagentEnded():
            return _subagent(event)
        case _:
            assert_never(event)


def _subagent(event: SubagentStarted | SubagentEnded) -> dict[str, object]:
    base: dict[str, object] = {"subagentRunId": event.id}
    match event:
        case SubagentStarted(name=name):
            return {"type": "SUBAGENT_STARTED", **base, "name": name}
        case SubagentEnded(text=text, code=code):
            if code:
                return {"type": "SUBAGENT_ERROR", **base, "message": text, "code": code}
            return {"type": "SUBAGENT_FINISHED", **base, **({"result": text} if text else {})}


def _of_run(event: RunStarted | RunFinished | RunFailed) -> dict[str, object]:
    match event:
        case RunStarted(run_id, thread_id, agent):
            return {
                "type": "RUN_STARTED",
                "threadId": thread_id,
                "runId": run_id,
                "protocolVersion": PROTOCOL_VERSION,
                "metadata": {"agent": agent},
            }
        case RunFinished():
            outcome = _outcome(event)
            metadata: dict[str, object] = {
                "timings": dict(event.timings),
                "costUsd": event.cost_usd,
            }
            if event.left_out:
                metadata["leftOut"] = list(event.left_out)
            if event.pending and event.interrupts:
                metadata["pendingToolCallIds"] = list(event.pending)
            return {
                "type": "RUN_FINISHED",
                "threadId": event.thread_id,
                "runId": event.run_id,
                "outcome": outcome,
                "usage": usage_list(event.usage),
                "metadata": metadata,
            }
        case RunFailed(message, code, usage):
            failed = {"type": "RUN_ERROR", "message": message, "code": code}
            return {**failed, "usage": usage_list(usage)}


def _outcome(event: RunFinished) -> dict[str, object]:
    if event.cancelled:
        return {"type": "cancelled"}
    if event.interrupts:
        return {"type": "interrupt", "interrupts": [_interrupt(each) for each in event.interrupts]}
    pending = {"pendingToolCallIds": list(event.pending)} if event.pending else {}
    return {"type": "success", **pending}


def _interrupt(asked: Interrupt) -> dict[str, object]:
    return {
        "id": asked.id,
        "reason": "tool_call",
        "message": asked.message,
        "toolCallId": asked.call_id,
        "responseSchema": _APPROVAL,
        "metadata": {"toolCallName": asked.name, "arguments": asked.arguments},
    }


def usage_list(usage: Sequence[ModelUsage]) -> list[dict[str, object]]:
    """Token counts as the protocol reports them: totals and their parts."""
    return [
        {
            "provider": each.provider,
            "model": each.model,
            "inputTokens": each.usage.prompt_tokens,
            "outputTokens": each.usage.output_tokens,
            "totalTokens": each.usage.total_tokens,
            "cachedInputTokens": each.usage.cached_tokens,
            "cacheWriteInputTokens": each.usage.cache_write_tokens,
            "reasoningTokens": each.usage.reasoning_tokens,
        }
        for each in usage
    ]


def _status(event: Status, run_id: str) -> dict[str, object]:
    about = {"messageId": f"{run_id}-status", "activityType": "status"}
    if event.first:
        return {"type": "ACTIVITY_SNAPSHOT", **about, "content": {"text": event.text}}
    patch = [{"op": "replace", "path": "/text", "value": event.text}]
    return {"type": "ACTIVITY_DELTA", **about, "patch": patch}


def _message(event: MessageStarted | MessageText | MessageEnded) -> dict[str, object]:
    kind = "REASONING_MESSAGE" if event.reasoning else "TEXT_MESSAGE"
    match event:
        case MessageStarted(message_id, reasoning):
            role = "reasoning" if reasoning else "assistant"
            return {"type": f"{kind}_START", "messageId": message_id, "role": role}
        case MessageText(message_id, text):
            return {"type": f"{kind}_CONTENT", "messageId": message_id, "delta": text}
        case MessageEnded(message_id):
            return {"type": f"{kind}_END", "messageId": message_id}


def _call(event: CallOpened | CallArguments | CallSealed | CallEnded) -> dict[str, object]:
    match event:
        case CallOpened(call_id, name, message_id):
            opened: dict[str, object] = {
                "type": "TOOL_CALL_START",
                "toolCallId": call_id,
                "toolCallName": name,
            }
            return {**opened, "parentMessageId": message_id} if message_id else opened
        case CallArguments(call_id, text):
            return {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": text}
        case CallSealed(call_id):
            return {"type": "TOOL_CALL_END", "toolCallId": call_id}
        case CallEnded():
            return {
                "type": "TOOL_CALL_RESULT",
                "messageId": f"{event.id}-result",
                "toolCallId": event.id,
                "content": event.text,
                "role": "tool",
                "metadata": call_metadata(event),
            }


def call_metadata(event: CallEnded) -> Mapping[str, object]:
    """Outcome and duration (ms) of a call, and the error code where there is one."""
    metadata: dict[str, object] = {
        "outcome": event.outcome,
        "durationMs": round(event.duration_s * 1000, 3),
    }
    if event.code:
        metadata["code"] = event.code
    if event.speculative:
        metadata["speculative"] = True
    return metadata
