"""A cheap yes for the ordinary request, so that its thorough check need not run.

Most requests are plain text turns with a few sampling fields. Those shapes are written down here as types, and one
pass of a compiled decoder (1-2 us) says whether a body is surely of them. Anything else, sound or not, is left to
the codec's ``check``, which takes ten times as long and names the field at fault. A yes here is never wrong:
``tests/wire`` holds each decoder to what ``check`` accepts.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

_Model = Annotated[str, Meta(min_length=1, max_length=200)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Tokens = Annotated[int, Meta(ge=1, le=1 << 31)]
_Chat = Literal["system", "developer", "user", "assistant"]
_Turn = Literal["user", "assistant"]


class _ChatMessage(Struct, forbid_unknown_fields=True):
    role: _Chat
    content: str


class _Options(Struct, forbid_unknown_fields=True):
    include_usage: bool = False


class _PlainChat(Struct, forbid_unknown_fields=True):
    model: _Model
    messages: Annotated[list[_ChatMessage], Meta(min_length=1)]
    stream: bool = False
    stream_options: _Options | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    user: str | None = None
    stop: str | list[str] | None = None


class _Message(Struct, forbid_unknown_fields=True):
    role: _Turn
    content: Annotated[str, Meta(min_length=1)]


class _PlainMessages(Struct, forbid_unknown_fields=True):
    model: _Model
    max_tokens: _Tokens
    messages: Annotated[list[_Message], Meta(min_length=1)]
    system: str | None = None
    stream: bool = False
    temperature: _Share | None = None
    top_p: _Share | None = None


class _PlainResponses(Struct, forbid_unknown_fields=True):
    model: _Model
    input: Annotated[str, Meta(min_length=1)]
    instructions: str | None = None
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: _Share | None = None
    max_output_tokens: _Tokens | None = None


_T = TypeVar("_T")
_CHAT = msgspec.json.Decoder(_PlainChat)
_MESSAGES = msgspec.json.Decoder(_PlainMessages)
_RESPONSES = msgspec.json.Decoder(_PlainResponses)


def plain_chat(raw: bytes) -> bool:
    """Whether ``raw`` is surely a sound Chat Completions request."""
    return _is(_CHAT, raw)


def plain_messages(raw: bytes) -> bool:
    """Whether ``raw`` is surely a sound Messages request."""
    return _is(_MESSAGES, raw)


def plain_responses(raw: bytes) -> bool:
    """Whether ``raw`` is surely a sound Responses request."""
    return _is(_RESPONSES, raw)


def _is(decoder: msgspec.json.Decoder[_T], raw: bytes) -> bool:
    try:
        decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True
