"""What answers call of the tools that they could have changes what is expected, routed and asked again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
import pytest

from app.classify.tool_need import ToolNeed
from app.domain.decisions import ToolGuess
from app.providers.simulator import SimulatorSettings, running_simulator
from tests.contract.test_settings_act import (
    CHAT,
    GOOD,
    chat_answer,
    gateway_over,
    of_openais_kind,
    question,
)
from tests.e2e.agent.test_agent_loop import tool
from tests.e2e.asking import DIALECTS, PATHS, body_of
from tests.e2e.conversations import (
    CHAT_TOOLS,
    MESSAGES_TOOLS,
    RESPONSES_TOOLS,
    TOOL_QUESTION,
    user,
)
from tests.e2e.test_stopping import until
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.plain_http import NO_TLS
from tests.support.scripted_model import Speaking, scripted_model
from tests.support.tool_server import tool_server

pytestmark = pytest.mark.anyio
TOOLS = {"chat": CHAT_TOOLS, "responses": RESPONSES_TOOLS, "messages": MESSAGES_TOOLS}
AT_ONCE = 20
"""Fewer than may wait to be read."""
BOTH = ("get_ticket", "check_permissions")
ARGUMENTS = '{"ticket_id": "1", "user_id": "1"}'
ROUTING = {"fast_share": 1.0}
SECRETS = {"one": "slp-key-of-the-first-tenant-1234", "two": "slp-key-of-the-second-tenant-123"}


class Heard(ToolNeed):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []

    def observe(
        self, guess: ToolGuess, called: tuple[str, ...], *, several_allowed: bool = True
    ) -> None:
        self.calls.append(called)
        super().observe(guess, called, several_allowed=several_allowed)


def listening(running: Running) -> Heard:
    """The gateway's statistics from now on."""
    gateway, heard = running.context.edge.gateway, Heard()
    assert gateway.tool_use_learner is not None
    gateway.tool_use_learner.tools = gateway.classifier.tools = heard
    return heard


def calling(*names: str) -> str:
    """A whole answer that calls ``names``."""
    answer = json.loads(chat_answer(None, "tool_calls"))
    answer["choices"][0]["message"]["tool_calls"] = [
        {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": ARGUMENTS}}
        for at, name in enumerate(names)
    ]
    return json.dumps(answer)


@dataclass
class House:
    """A gateway over one model a tier, each of which says what stands in ``says``."""

    client: httpx2.AsyncClient
    heard: Heard
    says: dict[str, str]
    asked: list[str] = field(default_factory=list)
    key: str = ""

    async def ask(self, text: str = "Go on.", **more: object) -> httpx2.Response:
        """Ask with two tools on offer."""
        body = {**question("auto", text, tools=CHAT_TOOLS), **more}
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        answer = await self.client.post(CHAT, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    async def teach(self, *called: str, times: int = 1) -> None:
        """Let so many answers call ``called``, and wait until that is learned."""
        kept = self.says["sim-fast"]
        self.says["sim-fast"] = calling(*called) if called else chat_answer("It is.")
        for begun in range(0, times, AT_ONCE):
            count = min(AT_ONCE, times - begun)
            known = len(self.heard.calls)
            for _ in range(count):
                await self.ask()
            await until(lambda known=known, count=count: len(self.heard.calls) >= known + count)
        self.says["sim-fast"] = kept


@asynccontextmanager
async def house(**sections: object) -> AsyncIterator[House]:
    says = {"sim-fast": chat_answer("It is."), "sim-powerful": chat_answer(GOOD)}

    async def say(asked, body) -> None:
        found.asked.append(body["model"])
        await asked.answer(says[body["model"]])

    wanted = {"routing": ROUTING, "cache": {"exact": {"enabled": False}}, **sections}
    async with gateway_over(say, **wanted) as (client, _, running):
        found = House(client, listening(running), says)
        yield found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_routed_answers_calls_are_learned_and_a_kept_one_is_not_counted_again(
    dialect, stream
):
    body = body_of(dialect, "auto", TOOL_QUESTION, tools=TOOLS[dialect], stream=stream)
    async with (
        running_simulator(SimulatorSettings(time_scale=0)) as upstream,
        running_gateway(configuration(upstream)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
    ):
        heard = listening(running)
        first = await client.post(PATHS[dialect], json=body)
        again = await client.post(PATHS[dialect], json=body)
        assert (first.status_code, again.headers["x-slipstream-cache"]) == (200, "exact")
        past = {"x-slipstream-cache": "bypass"}
        await client.post(PATHS[dialect], json=body, headers=past)
        await until(lambda: len(heard.calls) >= 2)
        assert heard.calls == [BOTH, BOTH]


@pytest.mark.parametrize(
    "more",
    [
        {"tool_choice": "required"},
        {"tool_choice": "none"},
        {"tool_choice": {"type": "function", "function": {"name": "get_ticket"}}},
        {"model": "small"},
        {"tools": []},
    ],
    ids=["required", "none", "named", "a model by name", "no tools"],
)
async def test_what_was_not_free_to_call_or_not_judged_teaches_nothing(more):
    async with house() as it:
        it.says["sim-fast"] = calling("get_ticket")
        await it.ask(**more)
        await it.teach("check_permissions")
        assert it.heard.calls == [("check_permissions",)]


async def test_a_cut_answer_teaches_nothing_and_one_that_calls_nothing_does():
    async with house() as it:
        it.says["sim-fast"] = chat_answer("It is", "length")
        await it.ask(max_tokens=2)
        it.says["sim-fast"] = chat_answer("It is.")
        await it.ask()
        await until(lambda: bool(it.heard.calls))
        assert it.heard.calls == [()]


async def test_an_answer_that_broke_off_teaches_nothing():
    async def breaks(speaking: Speaking) -> None:
        await speaking.call(0, "get_ticket", '{"ticket_id": "1"}')
        speaking.asked.writer.close()

    async def whole(speaking: Speaking) -> None:
        await speaking.text("It is.")
        await speaking.finish()

    body = question("auto", tools=CHAT_TOOLS, stream=True)
    async with (
        scripted_model(breaks, whole) as model,
        running_gateway(of_openais_kind(model.url, routing=ROUTING)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
    ):
        heard = listening(running)
        await client.post(CHAT, json=body)
        await client.post(CHAT, json=body)
        await until(lambda: bool(heard.calls))
        assert heard.calls == [()]


async def test_a_tool_that_is_practically_always_called_makes_a_missing_call_an_escalation():
    async with house() as it:
        before = await it.ask()
        assert "asked the powerful tier" not in before.headers["x-slipstream-reason"]
        await it.teach("get_ticket", times=60)
        it.asked.clear()
        it.says["sim-powerful"] = calling("get_ticket")
        missing = await it.ask()
        assert it.asked == ["sim-fast", "sim-powerful"]
        reason = missing.headers["x-slipstream-reason"]
        assert "without the tool call that was due: asked the powerful tier" in reason
        assert missing.json()["choices"][0]["message"]["tool_calls"]
        # The answer that was shown is the one that counts.
        await until(lambda: len(it.heard.calls) == 62)
        assert it.heard.calls[-1] == ("get_ticket",)
        it.asked.clear()
        await it.ask(tool_choice="none")
        assert it.asked == ["sim-fast"]


async def test_a_tool_that_is_never_called_makes_none_and_says_so_after_one_that_was():
    async with house() as it:
        await it.teach(times=20)
        await it.ask("What is the state of ticket 17?")
        assert set(it.asked) == {"sim-fast"}
        await it.teach("get_ticket", times=80)
        it.says["sim-powerful"] = it.says["sim-fast"]
        for _ in range(5):  # nobody calls it any more: that is learned within a few answers
            known = len(it.heard.calls)
            await it.ask()
            await until(lambda known=known: len(it.heard.calls) > known)
        it.asked.clear()
        await it.ask()
        assert it.asked == ["sim-fast"]


async def test_an_agent_that_calls_several_tools_at_once_is_foreseen_to():
    async with house() as it:
        it.says["sim-powerful"] = calling(*BOTH)
        await it.teach(*BOTH, times=40)
        it.asked.clear()
        foreseen = await it.ask()
        assert it.asked == ["sim-powerful"]
        reason = foreseen.headers["x-slipstream-reason"]
        assert reason.startswith("powerful: several tool calls foreseen (0.")
        it.asked.clear()
        one_at_a_time = await it.ask(parallel_tool_calls=False)
        assert it.asked[0] == "sim-fast"
        assert "several" not in one_at_a_time.headers["x-slipstream-reason"]


async def test_another_tenants_calls_change_nothing():
    keys = [{"key": secret, "tenant": tenant} for tenant, secret in SECRETS.items()]
    async with house(auth={"required": True, "keys": keys}) as it:
        it.key = SECRETS["one"]
        await it.teach("get_ticket", times=60)
        it.key = SECRETS["two"]
        it.asked.clear()
        await it.ask()
        assert it.asked == ["sim-fast"]
        it.key = SECRETS["one"]
        it.asked.clear()
        await it.ask()
        assert it.asked == ["sim-fast", "sim-powerful"]


async def test_what_a_runs_first_model_call_calls_is_learned():
    async def calls(speaking: Speaking) -> None:
        await speaking.call(0, "ticket", '{"id": "1"}')
        await speaking.finish("tool_calls")

    async def answers(speaking: Speaking) -> None:
        await speaking.text("It is open.")
        await speaking.finish()

    async def ticket(asked) -> None:
        await asked.answer({"state": "open"})

    async with (
        tool_server({"/ticket/": ticket}) as tools,
        scripted_model(calls, answers) as model,
        running_gateway(
            {
                **of_openais_kind(model.url, routing=ROUTING),
                "tools": [tool("ticket", tools.url)],
                "agents": [{"name": "desk", "model": "auto", "tools": ["ticket"]}],
            }
        ) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
    ):
        heard = listening(running)
        body = {"model": "agent/desk", "messages": user("Is 1 open?")}
        answer = await client.post(CHAT, json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "It is open."
        assert heard.calls == [("ticket",)]
