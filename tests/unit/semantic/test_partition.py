"""Which questions may meet: equal in everything but the last user turn's text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.domain.chat import ChatRequest, Dialect

SCOPE = CacheScope("acme", "", "small")
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def request(dialect: Dialect, body: dict[str, object]) -> ChatRequest:
    return ChatRequest(dialect, "small", stream=False, body=body, raw=json.dumps(body).encode())


def chat(*contents: object, **more: object) -> ChatRequest:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return request(Dialect.CHAT, {"model": "small", "messages": messages, **more})


@given(text, text)
def test_only_the_last_question_may_differ(one, other):
    assert partition_key(SCOPE, chat(one)) == partition_key(SCOPE, chat(other))
    assert partition_key(SCOPE, chat("a", "b", one)) == partition_key(SCOPE, chat("a", "b", other))


@given(
    text,
    st.sampled_from(
        [
            {"temperature": 0.5},
            {"top_p": 0.5},
            {"max_tokens": 7},
            {"stop": ["x"]},
            {"seed": 1},
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {"response_format": {"type": "json_object"}},
            {"a_field_of_next_year": True},
        ]
    ),
)
def test_one_field_more_is_another_partition(asked, more):
    assert partition_key(SCOPE, chat(asked)) != partition_key(SCOPE, chat(asked, **more))


@given(text, st.integers(0, 4), text)
def test_one_part_of_the_scope_is_another_partition(asked, which, value):
    changed = list(SCOPE)
    changed[which] = 1 if which == 4 else changed[which] + value
    assert partition_key(SCOPE, chat(asked)) != partition_key(CacheScope(*changed), chat(asked))


@given(text, text, text)
def test_one_earlier_turn_is_another_partition(asked, one, other):
    same = one == other
    first, second = chat(one, "b", asked), chat(other, "b", asked)
    assert (partition_key(SCOPE, first) == partition_key(SCOPE, second)) is same
    assert partition_key(SCOPE, chat(asked)) != partition_key(SCOPE, first)


@given(text)
def test_a_partition_is_never_an_exact_key(asked):
    assert partition_key(SCOPE, chat(asked)) != exact_key(SCOPE, chat(asked)).hex()


def test_dialects_meet_where_their_exact_keys_do():
    responses = request(Dialect.RESPONSES, {"model": "small", "input": "why?"})
    assert partition_key(SCOPE, chat("how?")) == partition_key(SCOPE, responses)
    blocks = [{"type": "text", "text": "when?"}]
    assert partition_key(SCOPE, chat(blocks)) == partition_key(SCOPE, chat("how?"))


@pytest.mark.parametrize(
    "last",
    [
        {"role": "assistant", "content": "so"},
        {"role": "tool", "tool_call_id": "c", "content": "so"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "user", "content": None},
        "user",
    ],
    ids=str,
)
def test_what_does_not_end_in_one_text_of_the_user_has_none(last):
    messages = [{"role": "user", "content": "why?"}, last]
    body = {"model": "small", "messages": messages}
    assert partition_key(SCOPE, request(Dialect.CHAT, body)) is None


@pytest.mark.parametrize("turns", [None, [], 3, {}], ids=str)
def test_a_body_without_turns_has_none(turns):
    body = {"model": "small", "messages": turns}
    assert partition_key(SCOPE, request(Dialect.CHAT, body)) is None
