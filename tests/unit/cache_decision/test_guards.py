"""Typed differences between two questions: what forbids a hit, and what does not."""

import pytest

from app.cache.guards import compare
from app.cache.text_view import analyse


def vetoes(a: str, b: str) -> set[str]:
    return {d.kind for d in compare(analyse(a), analyse(b)).vetoes}


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        ("Is train 19708 late?", "Is train 19707 late?", "number"),
        ("refund order D-7781", "refund order D-7782", "id"),
        ("What is the capital of Peru?", "What is the capital of Chile?", "name"),
        ("Is this Austrian wine?", "Is this Australian wine?", "name"),
        ("Who rules Niger today?", "Who rules Nigeria today?", "name"),
        ("Who is J. Smith?", "Who is P. Smith?", "name"),
        ("silver is at $4.81/83", "silver is at $4.79/80", "number"),
        ("flights on monday", "flights on tuesday", "date"),
        ("convert it to miles", "convert it to km", "unit"),
        ("Is it safe to swim here?", "Is it not safe to swim here?", "negation"),
        ("turn on dark mode", "turn off dark mode", "opposite"),
        ("How can I become more patient?", "How can I become less patient?", "opposite"),
        ("Is she hopeful?", "Is she hopeless?", "opposite"),
        ("what to do before surgery", "what to do after surgery", "opposite"),
        ("Is Ann a lawyer?", "Did Ann use to be a lawyer?", "state"),
        ("flights from boston to denver", "flights from denver to boston", "role_swap"),
        ("Is Ann faithful to Bob?", "Is Bob faithful to Ann?", "role_swap"),
        ("Did Ann hurt Bob?", "Was Ann hurt by Bob?", "role_swap"),
        ("Is Ann taller than Bob?", "Is Bob taller than Ann?", "role_swap"),
        ("Is he a cook or a poet?", "Is he both a cook and a poet?", "conjunction"),
        (
            "If Ann and Bob met, would he leave her?",
            "If Ann and Bob met, would she leave him?",
            "pronoun",
        ),
        ("Is Ann a lawyer?", "Is Ann a corrupt lawyer?", "qualifier"),
    ],
)
def test_a_difference_that_changes_the_answer_forbids_the_hit(a: str, b: str, kind: str):
    assert kind in vetoes(a, b)
    assert kind in vetoes(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I reset my password?", "how can i reset my password"),
        ("Did Ann sell the house?", "Was the house sold by Ann?"),
        ("Is Ann married to Bob?", "Is Bob married to Ann?"),
        ("Is Ann taller than Bob?", "Is Bob shorter than Ann?"),
        ("How can I become more patient?", "How can I become less impatient?"),
        ("flights from boston to denver", "flights to denver from boston"),
        ("I need three tickets", "I need 3 tickets"),
        ("costs 1,000 dollars", "costs 1000 dollars"),
        ("Who is Barack Obama?", "who is barack obama"),
        ("What is Tokyo like?", "What is Tokio like?"),
        ("Who leads the Malaysian army?", "Who leads the army of Malaysia?"),
        ("What do Greek banks owe?", "What do banks in Greece owe?"),
        ("Is a South Korean car cheap?", "Is a S. Korean car cheap?"),
        ("Where is the nearest Wal-Mart?", "Where is the nearest Wal Mart?"),
        ("Which IITs are best?", "Which IIT is best?"),
        ("Is tea or coffee better?", "Is coffee or tea better?"),
        ("Is Ann lying?", "Is Ann really lying?"),
        ("the mouse to the left", "the mouse at left"),
    ],
)
def test_another_wording_of_the_same_question_is_not_forbidden(a: str, b: str):
    assert vetoes(a, b) == set()


def test_a_number_on_one_side_only_is_noted_but_does_not_forbid():
    seen = compare(analyse("cheap flights"), analyse("cheap flights for 2"))
    assert seen.has("number_one_sided")
    assert not seen.vetoes


def test_the_reason_is_said_in_words():
    (difference,) = compare(analyse("take 3 pills"), analyse("take 4 pills")).vetoes
    assert difference.words == "number differs: 3 vs 4"


def test_another_question_word_does_not_forbid():
    assert vetoes("what is a quark", "how is a quark") == set()
