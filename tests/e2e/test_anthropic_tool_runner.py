"""The official ``anthropic`` package's tool runner: whole, streamed, with and without vendor-side threads."""

from __future__ import annotations

import anthropic
import httpx2
import pytest
from anthropic import beta_async_tool

from tests.e2e.conversations import BOTH_KINDS, user
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio
QUESTION = user("What is the weather in Paris?")


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def weather(asked):
    @beta_async_tool
    async def get_weather(city: str) -> str:
        """Say the weather of a city.

        Args:
            city: The city's name.
        """
        asked.append(city)
        return f"{city}: 21 degrees"

    return get_weather


async def run(client, model: str, weather, **more: object):
    """Run to the end; the last message."""
    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=500, messages=QUESTION, tools=[weather], **more
    )
    if not more.get("stream"):
        return await runner.until_done()
    message = None
    async for stream in runner:
        message = await stream.get_final_message()
    return message


@pytest.mark.parametrize("model", BOTH_KINDS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"stream": True},
        {"thread": False},
        {"thread": False, "stream": True},
        {"thread": False, "stream": True, "run_tools_eagerly": True},
    ],
    ids=str,
)
async def test_it_calls_its_tools_and_ends_with_an_answer(
    anthropic_client, asked, weather, model, more
):
    """Over another vendor's API it learns that nothing is kept there, and sends the whole history."""
    message = await run(anthropic_client, model, weather, **more)
    assert message.stop_reason == "end_turn"
    assert "21 degrees" in "".join(block.text for block in message.content if block.type == "text")
    assert len(asked) == 1


async def test_a_thread_that_is_lost_at_the_vendor_is_begun_anew(gateway, asked, weather):
    bodies: list[bytes] = []

    async def forget(request: httpx2.Request) -> None:
        bodies.append(request.content)
        if len(bodies) == 2:  # the continuation: name an answer that nobody stored
            lost = request.content.replace(b'"previous_message_id":"', b'"previous_message_id":"x')
            request._content, request.stream = lost, httpx2.ByteStream(lost)
            request.headers["content-length"] = str(len(lost))

    http = httpx2.AsyncClient(verify=NO_TLS, event_hooks={"request": [forget]})
    client = anthropic.AsyncAnthropic(
        api_key="none", base_url=gateway.url, http_client=http, max_retries=0
    )
    async with client:
        message = await run(client, "small2", weather)
    assert message.stop_reason == "end_turn"
    assert [b'"create"' in body for body in bodies] == [True, False, True]
    assert len(asked) == 1
