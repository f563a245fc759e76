"""``GET /v1/upstreams`` says how upstreams and deployments stand, and the same is in the metrics."""

from __future__ import annotations

import json

import pytest

from tests.contract.test_settings_act import CHAT, chat_answer, gateway_over, question
from tests.support.tool_server import Asked

pytestmark = pytest.mark.anyio


async def test_a_deployment_that_fails_is_shown_as_open_and_its_upstream_with_the_failures() -> (
    None
):
    async def answer(asked: Asked, body: dict) -> None:
        if body["model"] == "sim-powerful":
            await asked.answer({"error": {"message": "no"}}, 500)
        else:
            await asked.answer(json.loads(chat_answer("Somebody.")))

    async with gateway_over(answer, provider={"retries": 0}) as (client, _, _running):
        for number in range(5):
            await client.post(CHAT, json=question("large", f"Number {number}?"))
        await client.post(CHAT, json=question("small"))
        (worker,) = (await client.get("/v1/upstreams")).json()["workers"]
        by_model = {each["model"]: each for each in worker["deployments"]}
        assert by_model["large"]["state"] == "open"
        assert by_model["large"]["failures_in_a_row"] == 5
        assert 0 < by_model["large"]["asked_again_in_s"] <= 1
        assert by_model["small"]["state"] == "closed"
        assert by_model["small"]["in_flight"] == 0
        assert by_model["small"]["whole_call_s"] > 0
        (provider,) = worker["providers"]
        assert provider["places"]["in_use"] == 0
        assert provider["connections"]["opened_total"] >= 1
        assert sum(provider["failures"].values()) == 5
        shown = (await client.get("/metrics")).text
        assert 'slipstream_deployment_state{model="large"} 3' in shown
        assert 'slipstream_deployment_state{model="small"} 0' in shown
        assert 'slipstream_upstream_connections{provider="local",which="open"}' in shown


async def test_a_deployment_over_its_vendor_s_limit_is_shown_as_held() -> None:
    async def answer(asked: Asked, _: dict) -> None:
        await asked.answer({"error": {"message": "slow"}}, 429, extra="retry-after: 30\r\n")

    async with gateway_over(answer, provider={"retries": 0}) as (client, _, _running):
        await client.post(CHAT, json=question("small"))
        (worker,) = (await client.get("/v1/upstreams")).json()["workers"]
        held = next(each for each in worker["deployments"] if each["model"] == "small")
        assert held["state"] == "held"
        assert worker["providers"][0]["failures"] == {"upstream_rate_limit": 1}
        assert 0 < held["asked_again_in_s"] <= 30


async def test_it_takes_an_admin_key_where_keys_exist() -> None:
    async def answer(asked: Asked, _: dict) -> None:
        await asked.answer(json.loads(chat_answer("Me.")))

    keys = [{"key": "gw-one", "tenant": "one"}, {"key": "gw-a", "tenant": "one", "admin": True}]
    async with gateway_over(answer, auth={"required": True, "keys": keys}) as (client, _, _r):
        for key, status in (("gw-one", 403), ("gw-a", 200)):
            headers = {"authorization": f"Bearer {key}"}
            assert (await client.get("/v1/upstreams", headers=headers)).status_code == status
