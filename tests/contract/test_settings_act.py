"""Settings that bend the pipeline do what their description says, seen from outside."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.support.gateway import Running, configuration, running_gateway
from tests.support.tool_server import Asked, ToolServer, tool_server

pytestmark = pytest.mark.anyio

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CHAT = "/v1/chat/completions"


def chat_answer(text: str | None, finish: str = "stop", refusal: str | None = None) -> str:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    tokens = len((text or "").split())
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    head = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    return json.dumps({**head, "choices": [choice], "usage": usage})


def of_openais_kind(upstream: str, **sections: object) -> dict[str, object]:
    """The usual configuration, but with no Anthropic upstream: one fast and one powerful model."""
    values = configuration(upstream, **sections)
    provider = {
        "kind": "openai",
        "base_url": f"{upstream}/v1",
        "warm_connections": 0,
        **sections.get("provider", {}),
    }
    models = [model for model in values["models"] if model["provider"] == "local"]
    values.pop("provider", None)
    return {**values, "providers": {"local": provider}, "models": models}


@asynccontextmanager
async def gateway_over(
    answer: Callable[[Asked, dict], object], **sections: object
) -> AsyncIterator[tuple[httpx2.AsyncClient, ToolServer, Running]]:
    async def route(asked: Asked) -> None:
        await answer(asked, json.loads(asked.body))

    async with (
        tool_server({CHAT: route}) as upstream,
        running_gateway(of_openais_kind(upstream.url, **sections)) as running,
        httpx2.AsyncClient(verify=NO_TLS, base_url=running.url, timeout=20) as client,
    ):
        yield client, upstream, running


def question(model: str = "small", text: str = "Who wrote it?", **more: object) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


class TestBatches:
    async def test_tasks_of_one_window_are_one_call_and_are_answered_one_by_one(self):
        async def label(asked: Asked, body: dict) -> None:
            tasks = json.loads(body["messages"][-1]["content"])
            told = [{"id": each["id"], "answer": each["task"].upper()} for each in tasks]
            await asked.answer(json.loads(chat_answer(json.dumps({"answers": told}))))

        rule = {"model": "small", "window_ms": 1000, "most": 3, "most_chars": 50}
        async with gateway_over(label, prompts={"batches": [rule]}) as (client, upstream, _):
            system = {"role": "system", "content": "Shout."}
            asks = [
                {"model": "small", "messages": [system, {"role": "user", "content": text}]}
                for text in ("one", "two", "three")
            ]
            async with asyncio.TaskGroup() as group:
                posts = [group.create_task(client.post(CHAT, json=ask)) for ask in asks]
            answers = [post.result() for post in posts]
            said = [each.json()["choices"][0]["message"]["content"] for each in answers]
            assert said == ["ONE", "TWO", "THREE"]
            assert {each.headers["x-slipstream-reason"] for each in answers} == {
                "answered in a batch of 3"
            }
            assert sum(each.json()["usage"]["prompt_tokens"] for each in answers) == 3
            shown = (await client.get("/metrics")).text
            assert 'slipstream_batch_calls_total{model="small"} 1' in shown
            assert 'slipstream_batched_tasks_total{model="small",outcome="together"} 3' in shown
            (sent,) = upstream.asked
            form = json.loads(sent.body)["response_format"]
            assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)


class TestLayouts:
    @pytest.mark.parametrize("model", ["small", "large"])
    async def test_declared_lines_go_to_the_end_on_the_route_that_asked_alone(self, model):
        async def fine(asked: Asked, _: dict) -> None:
            await asked.answer(json.loads(chat_answer("fine")))

        rule = {"model": "small", "variables": ["Now: .*"], "documents": True}
        async with gateway_over(fine, prompts={"layouts": [rule]}) as (client, upstream, _):
            turns = [
                {"role": "system", "content": "Be brief.\nNow: 12:30"},
                {"role": "user", "content": "Hello?"},
            ]
            await client.post(CHAT, json={"model": model, "messages": turns})
            sent = json.loads(upstream.asked[0].body)["messages"]
            if model == "large":
                assert sent == turns
            else:
                assert sent[0]["content"] == "Be brief."
                assert [part["text"] for part in sent[1]["content"]] == ["Hello?", "Now: 12:30"]


class TestNamedContracts:
    async def test_a_named_contract_holds_for_requests_that_ask_for_it_alone(self):
        async def fine(asked: Asked, _: dict) -> None:
            await asked.answer(json.loads(chat_answer("fine")))

        contract = {"model": "small", "name": "short", "max_tokens": 3}
        async with gateway_over(fine, prompts={"contracts": [contract]}) as (client, upstream, _):
            await client.post(CHAT, json=question())
            wish = {"x-slipstream-contract": "short"}
            await client.post(CHAT, json=question(), headers=wish)
            plain, capped = [json.loads(asked.body) for asked in upstream.asked]
            assert "max_tokens" not in plain
            assert 3 in {capped.get("max_tokens"), capped.get("max_completion_tokens")}
            wish = {"x-slipstream-contract": "other"}
            refused = await client.post(CHAT, json=question(), headers=wish)
            assert (refused.status_code, refused.json()["error"]["code"]) == (
                400,
                "unknown_contract",
            )


class TestContracts:
    async def test_an_answer_is_asked_for_and_told_as_the_contract_says(self):
        async def fine(asked: Asked, body: dict) -> None:
            begun = body["messages"][-1]["role"] == "assistant"
            text = ' "x"}' if begun else "<think>hm</think>Yes."
            await asked.answer(json.loads(chat_answer(text)))

        contracts = [
            {
                "model": "auto",
                "hide_reasoning": True,
                "effort": "medium",
                "tiers": {"powerful": {"effort": "high", "verbosity": "low"}},
            },
            {"model": "small", "prefill": '{"a":'},
        ]
        can = {"thinking": "effort", "prefill": True}
        models = [
            {**model, "abilities": can}
            for model in configuration("http://127.0.0.1:1")["models"]
            if model["provider"] == "local"
        ]
        settings = {"prompts": {"contracts": contracts}, "models": models}
        async with gateway_over(fine, **settings) as (client, upstream, _):
            said = []
            for model, tier in (("auto", "fast"), ("auto", "powerful"), ("small", "fast")):
                wish = {"x-slipstream-tier": tier} if model == "auto" else {}
                told = await client.post(CHAT, json=question(model), headers=wish)
                said.append(told.json()["choices"][0]["message"]["content"])
            assert said == ["Yes.", "Yes.", '{"a": "x"}']
            sent = [json.loads(asked.body) for asked in upstream.asked]
            assert [each.get("reasoning_effort") for each in sent] == ["medium", "high", None]
            assert [each.get("verbosity") for each in sent] == [None, "low", None]


class TestRetries:
    @pytest.mark.parametrize("retries", [0, 1, 3])
    async def test_a_provider_is_tried_once_and_as_often_again_as_it_says(self, retries):
        async def fail(asked: Asked, _: dict) -> None:
            await asked.answer({"error": {"message": "no", "type": "server_error"}}, 500)

        async with gateway_over(fail, provider={"retries": retries}) as (client, upstream, _):
            answer = await client.post(CHAT, json=question())
            assert answer.status_code == 500
            assert len(upstream.asked) == 1 + retries


class TestCoalesce:
    @pytest.mark.parametrize(("coalesce", "calls"), [(True, 1), (False, 2)])
    async def test_identical_requests_in_flight_share_a_call_unless_it_is_off(
        self, coalesce, calls
    ):
        go = asyncio.Event()

        async def wait(asked: Asked, _: dict) -> None:
            await go.wait()
            await asked.answer(chat_answer("Somebody wrote it."))

        cache = {"coalesce": coalesce}
        async with gateway_over(wait, cache=cache) as (client, upstream, running):
            in_flight = running.context.edge.in_flight
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(client.post(CHAT, json=question())) for _ in range(2)]
                for _ in range(calls):
                    await upstream.arrived.get()
                while in_flight.now < 2:  # noqa: ASYNC110 - a count has no event; no time is measured
                    await asyncio.sleep(0)
                go.set()
            said = sorted(task.result().headers["x-slipstream-cache"] for task in asked)
            assert said == (["coalesced", "miss"] if coalesce else ["miss", "miss"])
            assert len(upstream.asked) == calls


class TestLanes:
    @pytest.mark.parametrize(("built_in", "outcome"), [(True, "lane"), (False, "miss")])
    async def test_the_built_in_rules_can_be_switched_off(self, built_in, outcome):
        async def say(asked: Asked, _: dict) -> None:
            await asked.answer(chat_answer("Four, I am sure that it is four and nothing else."))

        lanes = {"built_in": built_in}
        async with gateway_over(say, lanes=lanes) as (client, _, _running):
            answer = await client.post(CHAT, json=question("auto", "What is 2 + 2?"))
            assert answer.headers["x-slipstream-cache"] == outcome


GOOD = "The powerful model has an answer of quite a few words to this one."
POOR = {
    "refused": chat_answer(None, refusal="I cannot help with that, and I will not say why at all."),
    "filtered": chat_answer("", finish="content_filter"),
    "empty": chat_answer(""),
    "cut before a word": chat_answer("", finish="length"),
}


class TestEscalate:
    async def ask(self, poor: str, *, strong: str | int = "", stream: bool = False, **sections):
        """The client's answer, the models asked, the running gateway's escalation counts."""
        asked_models: list[str] = []

        async def say(asked: Asked, body: dict) -> None:
            asked_models.append(body["model"])
            if body["model"] == "sim-fast":
                await asked.answer(poor)
            elif isinstance(strong, int):
                await asked.answer({"error": {"message": "no", "type": "server_error"}}, strong)
            else:
                await asked.answer(strong or chat_answer(GOOD))

        routing = {"fast_share": 1.0, **sections.pop("routing", {})}
        provider = {"retries": 0}
        async with gateway_over(say, routing=routing, provider=provider, **sections) as it:
            client, _, running = it
            answer = await client.post(CHAT, json=question("auto", stream=stream))
            family = running.context.telemetry.metrics.escalations
            counted = {key: cell.value for key, cell in family._children.items()}
        return answer, asked_models, counted

    @pytest.mark.parametrize("lack", POOR)
    async def test_a_fast_answer_that_is_none_is_asked_of_the_powerful_tier(self, lack):
        answer, models, counted = await self.ask(POOR[lack])
        assert answer.json()["choices"][0]["message"]["content"] == GOOD
        assert models == ["sim-fast", "sim-powerful"]
        assert answer.headers["x-slipstream-tier"] == "powerful"
        assert answer.headers["x-slipstream-model"] == "local/sim-powerful"
        assert "the fast answer was" in answer.headers["x-slipstream-reason"]
        assert sum(counted.values()) == 1
        assert {outcome for _, outcome in counted} == {"gained"}

    async def test_when_the_powerful_tier_fails_the_fast_answer_is_shown(self):
        answer, models, counted = await self.ask(POOR["refused"], strong=500)
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["refusal"]
        assert models == ["sim-fast", "sim-powerful"]
        assert answer.headers["x-slipstream-tier"] == "fast"
        assert answer.headers["x-slipstream-model"] == "local/sim-fast"
        assert counted == {("refused", "failed"): 1}

    async def test_a_powerful_answer_that_is_no_better_is_counted_as_equal(self):
        answer, _, counted = await self.ask(POOR["refused"], strong=POOR["refused"])
        assert answer.headers["x-slipstream-tier"] == "powerful"
        assert counted == {("refused", "equal"): 1}

    async def test_a_short_answer_is_an_answer(self):
        _, models, counted = await self.ask(chat_answer("No."))
        assert models == ["sim-fast"]
        assert not counted

    async def test_it_can_be_switched_off(self):
        answer, models, _ = await self.ask(POOR["refused"], routing={"escalate": False})
        assert models == ["sim-fast"]
        assert answer.json()["choices"][0]["message"]["refusal"]


class TestCorsOrigins:
    PAGE = "https://app.example"

    @asynccontextmanager
    async def gateway(self, *origins: str) -> AsyncIterator[httpx2.AsyncClient]:
        async def say(asked: Asked, _: dict) -> None:
            await asked.answer(chat_answer(GOOD))

        async with gateway_over(say, server={"cors_origins": list(origins)}) as (client, _, _r):
            yield client

    @pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/models", "/v1/traces"])
    async def test_a_page_of_a_named_origin_may_ask_before_it_calls(self, path):
        async with self.gateway(self.PAGE) as client:
            asked = {
                "origin": self.PAGE,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type, x-slipstream-user",
            }
            answer = await client.options(path, headers=asked)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == self.PAGE
            assert "POST" in answer.headers["access-control-allow-methods"]
            assert "x-slipstream-user" in answer.headers["access-control-allow-headers"]
            refused = await client.options(path, headers={**asked, "origin": "https://bad.example"})
            assert refused.status_code == 400
            assert "access-control-allow-origin" not in refused.headers

    @pytest.mark.parametrize("stream", [False, True])
    async def test_it_may_read_the_answer_and_what_the_gateway_says_about_it(self, stream):
        async with self.gateway(self.PAGE) as client:
            body = question(stream=stream)
            answer = await client.post(CHAT, json=body, headers={"origin": self.PAGE})
            assert GOOD in answer.text or stream
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == self.PAGE
            readable = answer.headers["access-control-expose-headers"].split(", ")
            told = [name for name in answer.headers if name.startswith("x-slipstream-")]
            assert {*told, "server-timing", "x-request-id"} <= set(readable)

    async def test_it_may_read_why_it_was_refused(self):
        async with self.gateway(self.PAGE) as client:
            answer = await client.post(CHAT, content=b"{", headers={"origin": self.PAGE})
            assert answer.status_code == 400
            assert answer.headers["access-control-allow-origin"] == self.PAGE
            missing = await client.get("/v1/runs/none", headers={"origin": self.PAGE})
            assert missing.status_code == 404
            assert missing.headers["access-control-allow-origin"] == self.PAGE

    async def test_a_program_s_answer_is_untouched(self):
        async with self.gateway(self.PAGE) as client:
            answer = await client.post(CHAT, json=question())
            assert answer.status_code == 200
            assert not any(name.startswith("access-control-") for name in answer.headers)

    async def test_a_star_lets_every_page(self):
        async with self.gateway("*") as client:
            answer = await client.post(
                CHAT, json=question(), headers={"origin": "https://x.example"}
            )
            assert answer.headers["access-control-allow-origin"] == "*"

    async def test_without_the_setting_no_page_may(self):
        async with self.gateway() as client:
            answer = await client.post(CHAT, json=question(), headers={"origin": self.PAGE})
            assert answer.status_code == 200
            assert not any(name.startswith("access-control-") for name in answer.headers)


class TestLedgerDays:
    @pytest.mark.parametrize(("days", "status"), [(30, 200), (0, 404)])
    async def test_the_ledger_is_kept_and_can_be_fetched_unless_it_is_off(self, days, status):
        async def answer(asked: Asked, _: dict) -> None:
            await asked.answer(chat_answer("Me."))

        telemetry = {"ledger_days": days, "log_level": "error"}
        async with gateway_over(answer, telemetry=telemetry) as (client, _, running):
            request_id = (await client.post(CHAT, json=question())).headers["x-request-id"]
            if running.context.telemetry.ledger_file is not None:
                running.context.telemetry.flush()
                running.context.telemetry.ledger_file.close()
            fetched = await client.get("/v1/ledger")
            assert fetched.status_code == status
            assert (request_id in fetched.text) == (status == 200)


class TestShowText:
    @pytest.mark.parametrize("show", [True, False])
    async def test_the_list_of_kept_answers_has_their_words_only_where_it_is_on(self, show):
        async def answer(asked: Asked, _: dict) -> None:
            await asked.answer(chat_answer("Heliotrope."))

        async with gateway_over(answer, cache={"show_text": show}) as (client, _, _running):
            await client.post(CHAT, json=question())
            told = await client.get("/v1/cache/entries")
            assert len(told.json()["entries"]) == 1
            assert ("Heliotrope" in told.text) is show
