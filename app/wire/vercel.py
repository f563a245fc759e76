"""Vercel's UI message stream (v1): a run for front ends built on the ``ai`` package.

The client validates every chunk strictly, so what the protocol does not define is sent as ``data-<name>``
parts, transient where it is only a status. A call's input must be sent complete, so the writer buffers
arguments until the call is sealed.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from app.domain.run_events import (
    CallArguments,
    CallEnded,
    CallOpened,
    CallSealed,
    MessageEnded,
    MessageStarted,
    MessageText,
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
from app.wire.ag_ui import usage_list

HEADERS = ((b"x-vercel-ai-ui-message-stream", b"v1"),)
DONE = b"data: [DONE]\n\n"
_FAILED = frozenset({"error", "timeout", "invalid", "left_out", "declined", "cancelled"})
_encode = msgspec.json.Encoder().encode


class VercelWriter:
    """Run events in, SSE bytes out; one per stream."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._inputs: dict[str, list[str]] = {}

    def write(self, event: RunEvent) -> bytes:
        """Serialise one event."""
        return b"".join(b"data: %s\n\n" % _encode(chunk) for chunk in self._chunks(event))

    def end(self) -> bytes:
        """The stream's terminator."""
        return DONE

    def _chunks(self, event: RunEvent) -> list[dict[str, object]]:  # noqa: PLR0911 - one return a kind
        match event:
            case RunStarted() | RunFinished() | RunFailed():
                return self._of_run(event)
            case Status(text):
                return [{"type": "data-status", "data": {"text": text}, "transient": True}]
            case StepStarted():
                return [{"type": "start-step"}]
            case StepFinished():
                return [{"type": "finish-step"}]
            case MessageStarted() | MessageText() | MessageEnded():
                return [self._message(event)]
            case CallOpened() | CallArguments() | CallSealed() | CallEnded():
                return self._call(event)
            case SubagentStarted(subagent_id, name):
                data: dict[str, object] = {"id": subagent_id, "name": name, "state": "running"}
                return [{"type": "data-subagent", "id": subagent_id, "data": data}]
            case SubagentEnded(subagent_id, text, code):
                state = "failed" if code else "finished"
                data = {"id": subagent_id, "state": state, "text": text}
                return [{"type": "data-subagent", "id": subagent_id, "data": data}]
            case Within(subagent_id, inner):
                return self._within(subagent_id, inner)
            case _:
                assert_never(event)

    def _of_run(self, event: RunStarted | RunFinished | RunFailed) -> list[dict[str, object]]:
        match event:
            case RunStarted(run_id, thread_id, agent):
                metadata = {"agent": agent, "threadId": thread_id}
                return [{"type": "start", "messageId": run_id, "messageMetadata": metadata}]
            case RunFinished(cancelled=True):
                return [{"type": "abort", "reason": "the run was cancelled"}]
            case RunFinished():
                summary = {
                    "usage": usage_list(event.usage),
                    "timings": dict(event.timings),
                    "costUsd": event.cost_usd,
                }
                reason = "tool-calls" if event.pending or event.interrupts else "stop"
                asked: list[dict[str, object]] = [
                    {
                        "type": "tool-approval-request",
                        "approvalId": each.id,
                        "toolCallId": each.call_id,
                    }
                    for each in event.interrupts
                ]
                return [
                    *asked,
                    {"type": "finish", "finishReason": reason, "messageMetadata": summary},
                ]
            case RunFailed(message):
                return [{"type": "error", "errorText": message}]

    def _message(self, event: MessageStarted | MessageText | MessageEnded) -> dict[str, object]:
        kind = "reasoning" if event.reasoning else "text"
        match event:
            case MessageStarted(message_id):
                return {"type": f"{kind}-start", "id": message_id}
            case MessageText(message_id, text):
                return {"type": f"{kind}-delta", "id": message_id, "delta": text}
            case MessageEnded(message_id):
                return {"type": f"{kind}-end", "id": message_id}

    def _call(
        self, event: CallOpened | CallArguments | CallSealed | CallEnded
    ) -> list[dict[str, object]]:
        ours = {"toolCallId": event.id, "dynamic": True}
        match event:
            case CallOpened(call_id, name):
                self._names[call_id], self._inputs[call_id] = name, []
                began = {"type": "tool-input-start", **ours, "toolName": name}
                return [{**began, "providerExecuted": True}]
            case CallArguments(call_id, text):
                self._inputs[call_id].append(text)
                return [{"type": "tool-input-delta", "toolCallId": call_id, "inputTextDelta": text}]
            case CallSealed(call_id):
                name, text = self._names[call_id], "".join(self._inputs.pop(call_id))
                given = {"type": "tool-input-available", **ours, "toolName": name}
                return [{**given, "input": _input(text), "providerExecuted": True}]
            case CallEnded(text=text, outcome=outcome):
                ours["providerExecuted"] = True
                if outcome in _FAILED:
                    return [{"type": "tool-output-error", **ours, "errorText": text}]
                return [{"type": "tool-output-available", **ours, "output": _value(text)}]

    def _within(self, subagent_id: str, inner: object) -> list[dict[str, object]]:
        """A sub-agent's text and statuses, as data parts."""
        if isinstance(inner, Status | MessageText):
            data = {"id": subagent_id, "text": inner.text}
            return [{"type": "data-subagent-progress", "data": data, "transient": True}]
        return []


def _input(text: str) -> object:
    try:
        value: object = msgspec.json.decode(text) if text.strip() else {}
    except msgspec.DecodeError:
        return {"text": text}
    return value


def _value(text: str) -> object:
    if text[:1] not in {"{", "["}:
        return text
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value
