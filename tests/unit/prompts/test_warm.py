"""Priming bodies, and the arithmetic of keeping a prefix alive."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from app.domain.chat import Dialect
from app.domain.decisions import Tier
from app.domain.models import Abilities, Model
from app.domain.usage import Price
from app.prompts.prefix import render
from app.prompts.warm import KeepAlive, Session, SilenceStatistics, priming_body

CLAUDE = Model(
    "c", "c", "up", Tier.FAST, Price(3.0, 15.0, 0.3, 3.75), Abilities(cache_breakpoints="anthropic")
)


@pytest.mark.parametrize(
    ("dialect", "more", "expected"),
    [
        (Dialect.MESSAGES, {"max_tokens": 50, "stream": True}, {"max_tokens": 0}),
        (
            Dialect.MESSAGES,
            {"max_tokens": 5000, "thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"max_tokens": 2001, "thinking": {"type": "enabled", "budget_tokens": 2000}},
        ),
        (
            Dialect.MESSAGES,
            {"max_tokens": 50, "tool_choice": {"type": "any"}},
            {"max_tokens": 1, "tool_choice": {"type": "any"}},
        ),
        (Dialect.CHAT, {"stream": True, "stream_options": {}}, {"max_tokens": 1}),
        (Dialect.CHAT, {"max_completion_tokens": 9}, {"max_completion_tokens": 1}),
    ],
)
def test_only_what_asks_for_an_answer_is_changed(dialect, more, expected):
    prompt = {"model": "m", "messages": [{"role": "user", "content": "é\n"}]}
    raw = json.dumps({**prompt, **more}, indent=1).encode()
    primed = priming_body(raw, dialect)
    assert json.loads(primed) == {**prompt, **expected}
    before, after = render(raw, dialect), render(primed, dialect)
    assert [block.prefix_hash for block in before.blocks] == [
        block.prefix_hash for block in after.blocks
    ]


def test_responses_are_prewarmed_with_the_clients_own_options():
    raw = json.dumps({"model": "m", "input": "hi", "prompt_cache_options": {"ttl": "12h"}}).encode()
    primed = json.loads(priming_body(raw, Dialect.RESPONSES))
    assert primed["prompt_cache_options"] == {"ttl": "12h", "prewarm": True}


def session(now_s, tokens=10_000, **more):
    return Session(CLAUDE, tokens, b"", Dialect.MESSAGES, "t", now_s, now_s, **more)


def test_nothing_is_spent_before_there_is_evidence():
    keep = KeepAlive(10.0)
    keep.record_request(b"a", session(0.0))
    assert keep.due(280.0) == []


def test_a_ping_goes_out_where_conversations_come_back_late_and_none_where_they_do_not():
    keep = KeepAlive(10.0)
    for number in range(80):
        at = number * 1000.0
        keep.record_request(b"%d" % number, session(at))
        keep.record_request(b"%d" % number, session(at + 400.0))  # always back after 400 s
    now = 100_000.0
    keep._sessions.clear()
    keep.record_request(b"new", session(now))
    ((_, total),) = keep.due(now + 275.0)
    assert total.pays
    assert total.chance * total.miss_usd > total.ping_usd
    assert keep.due(now + 280.0) == []  # read again just now
    assert keep.due(now + 275.0 + 275.0) == []  # nobody ever came back so late


def test_the_budget_is_never_exceeded():
    keep = KeepAlive(0.004)
    for number in range(5):
        keep.record_request(b"%d" % number, session(0.0, until_s=10_000.0, requested=True))
    assert len(keep.due(275.0)) == 1  # 0.003 USD each
    assert keep.spent_usd <= 0.004


def test_a_chance_is_taken_low_and_counts_those_who_are_still_silent():
    gaps = SilenceStatistics(270.0)
    for _ in range(30):
        gaps.record_return(gaps.enter_windows(400.0, 0))
    assert gaps.return_probability(1) == 0.0  # too little is known
    for _ in range(30):
        gaps.enter_windows(400.0, 0)
    assert 0.3 < gaps.return_probability(1) < 0.5


def test_what_is_known_of_tenants_that_are_gone_takes_up_no_more_room():
    keep = KeepAlive(1.0)
    for number in range(3_000):
        keep.record_request(b"%d" % number, replace(session(0.0), tenant=f"tenant-{number}"))
    assert len(keep._gaps) == len(keep) < 3_000
