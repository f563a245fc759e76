"""Byte spans of the values in a JSON text, without re-encoding it.

msgspec decodes a level of the text into raw values in C; their order gives their positions, so a walk costs a
step per key and not per byte. Duplicate keys, which JSON allows and no client sends, are rejected: no byte is
changed on a guess.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_KEY = re.compile(rb'[\s,{]*"[^"\\]*(?:\\.[^"\\]*)*"\s*:\s*', re.DOTALL)
_GAP = re.compile(rb"[\s,]*")


class UnreadableError(ValueError):
    """The text is not the JSON that was expected there, or holds a key twice."""


class Span(NamedTuple):
    """A value's bytes: ``raw[start:end]``."""

    start: int
    end: int


def fields(raw: bytes, at: Span) -> dict[str, Span]:
    """The values of the object at ``at``, by key, in the text's order. Raises ``UnreadableError``."""
    try:
        values = _object(memoryview(raw)[at.start : at.end])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UnreadableError(str(exc)) from exc
    found: dict[str, Span] = {}
    cursor = at.start
    for key, value in values.items():
        match = _KEY.match(raw, cursor)
        if match is None:
            raise UnreadableError("a key stands twice")
        start = match.end()
        cursor = start + memoryview(value).nbytes
        found[key] = Span(start, cursor)
    if raw[cursor : at.end].strip(b" \t\r\n{") != b"}":
        raise UnreadableError("a key stands twice")
    return found


def items(raw: bytes, at: Span) -> list[Span]:
    """The values of the array at ``at``. Raises ``UnreadableError``."""
    try:
        values = _array(memoryview(raw)[at.start : at.end])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UnreadableError(str(exc)) from exc
    found: list[Span] = []
    cursor = at.start + 1
    for value in values:
        match = _GAP.match(raw, cursor)
        start = cursor if match is None else match.end()
        cursor = start + memoryview(value).nbytes
        found.append(Span(start, cursor))
    return found


def whole(raw: bytes) -> Span:
    """The text without white space around it."""
    start = len(raw) - len(raw.lstrip())
    return Span(start, len(raw.rstrip()))


def text_of(raw: bytes, at: Span) -> str:
    """The string at ``at``. Raises ``UnreadableError``."""
    try:
        return msgspec.json.decode(memoryview(raw)[at.start : at.end], type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UnreadableError(str(exc)) from exc


def line_at(raw: bytes, at: Span) -> str:
    """The line of a JSON text in which ``at`` stands, read as its words are; "" where they cannot be."""
    start = max(raw.rfind(b"\\n", 0, at.start) + 2, raw.rfind(b'"', 0, at.start) + 1)
    ends = [end for mark in (b"\\n", b'"') if (end := raw.find(mark, at.end)) >= 0]
    line = raw[start : min(ends, default=len(raw))]
    try:
        return str(msgspec.json.decode(b'"' + line + b'"'))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
