"""What the simulated model says: checkable, cut where it was asked to be, the same every time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.providers.simulator.answer import expected_answer, reply_to
from app.providers.simulator.profile import SIM_FAST, SIM_POWERFUL
from app.providers.simulator.question import Entry, Limits, Question
from app.providers.simulator.tokens import count_tokens, pieces

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def ask(*entries, **options):
    return Question(SIM_FAST, tuple(entries), **options)


def said(reply):
    return "".join(reply.text)


@given(TEXTS)
def test_pieces_joined_are_the_text(text):
    assert "".join(pieces(text)) == text


def test_both_rules_of_counting_agree_on_prose():
    for model in ("sim-fast", "sim-powerful"):
        text = expected_answer("What is TCP?", model)
        assert abs(len(pieces(text)) - count_tokens(text)) < 0.25 * count_tokens(text)


def test_the_powerful_model_says_more():
    fast = pieces(expected_answer("What is TCP?", "sim-fast"))
    powerful = pieces(expected_answer("What is TCP?", "sim-powerful"))
    assert SIM_FAST.answer_tokens <= len(fast) < SIM_FAST.answer_tokens + 20
    assert SIM_POWERFUL.answer_tokens <= len(powerful) < SIM_POWERFUL.answer_tokens + 20


@given(TEXTS, TEXTS)
def test_another_question_gets_another_answer(one, other):
    same = " ".join(one.split()) == " ".join(other.split())
    assert (expected_answer(one, "sim-fast") == expected_answer(other, "sim-fast")) is same


def test_model_system_and_history_all_bear_on_the_answer():
    answers = {
        expected_answer("Q?", "sim-fast"),
        expected_answer("Q?", "sim-powerful"),
        expected_answer("Q?", "sim-fast", system="Be brief."),
        expected_answer("Q?", "sim-fast", system="Be long."),
        expected_answer("Q?", "sim-fast", history=[("user", "A?"), ("assistant", "B.")]),
        expected_answer("Q?", "sim-fast", history=[("user", "A?"), ("assistant", "C.")]),
    }
    assert len(answers) == 6


def test_white_space_and_the_place_of_the_system_prompt_do_not():
    system, user = Entry("system", "text", "Be  brief."), Entry("user", "text", "Q?\n")
    assert said(reply_to(ask(system, user))) == said(reply_to(ask(user, system)))
    assert said(reply_to(ask(system, user))) == expected_answer(
        "Q?", "sim-fast", system="Be brief."
    )


@given(st.integers(1, 100), st.integers(0, 40))
def test_the_limit_counts_reasoning_and_is_never_passed(limit, thinking):
    reply = reply_to(
        ask(Entry("user", "text", "Q?"), limits=Limits(limit), reasoning_tokens=thinking)
    )
    whole = reply_to(ask(Entry("user", "text", "Q?"), reasoning_tokens=thinking))
    assert reply.output_tokens == min(limit, whole.output_tokens)
    assert (reply.finish == "length") is (limit < whole.output_tokens)
    assert said(whole).startswith(said(reply))
    assert len(whole.reasoning) == thinking


def test_the_earliest_stop_sequence_wins_and_is_left_out():
    reply = reply_to(ask(Entry("user", "text", "Q?"), limits=Limits(stop=("asked", "You"))))
    assert said(reply).endswith("] ")
    assert (reply.finish, reply.stop_sequence) == ("stop_sequence", "You")


def test_variants_of_one_question_differ():
    texts = [said(reply_to(ask(Entry("user", "text", "Q?")), variant=i)) for i in range(5)]
    assert all(a != b for a, b in pairwise(texts))


def test_an_unknown_model_has_no_expected_answer():
    with pytest.raises(KeyError):
        expected_answer("Q?", "gpt-none")
