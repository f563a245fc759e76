"""Which tools the simulated model calls, and with what."""

from __future__ import annotations

import orjson
import pytest

from app.providers.simulator.profile import SIM_FAST
from app.providers.simulator.question import Entry, Question, Tool, ToolChoice
from app.providers.simulator.tool_use import choose_calls


def tool(name, description, required=None, **properties):
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }
    return Tool(name, description, parameters)


TEXT = {"type": "string"}
TICKET = tool("get_ticket", "Look up the state of a support ticket.", ticket_id=TEXT)
USER = tool("get_user", "Look up a user of the directory.", user_id=TEXT)
PERMISSIONS = tool("check_permissions", "Say what a user may do.", user_id=TEXT)
WEATHER = tool(
    "get_weather",
    "Current weather in a city.",
    required=["city"],
    city=TEXT,
    unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
    days={"type": "integer"},
)
SEARCH = tool("web_search", "Search the web.", query=TEXT)
ALL = (TICKET, USER, PERMISSIONS, WEATHER, SEARCH)


def calls(text, *, tools=ALL, after=(), **choice):
    entries = (Entry("user", "text", text), *after)
    question = Question(SIM_FAST, entries, tuple(tools), ToolChoice(**choice))
    return [(call.name, orjson.loads(call.arguments)) for call in choose_calls(question)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is the state of INC-4821?", [("get_ticket", {"ticket_id": "INC-4821"})]),
        (
            "Compare the tickets INC-1 and INC-22",
            [("get_ticket", {"ticket_id": "INC-1"}), ("get_ticket", {"ticket_id": "INC-22"})],
        ),
        (
            "Who is u-7 and what may u-7 do?",
            [("get_user", {"user_id": "u-7"}), ("check_permissions", {"user_id": "u-7"})],
        ),
        (
            "How is the weather in Paris and in Oslo?",
            [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Oslo"})],
        ),
        (
            "The weather in Rome for 3 days, in fahrenheit?",
            [("get_weather", {"city": "Rome", "unit": "fahrenheit", "days": 3})],
        ),
        (
            'Search the web for "tea"',
            [("web_search", {"query": "tea"})],
        ),
        ("Hello, how are you?", []),
        ("What is the capital of France?", []),
    ],
)
def test_a_question_calls_for_its_tools(text, expected):
    assert calls(text) == expected


def test_the_same_question_makes_the_same_calls_with_the_same_ids():
    def ids():
        question = Question(SIM_FAST, (Entry("user", "text", "State of INC-1?"),), ALL)
        return [call.id for call in choose_calls(question)]

    assert ids() == ids() != []


def test_the_choice_of_tools_is_obeyed():
    assert calls("State of INC-1?", mode="none") == []
    assert len(calls("Compare the tickets INC-1 and INC-2", parallel=False)) == 1
    assert len(calls("Hello", mode="required")) == 1
    assert [name for name, _ in calls("Hello", mode="named", name="get_user")] == ["get_user"]


def test_results_are_answered_in_words():
    result = (
        Entry("assistant", "tool_call", '{"ticket_id":"INC-1"}', "get_ticket"),
        Entry("user", "tool_result", "open", "get_ticket"),
    )
    assert calls("State of INC-1?", after=result) == []
    assert calls("State of INC-1?", after=(*result, Entry("user", "text", "Be brief."))) == []
    turn = (*result, Entry("assistant", "text", "It is open."))
    again = (*turn, Entry("user", "text", "And the ticket INC-2?"))
    assert calls("State of INC-1?", after=again) == [("get_ticket", {"ticket_id": "INC-2"})]


def test_a_forced_call_is_filled_by_the_schema():
    shaped = tool(
        "plot",
        "Draw.",
        points={"type": "array", "items": {"type": "number"}, "minItems": 2},
        style={"$ref": "#/$defs/style"},
    )
    shaped = Tool(
        shaped.name,
        shaped.description,
        {**shaped.parameters, "$defs": {"style": {"enum": ["line", "dot"]}}},
    )
    [(_, arguments)] = calls("Hello", tools=[shaped], mode="required")
    assert len(arguments["points"]) >= 2
    assert arguments["style"] == "line"
