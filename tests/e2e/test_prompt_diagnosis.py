"""The causes of misses beside the vendor's own diagnosis, and what each conversation saved, as shown."""

from __future__ import annotations

import json

import httpx2
import pytest

from tests.e2e.test_prompt_caching import LONG, NO_TLS, TOOLS, bodies, converse, serving
from tests.support.gateway import configuration

pytestmark = pytest.mark.anyio
ASKING = {"prompts": {"diagnose": True}}
OTHER = [{**TOOLS[0], "description": "Another description. " * 40}]


async def read(running, path):
    async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
        answer = await http.get(path)
    return answer.text if path == "/metrics" else answer.json()


async def traces(running):
    return (await read(running, "/v1/traces?limit=100"))["traces"]


async def two_turns(claude, second, *, stream=False, **first):
    """A conversation whose second request differs by ``second``."""
    history = [{"role": "user", "content": "Tell me of rule 1. " * 30}]
    asked = {"model": "large2", "max_tokens": 30, "system": LONG, "tools": TOOLS, **first}
    await claude.messages.create(**asked, messages=history)
    history += [{"role": "assistant", "content": "Well."}]
    history += [{"role": "user", "content": "And rule 2?"}]
    wanted = {**asked, "messages": history, **second}
    if not stream:
        return await claude.messages.create(**wanted)
    async with claude.messages.stream(**wanted) as events:
        return await events.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("second", "word", "rule"),
    [
        ({}, "unchanged", "none"),
        ({"tools": OTHER}, "tools_changed", "changed_tool"),
        ({"system": "At 12:30:01. " + LONG}, "system_changed", "volatile_system"),
        ({"tool_choice": {"type": "none"}}, "unavailable", "tool_choice_changed"),
    ],
)
async def test_the_vendor_agrees_with_the_cause_that_was_found_here(second, word, rule, stream):
    async with serving(**ASKING) as (_, running, claude, _gpt):
        await two_turns(claude, second, stream=stream)
        shown = await read(running, "/metrics")
        labels = f'model="large2",vendor="{word}",ours="{rule}",verdict="agree"'
        assert f"slipstream_prompt_cache_diagnoses_total{{{labels}}} 1" in shown
        newest, first = [trace["prompt"] for trace in await traces(running)]
        assert (newest["vendor"], newest["agrees"]) == (word, True)
        assert newest["conversation"] == first["conversation"]
        assert (first["vendor"], first["agrees"], first["cause"]) == (None, None, None)
        assert (newest["cause"] or "none") in {rule, "none"}  # it may have read half all the same


async def test_clients_of_another_dialect_are_compared_too_and_see_nothing_of_it():
    async with serving(**ASKING) as (upstream, running, _claude, gpt):
        turns = [{"role": "system", "content": LONG}, {"role": "user", "content": "One?"}]
        for system in (LONG, "At 12:30:01. " + LONG):
            turns[0] = {"role": "system", "content": system}
            answer = await gpt.chat.completions.create(model="large2", messages=turns)
            said = answer.choices[0].message.content
            turns += [{"role": "assistant", "content": said}, {"role": "user", "content": "Two?"}]
            assert "diagnostics" not in answer.model_dump()
        newest = (await traces(running))[0]["prompt"]
        assert (newest["vendor"], newest["agrees"]) == ("system_changed", True)
        assert [each["diagnostics"] is not None for each in await bodies(upstream)] == [True, True]


async def test_a_response_is_compared_with_the_conversation_s_last():
    abilities = {"cache_breakpoints": "openai"}
    values = {"prompts": {"diagnose": True}}
    async with serving(**values, models=_with("large", abilities)) as (_, running, _claude, gpt):
        turns = [{"role": "user", "content": "Tell me. " * 40}]
        for text in (LONG, LONG + "Be kind."):
            await gpt.responses.create(model="large", instructions=text, input=turns)
            turns += [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "So?"}]
        newest = (await traces(running))[0]["prompt"]
        assert (newest["vendor"], newest["agrees"]) == ("input_changed", True)


def _with(name, abilities):
    models = configuration("http://127.0.0.1:1")["models"]
    return [{**m, "abilities": abilities} if m["name"] == name else m for m in models]


async def test_nobody_is_asked_unless_the_operator_wants_it_and_a_client_s_own_question_is_heard():
    async with serving() as (upstream, running, claude, _gpt):
        await two_turns(claude, {})
        assert "diagnostics" not in json.dumps(await bodies(upstream))
        assert (await traces(running))[0]["prompt"]["vendor"] is None
        history = [{"role": "user", "content": "Another talk. " * 30}]
        asked = {"model": "large2", "max_tokens": 30, "messages": history}
        opened = {"diagnostics": {"previous_message_id": None}}
        first = await claude.messages.create(**asked, system=LONG, extra_body=opened)
        own = {"diagnostics": {"previous_message_id": first.id}}
        told = await claude.messages.create(**asked, system=LONG + "!", extra_body=own)
        assert told.diagnostics.cache_miss_reason.type == "system_changed"
        newest = (await traces(running))[0]["prompt"]
        assert (newest["vendor"], newest["agrees"]) == ("system_changed", True)


async def test_each_conversation_s_tokens_and_savings_are_shown_and_add_up_to_the_model_s():
    async with serving() as (_, running, claude, _gpt):
        used = await converse(claude, turns=3)
        other = await claude.messages.create(
            model="large2",
            max_tokens=30,
            system=LONG,
            messages=[{"role": "user", "content": "Something else altogether."}],
        )
        told = (await read(running, "/v1/savings"))["prompt_cache"]
        talks = list(told["conversations"].values())
        assert [talk["requests"] for talk in talks] == [1, 3]
        assert talks[1]["cached_tokens"] == sum(each.cache_read_input_tokens for each in used)
        assert talks[1]["written_tokens"] == sum(each.cache_creation_input_tokens for each in used)
        assert talks[1]["uncached_tokens"] == sum(each.input_tokens for each in used)
        assert talks[0]["cached_tokens"] == other.usage.cache_read_input_tokens
        for name in ("cached_tokens", "written_tokens", "uncached_tokens", "saved_usd", "saved_s"):
            total = told["models"]["large2"][name]
            assert sum(talk[name] for talk in talks) == pytest.approx(total)
        assert talks[1]["saved_usd"] > 0
        names = {trace["prompt"]["conversation"] for trace in await traces(running)}
        assert names == set(told["conversations"])
        short = await claude.messages.create(
            model="large2", max_tokens=3, messages=[{"role": "user", "content": "hi"}]
        )
        assert short.usage.cache_read_input_tokens == 0
        assert (await traces(running))[0]["prompt"] is None
