"""Serve a stored answer: whether this request may have it, and its bytes in the form the client reads.

``serve_cached`` turns a ``CachedAnswer`` into events; the pure unrolling of an answer into neutral events is
``app.domain.replay``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.domain.chat import ChatRequest
from app.domain.decisions import CacheOutcome
from app.domain.events import Answer, AnswerBuilder, Emit, Event, Frames, RefusalBlock, WholeBody
from app.domain.replay import replay
from app.errors import UpstreamError, UpstreamProtocol
from app.pipeline.gateway import Gateway, Turn
from app.ports import Codec
from app.wire.passthrough import PassthroughReader, merge_deltas
from app.wire.untranslatable import has_untranslatable_content


def may_serve(
    entry: CachedAnswer, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn
) -> bool:
    """Whether ``entry`` may answer ``request``; sets ``turn.cache_reason`` where it may not.

    Cacheability is classified, and the stored bytes are parsed, at the first hit rather than at the store:
    most answers are never requested twice. Frames are stored unread, so a broken one must be found here.
    """
    sharing = gateway.sharing
    if sharing is not None and not sharing.admits(key, turn.user):
        turn.cache_reason = "unshared"
        return False
    if entry.readable is None:
        entry.readable = _is_readable(entry, gateway)
    if not entry.readable:
        turn.cache_reason = "unreadable"
        return False
    if not _loses_nothing(entry, request):
        turn.cache_reason = "form"
        return False
    if entry.gate_passed or gateway.exact is None:
        return True
    entry.gate_passed = True
    classification = gateway.classifier.classify(gateway.codecs[request.dialect].view(request.body))
    if classification.ttl_s is None or gateway.exact.shorten(key, classification.ttl_s):
        return True
    turn.cache_reason = classification.cacheability.value
    return False


def _loses_nothing(entry: CachedAnswer, request: ChatRequest) -> bool:
    """Whether the answer can be given in the client's form without loss."""
    if not entry.pieces or same_form(entry, request):
        return True
    if entry.is_form_dependent is None:
        entry.is_form_dependent = has_untranslatable_content(entry.pieces)
    return not entry.is_form_dependent


def _is_readable(entry: CachedAnswer, gateway: Gateway) -> bool:
    if entry.answer is not None or not entry.streamed:
        return True
    try:
        answer = read_answer(gateway.codecs[entry.dialect], entry.pieces, streamed=True)
    except UpstreamError:
        return False
    # Frames are stored unread: a refusal inside a complete stream shows only here.
    return not any(isinstance(block, RefusalBlock) for block in answer.blocks)


async def serve_cached(
    entry: CachedAnswer, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """Emit a stored answer in the client's dialect and form, and account for the hit in ``turn``."""
    if gateway.sharing is not None:
        await gateway.sharing.jitter()
    entry.hits += 1
    turn.cache, turn.cache_reason = CacheOutcome.EXACT, "exact"
    turn.reason = "the same request was answered before"
    turn.model = gateway.models.get(entry.model)
    turn.answered_tier, turn.entry_id = entry.tier, entry.id
    turn.usage, turn.saved_usd, turn.saved_s = entry.usage, entry.cost_usd, entry.upstream_s
    turn.complete = True
    form = (request.dialect, request.stream, request.include_usage)
    known = entry.rendered
    if known is None:
        known = entry.rendered = {}
    rendered = known.get(form)
    if rendered is None:
        rendered = known[form] = _render(entry, request, gateway)
        if gateway.exact is not None and len(entry.pieces) != 1:
            gateway.exact.add_bytes(entry, len(rendered))
    await emit(Frames(rendered) if request.stream else WholeBody(rendered))


def same_form(source: CachedAnswer | Flight, request: ChatRequest) -> bool:
    """Whether the bytes of ``source`` can go to the client of ``request`` unchanged."""
    if source.dialect is not request.dialect or source.streamed is not request.stream:
        return False
    return not request.stream or source.usage_shown is request.include_usage


def _render(entry: CachedAnswer, request: ChatRequest, gateway: Gateway) -> bytes:
    if entry.pieces and same_form(entry, request):
        return b"".join(entry.pieces)
    if entry.answer is None:
        entry.answer = read_answer(
            gateway.codecs[entry.dialect], entry.pieces, streamed=entry.streamed
        )
        if entry.usage is not None:
            entry.answer = replace(entry.answer, usage=entry.usage)
    codec = gateway.codecs[request.dialect]
    if not request.stream:
        return codec.write_answer(entry.answer, request)
    writer = codec.writer(request)
    return b"".join([*(writer.write(event) for event in replay(entry.answer)), writer.end()])


def read_answer(codec: Codec, pieces: tuple[bytes, ...], *, streamed: bool) -> Answer:
    """Parse an upstream's bytes into a neutral answer; raises ``UpstreamProtocol`` where they hold none."""
    if not streamed:
        return codec.read_answer(b"".join(pieces))
    builder, reader = AnswerBuilder(), codec.reader()
    glance = codec.passthrough(hide_usage=False)
    data = b"".join(pieces)
    if isinstance(glance, PassthroughReader):
        data = merge_deltas(data, glance)
    for event in reader.feed(data):
        builder.add(event)
    for event in reader.end():
        builder.add(event)
    answer = builder.answer()
    if answer is None:
        message = "the upstream's stream holds no whole answer"
        raise UpstreamProtocol(message)
    return answer


def answer_from_events(events: Sequence[Event], codec: Codec) -> Answer | None:
    """The complete answer in ``events`` (a vendor's frames or neutral); None where it is incomplete."""
    raw = [event for event in events if isinstance(event, (Frames, WholeBody))]
    if raw:
        pieces = tuple(each.data if isinstance(each, Frames) else each.body for each in raw)
        try:
            return read_answer(codec, pieces, streamed=isinstance(raw[0], Frames))
        except UpstreamError:
            return None
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    return builder.answer()
