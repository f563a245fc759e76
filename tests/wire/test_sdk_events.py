"""Every field of the vendors' stream events is decided: said in another dialect, or left for a reason."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from anthropic.types import MessageDeltaUsage, RawContentBlockDelta, RawMessageStreamEvent
from anthropic.types.raw_message_delta_event import Delta
from openai.types.chat.chat_completion_chunk import ChatCompletionChunk, Choice, ChoiceDelta

from app.domain.chat import Dialect
from app.wire.codecs import CODECS
from tests.wire.samples import request

SAID, ASKED = "said", "only who asks for it gets it, and that is refused across dialects"
NOTE = "the vendor's note on how it went about it"
DECIDED = {
    RawMessageStreamEvent: {
        "RawMessageStartEvent": SAID,
        "RawMessageDeltaEvent": SAID,
        "RawMessageStopEvent": SAID,
        "RawContentBlockStartEvent": SAID,
        "RawContentBlockDeltaEvent": SAID,
        "RawContentBlockStopEvent": SAID,
    },
    RawContentBlockDelta: {
        "TextDelta": SAID,
        "InputJSONDelta": SAID,
        "CitationsDelta": ASKED,
        "ThinkingDelta": SAID,
        "SignatureDelta": "kept for a client whose dialect takes it back",
    },
    Delta: {
        "container": ASKED,
        "stop_details": SAID,
        "stop_reason": SAID,
        "stop_sequence": "the other API says 'stop' and not which",
    },
    MessageDeltaUsage: {
        "cache_creation_input_tokens": SAID,
        "cache_read_input_tokens": SAID,
        "input_tokens": SAID,
        "output_tokens": SAID,
        "output_tokens_details": SAID,
        "server_tool_use": ASKED,
    },
    ChatCompletionChunk: {
        "id": SAID,
        "choices": SAID,
        "created": SAID,
        "model": SAID,
        "object": "the same in every chunk",
        "moderation": ASKED,
        "obfuscation": "padding",
        "service_tier": NOTE,
        "system_fingerprint": NOTE,
        "usage": SAID,
    },
    Choice: {
        "delta": SAID,
        "index": "one choice is asked for",
        "finish_reason": SAID,
        "logprobs": ASKED,
    },
    ChoiceDelta: {
        "audio": ASKED,
        "content": SAID,
        "function_call": "answers 'functions', which are refused",
        "refusal": SAID,
        "role": "the same in every answer",
        "tool_calls": SAID,
    },
}


def _parts(kind: object) -> set[str]:
    fields = getattr(kind, "model_fields", None)
    if fields is not None:
        return set(fields)
    arms = get_args(kind)
    inner = get_args(arms[0])
    return {arm.__name__ for arm in inner or arms}


@pytest.mark.parametrize("kind", DECIDED, ids=lambda kind: getattr(kind, "__name__", "union"))
def test_a_new_event_or_field_of_a_client_s_new_version_waits_for_a_decision(kind):
    assert _parts(kind) == set(DECIDED[kind])


def _stream(*events: dict[str, object]) -> bytes:
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), json.dumps(event).encode())
        for event in events
    )


@pytest.mark.parametrize("target", [Dialect.CHAT, Dialect.RESPONSES])
def test_events_and_blocks_that_nobody_knows_yet_end_no_translated_stream(target):
    """They are stepped over: what is known around them is said, and the ending too."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    told = _stream(
        {
            "type": "message_start",
            "message": {"id": "m", "model": "x", "content": [], "usage": usage},
        },
        {"type": "an_event_of_tomorrow", "thing": {"a": [1]}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "a_block_of_tomorrow", "b": 1},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "a_delta_of_tomorrow", "c": "x"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "text_delta", "text": "Hello"},
        },
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "a_reason_of_tomorrow"}, "usage": usage},
        {"type": "message_stop"},
    )
    reader, writer = CODECS[Dialect.MESSAGES].reader(), CODECS[target].writer(request(target))
    written = b"".join(writer.write(event) for event in [*reader.feed(told), *reader.end()])
    written += writer.end()
    assert reader.failure is None
    assert b"Hello" in written
    assert (b"[DONE]" if target is Dialect.CHAT else b"response.completed") in written
