"""The request as it leaves for the upstream, for both ways to a model.

A request of the upstream's own dialect keeps its bytes: only the top-level fields that must change are
spliced (``model``; ``stream_options`` where the gateway itself needs the usage), in their place, so
every nested value, every space inside it and the order of keys stay as the client sent them. The
vendor's prompt cache depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from app.domain.chat import ChatRequest, Dialect
from app.errors import BadRequest, Unsupported
from app.ports import Codec, ModelCall

_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_USAGE_WANTED = msgspec.Raw(b'{"include_usage":true}')


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request to an upstream."""

    codec: Codec
    body: bytes
    hide_usage: bool
    """The usage chunk is for the gateway alone: the client did not ask for it."""
    passthrough: bool
    """The client reads this dialect: frames are forwarded as they come."""


def outgoing(call: ModelCall, codecs: dict[Dialect, Codec], fallback: Codec) -> Outgoing:
    """Write ``call`` for an upstream: in its own dialect untouched, else in ``fallback``'s.

    Raises ``Unsupported`` for what the dialect cannot carry.
    """
    if call.native is not None:
        codec = codecs[call.native.dialect]
        body, hide_usage = splice(call.native, call.model.upstream_model)
        return Outgoing(codec, body, hide_usage, passthrough=not call.neutral)
    if call.conversation is None:
        message = "a model call holds neither a request nor a conversation"
        raise Unsupported(message)
    written, call.dropped = fallback.write(call.conversation, call.model, stream=call.stream)
    return Outgoing(fallback, msgspec.json.encode(written), hide_usage=False, passthrough=False)


def splice(request: ChatRequest, upstream_model: str) -> tuple[bytes, bool]:
    """The client's body with its ``model`` replaced; whether the usage chunk is our own wish."""
    want_usage = request.dialect is Dialect.CHAT and request.stream and not request.include_usage
    if not want_usage and request.model == upstream_model:
        return request.raw, False
    try:
        fields = _raw_fields.decode(request.raw)
    except msgspec.DecodeError as exc:
        message = f"the body is not a JSON object: {exc}"
        raise BadRequest(message) from exc
    fields["model"] = msgspec.Raw(msgspec.json.encode(upstream_model))
    if want_usage:
        fields["stream_options"] = _with_usage(fields.get("stream_options"))
    return msgspec.json.encode(fields), want_usage


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    if options is None or bytes(options) == b"null":
        return _USAGE_WANTED
    try:
        fields = _raw_fields.decode(options)
    except msgspec.DecodeError as exc:
        message = "stream_options must be an object"
        raise BadRequest(message, param="stream_options") from exc
    fields["include_usage"] = msgspec.Raw(b"true")
    return msgspec.Raw(msgspec.json.encode(fields))
