"""Change an answer of the client's own dialect where an output contract asks for it.

Theory of operation. Each event is parsed; one without changes is passed on in its original bytes, and in the
others everything else is kept, unknown fields included. Removals leave no gap: later blocks, items and events
are renumbered. Of text only the beginning is examined (``ReasoningStripper``), and is held back until it
can be decided. Usage is never changed: hidden reasoning was paid for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import msgspec

from app.domain.answer_edit import AnswerEdit
from app.domain.reasoning_stripper import ReasoningStripper, strip_reasoning
from app.errors import UpstreamProtocol
from app.wire.sse import read_events, split_frames

Json = dict[str, object]
_REASONING = ("reasoning_content", "reasoning", "reasoning_details")
_THOUGHTS = frozenset({"thinking", "redacted_thinking"})
_DONE = b"[DONE]"


class _TextEdit:
    """Edits one streamed text."""

    def __init__(self, edit: AnswerEdit) -> None:
        self._reader = ReasoningStripper()
        self._reader.answer_begun = not edit.hides_reasoning
        self.feed, self.rest = self._reader.feed, self._reader.flush
        self._beginning = edit.prefill

    def begin(self) -> str:
        """The prefill that the gateway wrote; empty after the first call."""
        beginning, self._beginning = self._beginning, ""
        return beginning


class _Editor:
    """Base class of the dialects' editors."""

    def __init__(self, edit: AnswerEdit) -> None:
        self.edit = edit
        self.text = _TextEdit(edit)

    def edit_frames(self, data: bytes) -> bytes:
        """See ``AnswerEditor``."""
        return b"".join(self._frame(frame) for frame in split_frames(data))

    def edit_answer(self, body: bytes) -> bytes:
        """See ``AnswerEditor``."""
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UpstreamProtocol("The upstream's answer is not JSON.") from exc
        if not isinstance(answer, dict):
            raise UpstreamProtocol("The upstream's answer is not a JSON object.")
        self._answer(answer)
        return msgspec.json.encode(answer)

    def _frame(self, frame: bytes) -> bytes:
        found = read_events(frame)
        if len(found) != 1 or found[0].data.strip() == _DONE:
            return frame
        try:
            event = msgspec.json.decode(found[0].data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return frame
        if not isinstance(event, dict):
            return frame
        events = self._event(event)
        if events is None:
            return frame
        return b"".join(_encode_frame(found[0].event, each) for each in events)

    def edited_text(self, text: object) -> str:
        """A complete text as the client receives it."""
        whole = str(text)
        return self.edit.prefill + (strip_reasoning(whole) if self.edit.hides_reasoning else whole)

    @abstractmethod
    def _answer(self, answer: Json) -> None:
        """Edit a complete answer in place."""

    @abstractmethod
    def _event(self, event: Json) -> list[Json] | None:
        """The events that replace ``event``; None = it is unchanged."""


def _encode_frame(name: str, event: Json) -> bytes:
    kind = event.get("type")
    head = b"event: %s\n" % str(kind).encode() if name and kind else b""
    return head + b"data: " + msgspec.json.encode(event) + b"\n\n"


def _objects(row: object) -> list[Json]:
    return [each for each in row if isinstance(each, dict)] if isinstance(row, list) else []


# ------------------------------------------------------------ Chat Completions
class ChatEditor(_Editor):
    """Chat Completions; each choice is edited separately, by its index."""

    def __init__(self, edit: AnswerEdit) -> None:
        """Start before the first byte."""
        super().__init__(edit)
        self._choices: dict[object, _TextEdit] = {}

    def _answer(self, answer: Json) -> None:
        for choice in _objects(answer.get("choices")):
            message = choice.get("message")
            if not isinstance(message, dict):
                continue
            self._drop_reasoning(message)
            content = message.get("content")
            if isinstance(content, str) and (text := self.edited_text(content)) != content:
                message["content"] = text
                choice.pop("logprobs", None)  # they contain the removed text

    def _event(self, event: Json) -> list[Json] | None:
        choices = _objects(event.get("choices"))
        changed = [self._choice(choice) for choice in choices]
        if not any(changed):
            return None
        if event.get("usage") or any(_has_content(choice) for choice in choices):
            return [event]
        return []

    def _choice(self, choice: Json) -> bool:
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return False
        own = self._choices.setdefault(choice.get("index"), _TextEdit(self.edit))
        changed = self._drop_reasoning(delta)
        content = delta.get("content")
        given = content if isinstance(content, str) else ""
        text = own.feed(given)
        if choice.get("finish_reason"):
            text += own.rest()
        if "role" in delta or text:
            text = own.begin() + text
        if text != given:
            delta["content"] = text
            if not text:
                del delta["content"]
            choice.pop("logprobs", None)
            changed = True
        return changed

    def _drop_reasoning(self, message: Json) -> bool:
        """Remove the reasoning fields from a message or delta."""
        if not self.edit.hides_reasoning:
            return False
        found = [name for name in _REASONING if message.get(name) is not None]
        for name in found:
            del message[name]
        content = message.get("content")
        if isinstance(content, list):  # Mistral
            kept = [part for part in content if _kind(part) not in _THOUGHTS]
            if len(kept) < len(content):
                found.append("content")
                message["content"] = kept
        return bool(found)


def _kind(part: object) -> object:
    return part.get("type") if isinstance(part, dict) else None


def _has_content(choice: Json) -> bool:
    return bool(choice.get("delta")) or choice.get("finish_reason") is not None


# ------------------------------------------------------------ Messages
class MessagesEditor(_Editor):
    """Anthropic Messages; blocks after a dropped one are renumbered."""

    def __init__(self, edit: AnswerEdit) -> None:
        """Start before the first byte."""
        super().__init__(edit)
        self._dropped: set[int] = set()

    def _answer(self, answer: Json) -> None:
        kept: list[object] = []
        first = True
        content = answer.get("content")
        for block in content if isinstance(content, list) else ():
            if _kind(block) in _THOUGHTS and self.edit.hides_reasoning:
                if not self.edit.keeps_signatures:
                    continue
                if "thinking" in block:
                    block["thinking"] = ""
            elif _kind(block) == "text" and first:
                first = False
                block["text"] = self.edited_text(block.get("text", ""))
            kept.append(block)
        if first and self.edit.prefill:
            kept.append({"type": "text", "text": self.edit.prefill})
        answer["content"] = kept

    def _event(self, event: Json) -> list[Json] | None:
        match event.get("type"):
            case "content_block_start":
                return self._start(event)
            case "content_block_delta":
                return self._delta(event)
            case "content_block_stop":
                events = self._renumbered(event)
                rest = self.text.rest() if events and self.text_is_open else ""
                self.text_is_open = False
                return [_text_delta(event["index"], rest), *events] if rest else events
            case _:
                return None

    text_is_open = False
    """The open block is text."""

    def _start(self, event: Json) -> list[Json]:
        block, index = event.get("content_block"), event.get("index")
        kind = _kind(block)
        if kind in _THOUGHTS and self.edit.hides_reasoning and isinstance(block, dict):
            if not self.edit.keeps_signatures and isinstance(index, int):
                self._dropped.add(index)
                return []
            if block.get("thinking"):
                block["thinking"] = ""
        events = self._renumbered(event)
        if kind == "text" and isinstance(block, dict):
            self.text_is_open = True
            text = self.text.begin() + self.text.feed(str(block.get("text", "")))
            block["text"] = ""
            if text:
                events.append(_text_delta(event["index"], text))
        return events

    def _delta(self, event: Json) -> list[Json]:
        delta = event.get("delta")
        kind = _kind(delta)
        if kind == "thinking_delta" and self.edit.hides_reasoning:
            return []
        events = self._renumbered(event)
        if events and kind == "text_delta" and isinstance(delta, dict):
            delta["text"] = self.text.feed(str(delta.get("text", "")))
            return events if delta["text"] else []
        return events

    def _renumbered(self, event: Json) -> list[Json]:
        """``event`` with its block's new index; empty where the block is dropped."""
        index = event.get("index")
        if not isinstance(index, int):
            return [event]
        if index in self._dropped:
            return []
        event["index"] = index - sum(1 for gone in self._dropped if gone < index)
        return [event]


def _text_delta(index: object, text: str) -> Json:
    delta = {"type": "text_delta", "text": text}
    return {"type": "content_block_delta", "index": index, "delta": delta}


# ------------------------------------------------------------ Responses
class ResponsesEditor(_Editor):
    """OpenAI Responses; items and events after a dropped one are renumbered."""

    def __init__(self, edit: AnswerEdit) -> None:
        """Start before the first byte."""
        super().__init__(edit)
        self._dropped: set[int] = set()
        self._next: int | None = None
        self._first: object = None
        """Output index of the first text: the only one that may begin with reasoning."""

    def _answer(self, answer: Json) -> None:
        if isinstance(answer.get("output"), list):
            answer["output"] = self._items(_objects(answer["output"]))

    def _items(self, items: Iterable[Json]) -> list[Json]:
        kept: list[Json] = []
        first = True
        for item in items:
            if item.get("type") == "reasoning" and self.edit.hides_reasoning:
                if self.edit.keeps_signatures:
                    kept.append(_without_text(item))
                continue
            if item.get("type") == "message" and first:
                first = not self._message(item)
            kept.append(item)
        return kept

    def _message(self, item: Json) -> bool:
        """Edit a message's first text; returns whether it has one."""
        texts = [part for part in _objects(item.get("content")) if _kind(part) == "output_text"]
        for part in texts[:1]:
            part["text"] = self.edited_text(part.get("text", ""))
        return bool(texts)

    def _event(self, event: Json) -> list[Json] | None:
        events = []
        for each in self._changed(event):
            number = each.get("sequence_number")
            if self._next is None and isinstance(number, int):
                self._next = number
            if self._next is not None:
                each["sequence_number"] = self._next
                self._next += 1
            events.append(each)
        return events

    def _changed(self, event: Json) -> list[Json]:
        kind, index = str(event.get("type")), event.get("output_index")
        item, answer = event.get("item"), event.get("response")
        if isinstance(answer, dict):
            self._answer(answer)
        if _kind(item) == "reasoning" and isinstance(item, dict) and self.edit.hides_reasoning:
            if self.edit.keeps_signatures:
                event["item"] = _without_text(item)
            elif isinstance(index, int):
                self._dropped.add(index)
        if kind.startswith("response.reasoning_") and self.edit.hides_reasoning:
            return []
        if isinstance(index, int):
            if index in self._dropped:
                return []
            event["output_index"] = index - sum(1 for gone in self._dropped if gone < index)
        return self._text_events(kind, event)

    def _text_events(self, kind: str, event: Json) -> list[Json]:
        """Text events, and the final ones that repeat the text."""
        part, item = event.get("part"), event.get("item")
        if kind == "response.content_part.added" and _kind(part) == "output_text":
            self._first = event.get("output_index") if self._first is None else self._first
        if self._first is None or self._first != event.get("output_index"):
            return [event]
        match kind:
            case "response.content_part.added":
                text = self.text.begin()
                return [event, _output_delta(event, text)] if text else [event]
            case "response.output_text.delta":
                event["delta"] = self.text.feed(str(event.get("delta", "")))
                return [event] if event["delta"] else []
            case "response.output_text.done":
                rest = self.text.rest()
                event["text"] = self.edited_text(event.get("text", ""))
                return [_output_delta(event, rest), event] if rest else [event]
            case "response.content_part.done" if isinstance(part, dict):
                if _kind(part) == "output_text":
                    part["text"] = self.edited_text(part.get("text", ""))
            case "response.output_item.done" if isinstance(item, dict):
                self._message(item)
            case _:
                pass
        return [event]


def _without_text(item: Json) -> Json:
    """A reasoning item without its text; only the vendor's encrypted content is left."""
    empty: Json = {name: [] for name in ("summary", "content") if item.get(name) is not None}
    return {**item, **empty}


def _output_delta(event: Json, text: str) -> Json:
    where = {name: event.get(name) for name in ("item_id", "output_index", "content_index")}
    named = {"type": "response.output_text.delta", "sequence_number": event.get("sequence_number")}
    return {**named, **where, "delta": text, "logprobs": []}
