"""A request that moves a state at its vendor is made once: no hedge, race, other tier or retry doubles it."""

from __future__ import annotations

import time

import msgspec
import pytest

from app.cache.key import has_vendor_side_effects
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Tier
from app.domain.events import Event
from app.domain.model_call import ModelCall
from app.errors import (
    GatewayError,
    UpstreamClosed,
    UpstreamError,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from app.pipeline.gateway import Turn
from app.pipeline.shadow import ShadowRuns, judge_by_equality
from app.pipeline.turn import answer
from app.telemetry.timeline import Timeline
from tests.pipeline.test_hedging import Harness, eager, virtual_ns
from tests.support.virtual_time import run_virtually

ACTING = [
    (Dialect.RESPONSES, {"store": True}),
    (Dialect.RESPONSES, {"previous_response_id": "resp_1"}),
    (Dialect.RESPONSES, {"conversation": "conv_1"}),
    (Dialect.RESPONSES, {"background": True}),
    (Dialect.RESPONSES, {"tools": [{"type": "mcp", "server_label": "a", "server_url": "https://a.test"}]}),
    (Dialect.MESSAGES, {"container": "c_1"}),
    (Dialect.MESSAGES, {"thread": {"type": "create"}}),
    (Dialect.MESSAGES, {"mcp_servers": [{"type": "url", "name": "a", "url": "https://a.test"}]}),
    (Dialect.CHAT, {"store": True}),
]  # fmt: skip
NOT_ACTING = [
    (Dialect.RESPONSES, {}),
    (Dialect.RESPONSES, {"store": False, "background": False, "conversation": None}),
    (Dialect.CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    (Dialect.MESSAGES, {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}),
]


def request_of(dialect: Dialect, more: dict[str, object], *, stream: bool = True) -> ChatRequest:
    emitted = "input" if dialect is Dialect.RESPONSES else "messages"
    body = {
        "model": "auto",
        "stream": stream,
        "max_tokens": 9,
        emitted: [{"role": "user", "content": "Why?"}],
        **more,
    }
    return ChatRequest(dialect, "auto", stream, body, msgspec.json.encode(body))


def turn_of(tier: Tier | None = Tier.FAST) -> Turn:
    turn = Turn("r", "t", Timeline(virtual_ns), Deadline(None), time.time())
    turn.tier = tier
    return turn


async def discard(_: Event) -> None:
    """Take what is emitted."""


def asked(harness: Harness) -> list[ModelCall]:
    return [*harness.local.calls, *harness.claude.calls]


@pytest.mark.parametrize(("dialect", "more"), ACTING, ids=str)
def test_a_slow_call_that_moves_a_state_is_waited_for_and_not_raced(dialect, more):
    async def go() -> None:
        harness = Harness(hedging=eager([]))
        harness.know_the_usual()
        harness.local.waits_s = harness.claude.waits_s = [5.0]
        await answer(request_of(dialect, more), harness.gateway, turn_of(), discard)
        assert len(asked(harness)) == 1

    run_virtually(go())


@pytest.mark.parametrize(("dialect", "more"), NOT_ACTING, ids=str)
def test_other_requests_are_raced_as_ever(dialect, more):
    async def go() -> None:
        harness = Harness(hedging=eager([]))
        harness.know_the_usual()
        harness.local.waits_s, harness.claude.waits_s = [5.0], [5.0]
        await answer(request_of(dialect, more), harness.gateway, turn_of(), discard)
        assert len(asked(harness)) == 2

    run_virtually(go())


PERHAPS_RECEIVED = [
    UpstreamClosed("broke off"),
    UpstreamTimeout("slow", phase="first_byte"),
    UpstreamStatus("failed", status=500),
    UpstreamError("failed"),
]
NOT_RECEIVED = [
    UpstreamRefused("nobody is there"),
    UpstreamTimeout("slow", phase="connect"),
    UpstreamTimeout("full", phase="queue"),
    UpstreamStatus("limited", status=429),
    UpstreamStatus("unavailable", status=503),
    UpstreamStatus("overloaded", status=529),
]


@pytest.mark.parametrize("failure", PERHAPS_RECEIVED, ids=repr)
def test_a_call_that_the_vendor_may_have_acted_upon_is_not_made_again(failure):
    async def go() -> None:
        harness = Harness(hedging=None)
        for each in (harness.local, harness.claude):
            each.fails_with = failure
        request = request_of(Dialect.RESPONSES, {"previous_response_id": "resp_1"})
        with pytest.raises(GatewayError) as caught:
            await answer(request, harness.gateway, turn_of(), discard)
        assert caught.value is failure
        assert len(asked(harness)) == 1

    run_virtually(go())


@pytest.mark.parametrize("failure", NOT_RECEIVED, ids=repr)
def test_a_call_that_the_vendor_never_acted_upon_is_made_elsewhere(failure):
    async def go() -> None:
        harness = Harness(hedging=None)
        harness.local.fails_with = harness.claude.fails_with = failure
        request = request_of(Dialect.RESPONSES, {"previous_response_id": "resp_1"})
        with pytest.raises(GatewayError):
            await answer(request, harness.gateway, turn_of(), discard)
        assert len(asked(harness)) == 2

    run_virtually(go())


@pytest.mark.parametrize("stream", [True, False])
def test_a_fast_answer_that_lacks_something_is_not_asked_again_of_the_powerful_tier(stream):
    async def go() -> None:
        harness = Harness(hedging=None)
        harness.gateway.escalate = True
        harness.local.refuses = harness.claude.refuses = True
        turn = turn_of(None)
        request = request_of(Dialect.CHAT, {"store": True}, stream=stream)
        await answer(request, harness.gateway, turn, discard)
        assert turn.routed
        assert len(asked(harness)) == 1

    run_virtually(go())


@pytest.mark.parametrize(("more", "looks"), [({}, 40), ({"store": True}, 0)])
def test_a_request_that_moves_a_state_is_never_run_on_both_tiers_to_learn_from(more, looks):
    async def go() -> None:
        harness = Harness(hedging=None)
        shadow = ShadowRuns(harness.gateway, 0.05, judge_by_equality, lambda *_: None)
        harness.gateway.shadow = shadow
        for _ in range(40):
            await answer(request_of(Dialect.CHAT, more), harness.gateway, turn_of(None), discard)
        assert shadow._budget._seen == looks

    run_virtually(go())


def test_a_request_is_known_to_leave_something_behind_by_its_fields():
    for dialect, more in ACTING:
        assert has_vendor_side_effects(request_of(dialect, more)), more
    for dialect, more in NOT_ACTING:
        assert not has_vendor_side_effects(request_of(dialect, more)), more
