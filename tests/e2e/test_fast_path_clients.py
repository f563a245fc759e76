"""Plain calls of the official packages take the fast path, from the second like one on a connection on.

What their heads hold (``user-agent``, ``accept``, ``x-stainless-*``, ``anthropic-version``) is theirs to
change: a release that made every call take the general path would show here, and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest
from anthropic import Anthropic, AsyncAnthropic
from openai import AsyncOpenAI, OpenAI

from app.api.fast_path import FastPath
from app.providers.simulator import RunningSimulator
from tests.support.gateway import Running, configuration, running_gateway

pytestmark = pytest.mark.anyio

KEY = "sk-nobodys"
NUMBERS = count()
Ask = Callable[[], Awaitable[str]]


@pytest.fixture(scope="module")
async def gateway(upstream: RunningSimulator) -> AsyncIterator[Running]:
    """As people run it, but for the semantic cache."""
    async with running_gateway(configuration(upstream.base_url)) as running:
        yield running


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that was offered to a fast path, whether it took it."""
    answers: list[bool] = []
    take = FastPath.try_serve

    def taking(self: FastPath, *rest: object) -> bool:
        answers.append(take(self, *rest))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr(FastPath, "try_serve", taking)
    return answers


def question() -> list[dict[str, str]]:
    """One that nobody has asked."""
    return [
        {"role": "user", "content": f"How many are {next(NUMBERS)} and one?"},
    ]


def plain_calls(openai: AsyncOpenAI, anthropic: AsyncAnthropic) -> dict[str, Ask]:
    """By name."""
    chat, messages = openai.chat.completions, anthropic.messages

    async def chat_whole() -> str:
        answer = await chat.create(model="small", messages=question(), max_tokens=50)
        return answer.choices[0].message.content or ""

    async def chat_streamed() -> str:
        stream = await chat.create(
            model="small",
            messages=question(),
            stream=True,
            stream_options={"include_usage": True},
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

    async def messages_whole() -> str:
        answer = await messages.create(model="small2", messages=question(), max_tokens=50)
        return answer.content[0].text

    async def messages_streamed() -> str:
        stream = await messages.create(
            model="small2", messages=question(), max_tokens=50, system="Be brief.", stream=True
        )
        return "".join([e.delta.text async for e in stream if e.type == "content_block_delta"])

    async def messages_helper() -> str:
        asked = {"model": "small2", "messages": question(), "max_tokens": 50}
        async with messages.stream(**asked) as stream:
            return "".join([text async for text in stream.text_stream])

    calls = (chat_whole, chat_streamed, messages_whole, messages_streamed, messages_helper)
    return {call.__name__: call for call in calls}


@pytest.mark.parametrize("name", plain_calls(AsyncOpenAI(api_key=KEY), AsyncAnthropic(api_key=KEY)))
async def test_a_plain_call_takes_the_straight_way(
    gateway: Running, taken: list[bool], name: str
) -> None:
    """Whole and streamed; the first call of a connection teaches its head."""
    async with (
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as openai,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as anthropic,
    ):
        ask = plain_calls(openai, anthropic)[name]
        answers = [await ask() for _ in range(4)]
    assert all(answers)
    assert len({*answers}) == len(answers)
    assert taken == [True] * 3


async def test_whole_and_streamed_calls_may_take_turns_on_a_connection(
    gateway: Running, taken: list[bool]
) -> None:
    """Anthropic's package says another ``x-stainless-timeout`` with each of the two."""
    async with (
        AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as openai,
        AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as anthropic,
    ):
        calls = plain_calls(openai, anthropic)
        for _ in range(12):
            assert await calls["messages_whole"]()
            assert await calls["messages_streamed"]()
    assert taken == [True] * 22


async def test_so_do_the_clients_that_do_not_wait_asynchronously(
    gateway: Running, taken: list[bool]
) -> None:
    """In a thread of their own."""

    def ask() -> list[str]:
        said = []
        with (
            OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as openai,
            Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as anthropic,
        ):
            for _ in range(3):
                answer = openai.chat.completions.create(model="small", messages=question())
                said.append(answer.choices[0].message.content)
                message = anthropic.messages.create(
                    model="small2", messages=question(), max_tokens=50
                )
                said.append(message.content[0].text)
        return said

    assert all(await asyncio.to_thread(ask))
    assert taken == [True] * 4
