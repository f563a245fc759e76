"""The prompt cache as each vendor's client sees it: usage, breakpoints, lifetimes, first token."""

from __future__ import annotations

import anthropic
import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from app.providers.simulator import SimulatorSettings, built_in_profiles, running_simulator
from app.providers.simulator.clock import Script
from app.providers.simulator.profile import SIM_POWERFUL
from app.providers.simulator.prompt_cache import CacheUse
from tests.support.plain_http import NO_TLS

pytestmark = pytest.mark.anyio

LONG = "All work is measured against the same short list of plain rules. " * 100
"""About 1,600 tokens, above the minimum of 1,024."""
EPHEMERAL = {"type": "ephemeral"}


def user(text):
    return [{"role": "user", "content": text}]


def text(words, *, mark=None):
    return {"type": "text", "text": words} | ({"cache_control": mark} if mark else {})


async def ask_claude(claude, **body):
    """Read, written and uncached tokens of one message."""
    message = await claude.messages.create(
        **{"model": "sim-fast", "max_tokens": 5, "messages": user("Hi"), **body}
    )
    usage = message.usage
    assert usage.cache_creation.ephemeral_1h_input_tokens + (
        usage.cache_creation.ephemeral_5m_input_tokens
    ) == (usage.cache_creation_input_tokens)
    return (
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
        usage.input_tokens,
    )


async def ask_chat(chat, messages, **body):
    """Cached, written and all tokens of one prompt."""
    answer = await chat.chat.completions.create(model="sim-fast", messages=messages, **body)
    details = answer.usage.prompt_tokens_details
    return details.cached_tokens, details.cache_write_tokens, answer.usage.prompt_tokens


async def test_messages_cache_at_breakpoints_alone(claude):
    assert (await ask_claude(claude, system=LONG))[:2] == (0, 0)
    assert (await ask_claude(claude, system=LONG))[:2] == (0, 0)
    marked = [text(LONG, mark=EPHEMERAL)]
    read, written, uncached = await ask_claude(claude, system=marked)
    assert (read, uncached) == (0, 1)
    assert await ask_claude(claude, system=marked, messages=user("Hi!")) == (written, 0, 1)


async def test_a_turn_continues_the_prefix_that_the_turn_before_wrote(claude):
    body = {"system": LONG, "cache_control": EPHEMERAL}
    first = await ask_claude(claude, **body)
    assert first[2] == 0
    turns = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("And then?")]
    read, written, uncached = await ask_claude(claude, **body, messages=turns)
    assert read == first[1]
    assert written > 0
    assert uncached == 0


async def test_keys_in_another_order_are_another_prompt(claude):
    def tools(schema):
        tool = {"name": "f", "description": LONG, "input_schema": schema}
        return [{**tool, "cache_control": EPHEMERAL}]

    one = {"type": "object", "properties": {"a": {"type": "string"}}}
    other = {"properties": {"a": {"type": "string"}}, "type": "object"}
    written = (await ask_claude(claude, tools=tools(one)))[1]
    assert written > 1_024
    assert (await ask_claude(claude, tools=tools(other)))[0] == 0
    assert (await ask_claude(claude, tools=tools(one)))[0] == written


async def test_a_new_tool_choice_keeps_tools_and_system(claude):
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    body = {"tools": [tool], "system": [text(LONG, mark=EPHEMERAL)], "cache_control": EPHEMERAL}
    first = await ask_claude(claude, **body)
    changed = await ask_claude(claude, **body, tool_choice={"type": "none"})
    assert 0 < changed[0] < sum(first)
    assert changed[1] == sum(first) - changed[0]


async def test_a_fifth_breakpoint_and_a_late_hour_are_refused(claude):
    five = [text(f"part {i}", mark=EPHEMERAL) for i in range(5)]
    with pytest.raises(anthropic.BadRequestError, match="maximum of 4"):
        await ask_claude(claude, system=five)
    with pytest.raises(anthropic.BadRequestError, match="maximum of 4"):
        await ask_claude(claude, system=five[:4], cache_control=EPHEMERAL)
    hour = {"type": "ephemeral", "ttl": "1h"}
    with pytest.raises(anthropic.BadRequestError, match="1h"):
        await ask_claude(claude, system=[text("a", mark=EPHEMERAL), text("b", mark=hour)])


async def test_lifetimes_end_and_reads_restart_them(claude, base_url):
    body = {"system": [text(LONG, mark=EPHEMERAL)]}
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=base_url) as http:
        _, written, _ = await ask_claude(claude, **body)
        for _ in range(3):
            await http.post("/sim/clock", json={"advance_s": 299})
            assert (await ask_claude(claude, **body))[0] == written
        await http.post("/sim/clock", json={"advance_s": 301})
        assert (await ask_claude(claude, **body))[:2] == (0, written)


async def test_max_tokens_0_warms_the_cache_and_says_nothing(claude):
    body = {"model": "sim-fast", "system": [text(LONG, mark=EPHEMERAL)], "messages": user("Hi")}
    warm = await claude.messages.create(**body, max_tokens=0)
    assert (warm.content, warm.stop_reason, warm.usage.output_tokens) == ([], "max_tokens", 0)
    assert warm.usage.cache_creation_input_tokens > 1_024
    assert (await ask_claude(claude, **body))[0] == warm.usage.cache_creation_input_tokens


async def test_chat_caches_any_shared_prefix_by_itself(chat):
    system = {"role": "system", "content": LONG}
    cached, written, prompt = await ask_chat(chat, [system, *user("One?")])
    assert (cached, written) == (0, prompt)
    cached, written, prompt = await ask_chat(chat, [system, *user("Another?")])
    assert cached > 1_024
    assert cached + written == prompt


async def test_chat_does_not_cache_short_prompts(chat):
    for _ in range(2):
        assert (await ask_chat(chat, user("Hi")))[:2] == (0, 0)


async def test_a_latest_only_model_loses_a_stable_prefix_until_it_is_marked():
    profiles = built_in_profiles(sim_fast={"implicit_cache": "latest"})
    settings = SimulatorSettings(time_scale=0, profiles=profiles)
    mark = {"mode": "explicit"}

    def messages(question, **part):
        content = [{"type": "text", "text": LONG, **part}]
        return [{"role": "system", "content": content}, *user(question)]

    async with (
        running_simulator(settings) as url,
        AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key="x",
            max_retries=0,
            http_client=httpx2.AsyncClient(verify=NO_TLS),
        ) as chat,
    ):
        await ask_chat(chat, messages("One?"))
        assert (await ask_chat(chat, messages("Another?")))[0] == 0
        await ask_chat(chat, messages("Third?", prompt_cache_breakpoint=mark))
        marked = await ask_chat(chat, messages("Fourth?", prompt_cache_breakpoint=mark))
        assert marked[0] > 1_024


async def test_cache_keys_and_tenants_are_kept_apart(chat, base_url):
    await ask_chat(chat, user(LONG))
    assert (await ask_chat(chat, user(LONG), prompt_cache_key="k"))[0] == 0
    assert (await ask_chat(chat, user(LONG)))[0] > 1_024
    async with AsyncOpenAI(
        base_url=f"{base_url}/v1",
        api_key="y",
        max_retries=0,
        http_client=httpx2.AsyncClient(verify=NO_TLS),
    ) as other:
        assert (await ask_chat(other, user(LONG)))[0] == 0


async def test_responses_prewarm_and_count_twelve_hours_apart(chat):
    options = {"ttl": "12h"}
    warm = await chat.responses.create(
        model="sim-fast", input=LONG, prompt_cache_options={**options, "prewarm": True}
    )
    assert (warm.output, warm.usage.output_tokens) == ([], 0)
    details = warm.usage.input_tokens_details
    assert details.cache_write_tokens_details.ttl_12h_tokens == details.cache_write_tokens > 1_024
    answer = await chat.responses.create(model="sim-fast", input=LONG, prompt_cache_options=options)
    assert answer.usage.input_tokens_details.cached_tokens == details.cache_write_tokens


async def test_an_unknown_lifetime_is_refused(chat):
    with pytest.raises(openai.BadRequestError, match="ttl"):
        await ask_chat(chat, user("Hi"), prompt_cache_options={"ttl": "5m"})


async def test_a_failed_request_leaves_no_entry(chat):
    with pytest.raises(openai.InternalServerError):
        await ask_chat(chat, user(LONG), extra_headers={"x-sim-fault": "500"})
    assert (await ask_chat(chat, user(LONG)))[0] == 0


def test_a_cached_prefix_shortens_the_first_token_by_its_share():
    def first_token_s(read, uncached):
        script = Script(7, time_scale=1)
        return script.pace(SIM_POWERFUL, CacheUse(read, {}, uncached)).first_token_s

    cold, half, warm = (
        first_token_s(0, 100_000),
        first_token_s(50_000, 50_000),
        first_token_s(100_000, 0),
    )
    assert cold > half > warm
    assert half == pytest.approx((cold + warm) / 2)
    assert warm < cold / 5
