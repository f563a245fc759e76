"""The linter: each rule finds its fault, names its bytes, and says nothing of a clean request."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from app.cli import main
from app.domain.chat import Dialect
from app.prompts.diagnosis import verdict
from app.prompts.lint import compare, lint
from app.prompts.lint_report import detect_dialect, lint_all, parse_requests
from app.prompts.prefix import render
from app.prompts.usage_statistics import RequestRate

LONG = "Measure every piece of work against the same short list of plain rules. " * 120
CLEAN = {
    "model": "m",
    "max_tokens": 50,
    "tools": [
        {"name": n, "description": f"Find {n}.", "input_schema": {"type": "object", "title": n}}
        for n in ("book", "page")
    ],
    "system": "Answer in one sentence. " + LONG,
    "messages": [
        {"role": "user", "content": "What is rule one?"},
        {"role": "assistant", "content": "Be plain."},
        {"role": "user", "content": "And rule two?"},
    ],
}


def changed(**fields):
    return {**deepcopy(CLEAN), **fields}


def found(body):
    raw = json.dumps(body, ensure_ascii=False).encode()
    _, findings = lint(raw, detect_dialect(raw))
    return {each.rule: raw[each.span.start : each.span.end].decode() for each in findings}


def mark(text):
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]


def test_a_clean_request_has_no_findings():
    assert found(CLEAN) == {}


@pytest.mark.parametrize(
    ("rule", "body", "says"),
    [
        ("volatile_timestamp", changed(system=f"It is 2026-11-21T05:00:01Z. {LONG}"), "2026-11-21T05:00:01Z"),
        ("volatile_uuid", changed(system="Réq 123e4567-e89b-12d3-a456-426614174000. " + LONG), "123e4567-e89b-12d3-a456-426614174000"),  # noqa: E501
        ("volatile_date", changed(system=f"Today is 2026-11-21. {LONG}"), "2026-11-21"),
        ("volatile_id", changed(system=f"Session sess_8f3k2j1x9. {LONG}"), "sess_8f3k2j1x9"),
        ("volatile_epoch", changed(system=f"Now: 1795237261. {LONG}"), "1795237261"),
        ("below_minimum", changed(tools=[], system=mark("Answer in one word.")), None),
        ("breakpoint_too_early", changed(system=mark(LONG), messages=[
            {"role": "user", "content": LONG}, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "So?"}]), None),  # noqa: E501
        ("too_many_breakpoints", changed(system=mark(LONG) * 5), None),
        ("look_back", changed(messages=[{"role": "user", "content": mark("a") + [{"type": "text", "text": str(i)} for i in range(25)] + mark("b")}], system=mark(LONG)), None),  # noqa: E501
        ("buried_task", changed(system="Our firm was founded long ago. " * 60 + "Your task is to answer in JSON."), None),  # noqa: E501
        ("no_output_contract", changed(tools=None, system="We are a bank.") | {"tools": []}, None),
        ("thinking_in_classification", changed(system="Classify the ticket, but think step by step first. One word."), "step by step"),  # noqa: E501
    ],
)  # fmt: skip
def test_each_rule_finds_its_fault_and_names_its_bytes(rule, body, says):
    if rule == "no_output_contract":
        body.pop("tools")
    findings = found(body)
    assert rule in findings
    if says is not None:
        assert findings[rule] == says


def test_a_time_in_the_last_message_harms_nobody():
    body = changed()
    body["messages"][-1]["content"] = "It is 2026-11-21T05:00:01Z. And rule two?"
    assert found(body) == {}


def later(mutate):
    """A conversation's next turn, mutated."""
    body = changed()
    body["messages"] += [
        {"role": "assistant", "content": "Be brief."},
        {"role": "user", "content": "And three?"},
    ]
    mutate(body)
    before = render(json.dumps(CLEAN).encode(), Dialect.MESSAGES)
    return compare(before, render(json.dumps(body).encode(), Dialect.MESSAGES))


@pytest.mark.parametrize(
    ("mutate", "rule", "family"),
    [
        (lambda b: b["tools"].reverse(), "tool_order", "tools_changed"),
        (lambda b: b["tools"].__setitem__(0, dict(reversed(b["tools"][0].items()))), "key_order", "tools_changed"),  # noqa: E501
        (lambda b: b["tools"][1].update(description="Another."), "changed_tool", "tools_changed"),
        (lambda b: b["tools"].pop(), "removed_tool", "tools_changed"),
        (lambda b: b["tools"].append({"name": "x", "input_schema": {}}), "added_tool", "tools_changed"),
        (lambda b: b.update(model="n"), "model_switch", "model_changed"),
        (lambda b: b.update(system="At 05:00:01 " + b["system"]), "volatile_system", "system_changed"),
        (lambda b: b.update(system=b["system"] + "Be kind."), "changed_system", "system_changed"),
        (lambda b: b["messages"][1].update(content="Be very plain."), "changed_history", "messages_changed"),
        (lambda b: b["messages"].__delitem__(slice(1, 4)), "shortened_history", "messages_changed"),
        (lambda b: b.update(tool_choice={"type": "any"}), "tool_choice_changed", "unavailable"),
    ],
)  # fmt: skip
def test_the_cause_of_a_miss_is_the_first_difference(mutate, rule, family):
    cause = later(mutate)
    assert cause.rule == rule
    assert verdict(cause, family, Dialect.MESSAGES) == "agree"


def test_a_turn_that_only_goes_on_has_no_cause():
    assert later(lambda _: None) is None


def test_a_moved_breakpoint_is_no_change():
    assert later(lambda b: b.update(system=mark(b["system"]))) is None


def test_files_may_hold_one_request_an_array_or_one_a_line(tmp_path, capsys):
    one = json.dumps(CLEAN)
    two = json.dumps(changed(system="Another. Answer briefly. " + LONG))
    assert len(parse_requests(f"[{one},{two}]".encode())) == 2
    for text in (f"[{one},{two}]", f"{one}\n{two}\n"):
        rules = [
            [f.rule for f in findings] for _, _, findings in lint_all(parse_requests(text.encode()))
        ]
        assert rules == [[], ["changed_system"]]
    path = tmp_path / "requests.jsonl"
    path.write_text(one)
    assert main(["lint", str(path)]) == 0
    path.write_text(f"{one}\n{two}\n")
    assert main(["lint", str(path)]) == 1
    assert "changed_system at /system" in capsys.readouterr().out
    assert main(["lint", "--json", str(path)]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[1])["findings"][0]["bytes"]
    path.write_text("no request")
    assert main(["lint", str(path)]) == 2


def test_the_command_says_what_a_finding_costs_at_these_prices_and_this_traffic(tmp_path, capsys):
    path, config = tmp_path / "turns.jsonl", tmp_path / "gateway.yaml"
    model = {"name": "m", "provider": "p", "model": "x", "tier": "fast", "price": {"input": 10}}
    provider = {"kind": "anthropic", "base_url": "http://127.0.0.1:1"}
    config.write_text(json.dumps({"providers": {"p": provider}, "models": [model]}))
    other = {**CLEAN, "tools": list(reversed(CLEAN["tools"]))}
    path.write_text(json.dumps(CLEAN) + "\n" + json.dumps(other) + "\n")
    told = ["lint", "--json", "--config", str(config), "--per-hour", "100", str(path)]
    assert main(told) == 1
    line = json.loads(capsys.readouterr().out.splitlines()[1])
    (found,) = [each for each in line["findings"] if each["rule"] == "tool_order"]
    cost = found["costs"]
    assert cost["usd"] > 0
    assert cost["usd_per_hour"] == pytest.approx(100 * cost["usd"], rel=1e-3)
    assert cost["s_per_hour"] == pytest.approx(cost["ms"] / 10, abs=1e-2)
    assert main([each for each in told if each != "--json"]) == 1
    assert "USD an hour" in capsys.readouterr().out


def test_the_rate_is_that_of_the_last_hours():
    rate = RequestRate()
    assert rate.per_hour(5.0) == 0
    for number in range(6000):
        rate.record(60.0 * number)
    assert rate.per_hour(60.0 * 6000) == pytest.approx(60, rel=0.05)
    assert rate.per_hour(60.0 * 6000 + 10 * 3600) < 1
    once = RequestRate()
    once.record(7.0)
    assert once.per_hour(7.0) == pytest.approx(60, rel=0.05)
