"""Two requests that differ in one thing that matters never share an answer, whatever the rest is.

Over generated requests of all dialects: exactly one field is changed, and the exact key, and the
partition in which questions may meet by meaning, must both change.
"""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.domain.chat import ChatRequest, Dialect

WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
NAME = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)


def tool(dialect: Dialect, name: str, about: str) -> dict[str, object]:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    if dialect is Dialect.CHAT:
        inner = {"name": name, "description": about, "parameters": schema}
        return {"type": "function", "function": inner}
    if dialect is Dialect.RESPONSES:
        return {"type": "function", "name": name, "description": about, "parameters": schema}
    return {"name": name, "description": about, "input_schema": schema}


@st.composite
def requests(draw: st.DrawFn) -> tuple[Dialect, dict[str, object]]:
    """A dialect and a body of it."""
    dialect = draw(st.sampled_from(list(Dialect)))
    turns = [
        {"role": "user" if index % 2 == 0 else "assistant", "content": draw(WORD)}
        for index in range(draw(st.sampled_from([1, 3, 5])))
    ]
    body: dict[str, object] = {"model": "small", "temperature": 0.5}
    system = draw(WORD)
    if dialect is Dialect.CHAT:
        body["messages"] = [{"role": "system", "content": system}, *turns]
    elif dialect is Dialect.RESPONSES:
        body |= {"input": turns, "instructions": system}
    else:
        body |= {"messages": turns, "system": system, "max_tokens": 50}
    names = draw(st.lists(NAME, max_size=3, unique=True))
    if names:
        body["tools"] = [tool(dialect, name, draw(WORD)) for name in names]
    if draw(st.booleans()):
        body["top_p"] = 0.9
    return dialect, body


def system_of(dialect: Dialect, body: dict, text: str) -> None:
    if dialect is Dialect.CHAT:
        body["messages"][0]["content"] = text
    else:
        body["instructions" if dialect is Dialect.RESPONSES else "system"] = text


def turns_of(dialect: Dialect, body: dict) -> list:
    return body["input" if dialect is Dialect.RESPONSES else "messages"]


BODY_CHANGES = {
    "system prompt": system_of,
    "a tool more": lambda dialect, body, word: body.update(
        tools=[*body.get("tools", []), tool(dialect, "one_more", word)]
    ),
    "the tools' order": lambda _, body, __: body.update(tools=body.get("tools", [])[::-1]),
    "a tool's description": lambda dialect, body, word: body.update(
        tools=[tool(dialect, "other", word), *body.get("tools", [])[1:]]
    ),
    "temperature": lambda _, body, __: body.update(temperature=0.25),
    "top_p": lambda _, body, __: body.update(top_p=0.1),
    "a limit": lambda dialect, body, _: body.update(
        {"max_output_tokens" if dialect is Dialect.RESPONSES else "max_tokens": 7}
    ),
    "the answer's form": lambda _, body, word: body.update(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "description": word}}
    ),
    "tool choice": lambda _, body, __: body.update(tool_choice="none"),
    "a field of tomorrow": lambda _, body, word: body.update(new_field=word),
    "an earlier turn": lambda dialect, body, word: turns_of(dialect, body).insert(
        len(turns_of(dialect, body)) - 1, {"role": "user", "content": word}
    ),
    "a field of a turn": lambda dialect, body, word: turns_of(dialect, body)[-1].update(name=word),
}
SCOPE = CacheScope("acme", "", "small")
SCOPES = {
    "tenant": lambda word: SCOPE._replace(tenant="acme" + word),
    "user": lambda word: SCOPE._replace(user=word),
    "model asked for": lambda word: SCOPE._replace(model="small" + word),
    "tier forced": lambda _: SCOPE._replace(tier="fast"),
    "invalidation epoch": lambda _: SCOPE._replace(epoch=1),
    "tenant and user swapped": lambda _: SCOPE._replace(tenant="", user="acme"),
}


def keys(scope: CacheScope, dialect: Dialect, body: dict, headers=()) -> tuple[bytes, str | None]:
    raw = json.dumps(body).encode()
    stream = False
    request = ChatRequest(
        dialect, scope.model, stream, json.loads(raw), raw, forward_headers=tuple(headers)
    )
    return exact_key(scope, request), partition_key(scope, request)


@pytest.mark.parametrize("change", BODY_CHANGES)
@given(data=st.data())
def test_one_difference_in_the_body_keeps_answers_apart(change, data):
    dialect, body = data.draw(requests())
    other = copy.deepcopy(body)
    BODY_CHANGES[change](dialect, other, data.draw(WORD))
    assume(other != body)
    one, two = keys(SCOPE, dialect, body), keys(SCOPE, dialect, other)
    assert one[0] != two[0]
    assert one[1] != two[1] or one[1] is None


@pytest.mark.parametrize("change", SCOPES)
@given(data=st.data())
def test_one_difference_in_the_scope_keeps_answers_apart(change, data):
    dialect, body = data.draw(requests())
    scope = SCOPES[change](data.draw(WORD))
    one, two = keys(SCOPE, dialect, body), keys(scope, dialect, body)
    assert one[0] != two[0]
    assert one[1] != two[1]
    assert one[1] is not None


@given(requests(), WORD)
def test_the_question_itself_is_in_the_exact_key_and_alone_is_not_in_the_partition(request, word):
    dialect, body = request
    other = copy.deepcopy(body)
    turns_of(dialect, other)[-1]["content"] = word
    assume(other != body)
    one, two = keys(SCOPE, dialect, body), keys(SCOPE, dialect, other)
    assert one[0] != two[0]
    assert one[1] == two[1]


@given(requests())
def test_a_vendors_beta_header_keeps_answers_apart_and_the_usual_version_does_not(request):
    """Anthropic's clients all send one version; a beta may change the answer's very form."""
    dialect, body = request
    usual = [(b"anthropic-version", b"2023-06-01")]
    plain = keys(SCOPE, dialect, body)
    assert keys(SCOPE, dialect, body, usual) == plain
    seen = {plain}
    for header in (
        (b"anthropic-beta", b"context-1m"),
        (b"anthropic-beta", b"interleaved-thinking"),
        (b"openai-beta", b"assistants=v2"),
        (b"anthropic-version", b"2099-01-01"),
    ):
        with_header = keys(SCOPE, dialect, body, [*usual[: header[0] != usual[0][0]], header])
        assert with_header not in seen
        seen.add(with_header)


@given(requests(), WORD)
def test_what_a_tool_said_is_never_in_reach_of_another_question(request, said):
    """A tool's result may hold instructions of an attacker: its turn has exact look-ups alone."""
    dialect, body = request
    results = {
        Dialect.CHAT: {"role": "tool", "tool_call_id": "c", "content": said},
        Dialect.RESPONSES: {"type": "function_call_output", "call_id": "c", "output": said},
        Dialect.MESSAGES: {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c", "content": said}],
        },
    }
    turns_of(dialect, body).append(results[dialect])
    assert keys(SCOPE, dialect, body)[1] is None
