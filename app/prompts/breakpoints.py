"""Automatic cache breakpoints: which prefixes are worth writing, and the bytes that mark them.

A breakpoint is free where its prefix is cached already; what costs is the last one, because all new input
before it is written, at a quarter more than plain input. So one decision is made by price: how far to write
(to the end, to the last prefix seen before, to the system prompt, or not at all). The others follow: the ends
of tools and system, so that other conversations find them, and the last known prefix where the vendor's
look-back from the end does not reach it. At most four in all, the client's own counted.

Splicing adds bytes behind a block and changes no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from app.domain.chat import Dialect
from app.domain.models import Model
from app.prompts.prefix import Block, RenderedPrompt
from app.prompts.spans import Span
from app.prompts.usage_statistics import PrefixReuse, SeenPrefix

MAX_BREAKPOINTS = 4
LOOK_BACK_BLOCKS = 20
LIFETIME_S = {"anthropic": 300.0, "openai": 1800.0, "implicit": 600.0}
"""TTL of an unread entry by kind of breakpoints: 5 minutes, 30 minutes, 5 to 10 minutes."""
_WRITE = 1.25
_READ = 0.1
"""Prices relative to plain input where the configuration names none."""
_CONTROL = b'"cache_control":{"type":"ephemeral"}'
_BREAKPOINT = b'"prompt_cache_breakpoint":{"mode":"explicit"}'
_TAKE_BREAKPOINT = frozenset({"system", "developer", "user"})


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a request's breakpoints go."""

    added: tuple[int, ...]
    """Positions of ours, ascending."""
    known: int
    """Position of the longest prefix that was seen before, -1 = none."""
    last: int
    """Position of the last breakpoint, the client's own included, -1 = none."""


def prices(model: Model) -> tuple[float, float, float]:
    """USD per million tokens: plain input, read from the cache, written to it."""
    plain = model.price.input
    cached, write = model.price.cached_input, model.price.cache_write
    return (
        plain,
        plain * _READ if cached is None else cached,
        plain * _WRITE if write is None else write,
    )


def worth_writing(model: Model, chance: float) -> bool:
    """Whether writing a prefix pays: P(read again) x (plain - read) >= write - plain."""
    plain, cached, write = prices(model)
    return chance * (plain - cached) >= write - plain


def conversation_stage(rendered: RenderedPrompt) -> str:
    """The stage for reuse statistics: a conversation's first request, or a later one."""
    later = any(block.role == "assistant" for block in rendered.blocks)
    return "later" if later else "first"


def plan(  # noqa: PLR0917 - what the decision rests on
    rendered: RenderedPrompt,
    model: Model,
    tenant: str,
    seen: Mapping[bytes, SeenPrefix],
    returns: PrefixReuse,
    minimum_estimate: int,
) -> Plan:
    """Choose the positions; ``minimum_estimate``: shortest cacheable prefix in estimated tokens."""
    blocks = rendered.blocks
    lengths = _lengths(blocks)
    known = next((i for i in range(len(blocks) - 1, -1, -1) if blocks[i].prefix_hash in seen), -1)
    own = [i for i, block in enumerate(blocks) if block.breakpoint_ttl]
    automatic = "cache_control" in rendered.fields or _explicit_only(rendered)
    free = MAX_BREAKPOINTS - len(own) - automatic
    if free <= 0 or not blocks or lengths[-1] < minimum_estimate:
        return Plan((), known, own[-1] if own else -1)
    last = _last(rendered, model, tenant, known, returns, seen)
    wanted: list[int] = []
    if last >= 0:
        if not automatic and not _implicit_tail(rendered, last):
            wanted.append(last)
        heads = [
            rendered.section_ends[part]
            for part in ("system", "tools")
            if part in rendered.section_ends
        ]
        far = last - known >= LOOK_BACK_BLOCKS and rendered.dialect is Dialect.MESSAGES
        branch = 0 <= known < last and not seen[blocks[known].prefix_hash].written
        wanted += [known] if far else []
        wanted += heads
        wanted += [known] if branch else []
        wanted += _before_question(rendered, last)
    after_hour = max((i for i in own if blocks[i].breakpoint_ttl not in {"5m", "30m"}), default=-1)
    chosen: list[int] = []
    for position in wanted:
        at = _markable(rendered, position)
        fits = at >= 0 and lengths[at] >= minimum_estimate and at > after_hour
        if fits and at not in chosen and at not in own and len(chosen) < free:
            chosen.append(at)
    return Plan(tuple(sorted(chosen)), known, max([*chosen, *own], default=-1))


def _last(  # noqa: PLR0917 - see plan
    rendered: RenderedPrompt,
    model: Model,
    tenant: str,
    known: int,
    returns: PrefixReuse,
    seen: Mapping[bytes, SeenPrefix],
) -> int:
    """The position up to which it pays to write, -1 = none."""
    end = rendered.last_repeated
    if worth_writing(model, returns.probability(tenant, conversation_stage(rendered))):
        return end
    head = rendered.section_ends.get("system", rendered.section_ends.get("tools", -1))
    if known > head:
        return known
    if head >= 0 and (
        rendered.blocks[head].prefix_hash in seen
        or worth_writing(model, returns.probability(tenant, "head"))
    ):
        return head
    return known


def _before_question(rendered: RenderedPrompt, last: int) -> list[int]:
    """Before the last part of the last message: after documents that other questions may share."""
    blocks = rendered.blocks
    if last < 1 or last != rendered.last_repeated:
        return []
    message = blocks[last].pointer.rpartition("/")[0]
    return [last - 1] if blocks[last - 1].pointer.rpartition("/")[0] == message else []


def _lengths(blocks: Sequence[Block]) -> list[int]:
    lengths: list[int] = []
    total = 0
    for block in blocks:
        total += block.tokens
        lengths.append(total)
    return lengths


def _explicit_only(rendered: RenderedPrompt) -> bool:
    """OpenAI: the client wants no implicit breakpoint; then it places them itself."""
    at = rendered.fields.get("prompt_cache_options")
    return at is not None and b'"explicit"' in rendered.raw[at.start : at.end]


def _implicit_tail(rendered: RenderedPrompt, position: int) -> bool:
    """OpenAI writes behind the latest block by itself."""
    return rendered.dialect is not Dialect.MESSAGES and position == len(rendered.blocks) - 1


def _markable(rendered: RenderedPrompt, position: int) -> int:
    """``position`` or the nearest block before it, of its section, that takes a breakpoint; else -1."""
    blocks = rendered.blocks
    if position < 0:
        return -1
    section = blocks[position].section
    while position >= 0 and blocks[position].section == section:
        block = blocks[position]
        if block.accepts_breakpoint and (
            rendered.dialect is Dialect.MESSAGES
            or (block.role in _TAKE_BREAKPOINT and block.kind in {"text", "input_text"})
        ):
            return position
        position -= 1
    return -1


def splice_breakpoints(rendered: RenderedPrompt, positions: Sequence[int]) -> bytes:
    """The body with breakpoints behind the blocks at ``positions`` (ascending by place in the text)."""
    raw = rendered.raw
    mark = _CONTROL if rendered.dialect is Dialect.MESSAGES else _BREAKPOINT
    kind = b"input_text" if rendered.dialect is Dialect.RESPONSES else b"text"
    pieces: list[bytes] = []
    done = 0
    for block in sorted((rendered.blocks[i] for i in positions), key=lambda block: block.span):
        at = block.span
        if block.is_string:
            pieces.append(raw[done : at.start])
            words = raw[at.start : at.end]
            pieces.append(b'[{"type":"%b","text":%b,%b}]' % (kind, words, mark))
        else:
            pieces.append(raw[done : at.end - 1].rstrip())
            pieces.append(b",%b}" % mark)
        done = at.end
    pieces.append(raw[done:])
    return b"".join(pieces)


def with_field(raw: bytes, name: bytes, value: object) -> bytes:
    """The object ``raw`` with one more field at its end."""
    body = raw.rstrip()
    return b'%b,"%b":%b}' % (body[:-1], name, msgspec.json.encode(value))


__all__ = ["LIFETIME_S", "Plan", "Span", "plan", "prices", "splice_breakpoints", "worth_writing"]
