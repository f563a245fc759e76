"""The exact cache's key: whatever can change an answer keeps it apart, and nothing else does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cache.key import CacheScope, exact_key, plain_key, plain_key_prefix
from app.domain.chat import KNOWN_ANTHROPIC_VERSIONS, ChatRequest, Dialect
from app.wire.codecs import CODECS

SCOPE = CacheScope("acme", "", "small")
CHAT = {
    "model": "small",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "What is TCP?"},
    ],
    "temperature": 0.5,
    "max_tokens": 100,
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


SAID = ((), *(((b"anthropic-version", version),) for version in KNOWN_ANTHROPIC_VERSIONS))
"""Of what clients say to the vendor: nothing, what the gateway itself says, and a newer version."""


def key(body, scope=SCOPE, dialect=Dialect.CHAT) -> bytes:
    """The key of the body as a client would send it; the quick reading and the thorough one must agree."""
    raw = json.dumps(body).encode()
    request = ChatRequest(dialect, scope.model, False, json.loads(raw), raw)  # noqa: FBT003
    plain = CODECS[dialect].read_plain(raw)
    keys = []
    for said in SAID:
        asked = replace(request, forward_headers=said)
        keys.append(exact_key(scope, asked))
        if plain is not None:
            assert exact_key(scope, replace(asked, plain=plain)) == keys[-1]
            assert plain_key(plain_key_prefix(scope, said), plain) == keys[-1]
    assert keys[0] == keys[1] != keys[2]
    return keys[0]


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=6), st.randoms())
def test_the_order_of_keys_says_nothing(extra, random):
    """At any depth."""

    def shuffled(value):
        if isinstance(value, dict):
            items = [(k, shuffled(v)) for k, v in value.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffled(v) for v in value] if isinstance(value, list) else value

    body = {**CHAT, **extra}
    assert key(body) == key(shuffled(body))


@given(json_values, json_values)
def test_a_field_that_nobody_knows_is_part_of_the_key(one, two):
    """Null says nothing; every other difference counts."""
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    keys_equal = key({**CHAT, "x-new": one}) == key({**CHAT, "x-new": two})
    assert keys_equal == same


@pytest.mark.parametrize(
    "scope",
    [
        CacheScope("other", "", "small"),
        CacheScope("acme", "u-1", "small"),
        CacheScope("acme", "", "large"),
        CacheScope("acme", "", "auto"),
        CacheScope("acme", "", "small", "fast"),
        CacheScope("acme", "", "small", "", 1),
        CacheScope("ac", "me", "small"),
    ],
    ids=str,
)
def test_another_scope_is_another_key(scope):
    assert key(CHAT, scope) != key(CHAT)


def changed(**fields: object) -> dict[str, object]:
    return {**CHAT, **fields}


def turns(*texts: str, system: str = "Be brief.") -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    said = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *said]


@pytest.mark.parametrize(
    "body",
    [
        changed(messages=turns("Hello", "Hi.", "What is UDP?")),
        changed(messages=turns("Hello", "Hi!", "What is TCP?")),
        changed(messages=turns("Hullo", "Hi.", "What is TCP?")),
        changed(messages=turns("What is TCP?")),
        changed(messages=turns("Hello", "Hi.", "What is TCP?", system="Be long.")),
        changed(messages=turns("Hello", "Hi.", "What is TCP?")[1:]),
        changed(messages=turns("Hello", "Hi.", "what is tcp?")),
        changed(messages=turns("Hello", "Hi.", "What is TCP? ")),
        changed(messages=[*CHAT["messages"][:-1], {**CHAT["messages"][-1], "name": "bob"}]),
        changed(messages=[*CHAT["messages"], {"role": "assistant", "content": "It"}]),
        changed(temperature=0.6),
        changed(temperature=None),
        changed(temperature=True),
        changed(top_p=0.5),
        changed(max_tokens=101),
        changed(max_completion_tokens=100),
        changed(stop=["x"]),
        changed(seed=1),
        changed(tools=[{"type": "function", "function": {"name": "f"}}]),
        changed(tool_choice="none"),
        changed(response_format={"type": "json_object"}),
        changed(reasoning_effort="low"),
        changed(n=2),
    ],
    ids=lambda body: json.dumps({k: v for k, v in body.items() if CHAT.get(k) != v})[:60],
)
def test_one_difference_that_can_change_the_answer_is_another_key(body):
    assert key(body) != key(CHAT)


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"metadata": {"a": "b"}},
        {"user": "u"},
        {"service_tier": "flex"},
        {"prompt_cache_key": "k"},
        {"top_p": None},
        {"temperature": 5e-1},
    ],
    ids=str,
)
def test_what_cannot_change_the_answer_says_nothing(fields):
    assert key({**CHAT, **fields}) == key(CHAT)


SAME = {
    Dialect.CHAT: CHAT,
    Dialect.RESPONSES: {
        "model": "small",
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "What is TCP?"}],
            },
        ],
        "temperature": 0.5,
        "max_output_tokens": 100,
    },
    Dialect.MESSAGES: {
        "model": "small",
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": CHAT["messages"][1:],
        "temperature": 0.5,
        "max_tokens": 100,
    },
}


def test_the_same_plain_conversation_is_one_key_in_every_dialect():
    assert len({key(body, dialect=dialect) for dialect, body in SAME.items()}) == 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_texts_meet_across_dialects_exactly_when_they_are_equal(one, two):
    chat = key({"model": "m", "messages": [{"role": "user", "content": one}]})
    other = key({"model": "m", "input": two}, dialect=Dialect.RESPONSES)
    assert (chat == other) == (one == two)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize(
    "extra",
    [{"tools": [{"name": "f"}]}, {"x-new": 1}, {"top_k": 3}],
    ids=str,
)
def test_what_is_not_plain_meets_only_its_own_dialect(dialect, extra):
    keys = {key({**SAME[d], **extra}, dialect=d) for d in Dialect}
    assert len(keys) == len(Dialect)
    assert key({**SAME[dialect], **extra}, dialect=dialect) in keys


def test_blocks_are_not_glued_together():
    """Two blocks are not one text, however it is cut."""

    def blocks(*texts):
        parts = [{"type": "text", "text": text} for text in texts]
        return key({"model": "m", "messages": [{"role": "user", "content": parts}]})

    assert len({blocks("ab"), blocks("a", "b"), blocks("", "ab"), blocks("ab", "")}) == 4


def test_a_turn_cannot_pretend_to_be_two():
    one = key({"model": "m", "messages": [{"role": "user", "content": 'a","user","b'}]})
    two = key(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        }
    )
    assert one != two


IN_ANY_FORM = [
    (Dialect.CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}], "seed": 1}),
    (Dialect.CHAT, {"response_format": {"type": "json_object"}, "n": 1}),
    (
        Dialect.MESSAGES,
        {"tools": [{"name": "f", "input_schema": {}}], "thinking": {"type": "adaptive"}},
    ),
    (
        Dialect.RESPONSES,
        {"tools": [{"type": "function", "name": "f"}], "reasoning": {"effort": "low"}},
    ),
]
IN_ONE_FORM = [
    (Dialect.CHAT, {"n": 2}),
    (Dialect.CHAT, {"logprobs": True}),
    (Dialect.CHAT, {"modalities": ["text", "audio"]}),
    (Dialect.CHAT, {"web_search_options": {}}),
    (Dialect.CHAT, {"never-heard-of": 1}),
    (Dialect.MESSAGES, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (Dialect.MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document"}]}]}),
    (Dialect.RESPONSES, {"tools": [{"type": "web_search"}]}),
    (Dialect.RESPONSES, {"include": ["message.output_text.logprobs"]}),
]


@pytest.mark.parametrize(
    ("dialect", "fields", "shared"),
    [(*case, True) for case in IN_ANY_FORM] + [(*case, False) for case in IN_ONE_FORM],
)
def test_streams_and_whole_answers_are_shared_unless_one_would_lose_what_the_other_says(
    dialect, fields, shared
):
    """Of several choices a translated answer holds one, and nothing of what this program never heard of."""
    body = {
        "model": "auto",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "q"}],
        "input": "q",
    }
    body |= fields
    whole = ChatRequest(dialect, "auto", stream=False, body=body, raw=b"")
    same = exact_key(SCOPE, whole) == exact_key(SCOPE, replace(whole, stream=True))
    assert same is shared
