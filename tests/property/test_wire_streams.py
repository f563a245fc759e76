"""What readers and writers promise for every answer, every split and every garbage."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import Dialect
from app.domain.events import (
    AnswerStarted,
    Finished,
    FinishReason,
    Frames,
    TextDelta,
    ThinkingBlock,
)
from app.domain.usage import Usage
from app.errors import GatewayError, UpstreamProtocol
from app.wire.codecs import CODECS
from app.wire.openai_chat_stream_read import ChatPassthrough
from app.wire.passthrough import merge_deltas
from app.wire.sse import data_frame, event_frame, read_events, split_frames
from tests.wire import transcripts
from tests.wire.mutation import places, replaced
from tests.wire.samples import answers, events_of, fold, json_values, request

dialects = st.sampled_from(list(Dialect))


def write_stream(dialect, answer, pieces=2):
    writer = CODECS[dialect].writer(request(dialect))
    return b"".join(writer.write(event) for event in events_of(answer, pieces)) + writer.end()


def expected(dialect, answer):
    """What is left of ``answer`` after ``dialect``, which is all but what it has no word for."""
    blocks = answer.blocks
    if dialect is Dialect.CHAT:
        blocks = tuple(
            ThinkingBlock(block.text) if isinstance(block, ThinkingBlock) else block
            for block in blocks
        )
    prefix = {"openai_chat": "chatcmpl-", "openai_responses": "resp_", "anthropic_messages": "msg_"}
    created = 0 if dialect is Dialect.MESSAGES else answer.created_s
    return dataclasses.replace(answer, id=prefix[dialect] + "1", blocks=blocks, created_s=created)


@given(dialects, answers(), st.integers(1, 5))
def test_a_written_stream_reads_as_the_same_answer(dialect, answer, pieces):
    reader = CODECS[dialect].reader()
    events = [*reader.feed(write_stream(dialect, answer, pieces)), *reader.end()]
    assert fold(events) == expected(dialect, answer)
    assert reader.complete
    assert reader.usage == answer.usage
    assert reader.finish == answer.finish.value
    assert reader.failure is None


@given(dialects, answers())
def test_a_written_whole_answer_reads_as_the_same_answer(dialect, answer):
    codec = CODECS[dialect]
    body = codec.write_answer(answer, request(dialect))
    assert codec.read_answer(body) == expected(dialect, answer)


@given(dialects, answers(), st.lists(st.integers(0, 10**6), max_size=6))
def test_events_do_not_depend_on_how_the_bytes_were_split(dialect, answer, cuts):
    data = write_stream(dialect, answer)
    whole = CODECS[dialect].reader()
    expected_events = [*whole.feed(data), *whole.end()]
    marks = sorted({cut % (len(data) + 1) for cut in cuts})
    reader = CODECS[dialect].reader()
    events = []
    for begin, end in zip([0, *marks], [*marks, len(data)], strict=True):
        events.extend(reader.feed(data[begin:end]))
    events.extend(reader.end())
    assert events == expected_events


@given(dialects, answers(), st.integers(1, 7))
def test_pass_through_forwards_every_byte_and_learns_the_same_however_split(dialect, answer, step):
    data = write_stream(dialect, answer)
    reader = CODECS[dialect].passthrough(hide_usage=False)
    frames = [event for i in range(0, len(data), step) for event in reader.feed(data[i : i + step])]
    frames.extend(reader.end())
    assert all(isinstance(event, Frames) for event in frames)
    assert b"".join(event.data for event in frames) == data
    assert reader.complete
    assert reader.failure is None
    assert reader.usage == answer.usage
    assert reader.finish == answer.finish.value
    whole = CODECS[dialect].passthrough(hide_usage=False).feed(data)
    assert sum(event.count for event in frames) == sum(event.count for event in whole)


@given(answers(), st.integers(1, 7))
def test_hiding_usage_removes_the_usage_chunk_and_nothing_else(answer, step):
    data = write_stream(Dialect.CHAT, answer)
    frames = data.split(b"\n\n")
    kept = [frame for frame in frames if b'"choices":[]' not in frame]
    assert len(kept) == len(frames) - 1
    reader = CODECS[Dialect.CHAT].passthrough(hide_usage=True)
    out = [event for i in range(0, len(data), step) for event in reader.feed(data[i : i + step])]
    assert b"".join(event.data for event in out) == b"\n\n".join(kept)
    assert reader.usage == answer.usage
    assert reader.complete


@given(dialects, answers(), st.integers(1, 12))
def test_a_condensed_stream_reads_as_the_same_answer(dialect, answer, pieces):
    stream = write_stream(dialect, answer, pieces)
    fewer = merge_deltas(stream, CODECS[dialect].passthrough(hide_usage=False))
    assert len(fewer) <= len(stream)
    read = [CODECS[dialect].reader().feed(said) for said in (stream, fewer)]
    assert fold(read[0]) == fold(read[1])


@given(
    st.sampled_from([Dialect.CHAT, Dialect.MESSAGES]),
    st.text(min_size=64) | st.text("abcdefg", min_size=64),
)
def test_a_text_said_in_many_frames_is_condensed(dialect, text):
    writer = CODECS[dialect].writer(request(dialect))
    said = [AnswerStarted("1", "m"), *map(TextDelta, text), Finished(FinishReason.STOP, Usage())]
    stream = b"".join(map(writer.write, said)) + writer.end()
    fewer = merge_deltas(stream, CODECS[dialect].passthrough(hide_usage=False))
    assert fold(CODECS[dialect].reader().feed(fewer)).text == text
    if text.isalnum():
        assert fewer.count(b"\n\n") < 10 < stream.count(b"\n\n")


@given(dialects, answers(), st.binary(max_size=12))
def test_a_frame_like_an_ordinary_one_but_for_its_text_is_an_ordinary_one(dialect, answer, text):
    """And where that is said of none there is no text to exchange."""
    text = text.replace(b'"', b"").replace(b"\n", b"")
    reader = CODECS[dialect].passthrough(hide_usage=True)
    for frame in split_frames(write_stream(dialect, answer)):
        around = reader.split_around_text(frame) if reader.ordinary(frame) == 1 else None
        if around is not None:
            assert frame.startswith(around[0])
            assert frame.endswith(around[1])
            assert reader.ordinary(text.join(around)) == 1


@given(dialects, answers(), st.integers(0, 10**6))
def test_a_cut_stream_is_never_complete(dialect, answer, where):
    data = write_stream(dialect, answer)
    # Chat is whole with its finish reason; what follows is only usage and the terminator.
    limit = data.rfind(b'"finish_reason":"') if dialect is Dialect.CHAT else len(data) - 2
    cut = where % limit
    for reader in (CODECS[dialect].reader(), CODECS[dialect].passthrough(hide_usage=False)):
        try:
            reader.feed(data[:cut])
            reader.end()
        except GatewayError:
            pass
        assert not reader.complete


@given(dialects, answers(), st.binary(max_size=40), st.integers(1, 7))
def test_what_comes_behind_the_end_of_an_answer_is_never_read(dialect, answer, junk, step):
    data = write_stream(dialect, answer)
    whole = CODECS[dialect].reader()
    expected_events = [*whole.feed(data), *whole.end()]
    reader = CODECS[dialect].reader()
    events = []
    at = 0
    while not reader.complete:
        events.extend(reader.feed(data[at : at + step]))
        at += step
    # The terminator itself, or half of it, may be among what is left unread.
    events.extend(reader.feed(data[at : at + 7] + junk))
    events.extend(reader.end())
    assert events == expected_events
    assert reader.failure is None


garbage_events = st.lists(
    st.one_of(
        st.binary(max_size=40),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(
                    [
                        "message_start",
                        "content_block_start",
                        "content_block_delta",
                        "content_block_stop",
                        "message_delta",
                        "message_stop",
                        "error",
                        "response.created",
                        "response.output_item.added",
                        "response.function_call_arguments.delta",
                        "response.function_call_arguments.done",
                        "response.completed",
                        "response.failed",
                    ]
                )
            },
            optional=dict.fromkeys(
                (
                    "index",
                    "delta",
                    "content_block",
                    "message",
                    "usage",
                    "error",
                    "item",
                    "response",
                ),
                json_values,
            ),
        ).map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("id", "choices", "usage", "error", "model", "created"), json_values
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
    max_size=6,
).map(lambda items: b"".join(b"data: " + item + b"\n\n" for item in items))


@given(dialects, garbage_events)
def test_garbage_from_an_upstream_raises_nothing_but_our_own_errors(dialect, data):
    for reader in (CODECS[dialect].reader(), CODECS[dialect].passthrough(hide_usage=True)):
        try:
            reader.feed(data)
            reader.end()
            reader.usage  # noqa: B018 (it parses)
        except GatewayError:
            pass


@given(dialects, st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_garbage_answer_raises_nothing_but_our_own_errors(dialect, body):
    with pytest.raises(GatewayError):
        raise_or_read(dialect, body)


def raise_or_read(dialect, body):
    CODECS[dialect].read_answer(body)
    raise GatewayError("it was an answer after all")


@given(
    dialects,
    st.integers(100, 599),
    st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()),
)
def test_any_error_body_becomes_an_error_with_its_status_kept(dialect, status, body):
    error = CODECS[dialect].read_error(status, body, {})
    assert error.status == status
    assert error.message
    for target in CODECS.values():
        json.loads(target.write_error(error, "req_1"))


GOOD_STREAMS = [
    (Dialect.CHAT, transcripts.CHAT_TEXT),
    (Dialect.CHAT, transcripts.CHAT_TOOLS),
    (Dialect.MESSAGES, transcripts.MESSAGES_TEXT),
    (Dialect.MESSAGES, transcripts.MESSAGES_TOOLS),
    (Dialect.RESPONSES, transcripts.RESPONSES),
]


class WithoutUsual(ChatPassthrough):
    """Looks at every frame that is not ordinary."""

    def _usual(self, _):
        return None


@given(
    st.sampled_from([stream for dialect, stream in GOOD_STREAMS if dialect is Dialect.CHAT]),
    json_values,
    st.booleans(),
    st.data(),
)
def test_usual_frames_are_read_as_all_others_are(stream, junk, hide_usage, data):
    """Also with any value of any frame exchanged for another, and cut between any two frames."""
    frames = split_frames(stream)
    number = data.draw(st.integers(0, len(frames) - 1))
    [event] = read_events(frames[number])
    if event.data != b"[DONE]":
        value = json.loads(event.data)
        value = replaced(value, data.draw(st.sampled_from(list(places(value)))), junk)
        frames[number] = data_frame(json.dumps(value, separators=(",", ":")).encode())
    cut = data.draw(st.integers(0, len(frames)))
    pieces = [b"".join(frames[:cut]), b"".join(frames[cut:])]
    usual, looking = ChatPassthrough(hide_usage=hide_usage), WithoutUsual(hide_usage=hide_usage)
    for piece in pieces:
        assert [*usual.feed(piece)] == [*looking.feed(piece)]
        assert (usual.finish, usual.complete) == (looking.finish, looking.complete)
        assert (usual.failure is None) == (looking.failure is None)
    assert usual.usage == looking.usage


@given(st.sampled_from(GOOD_STREAMS), json_values, st.data())
def test_any_one_wrong_value_in_a_good_stream_is_survived(good, junk, data):
    dialect, stream = good
    events = [(event.event, event.data) for event in read_events(stream)]
    number = data.draw(st.integers(0, len(events) - 1))
    name, payload = events[number]
    if payload != b"[DONE]":
        value = json.loads(payload)
        path = data.draw(st.sampled_from(list(places(value))))
        events[number] = (name, json.dumps(replaced(value, path, junk)).encode())
    broken = b"".join(event_frame(name.encode(), payload) for name, payload in events)
    passing = CODECS[dialect].passthrough(hide_usage=False)
    assert b"".join(event.data for event in passing.feed(broken)) == broken
    passing.usage  # noqa: B018 (it parses)
    reader = CODECS[dialect].reader()
    try:
        told = [*reader.feed(broken), *reader.end()]
    except GatewayError:
        return
    for target in Dialect:
        writer = CODECS[target].writer(request(target))
        again = CODECS[target].reader()
        again.feed(b"".join(map(writer.write, told)) + writer.end())


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [(Dialect.MESSAGES, transcripts.MESSAGES_TOOLS), (Dialect.RESPONSES, transcripts.RESPONSES)],
)
@pytest.mark.parametrize("name", [b'""', b"null"])
def test_a_tool_call_without_a_name_is_the_upstream_s_fault_in_every_dialect(dialect, stream, name):
    """Else it would be written in another dialect, whose clients cannot read it."""
    nameless, changed = re.subn(rb'"name": ?"[^"]+"', b'"name":' + name, stream)
    assert changed
    reader = CODECS[dialect].reader()
    with pytest.raises(UpstreamProtocol, match="without a name"):
        [*reader.feed(nameless), *reader.end()]


@given(dialects, answers(), json_values, st.data())
def test_any_one_wrong_value_in_a_good_answer_is_read_or_refused(dialect, answer, junk, data):
    value = json.loads(CODECS[dialect].write_answer(answer, request(dialect)))
    path = data.draw(st.sampled_from(list(places(value))))
    body = json.dumps(replaced(value, path, junk)).encode()
    try:
        told = CODECS[dialect].read_answer(body)
        for target in Dialect:
            CODECS[target].write_answer(told, request(target))
    except GatewayError:
        pass
