"""Lint a request for what breaks prompt caching or wastes time: where, why, what it costs, and the fix.

A rule looks at one request, or at a request beside the last one of its conversation. It names bytes, so that an
editor can underline them, and it prices them: tokens that are read anew instead of from the
vendor's cache, at the model's prices and measured speed.
"""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from app.domain.chat import Dialect
from app.domain.models import Model
from app.prompts.breakpoints import LOOK_BACK_BLOCKS, MAX_BREAKPOINTS, prices
from app.prompts.causes import MissCause, canonical_tool_hash, find_cause, find_volatile
from app.prompts.conversations import ConversationState, summarise_blocks
from app.prompts.prefix import Block, RenderedPrompt, render
from app.prompts.spans import Span, text_of
from app.prompts.usage_statistics import ModelCacheStats

Severity = Literal["error", "warning", "info"]
_PREAMBLE_CHARS = 1_500
_TASK = re.compile(
    r"\b(your (?:task|job|goal|role) (?:is|here)|you (?:must|will|should|are to)\b|"
    r"(?:please )?(?:classify|extract|summari[sz]e|translate|answer|write|label|decide|rate|list|rewrite)\b)",
    re.IGNORECASE,
)
_CLASSIFY = re.compile(
    r"\b(classif(?:y|ication)|categori[sz]e|label (?:the|each|this)|sentiment|one of the following|"
    r"yes or no|true or false|which (?:category|class|label))\b",
    re.IGNORECASE,
)
_THINK = re.compile(
    r"(step[- ]by[- ]step|chain of thought|think (?:carefully|aloud|out loud|it through|through)|"
    r"(?:explain|show|describe) your (?:reasoning|thinking|work)|reason (?:before|carefully|through)|"
    r"before (?:you )?answer(?:ing)?,? (?:think|reason|explain))",
    re.IGNORECASE,
)
_CONTRACT = re.compile(
    r"\b(json|xml|yaml|csv|markdown|bullet|one word|single word|only the|at most|no more than|"
    r"(?:in|with|using) (?:\d+|one|two|three) (?:words?|sentences?|lines?|paragraphs?)|format|"
    r"(?:respond|reply|answer|return|output) (?:only|with|in|as)|briefly|concise(?:ly)?)\b",
    re.IGNORECASE,
)
_FIXES = {
    "model_switch": "keep a conversation on one model, or accept that its prompt is read anew",
    "tool_order": "send tools in one fixed order",
    "key_order": "serialise each tool once and send the same bytes",
    "changed_tool": "keep tool definitions constant; put what varies into the last message",
    "added_tool": "offer the same tools in every request and forbid by tool_choice",
    "removed_tool": "offer the same tools in every request and forbid by tool_choice",
    "volatile_system": "move what varies behind the stable prompt, into the last user message",
    "changed_system": "keep the system prompt constant; put what varies into the last user message",
    "volatile_message": "leave earlier messages exactly as they were sent",
    "changed_history": "append to the history and never edit it",
    "shortened_history": "compact rarely, and in one step",
    "expired": "keep the prefix alive (POST /v1/prompts/warm) or ask for a longer lifetime",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding."""

    rule: str
    severity: Severity
    pointer: str
    """JSON pointer (RFC 6901) to the place at fault."""
    span: Span
    """Its bytes in the body."""
    why: str
    fix: str
    lost_tokens: int = 0
    """Estimated prompt tokens that are read anew because of it."""
    more_tokens: int = 0
    """Estimated tokens that are generated because of it."""


def lint(
    body: bytes, dialect: Dialect, minimum_tokens: int = 1024
) -> tuple[RenderedPrompt, list[Finding]]:
    """Lint one request. Raises ``UnreadableError``."""
    rendered = render(body, dialect)
    rules = (_volatile, _breakpoints, _task, _thinking, _contract)
    return rendered, [each for rule in rules for each in rule(rendered, minimum_tokens)]


def compare(before: RenderedPrompt, now: RenderedPrompt) -> MissCause | None:
    """Why ``now`` cannot read what ``before``, the request before it, left in the vendor's cache."""
    loose = {
        block.content_hash: canonical_tool_hash(each, block)
        for each in (before, now)
        for block in each.blocks
        if block.section == "tools"
    }
    was = ConversationState(
        before.model, before.dialect, summarise_blocks(before, loose), dict(before.options), 0.0
    )
    return find_cause(was, now, now.model, loose)


def finding_from_cause(cause: MissCause) -> Finding:
    """A miss cause as a finding."""
    mend = _FIXES.get(cause.rule, "keep the option constant within a conversation")
    return Finding(
        cause.rule, "error", cause.pointer, cause.span, cause.why, mend, cause.lost_tokens
    )


def costs(finding: Finding, model: Model, facts: ModelCacheStats) -> tuple[float, float]:
    """The cost of a finding per request: milliseconds, USD."""
    plain, cached, _ = prices(model)
    usd = finding.lost_tokens * (plain - cached) + finding.more_tokens * model.price.output
    token_s = (
        0.01  # a hundred tokens a second: what is generated takes far longer than what is read
    )
    seconds = finding.lost_tokens * facts.token_s + finding.more_tokens * token_s
    return seconds * 1e3, usd / 1e6


# ------------------------------------------------------------------ the rules
def _volatile(rendered: RenderedPrompt, minimum_tokens: int) -> Iterator[Finding]:
    """A time or an id stands before something stable."""
    del minimum_tokens
    blocks = rendered.blocks
    total = sum(block.tokens for block in blocks)
    before = 0
    for position, block in enumerate(blocks[:-1]):
        if block.section != "messages" or position <= rendered.section_ends.get("system", -1):
            found = find_volatile(rendered.raw, block.span)
            if found is not None:
                kind, at = found
                why = (
                    f"a {kind} stands before {total - before} tokens that would else stay the same"
                )
                mend = "move it to the end of the last user message"
                yield Finding(
                    f"volatile_{kind}", "error", block.pointer, at, why, mend, total - before
                )
        before += block.tokens


def _breakpoints(rendered: RenderedPrompt, minimum_tokens: int) -> Iterator[Finding]:
    """The client's own breakpoints: too many, too early, too short, too far apart."""
    blocks = rendered.blocks
    marks = [position for position, block in enumerate(blocks) if block.breakpoint_ttl]
    automatic = "cache_control" in rendered.fields
    if len(marks) + automatic > MAX_BREAKPOINTS:
        fifth = blocks[marks[-1]]
        why = f"{len(marks) + automatic} breakpoints, where vendors take {MAX_BREAKPOINTS}"
        mend = "mark the ends of tools, system and the last message"
        yield Finding("too_many_breakpoints", "error", fifth.pointer, fifth.span, why, mend)
    if not marks:
        return
    last, total = marks[-1], sum(block.tokens for block in blocks)
    reached = rendered.tokens_to(last)
    if reached < minimum_tokens and not automatic:
        block = blocks[last]
        why = f"the prefix has about {reached} tokens, and this model caches from {minimum_tokens}"
        yield Finding(
            "below_minimum",
            "warning",
            block.pointer,
            block.span,
            why,
            "move the breakpoint back, or leave it out",
        )
    elif not automatic and _turns(blocks) and total - reached >= minimum_tokens // 4:
        block = blocks[last]
        lost = rendered.tokens_to(len(blocks) - 2) - reached if len(blocks) > 1 else 0
        why = f"about {total - reached} tokens of the history stand behind the last breakpoint"
        mend = "mark the end of the last message as well"
        yield Finding("breakpoint_too_early", "warning", block.pointer, block.span, why, mend, lost)
    for one, other in zip([-1, *marks], marks, strict=False):
        if rendered.dialect is Dialect.MESSAGES and one >= 0 and other - one > LOOK_BACK_BLOCKS:
            block = blocks[other]
            gap = f"{other - one} blocks after the breakpoint before it"
            why = f"{gap}, and the look-back is {LOOK_BACK_BLOCKS}"
            mend = "put one between them"
            yield Finding("look_back", "warning", block.pointer, block.span, why, mend)


def _turns(blocks: Sequence[Block]) -> bool:
    return any(block.role == "assistant" for block in blocks)


def _texts(rendered: RenderedPrompt, *, system: bool) -> Iterator[tuple[Block, str]]:
    """The texts of the system prompt, or of the last user message."""
    last = rendered.blocks[-1].pointer.split("/")[2:3] if rendered.blocks else []
    for block in rendered.blocks:
        if block.kind not in {"text", "input_text"}:
            continue
        ours = block.section == "system"
        if not ours and (block.role != "user" or block.pointer.split("/")[2:3] != last):
            continue
        if ours is system:
            raw = rendered.raw[block.span.start : block.span.end]
            text = (
                text_of(rendered.raw, block.span)
                if block.is_string
                else raw.decode("utf-8", "replace")
            )
            yield block, text


def _task(rendered: RenderedPrompt, minimum_tokens: int) -> Iterator[Finding]:
    """The system prompt says what is to be done only behind a long preamble."""
    del minimum_tokens
    for block, text in _texts(rendered, system=True):
        match = _TASK.search(text)
        if match is not None and match.start() >= _PREAMBLE_CHARS:
            at = Span(block.span.start, block.span.start + len(text[: match.start()].encode()))
            why = f"{match.start()} characters come before the first word of what is to be done"
            mend = "say the task first, then the background"
            yield Finding("buried_task", "warning", block.pointer, at, why, mend)
            return


def _thinking(rendered: RenderedPrompt, minimum_tokens: int) -> Iterator[Finding]:
    """A classification is asked to think aloud: a hundred tokens for a word."""
    del minimum_tokens
    found = [*_texts(rendered, system=True), *_texts(rendered, system=False)]
    if not any(_CLASSIFY.search(text) for _, text in found):
        return
    for block, text in found:
        match = _THINK.search(text)
        if match is not None:
            shift = 1 if block.is_string else 0
            start = block.span.start + shift + len(text[: match.start()].encode())
            at = Span(start, start + len(match.group().encode()))
            why = "a classification is asked for its chain of thought: the answer is one word"
            mend = "ask for the label alone, or set the reasoning effort instead"
            yield Finding(
                "thinking_in_classification",
                "warning",
                block.pointer,
                at,
                why,
                mend,
                more_tokens=100,
            )
            return


def _contract(rendered: RenderedPrompt, minimum_tokens: int) -> Iterator[Finding]:
    """Nothing says what form or length the answer has."""
    del minimum_tokens
    if any(n in rendered.fields for n in ("response_format", "text", "output_config", "tools")):
        return
    found = [*_texts(rendered, system=True), *_texts(rendered, system=False)]
    system = [block for block, _ in found if block.section == "system"]
    if not system or any(_CONTRACT.search(text) for _, text in found):
        return
    why = "nothing says what form or length the answer is to have, so it is longer than it need be"
    mend = "name the form (a schema, a list, one sentence) or a length"
    yield Finding(
        "no_output_contract", "info", system[0].pointer, system[0].span, why, mend, more_tokens=50
    )
