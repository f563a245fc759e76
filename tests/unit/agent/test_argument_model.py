"""Where the arguments of a call come from: what a text says beside a value, what a declaration lists,
what was true before; and what competes with what.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from app.learn.argument_model import ArgumentModel
from app.learn.argument_sources import ConversationState, values_by_neighbour, values_by_source
from app.learn.declared_options import listed_options, mentioned_options
from app.learn.weights import Weights, softmax

TEXT = {"type": "string"}
ROUTE = {
    "type": "object",
    "properties": {"start": TEXT, "end": TEXT},
    "required": ["start", "end"],
}


def at_hand(said: str) -> tuple[dict[str, object], str]:
    return dict(values_by_source(ConversationState(said))), said


def lived(copying: ArgumentModel, said: str, **arguments: object) -> None:
    copying.learn("route", ROUTE, [(arguments, *at_hand(said))])


def test_the_word_before_a_value_says_which_argument_it_is() -> None:
    copying = ArgumentModel()
    towns = ["Arlen", "Bree", "Corus", "Dale", "Elmet", "Fenn", "Gond", "Harad"]
    for start, end in pairwise(towns):
        lived(copying, f"I want to go from {start} to {end}.", start=start, end=end)
        lived(copying, f"Bring me to {end}, from {start}.", start=start, end=end)
    for said in ("The way to Rome, from Paris?", "Is it far from Paris to Rome?"):
        best = copying.guesses("route", ROUTE, *at_hand(said))[0]
        assert best.arguments == {"start": "Paris", "end": "Rome"}


def test_what_a_text_calls_by_the_arguments_own_name_needs_no_example() -> None:
    parameters = {
        "type": "object",
        "properties": {"access_token": TEXT},
        "required": ["access_token"],
    }
    said = "Bill card 'k81' with my access token 'q7x' on Monday."
    best = ArgumentModel().guesses("pay", parameters, *at_hand(said))[0]
    assert best.arguments == {"access_token": "q7x"}


def test_what_a_declaration_lists_is_chosen_by_what_the_text_says_without_an_example() -> None:
    fare = {
        "type": "object",
        "properties": {
            "seat": {"type": "string", "description": "Options are: economy, business, first."}
        },
        "required": ["seat"],
    }
    best = ArgumentModel().guesses(
        "fare", fare, *at_hand("A seat in business class to Rome, please.")
    )[0]
    assert best.arguments == {"seat": "business"}


def test_what_the_text_says_now_wins_against_what_was_said_before() -> None:
    copying = ArgumentModel()
    show = {"type": "object", "properties": {"file": TEXT}, "required": ["file"]}
    for number in range(8):
        old, new = f"old{number}.txt", f"new{number}.txt"
        named = ConversationState(f"Show {new}.", (f"Write to {old}.",))
        copying.learn(
            "show", show, [({"file": new}, dict(values_by_source(named)), named.user_text)]
        )
        unnamed = ConversationState("Show it.", (f"Write to {old}.",))
        copying.learn(
            "show", show, [({"file": old}, dict(values_by_source(unnamed)), unnamed.user_text)]
        )
    both = ConversationState("Show a.md.", ("Write to b.md.",))
    assert copying.guesses("show", show, dict(values_by_source(both)), both.user_text)[
        0
    ].arguments == {"file": "a.md"}
    only = ConversationState("Show it.", ("Write to b.md.",))
    best = copying.guesses("show", show, dict(values_by_source(only)), only.user_text)[0]
    assert best.arguments == {"file": "b.md"}


def test_what_a_name_means_is_used_in_other_conversations_only_after_three() -> None:
    copying = ArgumentModel()
    stock = {"type": "object", "properties": {"symbol": TEXT}, "required": ["symbol"]}
    for used in range(5):
        found, said = at_hand("What is the price of Acme now?")
        offered = [each.arguments for each in copying.guesses("stock", stock, found, said)]
        assert ({"symbol": "ACM"} in offered) == (used >= 3)
        copying.learn("stock", stock, [({"symbol": "ACM"}, found, said)])


def test_a_value_is_found_by_the_words_on_both_its_sides_and_only_as_a_whole() -> None:
    found = values_by_neighbour(
        "Put 30 gallons in, then send 'see Ann on May 3 2025' to David by June 4 2025."
    )
    assert found["text before gallons"] == 30
    assert found["text after to"] == "David"
    assert found["text after send"] == "see Ann on May 3 2025"
    assert found["text after by"] == "2025-06-04"
    assert "Ann" not in found.values()


@pytest.mark.parametrize(
    ("schema", "listed"),
    [
        ({"enum": ["a", "b"]}, ["a", "b"]),
        ({"description": 'What to show. [Enum]: ["fuel", "doors"]'}, ["fuel", "doors"]),
        ({"description": "Mode ('l' for lines, 'w' for words)."}, ["l", "w"]),
        ({"description": "One of: red, dark green or blue."}, ["red", "dark green", "blue"]),
        ({"description": "The name of a file, or of a folder."}, []),
        ({"enum": "not a list", "description": 3}, []),
    ],
)
def test_the_values_that_a_declaration_lists(schema, listed) -> None:
    assert [value for value, _ in listed_options(schema)] == listed


def test_listed_values_are_told_in_the_order_of_the_text_also_in_the_plural() -> None:
    schema = {"description": "[Enum]: fuel, doors, engine"}
    assert mentioned_options(schema, "Is the engine off and each door shut?") == ["engine", "doors"]


def test_no_more_is_kept_than_so_much_whatever_is_learned() -> None:
    weights = Weights(0.5, lambda _: 0.0)
    for number in range(20_000):
        weights.step({f"figure {number}": -1.0, "common": -1.0})
    assert weights.score({"figure 0": 1.0}) == 0
    assert weights.score({"figure 19999": 1.0}) > 0
    assert weights.score({"common": 1.0}) > 0
    assert len(weights._known) <= 16_384


def test_choices_however_unlikely_add_up_to_one() -> None:
    assert sum(softmax({"a": 900.0, "b": -900.0, "c": 899.0}).values()) == pytest.approx(1)


def test_texts_of_ever_other_looks_take_up_no_more_room() -> None:
    copying = ArgumentModel()
    for number in range(200):
        lived(copying, "", start=" ".join("0" if number & 1 << bit else "a!" for bit in range(8)))
    assert max(len(known.shapes) for known in copying.of_name.values()) <= 64
