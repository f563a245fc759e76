"""The official clients' own types accept what we write, and what they write we read."""

from __future__ import annotations

import json
import warnings

import pytest
from anthropic.types import Message as AnthropicMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.domain.chat import Dialect
from app.domain.events import (
    Answer,
    AnswerStarted,
    Finished,
    FinishReason,
    RedactedThinking,
    RefusalBlock,
    RefusalDelta,
    TextBlock,
)
from app.domain.usage import Usage
from app.wire.codecs import CODECS
from app.wire.sse import read_events
from tests.wire.samples import answers, events_of, request

CHUNK = TypeAdapter(ChatCompletionChunk)
ANTHROPIC_EVENT = TypeAdapter(RawMessageStreamEvent)
RESPONSES_EVENT = TypeAdapter(ResponseStreamEvent)
TYPES = {
    Dialect.CHAT: (CHUNK, TypeAdapter(ChatCompletion)),
    Dialect.MESSAGES: (ANTHROPIC_EVENT, TypeAdapter(AnthropicMessage)),
    Dialect.RESPONSES: (RESPONSES_EVENT, TypeAdapter(Response)),
}


def stream(dialect, events, **body):
    writer = CODECS[dialect].writer(request(dialect, **body))
    return b"".join(writer.write(event) for event in events) + writer.end()


def data_of(frames):
    return [event for event in read_events(frames) if event.data != b"[DONE]"]


@given(st.sampled_from(list(Dialect)), answers())
def test_every_event_of_a_stream_is_of_the_official_type(dialect, answer):
    for event in data_of(stream(dialect, events_of(answer))):
        parsed = TYPES[dialect][0].validate_python(json.loads(event.data))
        assert event.event == ("" if dialect is Dialect.CHAT else parsed.type)


@given(st.sampled_from(list(Dialect)), answers())
def test_a_whole_answer_is_of_the_official_type(dialect, answer):
    body = CODECS[dialect].write_answer(answer, request(dialect))
    parsed = TYPES[dialect][1].validate_python(json.loads(body))
    assert parsed.model == "model-1"


@given(answers())
def test_the_last_responses_event_holds_what_the_items_told(answer):
    events = [
        RESPONSES_EVENT.validate_python(json.loads(e.data))
        for e in data_of(stream(Dialect.RESPONSES, events_of(answer)))
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert events[-1].response.output == done
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].response.output_text == text == answer.text


@given(answers())
def test_anthropic_blocks_open_and_close_one_after_the_other(answer):
    events = [json.loads(e.data) for e in data_of(stream(Dialect.MESSAGES, events_of(answer)))]
    opened = None
    expected = 0
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert opened is None
                assert event["index"] == expected
                opened, expected = event["index"], expected + 1
            case "content_block_delta":
                assert event["index"] == opened
            case "content_block_stop":
                assert event["index"] == opened
                opened = None
            case _:
                assert opened is None


def test_usage_comes_in_a_chunk_of_its_own_only_when_it_was_asked_for():
    events = events_of(
        Answer("x", "m", (TextBlock("hi"),), FinishReason.STOP, Usage(1, 2, 3, 4, 1))
    )
    codec = CODECS[Dialect.CHAT]
    for wanted in (True, False):
        writer = codec.writer(request(Dialect.CHAT, include_usage=wanted))
        frames = b"".join(map(writer.write, events)) + writer.end()
        chunks = [json.loads(event.data) for event in data_of(frames)]
        assert frames.endswith(b"data: [DONE]\n\n")
        if wanted:
            assert chunks[-1]["choices"] == []
            assert chunks[-1]["usage"]["prompt_tokens"] == 6
            assert all(chunk["usage"] is None for chunk in chunks[:-1])
        else:
            assert all("usage" not in chunk for chunk in chunks)


def test_the_first_chat_chunk_tells_the_role():
    events = events_of(Answer("x", "m", (TextBlock("hi"),), FinishReason.STOP))
    first = json.loads(data_of(stream(Dialect.CHAT, events))[0].data)
    assert first["choices"][0]["delta"]["role"] == "assistant"


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_refusal_is_told_in_each_dialect(dialect):
    events = [AnswerStarted("1", "m"), RefusalDelta("No."), Finished(FinishReason.REFUSAL, Usage())]
    for event in data_of(stream(dialect, events)):
        TYPES[dialect][0].validate_python(json.loads(event.data))
    body = CODECS[dialect].write_answer(
        Answer("1", "m", (RefusalBlock("No."),), FinishReason.REFUSAL), request(dialect)
    )
    TYPES[dialect][1].validate_python(json.loads(body))
    assert CODECS[dialect].read_answer(body).finish is FinishReason.REFUSAL


def test_a_refusal_without_words_is_no_complete_answer_anywhere():
    events = [AnswerStarted("1", "m"), Finished(FinishReason.REFUSAL, Usage())]
    for dialect in Dialect:
        reader = CODECS[dialect].reader()
        last = [*reader.feed(stream(dialect, events)), *reader.end()][-1]
        assert isinstance(last, Finished)
        assert not last.reason.complete


def test_redacted_reasoning_survives_where_the_dialect_has_a_place():
    events = [
        AnswerStarted("1", "m"),
        RedactedThinking("zzz"),
        Finished(FinishReason.STOP, Usage()),
    ]
    for dialect in (Dialect.MESSAGES, Dialect.RESPONSES):
        reader = CODECS[dialect].reader()
        assert RedactedThinking("zzz") in reader.feed(stream(dialect, events))


@pytest.mark.parametrize("dialect", list(Dialect))
def test_an_answer_that_ends_at_once_is_still_a_stream(dialect):
    events = data_of(stream(dialect, [Finished(FinishReason.STOP, None)]))
    assert events
    for event in events:
        TYPES[dialect][0].validate_python(json.loads(event.data))


def test_the_request_is_echoed_in_a_response_object():
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}]
    body = CODECS[Dialect.RESPONSES].write_answer(
        Answer("1", "m", (TextBlock("hi"),), FinishReason.LENGTH),
        request(Dialect.RESPONSES, tools=tools, instructions="Be brief.", temperature=0.5),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response = Response.model_validate(json.loads(body))
    assert response.instructions == "Be brief."
    assert response.tools[0].name == "f"
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
