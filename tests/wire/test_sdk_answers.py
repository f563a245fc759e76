"""No field of a vendor's answer stays behind on its way to another dialect but those with a reason."""

from __future__ import annotations

import json

import pytest

from app.domain.chat import Dialect
from app.domain.events import Finished, FinishReason, RefusalDelta
from app.wire.codecs import CODECS
from tests.wire.samples import request
from tests.wire.sdk_answers import WAYS, fates

_ASKED = "only who asks for it gets it, and that is refused across dialects"
_NOTE = "the vendor's note on how it went about it, which the other API has no word for"
STAYS = {
    "<Container>": _ASKED,
    ".citations[]": _ASKED,
    "ToolResultBlock>": _ASKED,
    "<ServerToolUseBlock>": _ASKED,
    "<ContainerUploadBlock>": _ASKED,
    "<ServerToolUsage>": _ASKED,
    ".toolset_name": _ASKED,
    ".caller<": _ASKED + "; but the model itself, which is the usual one",
    ".diagnostics": "asked for by a field that is told as dropped; the gateway's own trace has it",
    "<RedactedThinkingBlock>": "nobody but its vendor can read it, and Chat Completions takes none back",
    "<RefusalStopDetails>": "the kind of refusal; its explanation is carried as the refusal's words",
    ".stop_sequence": "the other API says 'stop' and not which",
    ".cache_creation<": "how the written tokens, which are carried, are shared by time to live",
    ".inference_geo": _NOTE,
    ".service_tier": _NOTE,
    ".speed": _NOTE,
    ".system_fingerprint": _NOTE,
    ".logprobs<": _ASKED,
    ".annotations[]": "of searches, which across dialects nobody can ask for",
    ".audio<": _ASKED,
    ".function_call<": "answers 'functions', which are refused",
    ".metadata": "what the caller said, said back",
    ".moderation<": _ASKED,
    "tokens_details<": "parts of sums that are carried: by medium, and of predictions, which are refused",
}
"""What may stay behind, by a part of its place, and why."""
REFUSED = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": "refusal",
    "stop_details": {"type": "refusal", "category": "cyber", "explanation": "That could do harm."},
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_nothing_stays_behind_without_a_reason(source, target):
    lost = [place for place, fate in fates(source, target).items() if fate == "LOST"]
    assert not [place for place in lost if not any(part in place for part in STAYS)]


def test_no_reason_is_left_over():
    lost = [place for way in WAYS for place, fate in fates(*way).items() if fate == "LOST"]
    assert not [part for part in STAYS if not any(part in place for place in lost)]


def test_why_a_vendor_refused_is_told_to_clients_of_the_other_dialects():
    answer = CODECS[Dialect.MESSAGES].read_answer(json.dumps(REFUSED).encode())
    chat = json.loads(CODECS[Dialect.CHAT].write_answer(answer, request(Dialect.CHAT)))
    assert chat["choices"][0]["message"]["refusal"] == "That could do harm."
    said = json.loads(CODECS[Dialect.RESPONSES].write_answer(answer, request(Dialect.RESPONSES)))
    assert said["output"][-1]["content"][-1] == {
        "type": "refusal",
        "refusal": "That could do harm.",
    }


def test_words_that_a_refusal_cut_off_stay_the_answers_text():
    """And their ending says that they are no whole answer, as before."""
    answer = CODECS[Dialect.MESSAGES].read_answer(
        json.dumps({**REFUSED, "content": [{"type": "text", "text": "First, take"}]}).encode()
    )
    choice = json.loads(CODECS[Dialect.CHAT].write_answer(answer, request(Dialect.CHAT)))[
        "choices"
    ][0]
    assert choice["message"]["content"] == "First, take"
    assert choice["message"]["refusal"] is None
    assert choice["finish_reason"] == "content_filter"


@pytest.mark.parametrize("details", [None, "other", {"type": "refusal"}, REFUSED["stop_details"]])
def test_a_streamed_refusal_says_why_before_it_ends(details):
    delta = {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}
    events = (
        {
            "type": "message_start",
            "message": {**REFUSED, "stop_reason": None, "stop_details": None},
        },
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    )
    stream = b"".join(
        b"event: %s\ndata: %s\n\n" % (event["type"].encode(), json.dumps(event).encode())
        for event in events
    )
    reader = CODECS[Dialect.MESSAGES].reader()
    told = [*reader.feed(stream), *reader.end()]
    assert isinstance(told[-1], Finished)
    assert told[-1].reason is FinishReason.REFUSAL
    words = [event.text for event in told if isinstance(event, RefusalDelta)]
    assert words == (["That could do harm."] if details == REFUSED["stop_details"] else [])
    spoken = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "x"},
    }
    begun = b"event: message_delta"
    told = b"event: content_block_delta\ndata: %s\n\n" % json.dumps(spoken).encode()
    reader = CODECS[Dialect.MESSAGES].reader()
    events = [*reader.feed(stream.replace(begun, told + begun)), *reader.end()]
    assert not any(isinstance(event, RefusalDelta) for event in events)
