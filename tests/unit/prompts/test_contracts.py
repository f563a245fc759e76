"""Output contracts fill in what is open, lower what is too high, and touch nobody else."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import Tier
from app.domain.models import Abilities, Model
from app.errors import BadRequest
from app.prompts.contracts import Contract, Contracts
from app.prompts.terms import AnswerStyle
from app.wire.codecs import CODECS

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}}
FULL = Contract("m", "", 50, SCHEMA, "low", "low")
BEGUN = Contract("m", json_schema=SCHEMA, prefill='{"label": "')
KINDS = {Dialect.MESSAGES: "adaptive", Dialect.CHAT: "effort", Dialect.RESPONSES: "effort"}


def model(tier=Tier.FAST, **abilities):
    return Model("m", "p", "up", tier, abilities=Abilities(**abilities))


def of(dialect):
    """A model that takes all that its vendor has a word for."""
    own = {"max_tokens_field": "max_completion_tokens"} if dialect is Dialect.CHAT else {}
    return model(thinking=KINDS[dialect], verbosity=dialect is not Dialect.MESSAGES, **own)


def request(dialect, **more):
    content = (
        {"input": "hi"}
        if dialect is Dialect.RESPONSES
        else {"messages": [{"role": "user", "content": "é"}]}
    )
    body = {"model": "m", **content, **more}
    raw = json.dumps(body, ensure_ascii=False).encode()
    return ChatRequest(dialect, "m", stream=False, body=body, raw=raw)


def read(asked):
    limit = {"max_tokens": 40} if asked.dialect is Dialect.MESSAGES else {}
    return CODECS[asked.dialect].read({**asked.body, **limit})


def under(dialect, contract=FULL, to=None, tenant="t", limit="max_tokens", **more):
    """The request as it goes to the model ``to``, what was changed, and how its answer was begun."""
    before = request(dialect, **more)
    after = Contracts([contract], {"m": limit}).apply(before, tenant)
    begun = ""
    if after.terms is not None:
        after, begun = after.terms.native(after, to or of(dialect))
    assert json.loads(after.raw) == after.body
    changes = {name: value for name, value in after.body.items() if before.body.get(name) != value}
    return after, changes, begun


def applied(*arguments, **more):
    return under(*arguments, **more)[1]


WORDS = st.text(max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
CONTRACTS = st.lists(
    st.builds(
        Contract,
        st.sampled_from(["other", "auto", "m"]),
        st.sampled_from(["", "somebody"]),
        st.none() | st.integers(1, 9),
        st.none() | st.just(SCHEMA),
        st.sampled_from(["", "low"]),
        st.sampled_from(["", "low"]),
        st.sampled_from(["", "short"]),
        st.sampled_from(["", "{"]),
        st.booleans(),
    ),
    max_size=4,
)


@pytest.mark.parametrize("dialect", list(Dialect))
@given(more=st.dictionaries(WORDS, VALUES, max_size=4), contracts=CONTRACTS)
def test_a_request_that_no_contract_names_is_the_same_object(dialect, more, contracts):
    asked = request(dialect, **more)
    others = [each for each in contracts if each.model != "m" or each.tenant or each.name]
    given_up = Contracts(others, {}).apply(asked, "t")
    assert given_up is asked
    assert asked.terms is None
    assert json.loads(asked.raw) == request(dialect, **more).body


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
    budget = {"type": "enabled", "budget_tokens": 2000}
    old = model(thinking="budget")
    effort = Contract("m", effort="low")
    assert applied(Dialect.MESSAGES, effort, old, thinking=budget, max_tokens=9000) == {}


@pytest.mark.parametrize("contract", [FULL, BEGUN, Contract("m", max_tokens=50)])
def test_a_request_that_only_primes_is_left_alone(contract):
    asked = request(Dialect.MESSAGES, max_tokens=0)
    assert Contracts([contract], {}).apply(asked, "t") is asked


def test_effort_is_told_in_each_vendors_words_and_only_to_models_that_reason():
    def effort(dialect, word, kind, **more):
        return applied(dialect, Contract("m", effort=word), model(thinking=kind), **more)

    for dialect in Dialect:
        assert effort(dialect, "high", "none", max_tokens=9000) == {}
    messages = Dialect.MESSAGES
    assert effort(messages, "minimal", "adaptive") == {"output_config": {"effort": "low"}}
    assert effort(messages, "none", "adaptive") == {"thinking": {"type": "disabled"}}
    assert effort(messages, "none", "budget", max_tokens=9000) == {}
    enabled = {"type": "enabled", "budget_tokens": 2048}
    assert effort(messages, "low", "budget", max_tokens=9000) == {"thinking": enabled}
    small = {"type": "enabled", "budget_tokens": 1024}
    assert effort(messages, "max", "budget", max_tokens=1500) == {"thinking": small}
    assert effort(messages, "max", "budget", max_tokens=1024) == {}
    assert effort(messages, "low", "budget", max_tokens=9000, temperature=0.2) == {}
    assert effort(messages, "low", "budget", max_tokens=9000, tools=[{"name": "t"}]) == {}


@pytest.mark.parametrize("dialect", list(Dialect))
def test_each_tier_has_its_own_manner(dialect):
    tiers = {Tier.FAST: AnswerStyle("low"), Tier.POWERFUL: AnswerStyle("high", "high")}
    contract = Contract("m", effort="medium", verbosity="low", tiers=tiers)
    kind = KINDS[dialect]
    for tier, word, much in ((Tier.FAST, "low", "low"), (Tier.POWERFUL, "high", "high")):
        to = model(tier, thinking=kind, verbosity=dialect is not Dialect.MESSAGES)
        assert (
            applied(dialect, contract, to)
            == {
                Dialect.MESSAGES: {"output_config": {"effort": word}},
                Dialect.CHAT: {"reasoning_effort": word, "verbosity": much},
                Dialect.RESPONSES: {"reasoning": {"effort": word}, "text": {"verbosity": much}},
            }[dialect]
        )
        asked = Contracts([contract], {}).apply(request(dialect), "t")
        neutral, _ = asked.terms.neutral(read(asked), to)
        assert neutral.sampling.effort == word
        assert neutral.sampling.verbosity == (None if dialect is Dialect.MESSAGES else much)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_an_answer_is_begun_where_the_model_goes_on_and_else_its_schema_asks_for_it(dialect):
    name = "input" if dialect is Dialect.RESPONSES else "messages"
    after, changes, begun = under(dialect, BEGUN, model(prefill=True))
    assert begun == BEGUN.prefill
    assert changes.keys() == {name}
    assert changes[name][1:] == [{"role": "assistant", "content": begun}]
    assert changes[name][0]["content"] == ("hi" if dialect is Dialect.RESPONSES else "é")
    if dialect is not Dialect.RESPONSES:
        assert (
            json.dumps({"role": "user", "content": "é"}, ensure_ascii=False).encode() in after.raw
        )
    _, changes, begun = under(dialect, BEGUN, model(prefill=False))
    assert begun == ""
    assert b"json_schema" in msgspec.json.encode(changes)
    asked = Contracts([BEGUN], {}).apply(request(dialect), "t")
    neutral, begun = asked.terms.neutral(read(asked), model(prefill=True))
    assert (begun, neutral.json_output) == (BEGUN.prefill, None)
    assert neutral.messages[-1].parts[0].text == BEGUN.prefill
    neutral, begun = asked.terms.neutral(read(asked), model(prefill=False))
    assert (begun, neutral.json_output.schema) == ("", SCHEMA)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"name": "t", "input_schema": {}}]},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ],
)
def test_an_answer_is_not_begun_where_the_client_wants_what_forbids_it(more):
    after, _, begun = under(Dialect.MESSAGES, BEGUN, model(prefill=True), max_tokens=9000, **more)
    assert begun == ""
    assert (
        after.body["messages"]
        == {"messages": [{"role": "user", "content": "é"}], **more}["messages"]
    )


def test_a_limit_goes_by_the_name_that_the_chosen_model_knows():
    contract = Contract("m", max_tokens=50)
    old, new = model(), model(max_tokens_field="max_completion_tokens")
    assert applied(Dialect.CHAT, contract, old) == {"max_tokens": 50}
    assert applied(Dialect.CHAT, contract, new) == {"max_completion_tokens": 50}
    assert applied(Dialect.CHAT, contract, new, max_tokens=90) == {"max_tokens": 50}


def test_answers_under_other_terms_are_never_shared():
    scope = ("t", "", "m", "", 0)
    contracts = [
        Contract("m"),
        Contract("m", effort="low"),
        Contract("m", hide_reasoning=True),
        Contract("m", prefill="{"),
        Contract("m", tiers={Tier.FAST: AnswerStyle("low")}),
    ]
    plain = request(Dialect.CHAT)
    keys = [exact_key(scope, Contracts([each], {}).apply(plain, "t")) for each in contracts]
    assert len({exact_key(scope, plain), *keys}) == 1 + len(contracts)
    assert keys == [exact_key(scope, Contracts([each], {}).apply(plain, "t")) for each in contracts]


def test_a_contract_that_is_asked_for_by_name_holds_for_that_request_alone():
    contracts = Contracts([Contract("m", name="short", max_tokens=5)], {})
    asked = request(Dialect.CHAT)
    assert contracts.apply(asked, "t") is asked
    assert contracts.apply(asked, "t", "short").body["max_tokens"] == 5
    with pytest.raises(BadRequest, match="no contract of that name"):
        contracts.apply(asked, "t", "long")


def test_questions_under_other_terms_do_not_meet_by_meaning_either():
    scope = CacheScope("t", "", "m")
    plain = request(Dialect.CHAT)
    quiet = Contracts([Contract("m", hide_reasoning=True)], {}).apply(plain, "t")
    assert partition_key(scope, quiet) != partition_key(scope, plain)


def test_thinking_that_is_hidden_is_not_even_sent_where_the_vendor_can_leave_it_out():
    quiet = Contract("m", hide_reasoning=True)
    adaptive, old = model(thinking="adaptive"), model(thinking="budget")
    on = {"type": "adaptive"}
    told = applied(Dialect.MESSAGES, quiet, adaptive, thinking=on)
    assert told == {"thinking": {"type": "adaptive", "display": "omitted"}}
    own = {"type": "adaptive", "display": "summarized"}
    assert applied(Dialect.MESSAGES, quiet, adaptive, thinking=own) == {}
    off = {"type": "disabled"}
    assert applied(Dialect.MESSAGES, quiet, adaptive, thinking=off) == {}
    budget = {"type": "enabled", "budget_tokens": 1024}
    assert applied(Dialect.MESSAGES, quiet, old, thinking=budget) == {}
    assert applied(Dialect.MESSAGES, quiet, adaptive) == {}
