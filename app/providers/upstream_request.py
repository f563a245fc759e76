"""Build the upstream request, for both kinds of provider.

A request of the upstream's own dialect keeps its bytes: only the top-level fields that must change are
spliced (``model``; ``stream_options`` where the gateway itself needs the usage) in place, so every nested
value, its whitespace and the order of keys stay as the client sent them. The vendor's prompt cache depends on
it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import msgspec

from app.domain.chat import ChatRequest, Dialect
from app.domain.model_call import ModelCall
from app.errors import BadRequest, Unsupported
from app.ports import Codec

_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHAT = Dialect.CHAT
_USAGE_WANTED = msgspec.Raw(b'{"include_usage":true}')


@dataclass(slots=True)
class UpstreamRequest:
    """One request to an upstream. Treated as immutable (not ``frozen``: one is made per call)."""

    codec: Codec
    body: bytes
    hide_usage: bool
    """The usage chunk was requested by the gateway, not by the client."""
    passthrough: bool
    """The client speaks this dialect: frames are passed through."""


def build_upstream_request(
    call: ModelCall, codecs: dict[Dialect, Codec], fallback: Codec
) -> UpstreamRequest:
    """Build the request of ``call``: unchanged in its own dialect, else translated to ``fallback``'s.

    Raises ``Unsupported`` for what the dialect cannot express.
    """
    if call.native is not None:
        codec = codecs[call.native.dialect]
        body, hide_usage = splice(call.native, call.model.upstream_model)
        prompts = call.prompts
        if prompts is not None and len(body) >= prompts.min_bytes:
            body = prompts.shape(call, codec.dialect, body)
        return UpstreamRequest(codec, body, hide_usage, not call.neutral)
    if call.conversation is None:
        message = "a model call holds neither a request nor a conversation"
        raise Unsupported(message)
    written, call.dropped = fallback.write(call.conversation, call.model, stream=call.stream)
    body = msgspec.json.encode(written)
    prompts = call.prompts
    if prompts is not None and len(body) >= prompts.min_bytes:
        body = prompts.shape(call, fallback.dialect, body)
    return UpstreamRequest(fallback, body, hide_usage=False, passthrough=False)


def splice(request: ChatRequest, upstream_model: str) -> tuple[bytes, bool]:
    """The client's body with ``model`` replaced, and whether the gateway requested the usage chunk."""
    want_usage = request.stream and not request.include_usage and request.dialect is _CHAT
    if not want_usage and request.model == upstream_model:
        return request.raw, False
    if request.plain is not None:
        named = model_fields(request.model, upstream_model)
        spliced = splice_plain(request.raw, named, want_usage)
        if spliced is not None:
            return spliced, want_usage
    try:
        fields = _raw_fields.decode(request.raw)
    except msgspec.DecodeError as exc:
        message = f"the body is not a JSON object: {exc}"
        raise BadRequest(message) from exc
    fields["model"] = msgspec.Raw(msgspec.json.encode(upstream_model))
    if want_usage:
        fields["stream_options"] = _with_usage(fields.get("stream_options"))
    return msgspec.json.encode(fields), want_usage


def splice_plain(raw: bytes, fields: tuple[bytes, bytes], want_usage: bool) -> bytes | None:  # noqa: FBT001 - once a request
    """As ``splice`` for a plain body, without parsing it; None where that is not certain to be right.

    ``fields`` are ``model_fields``. A plain body has no other keys than the dialect's own, so ``"model"``,
    its colon and its value occur in it only as the field: inside a string a quote is escaped, and no word can
    follow a string's closing quote. Without escaped code points no key has another spelling, so one
    ``"model"`` is the only one.
    """
    # Searching for one byte costs a tenth.
    if raw.find(b"\\") >= 0 and raw.find(b"\\u") >= 0:
        return None
    was, now = fields
    if raw.startswith(was, 1):  # the first field, after the brace
        before, after = b"{", raw[1 + len(was) :]
    else:
        before, found, after = raw.partition(was)
        if not found or before.find(b'"model"') >= 0:
            return None
    if after.find(b'"model"') >= 0:
        return None
    if not want_usage:
        return b"".join((before, now, after))
    if raw.find(b'"stream_options"') >= 0 or raw[-1:] != b"}":
        return None
    return b"".join((before, now, after[:-1], b',"stream_options":{"include_usage":true}}'))


@lru_cache(maxsize=1024)
def model_fields(model: str, upstream_model: str) -> tuple[bytes, bytes]:
    """The field in compact JSON, with the requested name and with the upstream's."""
    encode = msgspec.json.encode
    return b'"model":' + encode(model), b'"model":' + encode(upstream_model)


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
