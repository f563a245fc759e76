"""Fast validation of ordinary requests, in place of the codec's thorough ``check``.

Most requests are plain text turns with a few sampling fields. These types describe them, and one pass of a
compiled decoder (1-2 us) accepts a body that is surely of that shape. Anything else, valid or not, is left to
``check``, which takes ten times as long and names the invalid field. Acceptance here is never wrong:
``tests/wire`` holds each decoder to what ``check`` accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from app.domain.chat import PlainRequest

_Model = Annotated[str, Meta(min_length=1, max_length=200)]
_UnitInterval = Annotated[float, Meta(ge=0, le=1)]
_Tokens = Annotated[int, Meta(ge=1, le=1 << 31)]


class PlainMessage(Struct, forbid_unknown_fields=True, gc=False):
    """A message of plain text."""

    role: Literal["system", "user", "assistant"]
    content: str


class _NonEmptyMessage(Struct, forbid_unknown_fields=True, gc=False):
    role: Literal["user", "assistant"]
    content: Annotated[str, Meta(min_length=1)]


class _Options(Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class _Chat(Struct, forbid_unknown_fields=True, gc=False):
    model: _Model
    messages: Annotated[list[PlainMessage], Meta(min_length=1)]
    stream: bool = False
    stream_options: _Options | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _UnitInterval | None = None
    max_tokens: _Tokens | None = None
    user: str | None = None
    stop: tuple[str, ...] | None = None


class _Messages(Struct, forbid_unknown_fields=True, gc=False):
    model: _Model
    max_tokens: _Tokens
    messages: Annotated[list[_NonEmptyMessage], Meta(min_length=1)]
    system: str | None = None
    stream: bool = False
    temperature: _UnitInterval | None = None
    top_p: _UnitInterval | None = None
    stop_sequences: tuple[str, ...] | None = None


class _Responses(Struct, forbid_unknown_fields=True, gc=False):
    model: _Model
    input: Annotated[str, Meta(min_length=1)]
    instructions: str | None = None
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _UnitInterval | None = None
    max_output_tokens: _Tokens | None = None


_T = TypeVar("_T")
_new = tuple.__new__
_CHAT = msgspec.json.Decoder(_Chat)
_MESSAGES = msgspec.json.Decoder(_Messages)
_RESPONSES = msgspec.json.Decoder(_Responses)


def plain_chat(raw: bytes) -> PlainRequest | None:
    """Parse ``raw`` if it is surely a valid, plain Chat Completions request."""
    try:
        it = _CHAT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    usage = it.stream_options is not None and it.stream_options.include_usage
    # Built as a bare tuple: a NamedTuple's constructor costs as much as the decoding.
    values = (
        it.messages,
        it.temperature,
        it.top_p,
        it.max_tokens,
        it.stop,
        it.model,
        it.stream,
        usage,
    )
    return _new(PlainRequest, values)


def plain_messages(raw: bytes) -> PlainRequest | None:
    """Parse ``raw`` if it is surely a valid, plain Messages request."""
    it = _decoded(_MESSAGES, raw)
    if it is None:
        return None
    turns = _with_system(it.system, it.messages)
    return PlainRequest(
        turns,
        it.temperature,
        it.top_p,
        it.max_tokens,
        it.stop_sequences,
        it.model,
        it.stream,
        include_usage=False,
    )


def plain_responses(raw: bytes) -> PlainRequest | None:
    """Parse ``raw`` if it is surely a valid, plain Responses request."""
    it = _decoded(_RESPONSES, raw)
    if it is None:
        return None
    turns = _with_system(it.instructions, [PlainMessage("user", it.input)])
    return PlainRequest(
        turns,
        it.temperature,
        it.top_p,
        it.max_output_tokens,
        None,
        it.model,
        it.stream,
        include_usage=False,
    )


def _with_system(system: str | None, turns: Sequence[object]) -> Sequence[object]:
    return turns if system is None else [PlainMessage("system", system), *turns]


def _decoded(decoder: msgspec.json.Decoder[_T], raw: bytes) -> _T | None:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
