"""Whoever did not opt in to an output contract is asked for and answered byte for byte as without any."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.events import (
    AnswerStarted,
    Finished,
    FinishReason,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    WholeBody,
)
from app.errors import GatewayError, UpstreamStatus
from app.pipeline.gateway import Turn
from app.pipeline.turn import serve
from app.providers.upstream_request import build_upstream_request
from app.telemetry.timeline import Timeline
from app.wire.codecs import CODECS
from tests.property.test_prompt_prefix import BODIES, conversations
from tests.support.gateway import configuration, settings_of
from tests.support.providers import USAGE, ScriptedProvider

EVERYTHING = {
    "max_tokens": 7,
    "json_schema": {"type": "object"},
    "prefill": "{",
    "hide_reasoning": True,
    "effort": "low",
    "tiers": {"fast": {"effort": "high", "verbosity": "low"}},
}
OTHERS = [
    {"model": "large", **EVERYTHING, "tiers": {}},
    {"model": "auto", "tenant": "somebody", **EVERYTHING},
    {"model": "small", "tenant": "somebody", **EVERYTHING},
    {"model": "small", "name": "asked", **EVERYTHING},
    {"model": "auto", "name": "asked", **EVERYTHING},
    {"model": "small2", "name": "asked", **EVERYTHING},
]
SAID = "<think>aloud</think>Yes."
WHOLE = json.dumps(
    {
        "choices": [
            {"message": {"content": SAID, "reasoning_content": "hm"}, "finish_reason": "stop"}
        ]
    }
).encode()
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5, 1]),
        "top_p": st.just(0.9),
        "metadata": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    },
)


class Telling(ScriptedProvider):
    """Keeps the bytes of each call, and thinks aloud in every way that there is."""

    def __init__(self, name, dialects, fate) -> None:
        super().__init__(name, frozenset(dialects))
        self._fate = list(fate)
        self.sent: list[bytes] = []

    async def stream(self, call, emit):
        self.sent.append(
            build_upstream_request(call, dict(CODECS), CODECS[min(self.dialects())]).body
        )
        if self._fate and self._fate.pop():
            self.say(then=UpstreamStatus("down", status=503))
        elif call.native is not None and call.native.dialect is Dialect.CHAT:
            self.say(WholeBody(WHOLE))
        else:
            done = Finished(FinishReason.STOP, USAGE)
            thought = (ThinkingDelta("hm"), ThinkingSealed("s"))
            self.say(AnswerStarted("a", "m"), *thought, TextDelta(SAID), done)
        await super().stream(call, emit)


def told(contracts, request, fate):
    """What goes upstream for ``request``, and what comes back."""
    values = configuration("http://127.0.0.1:1", prompts={"contracts": contracts})
    for model in values["models"]:
        model["abilities"] = {"thinking": "effort", "prefill": True, "verbosity": True}
    found = settings_of(values)
    models = {model.name: _model(model, found) for model in found.models}
    local = Telling("local", {Dialect.CHAT, Dialect.RESPONSES}, fate)
    claude = Telling("claude", {Dialect.MESSAGES}, fate)
    gateway = _gateway(found, models, {"local": local, "claude": claude})
    events = []

    async def take(event):
        events.append(event)

    async def ask():
        turn = Turn("req_1", "acme", Timeline(), Deadline(None), 0.0)
        try:
            await serve(request, gateway, turn, take)
        except GatewayError as error:
            events.append((error.code, error.status))

    asyncio.run(ask())
    return local.sent, claude.sent, events


@pytest.mark.parametrize("model", ["small", "small2", "auto"])
@pytest.mark.parametrize("spoken", list(Dialect))
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(conversation=conversations(), options=OPTIONS, fate=st.lists(st.booleans(), max_size=2))
def test_who_did_not_opt_in_is_asked_for_and_answered_as_if_there_were_no_contracts(
    conversation, options, fate, spoken, model
):
    body = {**BODIES[spoken](*conversation), **options, "model": model}
    raw = json.dumps(body, ensure_ascii=False, indent=1).encode()

    def request():
        return ChatRequest(spoken, model, stream=False, body=json.loads(raw), raw=raw)

    assert told(OTHERS, request(), fate) == told([], request(), fate)
