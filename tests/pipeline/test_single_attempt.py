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
from tests.pipeline.test_hedging import House, eager, virtual_ns
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
INNOCENT = [
    (Dialect.RESPONSES, {}),
    (Dialect.RESPONSES, {"store": False, "background": False, "conversation": None}),
    (Dialect.CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    (Dialect.MESSAGES, {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}),
]


def request_of(dialect: Dialect, more: dict[str, object], *, stream: bool = True) -> ChatRequest:
    said = "input" if dialect is Dialect.RESPONSES else "messages"
    body = {
        "model": "auto",
        "stream": stream,
        "max_tokens": 9,
        said: [{"role": "user", "content": "Why?"}],
        **more,
    }
    return ChatRequest(dialect, "auto", stream, body, msgspec.json.encode(body))


def turn_of(tier: Tier | None = Tier.FAST) -> Turn:
    turn = Turn("r", "t", Timeline(virtual_ns), Deadline(None), time.time())
    turn.tier = tier
    return turn


async def nobody(_: Event) -> None:
    """Take what is said."""


def asked(house: House) -> list[ModelCall]:
    return [*house.local.calls, *house.claude.calls]


@pytest.mark.parametrize(("dialect", "more"), ACTING, ids=str)
def test_a_slow_call_that_moves_a_state_is_waited_for_and_not_raced(dialect, more):
    async def go() -> None:
        house = House(hedging=eager([]))
        house.know_the_usual()
        house.local.waits_s = house.claude.waits_s = [5.0]
        await answer(request_of(dialect, more), house.gateway, turn_of(), nobody)
        assert len(asked(house)) == 1

    run_virtually(go())


@pytest.mark.parametrize(("dialect", "more"), INNOCENT, ids=str)
def test_other_requests_are_raced_as_ever(dialect, more):
    async def go() -> None:
        house = House(hedging=eager([]))
        house.know_the_usual()
        house.local.waits_s, house.claude.waits_s = [5.0], [5.0]
        await answer(request_of(dialect, more), house.gateway, turn_of(), nobody)
        assert len(asked(house)) == 2

    run_virtually(go())


HEARD = [
    UpstreamClosed("broke off"),
    UpstreamTimeout("slow", phase="first_byte"),
    UpstreamStatus("failed", status=500),
    UpstreamError("failed"),
]
UNHEARD = [
    UpstreamRefused("nobody is there"),
    UpstreamTimeout("slow", phase="connect"),
    UpstreamTimeout("full", phase="queue"),
    UpstreamStatus("limited", status=429),
    UpstreamStatus("unavailable", status=503),
    UpstreamStatus("overloaded", status=529),
]


@pytest.mark.parametrize("failure", HEARD, ids=repr)
def test_a_call_that_the_vendor_may_have_acted_upon_is_not_made_again(failure):
    async def go() -> None:
        house = House(hedging=None)
        for each in (house.local, house.claude):
            each.fails_with = failure
        request = request_of(Dialect.RESPONSES, {"previous_response_id": "resp_1"})
        with pytest.raises(GatewayError) as caught:
            await answer(request, house.gateway, turn_of(), nobody)
        assert caught.value is failure
        assert len(asked(house)) == 1

    run_virtually(go())


@pytest.mark.parametrize("failure", UNHEARD, ids=repr)
def test_a_call_that_the_vendor_never_acted_upon_is_made_elsewhere(failure):
    async def go() -> None:
        house = House(hedging=None)
        house.local.fails_with = house.claude.fails_with = failure
        request = request_of(Dialect.RESPONSES, {"previous_response_id": "resp_1"})
        with pytest.raises(GatewayError):
            await answer(request, house.gateway, turn_of(), nobody)
        assert len(asked(house)) == 2

    run_virtually(go())


@pytest.mark.parametrize("stream", [True, False])
def test_a_fast_answer_that_lacks_something_is_not_asked_again_of_the_powerful_tier(stream):
    async def go() -> None:
        house = House(hedging=None)
        house.gateway.escalate = True
        house.local.refuses = house.claude.refuses = True
        turn = turn_of(None)
        request = request_of(Dialect.CHAT, {"store": True}, stream=stream)
        await answer(request, house.gateway, turn, nobody)
        assert turn.routed
        assert len(asked(house)) == 1

    run_virtually(go())


@pytest.mark.parametrize(("more", "looks"), [({}, 40), ({"store": True}, 0)])
def test_a_request_that_moves_a_state_is_never_run_on_both_tiers_to_learn_from(more, looks):
    async def go() -> None:
        house = House(hedging=None)
        shadow = ShadowRuns(house.gateway, 0.05, judge_by_equality, lambda *_: None)
        house.gateway.shadow = shadow
        for _ in range(40):
            await answer(request_of(Dialect.CHAT, more), house.gateway, turn_of(None), nobody)
        assert shadow._budget._seen == looks

    run_virtually(go())


def test_a_request_is_known_to_leave_something_behind_by_its_fields():
    for dialect, more in ACTING:
        assert has_vendor_side_effects(request_of(dialect, more)), more
    for dialect, more in INNOCENT:
        assert not has_vendor_side_effects(request_of(dialect, more)), more
