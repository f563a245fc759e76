"""Which calls are foreseen from an agent's own conversations, and with which arguments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.learn.argument_model import ArgumentModel, coerced
from app.learn.argument_sources import ConversationState, PastCall, values_by_kind, values_by_source
from app.learn.next_calls import NextCallModel, SpeculativeTool

TEXT = {"type": "string"}
COUNT = SpeculativeTool(
    "count_words",
    "Count the words of a file.",
    {"type": "object", "properties": {"file": TEXT}, "required": ["file"]},
)
SHOP = SpeculativeTool(
    "nearest_shop", "Find the nearest shop.", {"type": "object", "properties": {}}
)
ORDER = SpeculativeTool(
    "get_order",
    "Show the details of an order.",
    {"type": "object", "properties": {"order_id": {"type": "integer"}}, "required": ["order_id"]},
)
TOOLS = (COUNT, SHOP, ORDER)
SCHEMAS = {tool.name: tool.parameters for tool in TOOLS}


def lived(
    learned: NextCallModel, said: str, *calls: PastCall, changes: set[str] | None = None
) -> None:
    """One user turn, its calls made one after another."""
    points = []
    for number in range(len(calls) + 1):
        scene = ConversationState(said, calls=calls[:number])
        points.append((learned.predict(scene, TOOLS), calls[number:]))
    learned.learn(points, SCHEMAS, changes or set(), 0.1)


def test_free_words_say_which_tool_and_the_text_says_with_what() -> None:
    learned = NextCallModel()
    for number in range(12):
        file = f"notes{number}.txt"
        lived(learned, f"How long did {file} become?", PastCall("count_words", {"file": file}))
        lived(learned, "Where could I buy one close by?", PastCall("nearest_shop", {}))
        lived(learned, "Thank you, that is all.")
    likeliest = learned.predict(
        ConversationState("How long is report.md by now?"), TOOLS
    ).predictions[0]
    assert (likeliest.tool, likeliest.arguments) == ("count_words", {"file": "report.md"})
    assert likeliest.p > 0.25
    shop = learned.predict(ConversationState("Where could I buy a pen?"), TOOLS).predictions[0]
    assert shop.tool == "nearest_shop"
    nothing = learned.predict(ConversationState("Thank you, that is all."), TOOLS).predictions
    assert all(each.p < likeliest.p / 2 for each in nothing)


def test_a_fit_in_a_thread_is_adopted_unless_its_columns_mean_something_else_by_then() -> None:
    learned = NextCallModel()
    for number in range(70):
        learned.learn(
            [
                (
                    learned.predict(
                        ConversationState(f"How long did notes{number}.txt become?"), TOOLS
                    ),
                    (PastCall("count_words", {"file": f"notes{number}.txt"}),),
                )
            ],
            SCHEMAS,
            (),
            0.1,
        )
        if learned.fit_due:
            work = learned.fit_job()
            assert not learned.fit_due
            lived(learned, "Where could I buy one?", PastCall("nearest_shop", {}))  # used meanwhile
            learned.apply_fit(work.layout_version, work.solve())
    asked = ConversationState("How long did a.txt become?")
    before = learned.predict(asked, TOOLS).predictions[0]
    assert before.tool == "count_words"
    learned.apply_fit(-1, None)
    work = learned.fit_job()
    learned.apply_fit(work.layout_version - 1, work.solve())
    assert learned.predict(asked, TOOLS).predictions[0].p == before.p


def test_an_argument_is_copied_from_the_result_of_an_earlier_call() -> None:
    learned = NextCallModel()
    for number in range(8):
        bought = PastCall("buy", {"amount": 2}, {"order_id": 700 + number, "state": "open"})
        scene = ConversationState("How does it stand?", ("Buy two.",), (bought,))
        point = learned.predict(scene, TOOLS)
        called = (PastCall("get_order", {"order_id": 700 + number}),)
        learned.learn([(point, called)], SCHEMAS, (), 0.1)
    bought = PastCall("buy", {"amount": 2}, {"order_id": 9001, "state": "open"})
    found = learned.predict(
        ConversationState("How does it stand?", ("Buy two.",), (bought,)), TOOLS
    )
    assert found.predictions[0].arguments == {"order_id": 9001}


def test_what_comes_after_a_change_does_not_count_as_foreseen_before_it() -> None:
    learned = NextCallModel()
    scene = ConversationState("Buy one, then show it.")
    for _ in range(6):
        point = learned.predict(scene, TOOLS)
        calls = (PastCall("buy", {}, {}), PastCall("nearest_shop", {}))
        judged = learned.learn([(point, calls)], SCHEMAS, {"buy"}, 0.1)
        assert not any(right for _, right in judged)


def test_a_second_choice_of_arguments_is_not_believed_because_its_tool_is_sure() -> None:
    """Three runs at once teach the odds much: what they are sure of must be the call, not its tool."""
    learned = NextCallModel()

    def scene(number: int) -> ConversationState:
        return ConversationState(
            f"({number}) How long is notes{number}.txt? {{'ms': {number + 3}}}"
        )

    points = [(learned.predict(scene(number), TOOLS), number) for number in range(3)]
    for point, number in points:
        call = PastCall("count_words", {"file": f"notes{number}.txt"})
        learned.learn([(point, (call,))], SCHEMAS, (), 0.1)
    first, *others = learned.predict(scene(9), TOOLS).predictions
    assert first.arguments == {"file": "notes9.txt"}
    assert all(each.p < 0.5 for each in others)


def test_what_one_person_said_is_offered_to_others_only_after_three_used_it() -> None:
    parameters = {"type": "object", "properties": {"token": TEXT}, "required": ["token"]}
    copying = ArgumentModel()
    for used in range(4):
        offered = [each.arguments for each in copying.guesses("t", parameters, {}, "")]
        assert ({"token": "s3cret"} in offered) == (used >= 3)
        copying.learn("t", parameters, [({"token": "s3cret"}, {}, "mine is s3cret")])


def test_the_expected_waste_keeps_within_its_share() -> None:
    learned = NextCallModel()
    for number in range(80):
        said = f"Something about thing{number % 7}"
        lived(learned, said, *([PastCall("nearest_shop", {})] if number % 3 else []))
    strict = learned.min_p
    lived(learned, "Something")
    learned.learn([], SCHEMAS, (), 1.0)
    assert learned.min_p <= strict


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("on October 12th 2026, then", "date", "2026-10-12"),
        ("on 3 May 2025", "date", "2025-05-03"),
        ("read 'final report.pdf' now", "quoted", "final report.pdf"),
        ("read final_report.pdf.", "file", "final_report.pdf"),
        ("for 20,000 RMB", "number", 20000),
        ("for 20,000 RMB", "code", "RMB"),
        ("from San Francisco", "name", "San Francisco"),
        ("see INC-4821?", "id", "INC-4821"),
        ("ask ann@example.org.", "email", "ann@example.org"),
    ],
)
def test_spans_that_people_write(text, kind, value) -> None:
    assert value in values_by_kind(text)[kind]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
_CALLS = st.lists(
    st.builds(
        PastCall,
        st.sampled_from(["count_words", "get_order", "buy"]),
        st.dictionaries(st.sampled_from(["file", "order_id", "x"]), _VALUES, max_size=3),
        _VALUES,
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=80), _CALLS), max_size=4))
def test_whatever_is_said_called_and_answered_it_learns_and_foresees(turns) -> None:
    learned = NextCallModel()
    for said, calls in turns:
        scene = ConversationState(said, (said,), tuple(calls))
        assert all(isinstance(place, str) for place in values_by_source(scene))
        point = learned.predict(scene, TOOLS)
        for each in point.predictions:
            assert 0 <= each.p <= 1
            assert each.tool in SCHEMAS
        learned.learn([(point, tuple(calls))], SCHEMAS, {"buy"}, 0.1)


def test_values_fit_their_type_or_not_at_all() -> None:
    assert coerced("12", "integer") == 12
    assert coerced(12.5, "integer") is None
    assert coerced(3, "string") == "3"
    assert coerced(True, "number") is None  # noqa: FBT003 - the value under test
    assert coerced("ann", "array") is None
