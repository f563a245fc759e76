"""An answer is changed where a contract asks for it, in every dialect, and nowhere else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.answer_edit import AnswerEdit
from app.domain.chat import ChatRequest, Dialect
from app.domain.events import (
    Answer,
    AnswerBuilder,
    AnswerStarted,
    Finished,
    FinishReason,
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
from app.domain.reasoning_stripper import strip_reasoning
from app.domain.usage import Usage
from app.wire.codecs import CODECS

USAGE = Usage(11, 3, 2, 40, 25)
HIDDEN = AnswerEdit(hides_reasoning=True)
SEALED = AnswerEdit(hides_reasoning=True, keeps_signatures=True)
THOUGHT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
SAID = st.lists(
    st.sampled_from(["<think>", "no </think>", "Yes", ", but", " <think>"]) | THOUGHT, max_size=5
)
CALLED = (
    ToolCallStarted(0, "toolu_1", "find"),
    ToolCallDelta(0, '{"a":1}'),
    ToolCallSealed(0, "toolu_1", "find", '{"a":1}'),
)


def request(dialect):
    return ChatRequest(
        dialect, "m", stream=True, body={"model": "m"}, raw=b"{}", include_usage=True
    )


def streamed(dialect, events):
    writer = CODECS[dialect].writer(request(dialect))
    return [*(writer.write(event) for event in events), writer.end()]


def read(dialect, frames):
    reader, builder = CODECS[dialect].reader(), AnswerBuilder()
    for piece in frames:
        for event in reader.feed(piece):
            builder.add(event)
    for event in reader.end():
        builder.add(event)
    return builder.answer(), reader.usage


def answer_of(thoughts, said, *, called=False):
    events = [AnswerStarted("a_1", "m", 1)]
    for thought in thoughts:
        events += [ThinkingDelta(thought), ThinkingSealed("c2ln")]
    events += [TextDelta(text) for text in said if text]
    events += CALLED if called else ()
    reason = FinishReason.TOOL_CALLS if called else FinishReason.STOP
    return [*events, Finished(reason, USAGE)]


def whole_of(events):
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    return builder.answer()


def numbers(frames, name):
    found = []
    for line in b"".join(frames).split(b"\n"):
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if name in event:
                found.append(event[name])
    return found


@pytest.mark.parametrize("dialect", list(Dialect))
@given(thoughts=st.lists(THOUGHT, max_size=2), said=SAID, called=st.booleans())
def test_hidden_reasoning_is_gone_streamed_and_whole_and_the_usage_is_as_it_was(
    dialect, thoughts, said, called
):
    events = answer_of(thoughts, said, called=called)
    editor = CODECS[dialect].editor(HIDDEN)
    frames = [editor.edit_frames(each) for each in streamed(dialect, events) if each]
    told, usage = read(dialect, frames)
    plain = CODECS[dialect].write_answer(whole_of(events), request(dialect))
    kept = CODECS[dialect].read_answer(CODECS[dialect].editor(HIDDEN).edit_answer(plain))
    for each in (told, kept):
        assert each.text == strip_reasoning("".join(said))
        assert not any(isinstance(block, ThinkingBlock) for block in each.blocks)
        assert [call.arguments for call in each.tool_calls] == ['{"a":1}'] * called
        assert each.finish is events[-1].reason
    whole_usage = CODECS[dialect].read_answer(plain).usage
    assert kept.usage == whole_usage
    assert usage == read(dialect, streamed(dialect, events))[1]
    if dialect is Dialect.RESPONSES:
        steps = numbers(frames, "sequence_number")
        assert steps == list(range(steps[0], steps[0] + len(steps)))
    if dialect is Dialect.MESSAGES:
        assert sorted(set(numbers(frames, "index"))) == list(
            range(len(set(numbers(frames, "index"))))
        )


@pytest.mark.parametrize("dialect", [Dialect.RESPONSES, Dialect.MESSAGES])
def test_with_tools_the_seal_stays_and_its_words_go(dialect):
    events = answer_of(["secret"], ["Looking."], called=True)
    editor = CODECS[dialect].editor(SEALED)
    frames = [editor.edit_frames(each) for each in streamed(dialect, events) if each]
    plain = CODECS[dialect].write_answer(whole_of(events), request(dialect))
    body = CODECS[dialect].editor(SEALED).edit_answer(plain)
    assert b"secret" not in b"".join(frames)
    assert b"secret" not in body
    for told in (read(dialect, frames)[0], CODECS[dialect].read_answer(body)):
        assert told.blocks == (
            ThinkingBlock("", "c2ln"),
            TextBlock("Looking."),
            ToolCallBlock("toolu_1", "find", '{"a":1}'),
        )


@pytest.mark.parametrize("dialect", list(Dialect))
@given(said=SAID)
def test_the_beginning_that_was_written_for_the_model_is_shown_before_the_rest(dialect, said):
    events = answer_of([], ["x", *said])
    edit = AnswerEdit(prefill='{"a": "')
    editor = CODECS[dialect].editor(edit)
    frames = [editor.edit_frames(each) for each in streamed(dialect, events) if each]
    plain = CODECS[dialect].write_answer(whole_of(events), request(dialect))
    kept = CODECS[dialect].read_answer(CODECS[dialect].editor(edit).edit_answer(plain))
    assert read(dialect, frames)[0].text == kept.text == '{"a": "x' + "".join(said)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_what_the_program_does_not_know_stays(dialect):
    plain = json.loads(
        CODECS[dialect].write_answer(whole_of(answer_of(["t"], ["Yes."])), request(dialect))
    )
    plain["news"] = {"of": [1, 2.5, None]}
    told = json.loads(CODECS[dialect].editor(HIDDEN).edit_answer(json.dumps(plain).encode()))
    assert told["news"] == plain["news"]
    frame = b'event: news\ndata: {"type":"news","x":1,"choices":[{"index":1,"delta":{"content":"a"}}]}\n\n'
    assert json.loads(CODECS[dialect].editor(HIDDEN).edit_frames(frame).split(b"data: ")[1]) == (
        json.loads(frame.split(b"data: ")[1])
    )
    for other in (b": comment\n\n", b"data: [DONE]\n\n", b"data: no json\n\n"):
        assert CODECS[dialect].editor(HIDDEN).edit_frames(other) == other


def test_every_choice_of_several_is_looked_at():
    frames = b"".join(
        b'data: {"choices":[{"index":%d,"delta":{"content":"<think>no</think>%d"},"logprobs":{}}]}\n\n'
        % (index, index)
        for index in (0, 1)
    )
    told = CODECS[Dialect.CHAT].editor(HIDDEN).edit_frames(frames)
    assert b"no" not in told
    assert b'"content":"0"' in told
    assert b'"content":"1"' in told
    assert b"logprobs" not in told


def test_parts_that_mistral_thinks_in_go():
    part = {"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}
    message = {"role": "assistant", "content": [part, {"type": "text", "text": "Yes."}]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    told = CODECS[Dialect.CHAT].editor(HIDDEN).edit_answer(json.dumps(body).encode())
    assert json.loads(told)["choices"][0]["message"]["content"] == [
        {"type": "text", "text": "Yes."}
    ]
    assert isinstance(CODECS[Dialect.CHAT].read_answer(told), Answer)
