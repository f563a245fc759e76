from __future__ import annotations

import time

import pytest

from app.lanes.builtin import built_in_rules, email_fault
from app.lanes.rules import MAX_TEXT_CHARS, Case, LaneRuleError, Lanes, Rule, operator_rule

LANES = Lanes(built_in_rules())


def answer(text: str) -> str | None:
    found = LANES.match(text)
    return None if found is None else found.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 12 * (3 + 4)?", "12 * (3 + 4) = 84"),
        ("  17+25  ", "17+25 = 42"),
        ("what's 3 x 4?", "3 x 4 = 12"),
        ("1,000 + 2,500", "1,000 + 2,500 = 3500"),
        ("Calculate 0.1 + 0.2", "0.1 + 0.2 = 0.3"),
        ("-2^2 =", "-2^2 = -4"),
        ("compute 7 / 0", "7 / 0 is undefined: it divides by zero."),
        ("what is 15% of 80", "15% of 80 = 12"),
        ("sqrt(2)", "√2 ≈ 1.414213562"),
        ("Convert 10 km to miles", "10 km ≈ 6.21371 mi"),
        ("how many feet are in 1 mile?", "1 mi = 5280 ft"),
        ("-40 C in F", "-40 °C = -40 °F"),
        ("is 2000 a leap year?", "Yes, 2000 is a leap year."),
        ("What date is 1 day before 2024-03-01?", "2024-02-29 (Thursday)"),
        ("Is a@b.c a valid email?", "Yes, a@b.c has the form of a valid e-mail address."),
        ("Hello!", "Hello! How can I help you?"),
        ("thanks a lot", "You're welcome!"),
    ],
)
def test_an_exact_question_is_answered_exactly(text: str, expected: str):
    assert answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What is 9/11?",
        "what is 24/7",
        "call 555-1234",
        "2024-01-05",
        "1.2.3",
        "What is 5",
        "What is 9**9**9?",
        "What is 2**0.5",
        "Write a function that computes 2 + 2",
        "What is 2 + 2 apples?",
        "convert 10 pounds to euros",
        "convert 5 kg to miles",
        "-500 C in F",
        "how many days in a year?",
        "what day is it today?",
        "What day was 30 February 2024?",
        "Is my colleague's address a valid email?",
        "hello world",
        "thanks, but that is wrong",
        "\ud800",
        "\x00\x01",
        "1+" * 600 + "1",
        "(" * 40 + "1+1" + ")" * 40,
    ],
)
def test_whatever_is_not_exactly_a_lane_question_is_declined(text: str):
    assert answer(text) is None


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("alice@example.org", True),
        ("first.last+tag@sub.example.co", True),
        ("a@b", False),
        ("a..b@example.org", False),
        (".a@example.org", False),
        ("a@-b.org", False),
        ("a@b.123", False),
        ("a@@b.org", False),
        ("@b.org", False),
        ("x" * 65 + "@b.org", False),
        ("x@" + "b" * 64 + ".org", False),
    ],
)
def test_an_address_is_judged_by_its_form(address: str, *, good: bool):
    assert (email_fault(address) is None) is good


def test_an_operators_rule_fills_its_template_and_comes_before_the_shipped_ones():
    rule = operator_rule(
        "hours",
        r"when (?:do you open|are you open)(?: on (?P<day>\w+))?\??",
        "We are open 9-17 {day}{{}}",
        [Case("When do you open on Monday?", "We are open 9-17 Monday{}")],
    )
    found = Lanes([rule, *built_in_rules()]).match("when are you open?")
    assert found is not None
    assert (found.rule, found.text) == ("hours", "We are open 9-17 {}")


def test_a_rule_that_fails_its_own_case_stops_the_start_with_rule_and_case():
    rule = operator_rule("x", "ping", "pong", [Case("pings", "pong")])
    with pytest.raises(LaneRuleError, match=r"'x' fails its test case 'pings'.*no answer"):
        Lanes([rule])


@pytest.mark.parametrize(
    ("pattern", "template", "reason"),
    [
        ("a(?=b)", "x", "RE2"),
        ("(", "x", "RE2"),
        ("a", "{who}", "who"),
        ("a", "{", "single"),
        ("a" * 3000, "x", "characters"),
        ("\ud800", "x", "RE2"),
    ],
)
def test_a_faulty_operator_rule_says_what_is_wrong(pattern: str, template: str, reason: str):
    with pytest.raises(LaneRuleError, match=reason):
        operator_rule("bad", pattern, template, [Case("a", "x")])


def test_a_rule_without_cases_and_two_of_one_name_are_refused():
    with pytest.raises(LaneRuleError, match="test case"):
        operator_rule("bare", "a", "b", [])
    rule = operator_rule("twin", "a", "b", [Case("a", "b")])
    with pytest.raises(LaneRuleError, match="twin"):
        Lanes([rule, rule])


def test_a_template_cannot_reach_into_objects():
    with pytest.raises(LaneRuleError):
        operator_rule("evil", "(?P<x>a)", "{x.__class__}", [Case("a", "a")])


def test_a_pattern_that_would_backtrack_for_ever_elsewhere_is_linear_here():
    rule = operator_rule("evil", r"(a+)+b", "x", [Case("aab", "x")])
    lanes = Lanes([rule])
    started = time.perf_counter()
    assert lanes.match("a" * (MAX_TEXT_CHARS - 1)) is None
    assert time.perf_counter() - started < 1.0


def test_a_handler_that_declines_passes_the_question_on():
    first = Rule("first", "ping", lambda _: None, ())
    second = Rule("second", "ping", lambda _: "pong", (Case("ping", "pong"),))
    found = Lanes([first, second]).match("PING")
    assert found is not None
    assert found.rule == "second"


def test_no_rules_answer_nothing():
    assert Lanes([]).match("hello") is None
