"""Why a vendor's prompt cache missed: the difference between a conversation's request and its last one.

The vendor reads a prefix, so the first block that differs in render order is the cause of the miss of all
that follows. The vendors' own diagnosis is coarser (``system_changed``); ``app.prompts.diagnosis`` maps our
causes to theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from app.prompts.conversations import BlockSummary, ConversationState
from app.prompts.prefix import Block, RenderedPrompt, digest
from app.prompts.spans import Span

_OPTIONS = {
    "prompt_cache_key": ("key_changed", "the prompt_cache_key changed: keep one per prefix"),
    "response_format": ("format_changed", "the output format changed: it is part of the prefix"),
    "text": ("format_changed", "the output format changed: it is part of the prefix"),
    "reasoning_effort": ("effort_changed", "the reasoning effort changed within a conversation"),
    "reasoning": ("effort_changed", "the reasoning options changed within a conversation"),
    "verbosity": ("verbosity_changed", "the verbosity changed within a conversation"),
    "service_tier": ("service_tier_changed", "the service tier changed within a conversation"),
    "speed": ("speed_changed", "switching speed drops the cache of system and messages"),
    "tool_choice": ("tool_choice_changed", "a changed tool_choice drops the cache of the messages"),
    "thinking": ("thinking_changed", "changed thinking options drop the cache of the messages"),
}
VOLATILE = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)"
    r"|(?P<time>\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?"
    r"|\b\d{1,2}:\d{2}(?::\d{2})(?: ?[AP]M)?\b)"
    r"|(?P<date>\b20\d{2}-[01]\d-[0-3]\d\b"
    r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{1,2},? 20\d{2}\b)"
    r"|(?P<epoch>\b1[6-9]\d{8}(?:\d{3})?\b)"
    r"|(?P<id>\b(?:req|sess|session|trace|run|msg|user|conv|chat|request)[_-][A-Za-z0-9]*\d[A-Za-z0-9]{5,}\b"
    r"|\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{16,64}\b)",
    re.IGNORECASE,
)
"""Volatile text: ids and times."""


@dataclass(frozen=True, slots=True)
class MissCause:
    """Why a cached prefix was not read."""

    rule: str
    pointer: str
    span: Span
    """The bytes at fault in the body."""
    why: str
    lost_tokens: int = 0
    """Estimated tokens that could have been read from the cache."""


def canonical_tool_hash(rendered: RenderedPrompt, block: Block) -> bytes:
    """A tool's hash with sorted keys and without its breakpoint."""
    value: object = msgspec.json.decode(rendered.raw[block.span.start : block.span.end])
    if isinstance(value, dict):
        value.pop("cache_control", None)
    return digest(msgspec.json.encode(value, order="sorted"))


def find_cause(
    before: ConversationState,
    now: RenderedPrompt,
    model: str,
    loose: Mapping[bytes, bytes],
    *,
    idle_s: float = 0.0,
    lifetime_s: float = float("inf"),
) -> MissCause | None:
    """The cause of a miss; None where the new request extends the old one within the cache's lifetime."""
    whole = Span(0, len(now.raw))
    if before.model != model:
        why = f"the conversation was warm on {before.model}, and was sent to {model}"
        return MissCause(
            "model_switch", "/model", now.fields.get("model", whole), why, _all(before)
        )
    pieces, blocks = before.blocks, now.blocks
    tools = _tools(pieces, now, loose)
    if tools is not None:
        return tools
    changed = _options(before, now)
    if changed is not None:
        return changed
    return _content(before, pieces, blocks, now) or _rest(before, whole, idle_s, lifetime_s)


def _all(before: ConversationState) -> int:
    return sum(piece.tokens for piece in before.blocks)


def _options(before: ConversationState, now: RenderedPrompt) -> MissCause | None:
    for name, (rule, why) in _OPTIONS.items():
        if before.options.get(name) != now.options.get(name):
            at = now.fields.get(name, Span(0, len(now.raw)))
            return MissCause(rule, f"/{name}", at, why, _all(before))
    return None


def _tools(  # noqa: PLR0911
    pieces: Sequence[BlockSummary], now: RenderedPrompt, loose: Mapping[bytes, bytes]
) -> MissCause | None:
    old = [piece for piece in pieces if piece.section == "tools"]
    new = [block for block in now.blocks if block.section == "tools"]
    if [piece.content_hash for piece in old] == [block.content_hash for block in new]:
        return None
    lost = sum(piece.tokens for piece in pieces)
    place = now.fields.get("tools", Span(0, len(now.raw)))
    if sorted(piece.content_hash for piece in old) == sorted(block.content_hash for block in new):
        at = next(
            i
            for i, (a, b) in enumerate(zip(old, new, strict=True))
            if a.content_hash != b.content_hash
        )
        why = "the same tools in another order: sort them once, by name"
        return MissCause("tool_order", new[at].pointer, new[at].span, why, lost)
    olds = {piece.label: piece for piece in old}
    news = {block.label: block for block in new}
    removed = [piece for piece in old if piece.label not in news]
    added = [block for block in new if block.label not in olds]
    for block in new:
        was = olds.get(block.label)
        if was is None or was.content_hash == block.content_hash:
            continue
        if was.canonical_hash and was.canonical_hash == loose.get(block.content_hash):
            why = f"the keys of tool {block.label!r} came in another order: serialise it once"
            return MissCause("key_order", block.pointer, block.span, why, lost)
        why = f"the definition of tool {block.label!r} changed"
        return MissCause("changed_tool", block.pointer, block.span, why, lost)
    if added:
        why = f"tool {added[0].label!r} was added: offer all tools from the start"
        return MissCause("added_tool", added[0].pointer, added[0].span, why, lost)
    if removed:
        why = f"tool {removed[0].label!r} was taken away: forbid it by tool_choice instead"
        return MissCause("removed_tool", "/tools", place, why, lost)
    return MissCause("changed_tool", "/tools", place, "the tools changed", lost)


def _content(  # noqa: PLR0911
    before: ConversationState,
    pieces: Sequence[BlockSummary],
    blocks: Iterable[Block],
    now: RenderedPrompt,
) -> MissCause | None:
    old = [piece for piece in pieces if piece.section != "tools"]
    new = [block for block in blocks if block.section != "tools"]
    lost = _all(before)
    for index, piece in enumerate(old):
        if index >= len(new):
            why = "the history is shorter than it was: something compacted or cut it"
            place = now.fields.get("messages", now.fields.get("input", Span(0, len(now.raw))))
            return MissCause("shortened_history", "/messages", place, why, lost)
        block = new[index]
        if piece.content_hash == block.content_hash and piece.section == block.section:
            continue
        volatile = find_volatile(now.raw, block.span)
        if piece.section == "system" or block.section == "system":
            if volatile is not None:
                why = f"a {volatile[0]} in the system prompt changed: move it behind what is stable"
                return MissCause("volatile_system", block.pointer, volatile[1], why, lost)
            return MissCause(
                "changed_system", block.pointer, block.span, "the system prompt changed", lost
            )
        if len(new) < len(old):
            why = "the history is shorter than it was: something compacted or cut it"
            return MissCause("shortened_history", block.pointer, block.span, why, lost)
        if volatile is not None:
            why = f"a {volatile[0]} in an earlier message changed: leave the history as it was sent"
            return MissCause("volatile_message", block.pointer, volatile[1], why, lost)
        why = "an earlier message was changed: append, and never edit what was sent"
        return MissCause("changed_history", block.pointer, block.span, why, lost)
    return None


def _rest(
    before: ConversationState, whole: Span, idle_s: float, lifetime_s: float
) -> MissCause | None:
    if idle_s >= lifetime_s:
        why = (
            f"{idle_s:.0f} s passed and an unread prefix lives {lifetime_s:.0f} s: keep it alive, or "
            "ask for a longer lifetime"
        )
        return MissCause("expired", "", whole, why, _all(before))
    if not before.marked:
        why = "the last request set no breakpoint, so nothing of it was kept"
        return MissCause("not_marked", "", whole, why, _all(before))
    if lifetime_s == float("inf"):
        return None
    return MissCause(
        "evicted", "", whole, "the prefix was as before: the vendor dropped it", _all(before)
    )


def find_volatile(raw: bytes, at: Span) -> tuple[str, Span] | None:
    """The first id or time in the bytes at ``at``: its kind, and where it stands."""
    text = raw[at.start : at.end].decode("utf-8", "replace")
    match = VOLATILE.search(text)
    if match is None:
        return None
    start = at.start + len(text[: match.start()].encode())
    end = start + len(match.group().encode())
    return {"time": "timestamp"}.get(match.lastgroup or "", match.lastgroup or "value"), Span(
        start, end
    )
