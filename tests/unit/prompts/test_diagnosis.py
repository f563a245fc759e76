"""The vendor's own diagnosis of a miss is asked for, heard in every form, and held against ours."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from app.domain.chat import Dialect
from app.domain.deadline import Deadline
from app.domain.events import AnswerBuilder, Frames, WholeBody
from app.domain.model_call import ModelCall
from app.domain.models import Abilities
from app.domain.usage import Usage
from app.prompts.caching import PromptCaching
from app.prompts.causes import MissCause
from app.prompts.diagnosis import (
    UNCHANGED,
    VendorDiagnosis,
    client_asks,
    verdict,
    with_diagnosis_request,
)
from app.prompts.prefix import render
from app.prompts.spans import Span
from app.wire.codecs import CODECS
from tests.unit.prompts.test_breakpoints import CLAUDE

MESSAGES, RESPONSES = Dialect.MESSAGES, Dialect.RESPONSES
BODIES = {
    MESSAGES: {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"model": "m", "input": "hi"},
}
REASON = {"cache_miss_reason": {"type": "tools_changed", "cache_missed_input_tokens": 5}}
MISS = {"type": "cache_miss", "reason": "input_changed", "cache_missed_tokens": 5}


def rendered(dialect, **more):
    return render(json.dumps({**BODIES[dialect], **more}).encode(), dialect)


def asked(dialect, last, **more):
    found = rendered(dialect, **more)
    return json.loads(with_diagnosis_request(found.raw, found, last))


def test_each_vendor_is_asked_in_its_own_field_and_told_the_last_answer_s_id():
    assert asked(MESSAGES, "msg_1")["diagnostics"] == {"previous_message_id": "msg_1"}
    assert asked(MESSAGES, "")["diagnostics"] == {"previous_message_id": None}
    assert asked(RESPONSES, "resp_1")["prompt_cache_options"] == {
        "comparison_response_id": "resp_1"
    }
    assert asked(RESPONSES, "") == BODIES[RESPONSES]
    own = {"prompt_cache_options": {"mode": "explicit"}}
    assert asked(RESPONSES, "resp_1", **own) == {**BODIES[RESPONSES], **own}


def test_a_client_that_asks_for_itself_is_known():
    assert client_asks(rendered(MESSAGES, diagnostics={"previous_message_id": None}))
    assert client_asks(rendered(RESPONSES, prompt_cache_options={"comparison_response_id": "r"}))
    assert not client_asks(rendered(MESSAGES))
    assert not client_asks(rendered(RESPONSES, prompt_cache_options={"mode": "explicit"}))


def forms(dialect, told):
    """The answer of an upstream of ``dialect``: whole, streamed, and read for another dialect's client."""
    if dialect is MESSAGES:
        message = {"id": "a_1", "content": [], "stop_reason": "end_turn", "diagnostics": told}
        start = {"type": "message_start", "message": {**message, "stop_reason": None}}
        rest = [
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
            {"type": "message_stop"},
        ]
    else:
        message = {"id": "a_1", "status": "completed", "output": []}
        start = {"type": "response.created", "response": {**message, "status": "in_progress"}}
        if told is not None:
            message["prompt_cache_diagnostics"] = told
        rest = [{"type": "response.completed", "response": message}]
    frames = [
        f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in (start, *rest)
    ]
    reader = CODECS[dialect].reader()
    return {
        "whole": [WholeBody(json.dumps(message).encode())],
        "streamed": [Frames(frame) for frame in frames],
        "read": [event for frame in frames for event in reader.feed(frame)],
    }


@pytest.mark.parametrize("form", ["whole", "streamed", "read"])
@pytest.mark.parametrize(
    ("dialect", "told", "word"),
    [
        (MESSAGES, REASON, "tools_changed"),
        (MESSAGES, None, UNCHANGED),
        (MESSAGES, {"cache_miss_reason": None}, "pending"),
        (RESPONSES, MISS, "input_changed"),
        (RESPONSES, {"type": "cache_hit"}, UNCHANGED),
        (RESPONSES, {"type": "comparison_response_not_found"}, "previous_message_not_found"),
        (RESPONSES, {"type": "unavailable"}, "unavailable"),
        (RESPONSES, None, ""),
    ],
)
def test_what_the_vendor_says_is_heard_in_every_form_of_the_answer(dialect, told, word, form):
    heard, builder = VendorDiagnosis(dialect), AnswerBuilder()
    for event in forms(dialect, told)[form]:
        heard.read(event)
        builder.add(event)
    assert (heard.reason, heard.answer_id) == (word, "a_1")


def test_a_broken_answer_says_nothing_and_breaks_nothing():
    heard = VendorDiagnosis(MESSAGES)
    for data in (b'data: {"message_start"\n\n', b'data: "message_start"\n\n', b"\xff", b"[]"):
        heard.read(Frames(data))
        heard.read(WholeBody(data))
    assert (heard.reason, heard.answer_id) == ("", "")


@pytest.mark.parametrize(
    ("rule", "word", "dialect", "found"),
    [
        ("tool_order", "tools_changed", MESSAGES, "agree"),
        ("tool_order", "system_changed", MESSAGES, "differ"),
        ("speed_changed", "model_changed", MESSAGES, "agree"),
        ("thinking_changed", "unavailable", MESSAGES, "agree"),
        ("tool_order", "unavailable", MESSAGES, "open"),
        ("tool_order", "pending", MESSAGES, "open"),
        ("tool_order", "previous_message_not_found", MESSAGES, "open"),
        ("tool_order", UNCHANGED, MESSAGES, "differ"),
        ("expired", UNCHANGED, MESSAGES, "agree"),
        ("evicted", "messages_changed", MESSAGES, "differ"),
        ("", UNCHANGED, MESSAGES, "agree"),
        ("", "tools_changed", MESSAGES, "differ"),
        ("effort_changed", "reasoning_effort_changed", RESPONSES, "agree"),
        ("format_changed", "verbosity_changed", RESPONSES, "agree"),
        ("shortened_history", "context_compacted", RESPONSES, "agree"),
        ("changed_system", "input_changed", RESPONSES, "agree"),
        ("key_changed", "a_word_of_next_year", RESPONSES, "differ"),
    ],
)
def test_agreement_is_only_claimed_where_the_vendor_has_said_something(rule, word, dialect, found):
    ours = MissCause(rule, "", Span(0, 1), "") if rule else None
    assert verdict(ours, word, dialect) == found


@pytest.mark.anyio
async def test_calls_that_wait_to_be_read_hold_up_no_request_and_it_is_sent_unasked():
    """The vendor is asked only where the conversation's last answer is known within a slice of time."""
    plain = replace(CLAUDE, name="plain", abilities=Abilities(cache_breakpoints="none"))
    caching = PromptCaching([CLAUDE, plain], diagnose=True)

    def call(model, turns=1):
        made = ModelCall(model, stream=False, deadline=Deadline(None))
        made.usage = Usage(input_tokens=10)
        messages = [
            {"role": "user", "content": f"{i} " + "Word by word. " * 40} for i in range(turns)
        ]
        body = json.dumps({"model": "m", "max_tokens": 9, "messages": messages}).encode()
        return made, json.loads(caching.shape(made, MESSAGES, body))

    assert "diagnostics" in call(CLAUDE)[1]
    waiting, _ = call(plain, turns=2_000)
    caching.settle(waiting)
    _, sent = call(CLAUDE)
    assert "diagnostics" not in sent
    assert len(caching._learning_queue) == 1
    caching.drain()
    assert "diagnostics" in call(CLAUDE)[1]
