"""Errors cross the dialects with kind, status, code and waiting time kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from app.domain.chat import Dialect
from app.domain.events import AnswerStarted, Frames, TextDelta
from app.errors import BadRequest, Overloaded, RateLimited, UpstreamStatus, UpstreamTimeout
from app.wire.codecs import CODECS
from app.wire.failures import read_stream_error, retry_after_s
from tests.wire import samples

CHAT, MESSAGES = CODECS[Dialect.CHAT], CODECS[Dialect.MESSAGES]

OPENAI_BODY = (
    b'{"error":{"message":"Too long.","type":"invalid_request_error","param":"messages",'
    b'"code":"context_length_exceeded"}}'
)
ANTHROPIC_BODY = (
    b'{"type":"error","error":{"type":"overloaded_error","message":"Busy."},"request_id":"req_9"}'
)


def test_an_openai_error_becomes_an_anthropic_one():
    error = CHAT.read_error(400, OPENAI_BODY, {})
    assert (error.status, error.kind, error.param, error.body) == (
        400,
        "invalid_request",
        "messages",
        OPENAI_BODY,
    )
    told = json.loads(MESSAGES.write_error(error, "req_1"))
    assert told == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "Too long.",
            "code": "context_length_exceeded",
            "param": "messages",
        },
        "request_id": "req_1",
    }


def test_an_anthropic_error_becomes_an_openai_one():
    error = MESSAGES.read_error(529, ANTHROPIC_BODY, {})
    assert (error.status, error.kind) == (529, "overloaded")
    assert error.transient
    told = json.loads(CHAT.write_error(error, "req_1"))
    assert told == {
        "error": {
            "message": "Busy.",
            "type": "server_error",
            "param": None,
            "code": "upstream_status",
        }
    }


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (503, "server_error", "overloaded_error"),
    ],
)
def test_every_status_has_its_type_in_both_dialects(status, openai, anthropic):
    error = UpstreamStatus("x", status=status, kind=CHAT.read_error(status, b"", {}).kind)
    assert json.loads(CHAT.write_error(error, "r"))["error"]["type"] == openai
    assert json.loads(MESSAGES.write_error(error, "r"))["error"]["type"] == anthropic


def test_our_own_errors_name_the_field_and_keep_their_code():
    told = json.loads(CHAT.write_error(BadRequest("Bad.", param="messages[0].role"), "r"))["error"]
    assert told == {
        "message": "Bad.",
        "type": "invalid_request_error",
        "param": "messages[0].role",
        "code": "invalid_request",
    }
    assert (
        json.loads(CHAT.write_error(RateLimited("Wait."), "r"))["error"]["code"]
        == "rate_limit_exceeded"
    )
    assert (
        json.loads(MESSAGES.write_error(Overloaded("Full."), "r"))["error"]["type"]
        == "overloaded_error"
    )
    timeout = UpstreamTimeout("Slow.", phase="first_byte")
    assert json.loads(MESSAGES.write_error(timeout, "r"))["error"]["type"] == "api_error"


def test_the_waiting_time_is_read_in_each_of_its_forms():
    now = datetime(2026, 11, 21, tzinfo=UTC)
    later = format_datetime(now.replace(second=30), usegmt=True).encode()

    def clock():
        return now.timestamp()

    assert retry_after_s({b"retry-after": b"7"}) == 7
    assert retry_after_s({b"retry-after-ms": b"1500", b"retry-after": b"7"}) == 1.5
    assert retry_after_s({b"retry-after": later}, clock) == 30
    assert retry_after_s({b"retry-after": b"soon"}) is None
    assert retry_after_s({b"retry-after": b"nan"}) is None
    assert retry_after_s({}) is None
    assert CHAT.read_error(429, b"", {b"retry-after": b"3"}).retry_after_s == 3


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_failing_stream_ends_in_the_dialects_own_error(dialect):
    writer = CODECS[dialect].writer(samples.request(dialect))
    writer.write(AnswerStarted("1", "m"))
    writer.write(TextDelta("Hi"))
    frames = writer.fail(UpstreamTimeout("Slow.", phase="total"), "req_1") + writer.end()
    if dialect is Dialect.MESSAGES:
        assert b'"request_id":"req_1"' in frames, "the official client shows it to its user"
    reader = CODECS[dialect].reader()
    reader.feed(frames)
    reader.end()
    if dialect is Dialect.RESPONSES:
        last = json.loads(frames.splitlines()[-2].removeprefix(b"data: "))
        assert last["error"]["message"] == last["message"] == "Slow."
    assert reader.failure is not None
    assert reader.failure.message == "Slow."
    assert not reader.complete


@pytest.mark.parametrize("numbered", [True, False])
def test_the_error_behind_forwarded_events_goes_on_with_their_numbers(numbered):
    """Clients order a Responses stream by them; an upstream that sends none is none of ours to mend."""
    writer = CODECS[Dialect.RESPONSES].writer(samples.request(Dialect.RESPONSES))
    for number in (10, 11):
        event = {"type": "response.output_text.delta", "delta": 'as "sequence_number":99 says'}
        if numbered:
            event["sequence_number"] = number
        frame = b"event: response.output_text.delta\ndata: %s\n\n" % json.dumps(event).encode()
        assert writer.write(Frames(frame, 1)) == frame
    last = writer.fail(UpstreamTimeout("Slow.", phase="total"), "req_1").splitlines()[-2]
    assert json.loads(last.removeprefix(b"data: "))["sequence_number"] == (12 if numbered else 0)


def test_an_overload_told_in_a_stream_has_the_vendors_own_status() -> None:
    """The ``anthropic`` package raises ``OverloadedError`` for 529 alone."""
    failure = read_stream_error({"type": "overloaded_error", "message": "Overloaded"})
    assert (failure.status, failure.kind) == (529, "overloaded")
