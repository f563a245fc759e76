"""JSON encoding and decoding for the codecs, with failures mapped to gateway errors.

msgspec decodes and encodes integers of any size, so numbers in tool arguments survive; orjson
would refuse them.
"""

from __future__ import annotations

import msgspec

from app.errors import BadRequest, UpstreamProtocol

_DECODE_FAILURES = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
_RAW = msgspec.json.Decoder(msgspec.Raw)

encode = msgspec.json.encode
"""Encode as compact JSON, keys in their order."""


def encode_text(value: object) -> str:
    """Encode as compact JSON text; raises ``BadRequest`` for text that is not Unicode."""
    try:
        return encode(value).decode()
    except (UnicodeError, RecursionError, ValueError) as exc:
        raise BadRequest("A value in the request cannot be printed as JSON.") from exc


def decode_upstream_object(data: bytes) -> dict[str, object]:
    """Read an upstream's JSON object; raises ``UpstreamProtocol`` for anything else."""
    try:
        value: object = msgspec.json.decode(data)
    except _DECODE_FAILURES as exc:
        raise UpstreamProtocol("The upstream's answer is not valid JSON.") from exc
    if not isinstance(value, dict):
        raise UpstreamProtocol("The upstream's answer is not a JSON object.")
    return value


def decode_arguments(text: str) -> dict[str, object] | None:
    """Read a tool call's arguments; None when they are not a JSON object. Empty text is ``{}``."""
    if not text.strip():
        return {}
    try:
        value: object = msgspec.json.decode(text)
    except (*_DECODE_FAILURES, UnicodeEncodeError):
        return None
    return value if isinstance(value, dict) else None


def is_json_bytes(data: bytes) -> bool:
    """As ``is_json``, at a third of the cost because no values are built. Invalid UTF-8 passes."""
    try:
        _RAW.decode(data)
    except _DECODE_FAILURES:
        return False
    return True


def is_json(text: str) -> bool:
    """Whether ``text`` is one complete JSON value."""
    try:
        msgspec.json.decode(text)
    except (*_DECODE_FAILURES, UnicodeEncodeError):
        return False
    return True
