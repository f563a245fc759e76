"""Each dialect's documented streams, and the deviations that servers in the wild show."""

from __future__ import annotations

import pytest

from app.domain.chat import Dialect
from app.domain.events import (
    AnswerStarted,
    Finished,
    FinishReason,
    Frames,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallSealed,
    ToolCallStarted,
)
from app.domain.usage import Usage
from app.errors import UpstreamClosed, UpstreamProtocol, UpstreamStatus
from app.wire.codecs import CODECS
from tests.wire import transcripts
from tests.wire.samples import fold, request
from tests.wire.transcripts import HEAD, chat, delta, typed

USAGE = Usage(15, 100, 5, 9, 3)
NAME = "gpt-6.1-sol-2026-10-01"


def read(dialect, data):
    reader = CODECS[dialect].reader()
    return [*reader.feed(data), *reader.end()], reader


def test_a_chat_text_stream_gives_text_then_usage():
    events, reader = read(Dialect.CHAT, transcripts.CHAT_TEXT)
    assert events == [
        AnswerStarted("chatcmpl-7", NAME, 1795219200),
        TextDelta("Hello"),
        TextDelta(" world"),
        Finished(FinishReason.STOP, USAGE),
    ]
    assert reader.complete
    assert reader.usage == USAGE


def test_parallel_chat_calls_keep_their_index_and_are_sealed_when_the_next_begins():
    events, _ = read(Dialect.CHAT, transcripts.CHAT_TOOLS)
    assert events[1:] == [
        ToolCallStarted(0, "call_a", "f"),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(0, "1}"),
        ToolCallSealed(0, "call_a", "f", '{"x":1}'),
        ToolCallStarted(1, "call_b", "g"),
        ToolCallDelta(1, "{}"),
        ToolCallSealed(1, "call_b", "g", "{}"),
        Finished(FinishReason.TOOL_CALLS, None),
    ]


def test_a_messages_text_stream_gives_text_and_cumulative_usage():
    events, reader = read(Dialect.MESSAGES, transcripts.MESSAGES_TEXT)
    assert events == [
        AnswerStarted("msg_01", "claude-sonnet-5-5", 0, Usage(15, 100, 5, 1, 0)),
        TextDelta("Hello"),
        TextDelta(" world"),
        Finished(FinishReason.STOP_SEQUENCE, USAGE, "END"),
    ]
    assert reader.complete


def test_messages_calls_are_sealed_at_their_blocks_end_and_empty_input_is_an_object():
    events, _ = read(Dialect.MESSAGES, transcripts.MESSAGES_TOOLS)
    assert events[1:] == [
        ThinkingDelta("Hm."),
        ThinkingSealed("sig"),
        ToolCallStarted(0, "toolu_1", "f"),
        ToolCallDelta(0, '{"x": 1}'),
        ToolCallSealed(0, "toolu_1", "f", '{"x": 1}'),
        ToolCallStarted(1, "toolu_2", "g"),
        ToolCallSealed(1, "toolu_2", "g", "{}"),
        Finished(FinishReason.TOOL_CALLS, Usage(15, 0, 0, 30, 0)),
    ]


def test_a_responses_stream_gives_text_and_a_sealed_call():
    events, reader = read(Dialect.RESPONSES, transcripts.RESPONSES)
    assert events == [
        AnswerStarted("resp_1", NAME, 1795219200),
        TextDelta("Hello"),
        ToolCallStarted(0, "call_a", "f"),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(0, "1}"),
        ToolCallSealed(0, "call_a", "f", '{"x":1}'),
        Finished(FinishReason.TOOL_CALLS, USAGE),
    ]
    assert reader.complete


TRANSCRIPTS = [
    (Dialect.CHAT, transcripts.CHAT_TEXT, USAGE, "stop"),
    (Dialect.CHAT, transcripts.CHAT_TOOLS, None, "tool_calls"),
    (Dialect.MESSAGES, transcripts.MESSAGES_TEXT, USAGE, "stop_sequence"),
    (Dialect.MESSAGES, transcripts.MESSAGES_TOOLS, Usage(15, 0, 0, 30, 0), "tool_calls"),
    (Dialect.RESPONSES, transcripts.RESPONSES, USAGE, "tool_calls"),
]


@pytest.mark.parametrize(("dialect", "data", "usage", "finish"), TRANSCRIPTS)
def test_pass_through_changes_no_byte_at_any_split_in_two(dialect, data, usage, finish):
    for position in range(len(data)):
        reader = CODECS[dialect].passthrough(hide_usage=False)
        events = [*reader.feed(data[:position]), *reader.feed(data[position:])]
        assert b"".join(event.data for event in events) == data
        assert reader.complete
        assert reader.usage == usage
        assert reader.finish == finish


# ---------------------------------------------------------------- deviations of chat servers
def test_a_chat_stream_without_done_is_whole_when_it_closes():
    events, reader = read(Dialect.CHAT, chat(delta('{"content":"Hi"}'), delta("{}", '"stop"')))
    assert events[-1] == Finished(FinishReason.STOP, None)
    assert reader.complete
    passing = CODECS[Dialect.CHAT].passthrough(hide_usage=False)
    passing.feed(chat(delta('{"content":"Hi"}'), delta("{}", '"stop"')))
    assert not passing.complete
    passing.end()
    assert passing.complete


def test_a_forwarded_stream_gets_no_second_terminator():
    writer = CODECS[Dialect.CHAT].writer(request(Dialect.CHAT))
    out = writer.write(Frames(transcripts.CHAT_TEXT)) + writer.end()
    assert out == transcripts.CHAT_TEXT


def test_a_last_frame_without_its_blank_line_is_read_and_forwarded():
    data = transcripts.CHAT_TEXT[:-2]
    events, _reader = read(Dialect.CHAT, data)
    assert events[-1] == Finished(FinishReason.STOP, USAGE)
    passing = CODECS[Dialect.CHAT].passthrough(hide_usage=False)
    out = [*passing.feed(data), *passing.end()]
    assert b"".join(event.data for event in out) == data
    assert passing.complete


def test_usage_in_the_last_chunk_with_choices_is_found():
    data = chat(
        delta('{"content":"Hi"}'), delta("{}", '"stop"', f',"usage":{transcripts.USAGE}'), "[DONE]"
    )
    events, _reader = read(Dialect.CHAT, data)
    assert events[-1] == Finished(FinishReason.STOP, USAGE)
    passing = CODECS[Dialect.CHAT].passthrough(hide_usage=True)
    out = passing.feed(data)
    assert b"".join(event.data for event in out) == data
    assert passing.usage == USAGE


def test_a_finish_reason_before_the_last_delta_loses_nothing():
    data = chat(delta('{"content":"a"}', '"stop"'), delta('{"content":"b"}', '"stop"'), "[DONE]")
    events, _ = read(Dialect.CHAT, data)
    assert events[1:] == [TextDelta("a"), TextDelta("b"), Finished(FinishReason.STOP, None)]


def test_calls_without_index_are_told_apart_by_their_ids():
    data = chat(
        delta('{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]}'),
        delta('{"tool_calls":[{"id":"b","function":{"name":"f","arguments":"{\\"y\\":"}}]}'),
        delta('{"tool_calls":[{"function":{"arguments":"2}"}}]}'),
        delta("{}", '"stop"'),
    )
    events, _ = read(Dialect.CHAT, data)
    sealed = [event for event in events if isinstance(event, ToolCallSealed)]
    assert sealed == [ToolCallSealed(0, "a", "f", "{}"), ToolCallSealed(1, "b", "f", '{"y":2}')]
    assert events[-1] == Finished(FinishReason.TOOL_CALLS, None)


def test_several_calls_numbered_zero_are_told_apart_by_their_ids():
    data = chat(
        delta('{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}'),
        delta('{"tool_calls":[{"index":0,"id":"b","function":{"name":"g","arguments":"{}"}}]}'),
        delta("{}", '"tool_calls"'),
    )
    events, _ = read(Dialect.CHAT, data)
    assert [e.index for e in events if isinstance(e, ToolCallSealed)] == [0, 1]


def test_interleaved_calls_are_sealed_only_when_their_json_is_whole():
    data = chat(
        delta(
            '{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{\\"x\\":"}}]}'
        ),
        delta('{"tool_calls":[{"index":1,"id":"b","function":{"name":"g","arguments":"{}"}}]}'),
        delta('{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}'),
        delta("{}", '"tool_calls"'),
    )
    events, _ = read(Dialect.CHAT, data)
    sealed = [event for event in events if isinstance(event, ToolCallSealed)]
    assert sealed == [ToolCallSealed(0, "a", "f", '{"x":1}'), ToolCallSealed(1, "b", "g", "{}")]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_of_compatible_servers_is_read(field):
    data = chat(delta(f'{{"{field}":"Hm."}}'), delta('{"content":"Hi"}'), delta("{}", '"stop"'))
    events, _ = read(Dialect.CHAT, data)
    assert events[1:4] == [ThinkingDelta("Hm."), ThinkingSealed(), TextDelta("Hi")]


def test_content_in_parts_and_arguments_as_objects_are_read():
    parts = '[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]},{"type":"text","text":"Hi"}]'
    call = '{"index":0,"id":"a","function":{"name":"f","arguments":{"x":1}}}'
    deltas = [
        delta(f'{{"content":{parts}}}'),
        delta(f'{{"tool_calls":[{call}]}}'),
        delta("{}", '"stop"'),
    ]
    events, _ = read(Dialect.CHAT, chat(*deltas))
    assert events[1:4] == [ThinkingDelta("Hm."), ThinkingSealed(), TextDelta("Hi")]
    assert ToolCallSealed(0, "a", "f", '{"x":1}') in events
    message = f'{{"role":"assistant","content":{parts},"tool_calls":[{call}]}}'
    body = (
        f'{{"id":"x","created":"today","choices":[{{"message":{message},"finish_reason":"stop"}}]}}'
    )
    answer = CODECS[Dialect.CHAT].read_answer(body.encode())
    assert (answer.text, answer.tool_calls[0].arguments, answer.created_s) == ("Hi", '{"x":1}', 0)


def test_unknown_events_and_fields_are_skipped():
    data = (
        chat(f'{{{HEAD},"choices":[],"x_status":{{"queue":1}}}}')
        + b": ping\n\n"
        + transcripts.CHAT_TEXT
    )
    events, _ = read(Dialect.CHAT, data)
    assert len([event for event in events if isinstance(event, TextDelta)]) == 2
    data = typed(("brand_new", '{"type":"brand_new","z":1}')) + transcripts.MESSAGES_TEXT
    assert read(Dialect.MESSAGES, data)[1].complete
    data = typed(("response.brand.new", '{"type":"response.brand.new"}')) + transcripts.RESPONSES
    assert read(Dialect.RESPONSES, data)[1].complete


def test_text_that_looks_like_a_mark_is_only_text():
    spoof = '[DONE] \\"usage\\":{ \\"finish_reason\\":\\"stop\\" \\"error\\" message_stop'
    data = chat(delta(f'{{"content":"{spoof}"}}'))
    reader = CODECS[Dialect.CHAT].passthrough(hide_usage=True)
    assert reader.feed(data) == (Frames(data, 1),)
    assert not reader.complete
    assert reader.usage is None
    assert reader.finish == ""
    block = '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"message_stop"}}'
    for name in ("content_block_delta", "message_delta"):
        reader = CODECS[Dialect.MESSAGES].passthrough(hide_usage=False)
        reader.feed(typed((name, block)))
        assert not reader.complete


# ---------------------------------------------------------------- errors inside streams
ERRORS = [
    (
        Dialect.CHAT,
        chat(
            delta('{"content":"Hi"}'),
            '{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}',
        ),
        429,
    ),
    (
        Dialect.MESSAGES,
        typed(
            (
                "content_block_delta",
                '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}',
            ),
            (
                "error",
                '{"type":"error","error":{"type":"overloaded_error","message":"busy"},"request_id":"r"}',
            ),
        ),
        529,
    ),
    (
        Dialect.RESPONSES,
        typed(
            ("response.output_text.delta", '{"type":"response.output_text.delta","delta":"Hi"}'),
            (
                "error",
                '{"type":"error","code":"server_error","message":"oops","param":null,"sequence_number":3}',
            ),
        ),
        500,
    ),
    (
        Dialect.RESPONSES,
        typed(
            ("response.output_text.delta", '{"type":"response.output_text.delta","delta":"Hi"}'),
            (
                "response.failed",
                '{"type":"response.failed","sequence_number":4,"response":{"id":"resp_1","status":"failed","output":[],"error":{"code":"rate_limit_exceeded","message":"slow"}}}',
            ),
        ),
        429,
    ),
]


@pytest.mark.parametrize(("dialect", "data", "status"), ERRORS)
def test_an_error_inside_a_stream_is_kept_and_what_came_before_is_not_lost(dialect, data, status):
    events, reader = read(dialect, data)
    assert TextDelta("Hi") in events
    assert isinstance(reader.failure, UpstreamStatus)
    assert reader.failure.status == status
    assert not reader.complete


@pytest.mark.parametrize(("dialect", "data", "status"), ERRORS)
def test_pass_through_forwards_an_error_as_it_came_and_never_calls_the_answer_whole(
    dialect, data, status
):
    reader = CODECS[dialect].passthrough(hide_usage=False)
    ending = {Dialect.CHAT: b"data: [DONE]\n\n"}.get(dialect, b"")
    out = reader.feed(data + ending)
    assert b"".join(event.data for event in out) == data + ending
    assert isinstance(reader.failure, UpstreamStatus)
    assert reader.failure.status == status
    assert not reader.complete


def test_a_finish_reason_that_means_broken_is_a_failure():
    data = chat(delta('{"content":"Hi"}'), delta("{}", '"error"'), "[DONE]")
    for reader in (
        CODECS[Dialect.CHAT].reader(),
        CODECS[Dialect.CHAT].passthrough(hide_usage=False),
    ):
        reader.feed(data)
        reader.end()
        assert isinstance(reader.failure, UpstreamClosed)
        assert not reader.complete


@pytest.mark.parametrize("dialect", list(Dialect))
def test_malformed_data_is_a_protocol_error(dialect):
    with pytest.raises(UpstreamProtocol):
        CODECS[dialect].reader().feed(b'data: {"choices": [\n\n')


# ---------------------------------------------------------------- across dialects
@pytest.mark.parametrize("target", list(Dialect))
@pytest.mark.parametrize(("dialect", "data"), [row[:2] for row in TRANSCRIPTS])
def test_every_stream_is_told_in_every_dialect(dialect, data, target):
    events, _ = read(dialect, data)
    writer = CODECS[target].writer(request(target))
    told, reader = read(target, b"".join(map(writer.write, events)) + writer.end())
    before, after = fold(events), fold(told)
    assert after.text == before.text
    assert after.tool_calls == before.tool_calls
    assert after.usage == before.usage
    assert after.finish.complete == before.finish.complete
    assert reader.complete


def test_interleaved_calls_are_told_one_after_the_other_where_the_dialect_wants_it():
    events = [
        AnswerStarted("1", "m"),
        ToolCallStarted(0, "a", "f"),
        ToolCallStarted(1, "b", "g"),
        ToolCallDelta(1, '{"y":'),
        ToolCallDelta(0, '{"x":1}'),
        ToolCallStarted(2, "c", "h"),
        ToolCallDelta(1, "2}"),
        ToolCallSealed(1, "b", "g", '{"y":2}'),
        TextDelta("late"),
        ToolCallSealed(0, "a", "f", '{"x":1}'),
        ToolCallSealed(2, "c", "h", "{}"),
        Finished(FinishReason.TOOL_CALLS, Usage()),
    ]
    for target in Dialect:
        writer = CODECS[target].writer(request(target))
        told, _ = read(target, b"".join(map(writer.write, events)) + writer.end())
        calls = {(call.id, call.name, call.arguments) for call in fold(told).tool_calls}
        assert calls == {("a", "f", '{"x":1}'), ("b", "g", '{"y":2}'), ("c", "h", "{}")}
        assert fold(told).text == "late"
