"""Escalation triggers in an answer's text: precise, and never on good answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.classify.features import extract
from app.domain.decisions import PromptView
from app.domain.language import detect_language
from app.pipeline.answer_checks import schema_violation
from app.routing.escalation import ends_in_loop, is_other_language, is_refusal, may_become_refusal

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I\u2019m sorry, but I can\u2019t assist with that request.",
    "Sorry, I cannot provide that.",
    "I cannot help you with this.",
    "As an AI language model, I can't browse the web.",
    "Unfortunately, I'm unable to share the file.",
    "I'm not able to access your calendar.",
]
ANSWERS = [
    "I think that it was Ada Lovelace.",
    "I'm sorry to hear that! Try this:",
    "I can't wait to see it.",
    "Sorry about the noise: the fan is loose.",
    "Unfortunately the train is late today.",
    "Yes.",
    "1. Open the lid.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_one_and_at_no_moment_before_is_it_let_go(text):
    assert is_refusal(text)
    decided = next(at for at in range(len(text) + 1) if is_refusal(text[:at]))
    assert all(may_become_refusal(text[:at]) for at in range(decided))


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text):
    assert not is_refusal(text)


def test_most_answers_are_let_go_with_their_first_word():
    for text in ("Yes.", "The", "I think", "1.", "Here", "Sure"):
        assert not may_become_refusal(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What is the capital of the country and how is it that this was not the first one?", "en"),
        (
            "Was ist die Hauptstadt, und wie ist das mit der Stadt, die nicht auf der Karte ist?",
            "de",
        ),
        ("Какая столица у этой страны?", "cyrillic"),
        ("这个国家的首都是哪里", "han"),
        ("x = 1", None),
        ("Paris", None),
        ("", None),
    ],
)
def test_a_language_is_named_where_it_is_clear(text, code):
    assert detect_language(text) == code


def test_words_that_are_read_already_say_the_same_as_the_text():
    for text in (
        "What is the capital of France and how do I get there?",
        "Was ist das und wie kommt man zu dem Haus?",
        "no common words here",
        "",
    ):
        assert extract(PromptView(text)).language == detect_language(text)


def test_an_answer_in_another_language_is_one_unless_it_was_asked_for():
    english = (
        "The capital of the country is Paris and it is on the Seine, which is not for swimming."
    )
    assert is_other_language("Какая столица у этой страны, Франции?", english)
    assert not is_other_language("Переведи на английский: столица Франции", english)
    assert not is_other_language("What is it, and what is the use of that in this?", english)
    assert not is_other_language(
        "Translate: the cat is on the mat and it is in the sun", "Das ist die"
    )


def test_a_loop_is_one_and_a_list_is_none():
    assert ends_in_loop("It goes on. " + "and on and on, " * 20)
    assert ends_in_loop("a" * 200)
    assert not ends_in_loop("\n".join(f"{number}. item {number}" for number in range(40)))
    assert not ends_in_loop("-" * 200)
    assert not ends_in_loop("no no no")


@given(st.text(max_size=400))
def test_any_text_can_be_looked_at(text):
    is_refusal(text)
    may_become_refusal(text)
    detect_language(text)
    ends_in_loop(text)
    is_other_language(text, text[::-1])


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        ({"a": 1}, {"type": "object", "required": ["a"]}, True),
        ({}, {"type": "object", "required": ["a"]}, False),
        ("b", {"type": "string", "pattern": "^a$"}, False),
        ("a" * 40 + "!", {"type": "string", "pattern": "^(a+)+$"}, False),
        ("b", {"type": "string", "pattern": "(?=b)b"}, True),
        ({}, {"$ref": "http://127.0.0.1:1/none.json"}, True),
        ({}, {"type": 7}, True),
    ],
)
def test_a_clients_schema_is_checked_in_bounded_time_and_fetches_nothing(value, schema, fits):
    assert (schema_violation(value, schema) == "") is fits
