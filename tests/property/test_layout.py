"""Layout loses nothing, does the same twice, keeps prefixes, and touches nobody who did not ask."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.chat import ChatRequest, Dialect
from app.prompts.layout import Layout, Layouts
from app.prompts.prefix import render

PATTERNS = (re.compile(r"Now: .*"), re.compile(r"Session: \w+"))
LAYOUTS = Layouts([Layout("m", "", PATTERNS)])
lines = st.sampled_from(["Now: 12:30", "Session: s1", "Be brief.", "Say Now: at last", "", "é\t"])
texts = st.lists(lines, min_size=1, max_size=6).map("\n".join)
DOCUMENT = {
    Dialect.CHAT: {"type": "file", "file": {"file_id": "f"}},
    Dialect.MESSAGES: {"type": "document", "source": {"type": "text", "data": "d"}},
    Dialect.RESPONSES: {"type": "input_file", "file_id": "f"},
}
KIND = {Dialect.CHAT: "text", Dialect.MESSAGES: "text", Dialect.RESPONSES: "input_text"}


@st.composite
def requests(draw, model="m"):
    dialect = draw(st.sampled_from(list(Dialect)))
    part = texts.map(lambda text: {"type": KIND[dialect], "text": text})
    parts = st.lists(st.one_of(part, st.just(DOCUMENT[dialect])), min_size=1, max_size=4)
    user = st.one_of(texts, parts).map(lambda content: {"role": "user", "content": content})
    said = texts.map(lambda text: {"role": "assistant", "content": text})
    pairs = draw(st.lists(st.tuples(user, said), max_size=3))
    history = [message for pair in pairs for message in pair]
    history.append(draw(user))
    body = {"model": model, "temperature": 0.5}
    system = draw(texts.map(lambda text: f"Rules.\n{text}" if draw(st.booleans()) else text))
    if dialect is Dialect.CHAT:
        body["messages"] = [{"role": "system", "content": system}, *history]
    elif dialect is Dialect.MESSAGES:
        body |= {"system": system, "messages": history}
    else:
        body |= {"instructions": system, "input": history}
    return of(dialect, body)


def of(dialect, body):
    raw = json.dumps(body, ensure_ascii=False, indent=1).encode()
    return ChatRequest(dialect, body["model"], stream=False, body=body, raw=raw)


def pieces(value):
    """Every line of text, and everything that is none, wherever it stands."""
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return [*value["text"].split("\n")]
        if "content" in value:
            return pieces(value["content"])
        return [json.dumps(value, sort_keys=True)]
    if isinstance(value, list):
        return [piece for each in value for piece in pieces(each)]
    return value.split("\n") if isinstance(value, str) else [repr(value)]


def everything(body):
    return sorted(piece for value in body.values() for piece in pieces(value))


@given(requests())
def test_nothing_is_lost_or_added(request):
    assert everything(LAYOUTS.apply(request, "t").body) == everything(request.body)


@given(requests())
def test_bytes_and_reading_agree_and_twice_is_once(request):
    once = LAYOUTS.apply(request, "t")
    assert json.loads(once.raw) == once.body
    again = LAYOUTS.apply(once, "t")
    assert again.raw == once.raw


@given(requests(model="other"))
def test_a_request_that_no_layout_names_is_the_same_object(request):
    assert LAYOUTS.apply(request, "t") is request
    assert Layouts([Layout("other", "somebody", PATTERNS)]).apply(request, "t") is request


@given(requests(), st.text("0123456789:", max_size=8))
def test_what_a_variable_says_changes_nothing_but_the_last_block(request, time):
    body = json.loads(request.raw.decode().replace("Now: 12:30", f"Now: {time}"))
    before = LAYOUTS.apply(request, "t")
    said = request.body.get("messages", request.body.get("input"))
    said = [each for each in said if each["role"] != "system"]
    after = LAYOUTS.apply(of(request.dialect, body), "t")
    if "Now: 12:30" in json.dumps(said) or "Rules." not in request.raw.decode():
        return  # the clock is in the conversation itself, or all that the system prompt says
    names = [
        [each.prefix_hash for each in render(one.raw, one.dialect).blocks]
        for one in (before, after)
    ]
    assert names[0][:-1] == names[1][:-1]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_next_turn_finds_the_whole_prefix_of_the_last(dialect):
    system = "Be brief.\nNow: {}\nStay polite."
    first = [{"role": "user", "content": "one"}]
    more = [*first, {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"}]
    rendered = []
    for time, history in (("12:30", first), ("12:31", more)):
        said = {"role": "system", "content": system.format(time)}
        body = {
            Dialect.CHAT: {"messages": [said, *history]},
            Dialect.MESSAGES: {"system": system.format(time), "messages": history},
            Dialect.RESPONSES: {"instructions": system.format(time), "input": history},
        }[dialect]
        laid = LAYOUTS.apply(of(dialect, {"model": "m", **body}), "t")
        rendered.append([each.prefix_hash for each in render(laid.raw, dialect).blocks])
    before, after = rendered
    assert before[:-1] == after[: len(before) - 1]  # all but the clock
    assert len(before) == 3


def test_a_question_goes_behind_its_documents_and_a_prefilled_answer_stays_last():
    text = {"type": "text", "text": "What does it say?"}
    document = DOCUMENT[Dialect.MESSAGES]
    asked = {"model": "m", "messages": [{"role": "user", "content": [text, document]}]}
    laid = LAYOUTS.apply(of(Dialect.MESSAGES, asked), "t")
    assert laid.body["messages"][0]["content"] == [document, text]
    begun = {"role": "assistant", "content": "It says"}
    turns = [{"role": "user", "content": "q"}, begun]
    prefilled = of(Dialect.MESSAGES, {"model": "m", "system": "a\nNow: 1", "messages": turns})
    assert LAYOUTS.apply(prefilled, "t") is prefilled


def test_results_of_tools_are_followed_by_the_variables():
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "42"}
    system = {"role": "system", "content": "a\nNow: 1"}
    turns = [system, {"role": "user", "content": "q"}, call, result]
    laid = LAYOUTS.apply(of(Dialect.CHAT, {"model": "m", "messages": turns}), "t")
    assert laid.body["messages"][-2:] == [
        result,
        {"role": "user", "content": [{"type": "text", "text": "Now: 1"}]},
    ]
