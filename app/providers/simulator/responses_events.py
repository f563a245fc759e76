"""The events of one output item of a Responses stream: added, its deltas, done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import orjson

from app.providers.simulator.answer import Reply
from app.providers.simulator.dialect import Frame, dumps, sse_event
from app.providers.simulator.fields import JsonObject


class _Numbering:
    """Counts the events of a stream."""

    def __init__(self, first: int) -> None:
        self.next = first

    def event(self, kind: str, body: JsonObject) -> Frame:
        """One event with the next number."""
        number = self.next
        self.next += 1
        return Frame(sse_event({"type": kind, "sequence_number": number, **body}))

    def deltas(self, kind: str, place: JsonObject, texts: Sequence[str]) -> Iterator[Frame]:
        """A token's event each. All that stays the same is encoded once."""
        name = kind.encode()
        start = b'event: %b\ndata: {"type":"%b",%b,"sequence_number":' % (
            name,
            name,
            dumps(place)[1:-1],
        )
        for text in texts:
            yield Frame(start + b'%d,"delta":%b}\n\n' % (self.next, orjson.dumps(text)), 1)
            self.next += 1


def item_frames(
    item: JsonObject, index: int, first: int, reply: Reply, *, hidden_tokens: int
) -> Iterator[Frame]:
    """All events of output item `index`, numbered from `first`.

    `hidden_tokens` of reasoning pass in silence where no summary shows them.
    """
    numbering = _Numbering(first)
    kind = item["type"]
    if kind == "reasoning":
        yield from _reasoning(item, index, numbering, reply, hidden_tokens)
    elif kind == "message":
        yield from _message(item, index, numbering, reply)
    else:
        yield from _call(item, index, numbering, reply)


def _reasoning(
    item: JsonObject, index: int, numbering: _Numbering, reply: Reply, hidden_tokens: int
) -> Iterator[Frame]:
    opening = {**item, "summary": []}
    yield numbering.event("response.output_item.added", {"output_index": index, "item": opening})
    place = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    if item["summary"]:
        kind = "response.reasoning_summary"
        text = "".join(reply.reasoning)
        empty = {"type": "summary_text", "text": ""}
        yield numbering.event(f"{kind}_part.added", {**place, "part": empty})
        yield from numbering.deltas(f"{kind}_text.delta", place, reply.reasoning)
        yield numbering.event(f"{kind}_text.done", {**place, "text": text})
        full = {"type": "summary_text", "text": text}
        yield numbering.event(f"{kind}_part.done", {**place, "part": full})
    else:
        yield Frame(b"", hidden_tokens)
    yield numbering.event("response.output_item.done", {"output_index": index, "item": item})


def _message(item: JsonObject, index: int, numbering: _Numbering, reply: Reply) -> Iterator[Frame]:
    opening = {**item, "content": [], "status": "in_progress"}
    yield numbering.event("response.output_item.added", {"output_index": index, "item": opening})
    place: dict[str, object] = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = cast("Mapping[str, object]", cast("Sequence[object]", item["content"])[0])
    is_refusal = part["type"] == "refusal"
    key = "refusal" if is_refusal else "text"
    name = "response.refusal" if is_refusal else "response.output_text"
    extra: dict[str, object] = {} if is_refusal else {"logprobs": []}
    yield numbering.event("response.content_part.added", {**place, "part": {**part, key: ""}})
    yield from numbering.deltas(f"{name}.delta", {**place, **extra}, reply.text)
    yield numbering.event(f"{name}.done", {**place, **extra, key: part[key]})
    yield numbering.event("response.content_part.done", {**place, "part": part})
    yield numbering.event("response.output_item.done", {"output_index": index, "item": item})


def _call(item: JsonObject, index: int, numbering: _Numbering, reply: Reply) -> Iterator[Frame]:
    opening = {**item, "arguments": "", "status": "in_progress"}
    yield numbering.event("response.output_item.added", {"output_index": index, "item": opening})
    place: dict[str, object] = {"item_id": item["id"], "output_index": index}
    made = next(call for call in reply.calls if item["call_id"] == f"call_{call.id}")
    name = "response.function_call_arguments"
    yield from numbering.deltas(f"{name}.delta", place, made.pieces)
    ending = {**place, "name": item["name"], "arguments": item["arguments"]}
    yield numbering.event(f"{name}.done", ending)
    yield numbering.event("response.output_item.done", {"output_index": index, "item": item})
