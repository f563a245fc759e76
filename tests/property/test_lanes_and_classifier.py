"""Whatever the text, lanes and classifier answer in bounded shape and never raise."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.classify.classifier import Classifier
from app.domain.decisions import PromptView
from app.lanes.arithmetic import evaluate
from app.lanes.builtin import built_in_rules
from app.lanes.rules import Lanes

LANES = Lanes(built_in_rules())
CLASSIFIER = Classifier()
anything = st.text(st.characters(), max_size=3000)


@given(anything)
def test_no_text_breaks_a_lane(text: str):
    found = LANES.match(text)
    assert found is None or found.text


@settings(deadline=None)
@given(anything, st.lists(st.text(max_size=20), max_size=5), st.integers(0, 10**7))
def test_no_text_breaks_the_classifier(text: str, tools: list[str], chars: int):
    view = PromptView(text=text, total_chars=chars, tool_names=tuple(tools))
    judged = CLASSIFIER.classify(view)
    assert 0.0 <= judged.complexity <= 1.0
    assert 0.0 <= judged.several_calls <= 1.0
    assert all(0.0 <= p <= 1.0 for _, p in judged.tool_need)
    assert judged == CLASSIFIER.classify(view)


numbers = st.integers(0, 999)
trees = st.recursive(
    numbers.map(lambda n: (str(n), Fraction(n))),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda t: (
            f"({t[0][0]}{t[1]}{t[2][0]})",
            {"+": t[0][1] + t[2][1], "-": t[0][1] - t[2][1], "*": t[0][1] * t[2][1]}[t[1]],
        )
    ),
    max_leaves=8,
)


@given(trees)
def test_arithmetic_is_exact_or_declined(tree: tuple[str, Fraction]):
    text, value = tree
    assert evaluate(text) in {None, value}


@given(st.text("0123456789+-*/^(). x,", max_size=90))
def test_no_expression_breaks_or_stalls_the_parser(text: str):
    try:
        value = evaluate(text)
    except ZeroDivisionError:
        return
    assert value is None or abs(value.numerator) <= 10**40


@pytest.mark.parametrize("text", ["", "\x00" * 100, "\ud800" * 50, "a" * 1_000_000, "🙂" * 5000])
def test_huge_and_binary_texts_are_read_within_the_cap(text: str):
    assert 0 <= CLASSIFIER.classify(PromptView(text=text, total_chars=len(text))).complexity <= 1


UNITS = (
    *(" ", "\n", "\n ", "\t\x0b", "(", "$", "\\", "'", "a", "1.", "é", "é ", "```", "\n A", "\n-"),
    *("select ", "function ", "function{", "SELECT é", "who is the ", "how many has ", "what is "),
)


def _cpu_s(text: str) -> float:
    spent = []
    for _ in range(3):
        began_s = time.thread_time()
        CLASSIFIER.classify(PromptView(text=text, total_chars=len(text), tool_names=("find_user",)))
        spent.append(time.thread_time() - began_s)
    return min(spent)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("chars", [200, 100_000])
def test_no_repeated_text_costs_many_times_what_ordinary_words_do(unit: str, chars: int):
    ordinary = _cpu_s(("Why is the sky blue, and 12 other questions? " * chars)[:chars])
    assert _cpu_s((unit * chars)[:chars]) < 15 * ordinary


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of France and how do I get to it?", "en"),
        ("Was ist das Haus und wie kommt man von dem Bahnhof für Gäste zu dem?", "de"),
        ("Что это за дом и как туда попасть?", "cyrillic"),
        ("这是什么？", "han"),
        ("x = y", None),
    ],
)
def test_a_request_is_judged_with_its_language(text: str, language: str | None):
    assert CLASSIFIER.classify(PromptView(text=text, total_chars=len(text))).language == language
