"""The vendors' prompt caches through the gateway, as the official clients see them."""

from __future__ import annotations

import asyncio
import itertools
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
import pytest

from app.cli import main
from app.domain.chat import Dialect
from app.prompts.prefix import render
from app.providers.simulator import SimulatorSettings, running_simulator
from tests.support.gateway import Running, configuration, running_gateway
from tests.support.turns import turns_of_others

pytestmark = pytest.mark.anyio

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LONG = "All work is measured against the same short list of plain rules. " * 120
TOOLS = [
    {
        "name": "find",
        "description": "Find a rule by its number. " * 40,
        "input_schema": {"type": "object", "properties": {"number": {"type": "integer"}}},
    }
]


@asynccontextmanager
async def serving(
    **sections: object,
) -> AsyncIterator[tuple[str, Running, anthropic.AsyncAnthropic, openai.AsyncOpenAI]]:
    simulated = SimulatorSettings(time_scale=0, keep_requests=200)
    async with (
        running_simulator(simulated) as upstream,
        running_gateway(configuration(upstream, **sections)) as running,
        httpx2.AsyncClient(verify=NO_TLS) as http,
    ):
        claude = anthropic.AsyncAnthropic(
            base_url=running.url, api_key="x", max_retries=0, http_client=http
        )
        gpt = openai.AsyncOpenAI(
            base_url=running.url + "/v1", api_key="x", max_retries=0, http_client=http
        )
        yield upstream, running, claude, gpt


async def bodies(upstream: str) -> list[dict]:
    async with httpx2.AsyncClient(verify=NO_TLS) as http:
        answer = await http.get(upstream + "/sim/requests?limit=200")
    kept = answer.json()
    return [each.get("body", each) for each in (kept.get("requests") or kept.get("data") or [])]


async def converse(claude, model="large2", turns=4, **more):
    """A conversation of so many turns; gives each answer's usage."""
    history, used = [], []
    for turn in range(turns):
        history.append({"role": "user", "content": f"Tell me of rule {turn}. " * 30})
        answer = await claude.messages.create(
            model=model, max_tokens=30, messages=history, system=LONG, **more
        )
        history.append({"role": "assistant", "content": answer.content[0].text})
        used.append(answer.usage)
    return used


async def test_a_conversation_reads_what_its_last_turn_wrote_without_the_clients_help():
    async with serving() as (_, running, claude, _gpt):
        used = await converse(claude)
        assert used[0].cache_creation_input_tokens > 1024
        for before, now in itertools.pairwise(used):
            held = before.cache_read_input_tokens + before.cache_creation_input_tokens
            assert now.cache_read_input_tokens == held
        figures = running.context.edge.gateway.prompts.statistics()["large2"]
        assert figures["cached_tokens"] == sum(u.cache_read_input_tokens for u in used)
        assert figures["saved_usd"] > 0
        assert figures["causes"] == {}
        async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
            shown = (await http.get("/v1/prompts/stats")).json()
            assert shown["models"]["large2"] == figures
            metrics = (await http.get("/metrics")).text
            assert 'slipstream_prompt_cache_saved_usd_total{model="large2"}' in metrics
            saved = (await http.get("/v1/savings")).json()["by_technique"]["prompt_cache"]
            assert saved["saved_s"] > 0


async def test_another_conversation_reads_the_tools_and_the_system_prompt():
    async with serving() as (_, _running, claude, _gpt):
        await converse(claude, turns=1)
        answer = await claude.messages.create(
            model="large2",
            max_tokens=30,
            system=LONG,
            messages=[{"role": "user", "content": "Something else altogether."}],
        )
        assert answer.usage.cache_read_input_tokens >= len(LONG) // 4


async def test_a_client_that_is_off_or_short_is_left_alone():
    off = {"prompts": {"breakpoints": False}}
    async with serving(**off) as (_, _running, claude, _gpt):
        used = await converse(claude, turns=2)
        assert [u.cache_creation_input_tokens for u in used] == [0, 0]
    async with serving() as (upstream, _running, claude, _gpt):
        await claude.messages.create(
            model="large2", max_tokens=3, messages=[{"role": "user", "content": "hi"}]
        )
        assert "cache_control" not in json.dumps(await bodies(upstream))


async def test_a_model_may_be_left_out():
    values = configuration("http://127.0.0.1:1")
    models = [{**m, "breakpoints": m["name"] != "large2"} for m in values["models"]]
    async with serving(models=models) as (_, _running, claude, _gpt):
        assert (await converse(claude, turns=1))[0].cache_creation_input_tokens == 0
        assert (await converse(claude, "small2", turns=1))[0].cache_creation_input_tokens > 0


async def test_nothing_is_done_where_prompts_are_off():
    async with serving(prompts={"enabled": False}) as (_, running, claude, _gpt):
        assert running.context.edge.gateway.prompts is None
        assert (await converse(claude, turns=1))[0].cache_creation_input_tokens == 0


@pytest.mark.parametrize(("lead", "writers"), [(True, 1), (False, 8)])
async def test_of_many_that_share_a_prefix_one_goes_ahead_and_the_others_read(lead, writers):
    async with serving(prompts={"lead": lead}) as (_, _running, claude, _gpt):

        async def ask(number: int) -> int:
            answer = await claude.messages.create(
                model="large2",
                max_tokens=20,
                system=LONG,
                tools=TOOLS,
                messages=[{"role": "user", "content": f"What of {number}?"}],
            )
            return answer.usage.cache_read_input_tokens

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(number)) for number in range(8)]
        read = [task.result() for task in tasks]
        assert sum(1 for tokens in read if tokens == 0) <= writers
        if lead:
            assert sum(1 for tokens in read if tokens > 1024) == 7


async def test_the_prefix_survives_translation_and_a_failed_try():
    async with serving() as (upstream, _running, _claude, gpt):
        async with httpx2.AsyncClient(verify=NO_TLS) as http:
            await http.post(upstream + "/sim/faults", json={"script": [None, "500", None]})
        history = [{"role": "system", "content": LONG}]
        for turn in range(4):
            history.append({"role": "user", "content": f"Tell me of rule {turn}."})
            answer = await gpt.chat.completions.create(model="large2", messages=history)
            history.append({"role": "assistant", "content": answer.choices[0].message.content})
        rows = [
            [
                block.content_hash
                for block in render(json.dumps(body).encode(), Dialect.MESSAGES).blocks
            ]
            for body in await bodies(upstream)
        ]
        assert len(rows) == 5
        rows.sort(key=len)
        for before, now in itertools.pairwise(rows):
            assert now[: len(before)] == before


@pytest.mark.parametrize("affinity", [True, False])
async def test_a_routed_conversation_stays_where_it_is_warm(affinity):
    values = configuration("http://127.0.0.1:1")
    fast = [m for m in values["models"] if m["name"] in {"small2", "large2"}]
    models = [*fast, {**fast[0], "name": "small3"}, {**fast[1], "name": "large3"}]
    async with serving(prompts={"affinity": affinity}, models=models) as (_, running, claude, _gpt):
        gateway = running.context.edge.gateway
        rounds, stayed = 4, 0
        for conversation in range(6):
            history, told = [], []
            for turn in range(rounds):
                history.append({"role": "user", "content": f"{conversation}: rule {turn}? " * 30})
                answer = await claude.messages.with_raw_response.create(
                    model="auto", max_tokens=30, messages=history, system=LONG
                )
                message = answer.parse()
                if asyncio.iscoroutine(message):
                    message = await message
                history.append({"role": "assistant", "content": message.content[0].text})
                await gateway.prompts.drained()
                key = gateway.prompts.warm_on("default", history[0]["content"])
                told.append("" if key is None else key.model)
            stayed += len(set(told)) == 1 and told[0] != ""
        assert stayed == (6 if affinity else 0)


async def test_lint_names_the_fault_and_the_difference_to_the_conversations_last_request():
    async with serving() as (_, running, claude, _gpt):
        await converse(claude, turns=1)
        first = {"role": "user", "content": "Tell me of rule 0. " * 30}
        body = {
            "model": "large2",
            "max_tokens": 30,
            "system": f"It is 2026-11-21T05:00:00Z. {LONG}",
            "messages": [
                first,
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "y"},
            ],
        }
        raw = json.dumps(body).encode()
        async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
            answer = (await http.post("/v1/prompts/lint", content=raw)).json()
            rules = {each["rule"]: each for each in answer["findings"]}
            assert {"volatile_system", "volatile_timestamp"} <= rules.keys()
            start, end = rules["volatile_timestamp"]["bytes"]
            assert raw[start:end] == b"2026-11-21T05:00:00Z"
            costs = rules["volatile_timestamp"]["costs"]
            assert costs["usd"] > 0
            assert answer["requests_per_hour"] > 0
            hourly = costs["usd"] * answer["requests_per_hour"]
            assert costs["usd_per_hour"] == pytest.approx(hourly, abs=1e-5)
            refused = await http.post("/v1/prompts/lint", content=b'{"model": "large2"}')
            assert refused.status_code == 400
            unknown = await http.post("/v1/prompts/lint", json={**body, "model": "nobody"})
            assert unknown.status_code == 404


async def test_a_live_miss_gets_its_cause():
    async with serving() as (_, running, claude, _gpt):
        for system in (LONG, "Changed. " + LONG):
            await claude.messages.create(
                model="large2",
                max_tokens=5,
                system=system,
                messages=[{"role": "user", "content": "What is rule one?"}],
            )
        figures = running.context.edge.gateway.prompts.statistics()["large2"]
        assert figures["causes"] == {"changed_system": 1}


@pytest.mark.parametrize("extra", [{}, {"tool_choice": {"type": "any"}, "tools": TOOLS}])
async def test_a_primed_prompt_is_read_by_the_first_real_request(extra, tmp_path):
    body = {
        "model": "large2",
        "max_tokens": 30,
        "system": LONG,
        "messages": [{"role": "user", "content": "What is rule one?"}],
        **extra,
    }
    async with serving() as (_, running, claude, _gpt):
        async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
            answer = (await http.post("/v1/prompts/warm?keep_s=900", json=body)).json()
            assert answer["primed"]
            assert answer["written_tokens"] > 1024
            assert answer["keep_alive"]["pings"] == 3
            trace = (await http.get(f"/v1/traces/{answer['request_id']}")).json()
            assert trace["reason"] == "prompt kept warm: asked"
            unknown = await http.post("/v1/prompts/warm", json={**body, "model": "auto"})
            assert unknown.status_code == 404
        usage = (await claude.messages.create(**body)).usage
        held = answer["written_tokens"]
        assert usage.cache_read_input_tokens == held
        path = tmp_path / "prompt.json"
        path.write_text(json.dumps(body))
        command = ["warm", str(path), "--url", running.url]
        assert await asyncio.to_thread(main, command) == 0


async def test_a_told_prompt_is_pinged_before_it_expires_and_the_arithmetic_is_in_the_trace():
    async with serving() as (_, running, _claude, _gpt):
        context = running.context
        gateway = context.edge.gateway
        body = {"model": "large2", "max_tokens": 9, "system": LONG}
        body["messages"] = [{"role": "user", "content": "What is rule one?"}]
        async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
            await http.post("/v1/prompts/warm?keep_s=900", json=body)
            began = gateway.clock()
            gateway.clock = lambda: began + 275.0
            await context.priming.run_due()
            traces = (await http.get("/v1/traces")).json()
            reasons = [trace["reason"] for trace in traces.get("traces", traces.get("data", []))]
        assert any("asked for; P 1.00 x miss" in reason for reason in reasons)


async def test_a_schedule_primes_at_start(tmp_path):
    path = tmp_path / "prompt.json"
    body = {"model": "large2", "max_tokens": 9, "system": LONG}
    body["messages"] = [{"role": "user", "content": "What is rule one?"}]
    path.write_text(json.dumps(body))
    wanted = {"schedules": [{"file": str(path), "every_s": 60}]}
    async with serving(prompts=wanted) as (_, running, claude, _gpt):
        for _ in range(200):
            if len(running.context.telemetry.traces):
                break
            await asyncio.sleep(0.01)
        usage = (await claude.messages.create(**body)).usage
        assert usage.cache_read_input_tokens > 1024


@pytest.mark.parametrize("breakpoints", [True, False])
@pytest.mark.parametrize("responses", [True, False])
async def test_a_changed_question_keeps_the_developer_prompt_where_the_vendor_marks_the_latest_block(
    breakpoints, responses
):
    values = configuration("http://127.0.0.1:1")
    large = next(m for m in values["models"] if m["name"] == "large")
    large |= {
        "model": "sim-powerful?implicit_cache=latest",
        "abilities": {"cache_breakpoints": "openai"},
        "breakpoints": breakpoints,
    }
    async with serving(models=[large]) as (_, _running, _claude, gpt):
        read = []
        for number in range(3):
            turns = [
                {"role": "developer", "content": LONG},
                {"role": "user", "content": f"What is rule {number}?"},
            ]
            if responses:
                answer = await gpt.responses.create(model="large", input=turns)
                read.append(answer.usage.input_tokens_details.cached_tokens)
            else:
                answer = await gpt.chat.completions.create(model="large", messages=turns)
                read.append(answer.usage.prompt_tokens_details.cached_tokens)
        held = len(LONG) // 4
        assert [tokens >= held for tokens in read] == [False, breakpoints, breakpoints]


async def test_a_contract_caps_the_answers_of_the_model_that_it_names_alone():
    wanted = {"contracts": [{"model": "large2", "max_tokens": 3}]}
    async with serving(prompts=wanted) as (_, _running, claude, _gpt):
        ask = {"max_tokens": 60, "messages": [{"role": "user", "content": "What is rule one?"}]}
        short = await claude.messages.create(model="large2", **ask)
        assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
        other = await claude.messages.create(model="small2", **ask)
        assert other.usage.output_tokens > 3


async def test_a_primed_prompt_is_the_one_that_goes_out_under_its_layout_and_contract():
    routes = {
        "layouts": [{"model": "large2", "variables": ["Now: .*"]}],
        "contracts": [{"model": "large2", "max_tokens": 20, "hide_reasoning": True}],
    }
    body = {"model": "large2", "max_tokens": 40}
    body["messages"] = [{"role": "user", "content": "What is rule one?"}]
    async with serving(prompts=routes) as (_, running, claude, _gpt):
        async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
            early = {**body, "system": f"Now: 12:00\n{LONG}"}
            primed = (await http.post("/v1/prompts/warm", json=early)).json()
            assert primed["primed"]
        late = await claude.messages.create(**body, system=f"Now: 12:05\n{LONG}")
        assert late.usage.cache_read_input_tokens > 1024


async def test_a_route_that_is_under_a_contract_does_not_lack_one():
    body = {"model": "large2", "max_tokens": 9, "system": LONG}
    body["messages"] = [{"role": "user", "content": "Tell me about the rules."}]
    for contracts in ([], [{"model": "large2", "max_tokens": 5}]):
        async with serving(prompts={"contracts": contracts}) as (_, running, _claude, _gpt):
            async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
                found = (await http.post("/v1/prompts/lint", json=body)).json()["findings"]
            rules = {each["rule"] for each in found}
            assert ("no_output_contract" in rules) is not bool(contracts)


async def test_a_clock_that_the_layout_moves_is_no_fault():
    body = {"model": "large2", "max_tokens": 9, "system": f"Now: 2026-11-21T05:00:00Z\n{LONG}"}
    body["messages"] = [{"role": "user", "content": "Tell me in one word."}]
    for variables in (["Today: .*"], ["Now: .*"]):
        layouts = [{"model": "large2", "variables": variables}]
        async with serving(prompts={"layouts": layouts}) as (_, running, _claude, _gpt):
            async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
                found = (await http.post("/v1/prompts/lint", json=body)).json()["findings"]
            rules = {each["rule"] for each in found}
            assert ("volatile_timestamp" in rules) is (variables == ["Today: .*"])


async def test_a_request_is_compared_as_it_is_sent():
    layouts = [{"model": "large2", "variables": ["Now: .*"]}]
    first = {"role": "user", "content": "Tell me of rule 0. " * 30}
    asked = {"model": "large2", "max_tokens": 9}
    async with serving(prompts={"layouts": layouts}) as (_, running, claude, _gpt):
        await claude.messages.create(**asked, messages=[first], system=f"Now: 12:00\n{LONG}")
        turns = [first, {"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]
        async with httpx2.AsyncClient(verify=NO_TLS, base_url=running.url) as http:
            for system, rule in ((LONG, None), (LONG + "Be kind.", "changed_system")):
                body = {**asked, "messages": turns, "system": f"Now: 12:05\n{system}"}
                found = (await http.post("/v1/prompts/lint", json=body)).json()["findings"]
                causes = {each["rule"] for each in found if each["severity"] == "error"}
                assert causes == ({rule} if rule else set())


async def test_under_a_layout_a_conversation_stays_one_and_is_read_whatever_its_clock_says():
    layouts = [{"model": "large2", "variables": ["Now: .*"]}]
    async with serving(prompts={"layouts": layouts}) as (_, running, claude, _gpt):
        history, used = [], []
        for turn in range(4):
            history.append({"role": "user", "content": f"Tell me of rule {turn}. " * 30})
            answer = await claude.messages.create(
                model="large2", max_tokens=30, messages=history, system=f"Now: 12:0{turn}\n{LONG}"
            )
            history.append({"role": "assistant", "content": answer.content[0].text})
            used.append(answer.usage)
        for before, now in itertools.pairwise(used):
            held = before.cache_read_input_tokens + before.cache_creation_input_tokens
            assert now.cache_read_input_tokens == held
        told = running.context.edge.gateway.prompts.savings()
        assert [talk["requests"] for talk in told["conversations"].values()] == [4]
        assert told["models"]["large2"]["causes"] == {}


async def test_a_routed_conversation_lets_the_loop_go_on_while_long_prompts_are_learned_from():
    """Several long answers ended together: who comes next hears of all, and stands before nobody."""
    async with serving(prompts={"affinity": True}) as (_, running, claude, _gpt):
        prompts = running.context.edge.gateway.prompts
        learned_at: list[int] = []
        learn = prompts._learning_queue._learn

        def learning(call, rendered) -> None:
            learned_at.append(turns.taken)
            learn(call, rendered)

        async def ask(number: int, model: str) -> None:
            history = [
                {"role": ("user", "assistant")[at % 2], "content": f"{number}: rule {at}? " * 200}
                for at in range(61)
            ]
            await claude.messages.create(model=model, max_tokens=9, messages=history, system=LONG)

        async def ask_all() -> None:
            async with asyncio.TaskGroup() as at_once:
                for number in range(8):
                    at_once.create_task(ask(number, "small2"))

        async with turns_of_others() as turns:
            await ask_all()
            prompts._learning_queue.drain()
            prompts._learning_queue._learn = learning
            prompts._learning_queue._look_in = lambda _: (
                None
            )  # nobody but the next request learns of them
            await ask_all()
            before = len(learned_at)
            assert len(prompts._learning_queue) > 1
            await ask(9, "auto")
            heard = learned_at[before:]
        assert len(heard) >= 2
        assert len(set(heard)) > 1, "all in one turn of the loop"
