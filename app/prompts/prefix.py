"""Parse a request into the blocks that the vendor's prompt cache sees, in render order.

Theory of operation
-------------------
Every vendor renders tools, then system, then messages, and caches prefixes of that sequence. Block *i* has a
prefix hash over the scope (tenant, model, the options that invalidate everything) and blocks 0 to *i*, so
that two requests share a hash exactly where the vendor can read from one what the other wrote. Breakpoints
are no part of a block's content: moving one does not change what is rendered. A string and a single text
block of the same words are the same block.

Lengths are estimates: a token for every four bytes, the vendors' rule of thumb, corrected by the usage
counters (``app.prompts.usage_statistics``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Literal

import msgspec

from app.domain.chat import Dialect
from app.prompts.spans import Span, UnreadableError, fields, items, text_of, whole

Section = Literal["tools", "system", "messages"]
BREAKPOINT_FIELDS = ("cache_control", "prompt_cache_breakpoint")
"""The fields by which clients set breakpoints, Anthropic's and OpenAI's."""
_DIGEST_BYTES = 16
_BYTES_PER_TOKEN = 4
_MEDIA_TOKENS = 1_000
_TEXTS = frozenset({"text", "input_text", "output_text"})
_MEDIA = frozenset({"image", "document", "image_url", "file", "input_image", "input_file"})
_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})
_EVERYTHING = {
    Dialect.MESSAGES: (),
    Dialect.CHAT: (
        "prompt_cache_key",
        "response_format",
        "reasoning_effort",
        "verbosity",
        "service_tier",
    ),
    Dialect.RESPONSES: ("prompt_cache_key", "text", "reasoning", "service_tier"),
}
"""Options whose change invalidates the whole prefix."""
_AFTER_TOOLS = ("speed",)
_AFTER_SYSTEM = ("tool_choice", "thinking")


@dataclass(slots=True)
class Block:
    """One block, treated as immutable (not ``frozen``: a long prompt has hundreds)."""

    section: Section
    role: str
    kind: str
    pointer: str
    """JSON pointer (RFC 6901) to it in the body."""
    span: Span
    content_hash: bytes
    """Hash of its content without breakpoints."""
    tokens: int
    prefix_hash: bytes = b""
    """Hash of the scope and all blocks up to this one."""
    breakpoint_ttl: str = ""
    """The client's own breakpoint: its TTL in the vendor's words, ``5m`` where it gave none; "" = none."""
    is_string: bool = False
    """It is a bare string, not an object."""
    accepts_breakpoint: bool = True
    """A breakpoint can be spliced into it: a tool, or a content part."""
    label: str = ""
    """A tool's name."""


class MessageCache:
    """An LRU cache of parsed messages by their bytes: a conversation sends them again every turn.

    Parsing a message takes ten times as long as a look-up. For one dialect; owned by one event loop.
    """

    def __init__(self, most_bytes: int = 4 << 20) -> None:
        """Hold messages of at most ``most_bytes`` in all."""
        self._most_bytes = most_bytes
        self.size_bytes = 0
        """Bytes of the messages that are held."""
        self._known: OrderedDict[bytes, tuple[str, list[Block]]] = OrderedDict()

    def get(self, text: bytes) -> tuple[str, list[Block]] | None:
        """Role and blocks of a message, with spans from its own beginning; not to be changed."""
        found = self._known.get(text)
        if found is not None:
            self._known.move_to_end(text)
        return found

    def put(self, text: bytes, role: str, blocks: list[Block]) -> None:
        """Store the parsed ``text``."""
        self._known[text] = (role, blocks)
        self.size_bytes += len(text)
        while self.size_bytes > self._most_bytes:
            gone, _ = self._known.popitem(last=False)
            self.size_bytes -= len(gone)


@dataclass(slots=True)
class RenderedPrompt:
    """A request parsed into blocks."""

    dialect: Dialect
    raw: bytes
    fields: Mapping[str, Span]
    blocks: list[Block] = field(default_factory=list)
    options: dict[str, bytes] = field(default_factory=dict)
    """The options whose change invalidates the cache."""
    opening: str = ""
    """The beginning of the first user message, which identifies a conversation."""
    section_ends: dict[Section, int] = field(default_factory=dict)
    """The position of each section's last block."""
    last_repeated: int = -1
    """The position of the last block that the next turn will repeat, -1 = none."""

    @property
    def model(self) -> str:
        """The model that the body names."""
        at = self.fields.get("model")
        return "" if at is None else text_of(self.raw, at)

    def tokens_to(self, position: int) -> int:
        """Estimated tokens of the prefix that ends with block ``position``."""
        return sum(block.tokens for block in self.blocks[: position + 1])


RenderSteps = Generator[None, None, RenderedPrompt]
"""Returns the parsed request; yields after each step of some ten microseconds, one message, or one level of
the whole text.
"""
IsMoved = Callable[[str], bool]
"""Whether a layout moved a text to the end of its prompt, where the next turn has another one."""


def render(
    raw: bytes,
    dialect: Dialect,
    scope: Iterable[str] = (),
    memory: MessageCache | None = None,
    is_moved: IsMoved | None = None,
) -> RenderedPrompt:
    """Parse ``raw`` into blocks with prefix hashes within ``scope``. Raises ``UnreadableError``.

    ``memory``: a cache that is used with ``dialect`` alone.
    """
    steps = render_steps(raw, dialect, scope, memory, is_moved)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            rendered: RenderedPrompt = done.value
            return rendered


def render_steps(
    raw: bytes,
    dialect: Dialect,
    scope: Iterable[str] = (),
    memory: MessageCache | None = None,
    is_moved: IsMoved | None = None,
) -> RenderSteps:
    """As ``render``, in steps between which other work may run."""
    found = fields(raw, whole(raw))
    rendered = RenderedPrompt(dialect, raw, found)
    for name in (*_EVERYTHING[dialect], *_AFTER_TOOLS, *_AFTER_SYSTEM):
        at = found.get(name)
        if at is not None:
            rendered.options[name] = raw[at.start : at.end]
    reader = _Reader(rendered, memory, is_moved)
    if "tools" in found:
        for index, at in enumerate(_list(raw, found["tools"])):
            reader.tool(at, f"/tools/{index}")
    yield
    yield from _READERS[dialect](reader, found)
    yield from _name(rendered, scope)
    rendered.last_repeated = reader.end()
    return rendered


def _list(raw: bytes, at: Span) -> list[Span]:
    return items(raw, at) if raw[at.start : at.start + 1] == b"[" else []


def digest(*parts: bytes) -> bytes:
    """A hash of ``parts`` and their boundaries."""
    running = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        running.update(len(part).to_bytes(4, "big"))
        running.update(part)
    return running.digest()


def _name(rendered: RenderedPrompt, scope: Iterable[str]) -> Iterator[None]:
    """Chain the blocks' hashes from the scope on."""
    options = rendered.options
    salt = [options.get(name, b"") for name in _EVERYTHING[rendered.dialect]]
    name = digest(*(part.encode() for part in scope), b"\0", *salt)
    section: Section = "tools"
    for position, block in enumerate(rendered.blocks):
        if block.section != section:
            names = _AFTER_SYSTEM if block.section == "messages" else ()
            if section == "tools":
                names = (*_AFTER_TOOLS, *names)
            name = digest(name, *(options.get(each, b"") for each in names))
            section = block.section
        name = block.prefix_hash = blake2b(
            name + block.content_hash, digest_size=_DIGEST_BYTES
        ).digest()
        rendered.section_ends[section] = position
        if not position % _NAMED_AT_ONCE:
            yield


class _Reader:
    """Appends the blocks of one body."""

    def __init__(
        self, rendered: RenderedPrompt, memory: MessageCache | None, is_moved: IsMoved | None = None
    ) -> None:
        self._is_moved = is_moved
        self.rendered = rendered
        self.raw = rendered.raw
        self._memory = memory

    def entry(self, at: Span, pointer: str) -> str:
        """A message or item of the conversation; gives its role, "" where it has none."""
        read, memory = _ENTRIES[self.rendered.dialect], self._memory
        if memory is None or at.end - at.start < _LEAST_REMEMBERED_BYTES:
            return read(self, at, pointer)
        text, blocks = self.raw[at.start : at.end], self.rendered.blocks
        known = memory.get(text)
        if known is not None:
            role, before = known
            blocks.extend([_placed(block, at.start, pointer) for block in before])
            return role
        first = len(blocks)
        role = read(self, at, pointer)
        memory.put(text, role, [_lifted(block, at.start, len(pointer)) for block in blocks[first:]])
        return role

    def tool(self, at: Span, pointer: str) -> None:
        """A tool's definition; Chat nests name and schema under ``function``."""
        found = fields(self.raw, at)
        inner = fields(self.raw, found["function"]) if "function" in found else found
        label = text_of(self.raw, inner["name"]) if "name" in inner else ""
        block = Block("tools", "", "tool", pointer, at, self._own(found), _tokens(at), label=label)
        self._add(block, found)
        block.accepts_breakpoint = self.rendered.dialect is Dialect.MESSAGES

    def content(self, section: Section, role: str, at: Span, pointer: str) -> None:
        """A message's content: a string, or a row of parts."""
        head = self.raw[at.start : at.start + 1]
        if head == b'"':
            self._add(self._text(section, role, at, at, pointer, is_string=True), {})
        elif head == b"[":
            for index, part in enumerate(items(self.raw, at)):
                self.part(section, role, part, f"{pointer}/{index}")

    def part(self, section: Section, role: str, at: Span, pointer: str) -> None:
        """One part of a content."""
        found = fields(self.raw, at)
        kind = text_of(self.raw, found["type"]) if "type" in found else ""
        if kind in _TEXTS and "text" in found:
            rest = [key for key in found if key not in {"type", "text", *BREAKPOINT_FIELDS}]
            if not rest:
                self._add(self._text(section, role, at, found["text"], pointer), found)
                return
        tokens = _MEDIA_TOKENS if kind in _MEDIA else _tokens(at)
        self._add(Block(section, role, kind, pointer, at, self._own(found, role), tokens), found)

    def item(self, role: str, kind: str, at: Span, pointer: str) -> None:
        """A call, a result or another piece that stands for itself and takes no breakpoint."""
        own = self._own(fields(self.raw, at), role)
        block = Block(
            "messages", role, kind, pointer, at, own, _tokens(at), accepts_breakpoint=False
        )
        self.rendered.blocks.append(block)

    def open(self, role: str) -> None:
        """Record the opening: the text of the first user message."""
        if role != "user" or self.rendered.opening:
            return
        for block in reversed(self.rendered.blocks):
            if block.role == "user" and block.kind == "text":
                text = self._words(block)
                if self._is_moved is None or not self._is_moved(text):
                    self.rendered.opening = text[:_OPENING_CHARS]
                    return

    def end(self) -> int:
        """The last block that the next turn repeats.

        A prefilled answer is not repeated: the model continues it in its block. (One with more than text
        continues after a pause, and is.) Nor is what a layout moved behind the question.
        """
        blocks = self.rendered.blocks
        position = last = len(blocks) - 1
        while position >= 0 and blocks[position].role == "assistant":
            if blocks[position].kind != "text":
                return last
            position -= 1
        if self._is_moved is not None and position >= 0:
            block = blocks[position]
            if block.role == "user" and block.kind == "text" and self._is_moved(self._words(block)):
                position -= 1
        return position

    def _words(self, block: Block) -> str:
        at = block.span
        if not block.is_string:
            at = fields(self.raw, at)["text"]
        return text_of(self.raw, at)

    def _text(
        self,
        section: Section,
        role: str,
        at: Span,
        words: Span,
        pointer: str,
        *,
        is_string: bool = False,
    ) -> Block:
        own = digest(role.encode(), b"text", self.raw[words.start : words.end])
        return Block(section, role, "text", pointer, at, own, _tokens(words), is_string=is_string)

    def _own(self, found: Mapping[str, Span], role: str = "") -> bytes:
        """Hash an object without its breakpoint, in its own order, white space aside."""
        parts = [role.encode()]
        for key, at in found.items():
            if key not in BREAKPOINT_FIELDS:
                parts.append(key.encode())
                parts.append(msgspec.json.format(self.raw[at.start : at.end], indent=-1))
        return digest(*parts)

    def _add(self, block: Block, found: Mapping[str, Span]) -> None:
        for key in BREAKPOINT_FIELDS:
            at = found.get(key)
            if at is None:
                continue
            if self.raw[at.start : at.end] == b"null":
                block.accepts_breakpoint = (
                    False  # a second field of the name would be no JSON that anyone reads alike
                )
            else:
                control = fields(self.raw, at)
                block.breakpoint_ttl = (
                    text_of(self.raw, control["ttl"]) if "ttl" in control else "5m"
                )
        if block.kind in _UNMARKABLE or _tokens(block.span) <= 0:
            block.accepts_breakpoint = False
        if block.is_string and block.span.end - block.span.start <= len('""'):
            block.accepts_breakpoint = False
        self.rendered.blocks.append(block)


def _lifted(block: Block, start: int, pointer_chars: int) -> Block:
    """``block`` with its place and pointer from the beginning of its message, which is at ``start``."""
    at = Span(block.span.start - start, block.span.end - start)
    return replace(block, span=at, pointer=block.pointer[pointer_chars:])


def _placed(block: Block, start: int, pointer: str) -> Block:
    """The reverse of ``_lifted``, without the detour through field names: it runs for every message."""
    at = block.span
    return Block(
        block.section,
        block.role,
        block.kind,
        pointer + block.pointer,
        Span(at.start + start, at.end + start),
        block.content_hash,
        block.tokens,
        b"",
        block.breakpoint_ttl,
        block.is_string,
        block.accepts_breakpoint,
        block.label,
    )


_OPENING_CHARS = 4_096
_NAMED_AT_ONCE = 32
_LEAST_REMEMBERED_BYTES = 64


def _tokens(at: Span) -> int:
    return -(-(at.end - at.start) // _BYTES_PER_TOKEN)


def _row(reader: _Reader, entries: list[Span], pointer: str, *, leading: bool) -> Iterator[None]:
    """Read the entries of a conversation; while ``leading``, those of the operator are system."""
    blocks = reader.rendered.blocks
    for index, at in enumerate(entries):
        first = len(blocks)
        role = reader.entry(at, f"{pointer}/{index}")
        leading = leading and role in {"system", "developer"}
        if leading:
            for block in blocks[first:]:
                block.section = "system"
        reader.open(role)
        yield


def _messages(reader: _Reader, found: Mapping[str, Span]) -> Iterator[None]:
    if "system" in found:
        reader.content("system", "system", found["system"], "/system")
    entries = _list(reader.raw, found.get("messages", Span(0, 0)))
    yield from _row(reader, entries, "/messages", leading=False)


def _chat(reader: _Reader, found: Mapping[str, Span]) -> Iterator[None]:
    entries = _list(reader.raw, found.get("messages", Span(0, 0)))
    yield from _row(reader, entries, "/messages", leading=True)


def _responses(reader: _Reader, found: Mapping[str, Span]) -> Iterator[None]:
    raw = reader.raw
    if "instructions" in found:
        reader.content("system", "system", found["instructions"], "/instructions")
        if reader.rendered.blocks and reader.rendered.blocks[-1].pointer == "/instructions":
            reader.rendered.blocks[-1].accepts_breakpoint = False
    given = found.get("input", Span(0, 0))
    if raw[given.start : given.start + 1] == b'"':
        reader.content("messages", "user", given, "/input")
        reader.rendered.blocks[-1].accepts_breakpoint = False
        reader.open("user")
        return
    yield from _row(reader, _list(raw, given), "/input", leading=True)


_READERS: Mapping[Dialect, Callable[[_Reader, Mapping[str, Span]], Iterator[None]]] = {
    Dialect.MESSAGES: _messages,
    Dialect.CHAT: _chat,
    Dialect.RESPONSES: _responses,
}


def _messages_entry(reader: _Reader, at: Span, pointer: str) -> str:
    message = fields(reader.raw, at)
    role = text_of(reader.raw, message["role"])
    reader.content("messages", role, message["content"], f"{pointer}/content")
    return role


def _chat_entry(reader: _Reader, at: Span, pointer: str) -> str:
    message = fields(reader.raw, at)
    role = text_of(reader.raw, message["role"])
    if role == "tool":
        reader.item("tool", "tool_result", at, pointer)
        return role
    if "content" in message:
        reader.content("messages", role, message["content"], f"{pointer}/content")
    if "tool_calls" in message:
        for number, call in enumerate(_list(reader.raw, message["tool_calls"])):
            reader.item(role, "tool_call", call, f"{pointer}/tool_calls/{number}")
    return role


def _responses_entry(reader: _Reader, at: Span, pointer: str) -> str:
    item = fields(reader.raw, at)
    kind = text_of(reader.raw, item["type"]) if "type" in item else "message"
    if kind != "message":
        reader.item("", kind, at, pointer)
        return ""
    role = text_of(reader.raw, item["role"])
    reader.content("messages", role, item["content"], f"{pointer}/content")
    return role


_ENTRIES: Mapping[Dialect, Callable[[_Reader, Span, str], str]] = {
    Dialect.MESSAGES: _messages_entry,
    Dialect.CHAT: _chat_entry,
    Dialect.RESPONSES: _responses_entry,
}

__all__ = [
    "Block",
    "MessageCache",
    "RenderedPrompt",
    "Section",
    "UnreadableError",
    "digest",
    "render",
    "render_steps",
]
