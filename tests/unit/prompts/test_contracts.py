"""Output contracts fill in what is open, lower what is too high, and touch nobody else."""

from __future__ import annotations

import json

import pytest

from app.domain.chat import ChatRequest, Dialect
from app.prompts.contracts import Contract, Contracts

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}}
FULL = Contract("m", "", 50, SCHEMA, "low", "low")


def request(dialect, **more):
    content = (
        {"input": "hi"}
        if dialect is Dialect.RESPONSES
        else {"messages": [{"role": "user", "content": "é"}]}
    )
    body = {"model": "m", **content, **more}
    raw = json.dumps(body, ensure_ascii=False).encode()
    return ChatRequest(dialect, "m", stream=False, body=body, raw=raw)


def applied(dialect, contract=FULL, tenant="t", limit="max_tokens", **more):
    before = request(dialect, **more)
    after = Contracts([contract], {"m": limit}).apply(before, tenant)
    assert json.loads(after.raw) == after.body
    return {name: value for name, value in after.body.items() if before.body.get(name) != value}


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_request_that_no_contract_names_is_the_same_object(dialect):
    asked = request(dialect)
    for contract in (Contract("other", max_tokens=1), Contract("m", "somebody", 1)):
        assert Contracts([contract], {}).apply(asked, "t") is asked


def test_each_dialect_gets_the_vendors_own_fields():
    form = {"type": "json_schema", "schema": SCHEMA}
    assert applied(Dialect.MESSAGES, max_tokens=400) == {
        "max_tokens": 50,
        "output_config": {"effort": "low", "format": form},
    }
    named = {"name": "answer", "strict": True}
    assert applied(Dialect.CHAT, limit="max_completion_tokens") == {
        "max_completion_tokens": 50,
        "reasoning_effort": "low",
        "verbosity": "low",
        "response_format": {"type": "json_schema", "json_schema": {**named, "schema": SCHEMA}},
    }
    assert applied(Dialect.RESPONSES) == {
        "max_output_tokens": 50,
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "low", "format": {**form, **named}},
    }


def test_what_the_client_asked_for_holds():
    assert applied(Dialect.CHAT, Contract("m", max_tokens=50), max_tokens=20) == {}
    own = {"type": "json_object"}
    said = applied(Dialect.CHAT, response_format=own, reasoning_effort="high", max_tokens=90)
    assert said == {"max_tokens": 50, "verbosity": "low"}
    config = {"effort": "high"}
    changed = applied(Dialect.MESSAGES, Contract("m", effort="low"), output_config=config)
    assert changed == {}


def test_a_request_that_only_primes_keeps_its_zero():
    assert applied(Dialect.MESSAGES, Contract("m", max_tokens=50), max_tokens=0) == {}
