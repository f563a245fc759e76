"""An answer that is begun again goes on from where it stood, or not at all."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, Dialect
from app.domain.events import (
    AnswerStarted,
    Event,
    Finished,
    FinishReason,
    Frames,
    TextDelta,
    ThinkingDelta,
    ToolCallStarted,
)
from app.errors import UpstreamClosed
from app.pipeline.leader_takeover import continuation
from app.wire.codecs import CODECS

pytestmark = pytest.mark.anyio
GATEWAY = SimpleNamespace(codecs=CODECS)


def asked(dialect: Dialect) -> ChatRequest:
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "?"}]}
    return ChatRequest(dialect, "m", True, body, b"")  # noqa: FBT003


def answer(pieces: list[str], answer_id: str) -> list[Event]:
    told = [TextDelta(each) for each in pieces]
    return [AnswerStarted(answer_id, "m"), *told, Finished(FinishReason.STOP)]


def cut(text: str, places: list[int]) -> list[str]:
    bounds = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(bounds)]


def text_of(dialect: Dialect, data: bytes) -> str:
    reader = CODECS[dialect].reader()
    return "".join(e.text for e in [*reader.feed(data), *reader.end()] if isinstance(e, TextDelta))


places = st.lists(st.integers(0, 50), max_size=6)


@given(st.text(min_size=1, max_size=40), st.integers(0, 40), places, places)
@pytest.mark.parametrize("dialect", [Dialect.CHAT, Dialect.MESSAGES])
async def test_whatever_the_pieces_the_client_has_the_answer_once_under_one_id(
    dialect: Dialect, text: str, upto: int, first: list[int], second: list[int]
) -> None:
    codec, request = CODECS[dialect], asked(dialect)
    before = codec.writer(request)
    told = answer(cut(text[:upto], first) if text[:upto] else [], "first")[:-1]
    shown: list[Event] = [Frames(data) for each in told if (data := before.write(each))]
    seen = list(shown)

    async def emit(event: Event) -> None:
        seen.append(event)

    on = continuation(shown, request, GATEWAY, emit)  # type: ignore[arg-type]
    again = codec.writer(request)
    for each in answer(cut(text, second), "second"):
        if data := again.write(each):
            await on(Frames(data))
    await on(Frames(again.end()))
    await on.finish_answer()
    data = b"".join(each.data for each in seen if isinstance(each, Frames))
    assert text_of(dialect, data) == text
    assert b"second" not in data or "second" in text
    end = b"[DONE]" if dialect is Dialect.CHAT else b"event: message_stop"
    assert data.count(end) == 1


@pytest.mark.parametrize(
    "again",
    [
        [TextDelta("Hex")],
        [TextDelta("H")],
        [ThinkingDelta("Hello")],
        [ToolCallStarted(0, "c", "t")],
    ],
)
async def test_another_answer_is_not_gone_on_with(again: list[Event]) -> None:
    async def emit(event: Event) -> None:
        raise AssertionError(event)

    on = continuation([TextDelta("Hello")], asked(Dialect.CHAT), GATEWAY, emit)  # type: ignore[arg-type]

    async def tell() -> None:
        for each in [AnswerStarted("x", "m"), *again, Finished(FinishReason.STOP)]:
            await on(each)
        await on.finish_answer()

    with pytest.raises(UpstreamClosed) as lost:
        await tell()
    assert lost.value.code == "leader_lost"


@pytest.mark.parametrize(
    ("shown", "dialect"),
    [([ToolCallStarted(0, "c", "t")], Dialect.CHAT), ([Frames(b": \n\n")], Dialect.RESPONSES)],
)
def test_what_has_ids_of_its_own_cannot_be_gone_on_with(
    shown: list[Event], dialect: Dialect
) -> None:
    with pytest.raises(UpstreamClosed):
        continuation(shown, asked(dialect), GATEWAY, None)  # type: ignore[arg-type]
