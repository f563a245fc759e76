"""Prompt layout: move volatile text behind stable text, for routes whose operator configured it.

Vendors render tools, then the system prompt, then the messages, and cache prefixes of that. So a clock in the
system prompt invalidates everything behind it, and a question before its documents invalidates the documents.
Only what the operator declared is moved: whole lines of the system prompt (a time, a user's or a session's
id) go to the end, as a part of their own, in their order; and in a user's message documents and images go
before its text.

Nothing is rewritten or dropped, unchanged messages keep their bytes, and a message is laid out the same
whether it is last or in the history, so that the next turn finds its prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from app.domain.chat import ChatRequest, Dialect

_MEDIA = frozenset({"image", "document", "image_url", "file", "input_image", "input_file"})
_WORDS = frozenset({"text", "input_text"})
_LEADING = frozenset({"system", "developer"})
_TEXT_KIND = {Dialect.RESPONSES: "input_text"}

_Messages = list[tuple[dict[str, object], bool]]
"""Messages, and whether something was moved in each."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What may be moved on a route."""

    model: str
    """The model that clients ask for."""
    tenant: str = ""
    """Only this tenant's requests; "" = all."""
    variables: tuple[re.Pattern[str], ...] = ()
    """Lines of the system prompt that match one of them as a whole go to the end."""
    documents: bool = True
    """Whether documents and images of a user's message go before its text."""


class Layouts:
    """The operator's layouts; the first that names a request's model and tenant holds."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        """Lay out requests as ``layouts`` say."""
        self._layouts = layouts
        self._models = {layout.model for layout in layouts}

    def concerns(self, model: str, tenant: str) -> bool:
        """Whether prompts of ``tenant`` for ``model`` may be laid out."""
        return any(each.model == model and each.tenant in {"", tenant} for each in self._layouts)

    def moves(self, model: str, tenant: str, line: str) -> bool:
        """Whether ``line`` of a system prompt goes to the end before the vendor reads it."""
        for layout in self._layouts:
            if layout.model == model and layout.tenant in {"", tenant}:
                return any(each.fullmatch(line) for each in layout.variables)
        return False

    def is_moved(self, text: str) -> bool:
        """Whether ``text`` may be what some layout moved: variable lines and nothing else."""
        patterns = [each for layout in self._layouts for each in layout.variables]
        return all(any(each.fullmatch(line) for each in patterns) for line in text.split("\n"))

    def apply(self, request: ChatRequest, tenant: str) -> ChatRequest:
        """``request`` laid out; itself where no layout names it or nothing is to be moved."""
        if request.model not in self._models:
            return request
        for layout in self._layouts:
            if layout.model == request.model and layout.tenant in {"", tenant}:
                return _laid_out(layout, request)
        return request


@dataclass(slots=True)
class _LayoutPass:
    """The state of laying out one request."""

    layout: Layout
    dialect: Dialect
    moved: list[str] = field(default_factory=list)

    def stable(self, text: str) -> str:
        """``text`` without its variable lines, which are kept; as it is where nothing else would be left."""
        patterns = self.layout.variables
        lines = text.split("\n")
        moved = [line for line in lines if any(each.fullmatch(line) for each in patterns)]
        rest = [line for line in lines if not any(each.fullmatch(line) for each in patterns)]
        if not moved or not "".join(rest).strip():
            return text
        self.moved += moved
        return "\n".join(rest)

    def content(self, content: object) -> object:
        """A system prompt, a string or a row of parts, without its variable lines."""
        if isinstance(content, str):
            return self.stable(content)
        if not isinstance(content, list):
            return content
        return [
            {**part, "text": self.stable(part["text"])}
            if isinstance(part, dict) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]

    def last_part(self) -> dict[str, object]:
        """What was moved, as a part of its own."""
        return {"type": _TEXT_KIND.get(self.dialect, "text"), "text": "\n".join(self.moved)}


def _laid_out(layout: Layout, request: ChatRequest) -> ChatRequest:
    given, body = request.body, _LayoutPass(layout, request.dialect)
    changes: dict[str, object] = {}
    field_name = "input" if request.dialect is Dialect.RESPONSES else "messages"
    history = given.get(field_name)
    if isinstance(history, str) and history:
        history = [{"role": "user", "content": history}]
        messages: _Messages | None = _messages(history, body)
    else:
        messages = _messages(history, body)
    if messages is None:
        return request
    for name in ("system", "instructions"):
        if name in given and (changed := body.content(given[name])) != given[name]:
            changes[name] = changed
    if body.moved:
        if not _append(messages, body):
            return request
    elif not any(changed for _, changed in messages):
        return request
    return _with(request, changes, field_name, messages)


def _messages(history: object, body: _LayoutPass) -> _Messages | None:
    """The messages laid out one by one; None where they are not what can be read."""
    if not isinstance(history, list) or not history:
        return None
    found: _Messages = []
    leading = True
    for message in history:
        if not isinstance(message, dict):
            return None
        content = message.get("content")
        leading = leading and message.get("role") in _LEADING
        if leading:
            now = body.content(content)
        else:
            now = _documents_first(message, content) if body.layout.documents else content
        changed = now != content
        found.append(({**message, "content": now} if changed else message, changed))
    return found


def _documents_first(message: Mapping[str, object], content: object) -> object:
    """Parts of a user's message in the order documents, text; as they are where there is anything else.

    Text that carries a breakpoint of the client's own is not moved over: that is where its prefix ends.
    """
    if message.get("role") != "user" or not isinstance(content, list):
        return content
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
    marked = any(isinstance(part, dict) and not part.keys() <= _PLAIN for part in content)
    if marked or not all(kind in _MEDIA or kind in _WORDS for kind in kinds):
        return content
    media = [part for part, kind in zip(content, kinds, strict=True) if kind in _MEDIA]
    return [*media, *(part for part, kind in zip(content, kinds, strict=True) if kind in _WORDS)]


_PLAIN = frozenset(
    {"type", "text", "source", "title", "context", "citations", "image_url", "file"}
    | {"file_id", "file_url", "file_data", "filename", "detail"}
)


def _append(messages: _Messages, body: _LayoutPass) -> bool:
    """Put what was moved behind everything; False where an answer is to be gone on with."""
    last, _ = messages[-1]
    content, part = last.get("content"), body.last_part()
    if last.get("role") == "assistant" and not last.get("tool_calls"):
        return False
    if last.get("role") != "user" or not isinstance(content, (str, list)):
        messages.append(({"role": "user", "content": [part]}, True))
        return True
    row = [{**part, "text": content}] if isinstance(content, str) else content
    messages[-1] = ({**last, "content": [*row, part]}, True)
    return True


def _with(
    request: ChatRequest, changes: dict[str, object], name: str, messages: _Messages
) -> ChatRequest:
    """``request`` with other messages; those in which nothing was moved keep their bytes."""
    raws = msgspec.json.decode(request.raw, type=dict[str, msgspec.Raw])
    was = raws[name]
    rows = msgspec.json.decode(was, type=list[msgspec.Raw]) if bytes(was)[:1] == b"[" else []
    row = [
        msgspec.Raw(msgspec.json.encode(message)) if changed or at >= len(rows) else rows[at]
        for at, (message, changed) in enumerate(messages)
    ]
    raws[name] = msgspec.Raw(msgspec.json.encode(row))
    for field_name, value in changes.items():
        raws[field_name] = msgspec.Raw(msgspec.json.encode(value))
    body = {**request.body, **changes, name: [message for message, _ in messages]}
    return request.with_body(body, msgspec.json.encode(raws))
