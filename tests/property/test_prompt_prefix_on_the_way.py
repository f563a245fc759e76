"""Whatever happens to a conversation on its way, each deployment is sent what it was sent before, and more.

The whole pipeline, with deployments of all dialects that fail as hypothesis likes: the router chooses, calls
are made again and elsewhere, answers come from the cache, contracts and layouts hold, breakpoints are set.
"""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.errors import GatewayError, UpstreamStatus, UpstreamTimeout
from app.pipeline.gateway import Turn
from app.pipeline.turn import serve
from app.prompts.prefix import render
from app.providers.upstream_request import build_upstream_request
from app.telemetry.timeline import Timeline
from app.wire.codecs import CODECS
from tests.property.test_prompt_prefix import BODIES, conversations
from tests.support.gateway import configuration, settings_of
from tests.support.providers import ScriptedProvider, answer_events

FAILURES = {
    "down": lambda: UpstreamStatus("down", status=503),
    "busy": lambda: UpstreamStatus("busy", status=429),
    "slow": lambda: UpstreamTimeout("slow", phase="first_byte"),
}
CONTRACT = {
    "model": "auto",
    "prefill": "{",
    "json_schema": {"type": "object"},
    "hide_reasoning": True,
    "effort": "low",
    "tiers": {"powerful": {"effort": "high"}},
}
LAYOUT = {"model": "auto", "variables": ["Now: .*"]}


class Writing(ScriptedProvider):
    """Writes each call as a real provider does, keeps what would be sent, and fails as it is told."""

    def __init__(self, name, dialects, fallback, fate) -> None:
        super().__init__(name, frozenset(dialects))
        self._fallback, self._fate = CODECS[fallback], fate
        self.sent: dict[str, list[tuple[Dialect, bytes]]] = {}

    async def stream(self, call, emit):
        request = build_upstream_request(call, dict(CODECS), self._fallback)
        sent = self.sent.setdefault(call.model.name, [])
        sent.append((request.codec.dialect, request.body))
        if call.prompt_shape is not None and call.prompts is not None:
            emit = await call.prompts.gate(call, emit)
        fate = self._fate.pop() if self._fate else ""
        if fate:
            self.say(then=FAILURES[fate]())
        else:
            self.say(*answer_events('"a": 1}' if call.prefill else '{"a": 1}'))
        await super().stream(call, emit)


def house(fate, *, bent):
    values = configuration("http://127.0.0.1:1")
    if bent:
        values["prompts"] = {"contracts": [CONTRACT], "layouts": [LAYOUT]}
    for model in values["models"]:
        kind = "adaptive" if model["provider"] == "claude" else "effort"
        begins = {"prefill": model["name"] == "small2"}
        model["abilities"] = {"thinking": kind, "cache_minimum_tokens": 16, **begins}
    values["providers"] = {
        name: {**each, "retries": 3} for name, each in values["providers"].items()
    }
    found = settings_of(values)
    models = {model.name: _model(model, found) for model in found.models}
    openai = Writing("local", {Dialect.CHAT, Dialect.RESPONSES}, Dialect.CHAT, fate)
    claude = Writing("claude", {Dialect.MESSAGES}, Dialect.MESSAGES, fate)
    return _gateway(found, models, {"local": openai, "claude": claude}), (openai, claude)


async def talk(gateway, spoken, rounds, system, names, *, moved):
    """Every turn of a conversation, each asked twice: the second time the cache may answer."""
    for turn in range(1, len(rounds) + 1):
        clock = f"\nNow: 12:0{turn}" if moved and system else ""
        body = BODIES[spoken](rounds[:turn], system + clock, names)
        raw = json.dumps(body, ensure_ascii=False, indent=1).encode()
        for _ in range(2):
            request = ChatRequest(spoken, "auto", stream=False, body=json.loads(raw), raw=raw)
            asked = Turn(f"req_{turn}", "t", Timeline(), Deadline(None), 0.0)
            try:
                await serve(request, gateway, asked, _nobody)
            except GatewayError:
                continue  # the client asks again, or goes on with another answer


async def _nobody(_):
    """Nobody reads."""


def extends(before, now):
    """Whether ``now`` begins with all of ``before`` that the next turn repeats: not the clock at its end."""
    known = [block.content_hash for block in before.blocks[: before.last_repeated + 1]]
    return [block.content_hash for block in now.blocks[: len(known)]] == known


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("spoken", list(Dialect))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    conversation=conversations(), fate=st.lists(st.sampled_from(["", "", *FAILURES]), max_size=12)
)
def test_every_deployment_is_sent_what_it_was_sent_before_and_more(
    conversation, fate, spoken, bent
):
    rounds, system, names = conversation
    gateway, providers = house(list(fate), bent=bent)
    asyncio.run(talk(gateway, spoken, rounds, system, names, moved=bent))
    assert any(provider.sent for provider in providers)
    for provider in providers:
        for sent in provider.sent.values():
            moved = gateway.prompts.is_moved
            read = [render(body, dialect, is_moved=moved) for dialect, body in sent]
            assert len({each.opening for each in read}) == 1
            for before, now in itertools.pairwise(read):
                assert before.dialect is now.dialect
                assert extends(before, now)
                assert before.options == now.options
