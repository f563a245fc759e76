"""A cheap yes for the ordinary request, so that its thorough check need not run.

Most requests are plain text turns with a few sampling fields. Those shapes are written down here as
types, and one pass of a compiled decoder (1-2 us) says whether a body is surely of them. Anything else,
sound or not, is left to the codec's ``check``, which takes ten times as long and names the field at
fault. A yes here is never wrong: ``tests/wire`` holds each decoder to what ``check`` accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from app.domain.chat import PlainRequest

_Model = Annotated[str, Meta(min_length=1, max_length=200)]
_Share = Annotated[float, Meta(ge=0, le=1)]
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
    top_p: _Share | None = None
    max_tokens: _Tokens | None = None
    user: str | None = None
    stop: tuple[str, ...] | None = None


class _Messages(Struct, forbid_unknown_fields=True, gc=False):
    model: _Model
    max_tokens: _Tokens
    messages: Annotated[list[_NonEmptyMessage], Meta(min_length=1)]
    system: str | None = None
    stream: bool = False
    temperature: _Share | None = None
    top_p: _Share | None = None
    stop_sequences: tuple[str, ...] | None = None


class _Responses(Struct, forbid_unknown_fields=True, gc=False):
    model: _Model
    input: Annotated[str, Meta(min_length=1)]
    instructions: str | None = None
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    max_output_tokens: _Tokens | None = None


_T = TypeVar("_T")
_new = tuple.__new__
_CHAT = msgspec.json.Decoder(_Chat)
_MESSAGES = msgspec.json.Decoder(_Messages)
_RESPONSES = msgspec.json.Decoder(_Responses)


def plain_chat(raw: bytes) -> PlainRequest | None:
    """The reading of ``raw`` if it is surely a sound, plain Chat Completions request."""
    try:
        it = _CHAT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    usage = it.stream_options is not None and it.stream_options.include_usage
    # Made as the tuple that it is: a NamedTuple's own constructor costs as much as the decoding.
    told = (
        it.messages,
        it.temperature,
        it.top_p,
        it.max_tokens,
        it.stop,
        it.model,
        it.stream,
        usage,
    )
    return _new(PlainRequest, told)


def plain_messages(raw: bytes) -> PlainRequest | None:
    """The reading of ``raw`` if it is surely a sound, plain Messages request."""
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
    """The reading of ``raw`` if it is surely a sound, plain Responses request."""
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
