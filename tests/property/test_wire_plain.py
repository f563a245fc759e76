"""A yes of the quick reading is never wrong: the thorough check agrees, and every reading of the body too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.cache.key import CacheScope, exact_key
from app.domain.chat import ChatRequest, Dialect
from app.wire.codecs import CODECS

if TYPE_CHECKING:
    from app.domain.chat import PlainRequest

SCOPE = CacheScope("acme", "", "auto")
DIALECTS = pytest.mark.parametrize("dialect", list(Dialect))

texts = st.text(max_size=6)
numbers = (
    st.none()
    | st.integers(-1, 3)
    | st.sampled_from([0.5, 1.0, 2.0, 2.5, -0.0, 1e300, 2**31, 2**31 + 1, 2**63, 5.5])
)
odd = st.none() | st.booleans() | numbers | texts | st.lists(texts, max_size=2)
blocks = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "input_text", "image"]), "text": texts},
        optional={"cache_control": st.just({"type": "ephemeral"})},
    ),
    max_size=2,
)
turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool", "x"]),
        "content": texts | texts | blocks | odd,
    },
    optional={"name": texts, "type": st.just("message")},
)
plain_turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": texts}
)
conversations = st.lists(plain_turns, max_size=3) | st.lists(turns, max_size=3)
FIELDS: dict[str, st.SearchStrategy[object]] = {
    "model": st.sampled_from(["m", "auto"]) | odd,
    "messages": conversations | odd,
    "input": texts | conversations | odd,
    "system": texts | blocks | odd,
    "instructions": texts | odd,
    "stream": st.booleans() | odd,
    "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | odd})
    | odd,
    "temperature": numbers | odd,
    "top_p": numbers | odd,
    "max_tokens": numbers | odd,
    "max_completion_tokens": numbers | odd,
    "max_output_tokens": numbers | odd,
    "stop": texts | st.lists(texts, max_size=2) | odd,
    "stop_sequences": texts | st.lists(texts, max_size=2) | odd,
    "user": texts | odd,
    "seed": numbers,
    "tools": st.just([]),
    "metadata": odd,
}
NEEDED = {
    Dialect.CHAT: {"model": st.just("m"), "messages": conversations},
    Dialect.RESPONSES: {"model": st.just("m"), "input": texts | conversations},
    Dialect.MESSAGES: {
        "model": st.just("m"),
        "messages": conversations,
        "max_tokens": st.integers(1, 100),
    },
}
COMMON = ("stream", "temperature", "top_p")
OWN = {
    Dialect.CHAT: ("stream_options", "max_tokens", "stop", "user"),
    Dialect.RESPONSES: ("instructions", "max_output_tokens"),
    Dialect.MESSAGES: ("system", "stop_sequences"),
}


@st.composite
def bodies(draw: st.DrawFn, dialect: Dialect) -> dict[str, object]:
    """Mostly plain, always near it: an own field more, or one of another dialect, or a wrong value."""
    body = draw(st.fixed_dictionaries(NEEDED[dialect]))
    usual = st.sampled_from((*COMMON, *OWN[dialect]))
    for name in draw(st.lists(usual | st.sampled_from(sorted(FIELDS)), max_size=3)):
        body[name] = draw(FIELDS[name])
    return body


def agrees(dialect: Dialect, raw: bytes) -> PlainRequest | None:
    """Hold the quick reading of ``raw``, if there is one, to all the others."""
    codec = CODECS[dialect]
    plain = codec.read_plain(raw)
    if plain is None:
        return None
    body = msgspec.json.decode(raw)
    codec.check(body)
    assert plain.model == body["model"]
    assert plain.stream is (body.get("stream") is True)
    options = body.get("stream_options") or {}
    assert plain.include_usage is (options.get("include_usage") is True)
    request = ChatRequest(dialect, plain.model, plain.stream, body, raw)
    quick = ChatRequest(dialect, plain.model, plain.stream, body, raw, plain=plain)
    assert exact_key(SCOPE, quick) == exact_key(SCOPE, request)
    return plain


@DIALECTS
@given(st.data())
def test_what_the_quick_reading_accepts_the_thorough_check_accepts_and_keys_alike(
    dialect: Dialect, data: st.DataObject
) -> None:
    agrees(dialect, json.dumps(data.draw(bodies(dialect))).encode())


@DIALECTS
@given(st.data())
def test_the_quick_reading_says_nothing_about_what_the_thorough_check_refuses(
    dialect: Dialect, data: st.DataObject
) -> None:
    """Bytes cut, doubled or changed anywhere."""
    raw = json.dumps(data.draw(bodies(dialect))).encode()
    at = data.draw(st.integers(0, len(raw)))
    more = data.draw(st.sampled_from([b"", b"\xff", b'"', b"}", b",", b"0", b"\\u0000", raw]))
    skip = data.draw(st.integers(0, 2))
    agrees(dialect, raw[:at] + more + raw[at + skip :])


@DIALECTS
@given(st.text(min_size=1, max_size=20))
@example("😀")
@example("\x00\x7f\u2028")
def test_the_ordinary_request_is_read_quickly(dialect: Dialect, text: str) -> None:
    """Else the quick reading would promise nothing."""
    turn = [{"role": "user", "content": text}]
    said = {"input": text} if dialect is Dialect.RESPONSES else {"messages": turn}
    limit = "max_output_tokens" if dialect is Dialect.RESPONSES else "max_tokens"
    body = {"model": "auto", **said, limit: 50, "temperature": 0, "stream": True}
    assert (
        agrees(dialect, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")) is not None
    )


@DIALECTS
def test_a_name_that_comes_twice_is_read_alike(dialect: Dialect) -> None:
    """The last one counts, in both readings."""
    said = (
        '"input":"a"'
        if dialect is Dialect.RESPONSES
        else '"messages":[{"role":"user","content":"a"}]'
    )
    limit = "max_output_tokens" if dialect is Dialect.RESPONSES else "max_tokens"
    raw = f'{{"model":"x",{said},"{limit}":5,"stream":true,"{limit}":7,"stream":false,"model":"y"}}'
    plain = agrees(dialect, raw.encode())
    assert plain is None or (plain.model, plain.max_tokens, plain.stream) == ("y", 7, False)
