"""Strategies and readings that the wire tests share."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import Tier
from app.domain.events import (
    Answer,
    AnswerBuilder,
    AnswerStarted,
    Event,
    Finished,
    FinishReason,
    RefusalBlock,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallBlock,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.models import Abilities, Model
from app.domain.usage import Usage

texts = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=20)
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text(alphabet=st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
usages = st.builds(
    Usage,
    input_tokens=st.integers(0, 10**6),
    cached_tokens=st.integers(0, 10**6),
    cache_write_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    reasoning_tokens=st.integers(0, 10**6),
)


def model(**abilities: object) -> Model:
    """A model with these abilities."""
    return Model("house", "vendor", "upstream-1", Tier.FAST, abilities=Abilities(**abilities))


def request(dialect: Dialect, *, include_usage: bool = True, **body: object) -> ChatRequest:
    """A client's request in ``dialect``."""
    return ChatRequest(
        dialect,
        "asked",
        stream=True,
        body={"model": "asked", **body},
        raw=b"",
        include_usage=include_usage,
    )


def events_of(answer: Answer, pieces: int = 2) -> list[Event]:
    """The neutral stream of ``answer``, each text in ``pieces`` deltas."""
    events: list[Event] = [AnswerStarted(answer.id, answer.model, answer.created_s, answer.usage)]
    calls = 0
    for block in answer.blocks:
        match block:
            case TextBlock(text):
                events += [TextDelta(piece) for piece in cut(text, pieces)]
            case ThinkingBlock(text, signature):
                events += [ThinkingDelta(piece) for piece in cut(text, pieces)]
                events.append(ThinkingSealed(signature))
            case ToolCallBlock(call_id, name, arguments):
                events.append(ToolCallStarted(calls, call_id, name))
                events += [ToolCallDelta(calls, piece) for piece in cut(arguments, pieces)]
                events.append(ToolCallSealed(calls, call_id, name, arguments))
                calls += 1
            case RefusalBlock() | _:
                raise AssertionError(block)
    events.append(Finished(answer.finish, answer.usage, answer.stop_sequence))
    return events


def cut(text: str, pieces: int) -> list[str]:
    """``text`` in about ``pieces`` parts, none empty."""
    step = max(len(text) // pieces, 1)
    return [text[start : start + step] for start in range(0, len(text), step)]


def fold(events: list[Event]) -> Answer:
    """The answer that ``events`` tell."""
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    answer = builder.answer()
    assert answer is not None, events
    return answer


@st.composite
def answers(draw: st.DrawFn, *, thinking: bool = True, signed: bool = True) -> Answer:
    """Answers that every dialect can tell: reasoning, then text, then calls."""
    blocks: list[object] = []
    if thinking and draw(st.booleans()):
        blocks.append(ThinkingBlock(draw(texts), draw(names) if signed else ""))
    if draw(st.booleans()):
        blocks.append(TextBlock(draw(texts)))
    calls = draw(
        st.lists(st.tuples(names, st.dictionaries(names, json_values, max_size=3)), max_size=3)
    )
    for index, (name, arguments) in enumerate(calls):
        text = msgspec.json.encode(arguments).decode()
        blocks.append(ToolCallBlock(f"call_{index}", name, text))
    if not blocks:
        blocks.append(TextBlock(draw(texts)))
    finish = (
        FinishReason.TOOL_CALLS
        if calls
        else draw(st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]))
    )
    return Answer("chatcmpl-1", "model-1", tuple(blocks), finish, draw(usages), 1700000000)
