"""What every request of the benchmark promises to be."""

from __future__ import annotations

import json

import pytest

from bench.scenarios import DEFAULT, MODELS, NONCE, QUICK, SCENARIOS, Scenario, request_body


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=lambda scenario: scenario.name)
def test_a_request_is_json_of_its_dialect_with_one_room_for_a_nonce(scenario: Scenario):
    raw = request_body(scenario, "a-model")
    body = json.loads(raw)
    assert raw.count(NONCE.encode()) == 1
    assert body["model"] == "a-model"
    assert body.get("stream", False) is scenario.streams
    assert ("system" in body) is (scenario.dialect == "anthropic")
    assert scenario.model in MODELS


def test_a_models_name_at_a_gateway_is_never_its_name_at_the_upstream():
    assert not set(MODELS) & set(MODELS.values())


def test_the_default_and_the_quick_runs_name_scenarios_that_exist():
    assert set(DEFAULT) | set(QUICK) <= set(SCENARIOS)


def test_a_streams_tokens_are_what_its_model_sends():
    for scenario in SCENARIOS.values():
        if scenario.streams:
            assert f"-n{scenario.tokens}-" in MODELS[scenario.model]
