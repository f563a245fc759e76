"""A body that is known by what stands around its text is the request that the reader would read."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api.body_template import BodyTemplate, is_plain_json_text, learn_body
from app.api.fast_request import RequestPlan
from app.cache.key import plain_key, plain_key_prefix
from app.providers.upstream_request import model_fields, splice_plain
from app.wire.plain import plain_chat, plain_messages

START = plain_key_prefix(("tenant", "", "small", "", 0))
READERS = {"chat": plain_chat, "messages": plain_messages}
ROLES = st.sampled_from(["user", "assistant"])
TEXTS = st.text(min_size=1, max_size=40)


def plan(upstream_model: str) -> RequestPlan:
    """As far as bodies ask for one."""
    made = object.__new__(RequestPlan)
    made.key_start, made.keeps_body = START, upstream_model == "small"
    made.model_fields = model_fields("small", upstream_model)
    return made


def body(earlier: list[tuple[str, str]], last: str, more: dict[str, object], dense: bool) -> bytes:
    """A request's body, as clients print it."""
    turns = [{"role": role, "content": text} for role, text in [*earlier, ("user", last)]]
    asked = {"model": "small", "messages": turns, "max_tokens": 9, **more}
    separators = (",", ":") if dense else None
    return json.dumps(asked, separators=separators, ensure_ascii=dense).encode("utf-8", "replace")


@given(
    name=st.sampled_from([*READERS]),
    upstream_model=st.sampled_from(["small", "other"]),
    earlier=st.lists(st.tuples(ROLES, TEXTS), max_size=3),
    first=TEXTS,
    second=TEXTS,
    more=st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 1), "top_p": st.just(1)}),
    dense=st.booleans(),
)
@example("chat", "other", [("user", "a")], "a", 'say "this"\nand that', {}, True)  # noqa: FBT003
@example("messages", "other", [("user", "content")], "content", "\\n", {}, True)  # noqa: FBT003
@example("chat", "small", [], "é", "日本", {}, False)  # noqa: FBT003
def test_a_known_body_has_the_key_and_goes_upstream_as_one_that_was_read(  # noqa: PLR0917
    name: str,
    upstream_model: str,
    earlier: list[tuple[str, str]],
    first: str,
    second: str,
    more: dict[str, object],
    dense: bool,
) -> None:
    """Whatever was said before, in any printing; what is not surely so is not known."""
    read, planned = READERS[name], plan(upstream_model)
    raw, again = (body(earlier, text, more, dense) for text in (first, second))
    plain = read(raw)
    if plain is None:
        return
    known = learn_body(raw, plain, planned, read)
    if known is not None:
        hold(name, known, raw, first)
        hold(name, known, again, second)


def hold(name: str, known: BodyTemplate, raw: bytes, said: str) -> None:
    """Hold what is known of ``raw`` against its reading."""
    text = known.text_of(raw)
    if text is None:
        return
    read = READERS[name]
    plain = read(raw)
    assert plain is not None
    assert plain.turns[-1].content == said  # type: ignore[attr-defined]
    assert known.key(text) == plain_key(START, plain)
    sent = known.upstream_prefix + text + known.upstream_suffix
    assert sent == (
        raw
        if known.plan.keeps_body
        else splice_plain(raw, known.plan.model_fields, want_usage=False)
    )


@given(st.binary(max_size=60), st.binary(max_size=10))
@example(b"a\\", b"")
@example(b'a\\"b', b"")
@example(b"\\\\n", b"")
@example(b'","role":"system', b"")
def test_what_is_called_a_text_is_one_string_printed_as_it_stands(
    inside: bytes, more: bytes
) -> None:
    """No bytes between two quotes can end the string early, or be printed otherwise than they came."""
    for each in (inside, inside + b"\\n" + more, inside.replace(b'"', b'\\"')):
        if is_plain_json_text(each):
            said = json.loads(b'"' + each + b'"')
            assert isinstance(said, str)
            printed = json.dumps(said, ensure_ascii=False).encode()
            assert printed == b'"' + each + b'"'


@pytest.mark.parametrize("behind", [b"", b" "])
def test_a_body_is_not_known_by_a_beginning_and_an_end_that_overlap(behind: bytes) -> None:
    """Nor with no text at all between them, which some dialects refuse."""
    raw = body([], "x", {}, dense=True)
    plain = plain_chat(raw)
    assert plain is not None
    known = learn_body(raw, plain, plan("other"), plain_chat)
    assert known is not None
    assert known.text_of(raw) == b"x"
    assert known.text_of(known.prefix + known.suffix) is None
    assert known.text_of(known.prefix[:-1] + known.suffix) is None
    assert known.text_of(known.prefix + b"y" + known.suffix + behind) == (None if behind else b"y")
