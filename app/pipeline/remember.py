"""What the pipeline does with the cache: serve a kept answer, join a running one, keep a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import CacheOutcome
from app.domain.events import (
    COMPLETE_FINISHES,
    Answer,
    AnswerBuilder,
    Emit,
    Event,
    Frames,
    RefusalBlock,
    Whole,
)
from app.domain.replay import replay
from app.errors import UpstreamClosed, UpstreamError, UpstreamProtocol
from app.pipeline.gateway import Gateway, Turn
from app.ports import Codec
from app.wire.beyond_neutral import tells_more
from app.wire.passthrough import PassthroughReader, condensed

_MISS = CacheOutcome.MISS


def may_serve(
    entry: CachedAnswer, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn
) -> bool:
    """Whether the question behind ``entry`` is of a kind whose answer may be kept, and still may.

    The gate is asked at the first hit rather than when the answer is stored: most answers are never asked for
    twice, and the same text is judged the same at either time. Then too what the upstream sent is read: its
    frames went through unread, and one that is broken must not meet anybody else.
    """
    sharing = gateway.sharing
    if sharing is not None and not sharing.admits(key, turn.user):
        turn.cache_reason = "unshared"
        return False
    if entry.readable is None:
        entry.readable = _readable(entry, gateway)
    if not entry.readable:
        turn.cache_reason = "unreadable"
        return False
    if not _told_whole(entry, request):
        turn.cache_reason = "form"
        return False
    if entry.judged or gateway.exact is None:
        return True
    entry.judged = True
    classification = gateway.classifier.classify(gateway.codecs[request.dialect].view(request.body))
    if classification.ttl_s is None or gateway.exact.shorten(key, classification.ttl_s):
        return True
    turn.cache_reason = classification.cacheability.value
    return False


def _told_whole(entry: CachedAnswer, request: ChatRequest) -> bool:
    """Whether nothing of the answer is lost in the form that this client asked for."""
    if not entry.pieces or same_form(entry, request):
        return True
    if entry.tells_more is None:
        entry.tells_more = tells_more(entry.pieces)
    return not entry.tells_more


def _readable(entry: CachedAnswer, gateway: Gateway) -> bool:
    if entry.answer is not None or not entry.streamed:
        return True
    try:
        answer = read_whole(gateway.codecs[entry.dialect], entry.pieces, streamed=True)
    except UpstreamError:
        return False
    # Frames go through unread: a refusal inside a stream that ended well shows only here.
    return not any(isinstance(block, RefusalBlock) for block in answer.blocks)


async def tell(
    entry: CachedAnswer, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """Tell a kept answer in the form that this client asked for."""
    if gateway.sharing is not None:
        await gateway.sharing.linger()
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
            gateway.exact.grow(entry, len(rendered))
    await emit(Frames(rendered) if request.stream else Whole(rendered))


def same_form(told: CachedAnswer | Flight, request: ChatRequest) -> bool:
    """Whether the frames or the body of ``told`` are what the client of ``request`` reads, as they stand."""
    if told.dialect is not request.dialect or told.streamed is not request.stream:
        return False
    return not request.stream or told.usage_shown is request.include_usage


def _render(entry: CachedAnswer, request: ChatRequest, gateway: Gateway) -> bytes:
    if entry.pieces and same_form(entry, request):
        return b"".join(entry.pieces)
    if entry.answer is None:
        entry.answer = read_whole(
            gateway.codecs[entry.dialect], entry.pieces, streamed=entry.streamed
        )
        if entry.usage is not None:
            entry.answer = replace(entry.answer, usage=entry.usage)
    codec = gateway.codecs[request.dialect]
    if not request.stream:
        return codec.write_answer(entry.answer, request)
    writer = codec.writer(request)
    return b"".join([*(writer.write(event) for event in replay(entry.answer)), writer.end()])


def read_whole(codec: Codec, pieces: tuple[bytes, ...], *, streamed: bool) -> Answer:
    """Read an upstream's bytes into the neutral answer; raises ``UpstreamProtocol`` when they hold none."""
    if not streamed:
        return codec.read_answer(b"".join(pieces))
    builder, reader = AnswerBuilder(), codec.reader()
    glance = codec.passthrough(hide_usage=False)
    said = b"".join(pieces)
    if isinstance(glance, PassthroughReader):
        said = condensed(said, glance)
    for event in reader.feed(said):
        builder.add(event)
    for event in reader.end():
        builder.add(event)
    answer = builder.answer()
    if answer is None:
        message = "the upstream's stream holds no whole answer"
        raise UpstreamProtocol(message)
    return answer


def answer_in(events: Sequence[Event], codec: Codec) -> Answer | None:
    """The whole answer that ``events`` tell, in a vendor's words or in ours; None where they tell none."""
    raw = [event for event in events if isinstance(event, (Frames, Whole))]
    if raw:
        pieces = tuple(each.data if isinstance(each, Frames) else each.body for each in raw)
        try:
            return read_whole(codec, pieces, streamed=isinstance(raw[0], Frames))
        except UpstreamError:
            return None
    builder = AnswerBuilder()
    for event in events:
        builder.add(event)
    return builder.answer()


async def follow(
    flight: Flight, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """Join a running identical request: what it already said, then the live rest, in this client's form."""
    turn.cache, turn.cache_reason = CacheOutcome.COALESCED, "in_flight"
    turn.reason = "joined an identical request in flight"
    as_it_is = same_form(flight, request)
    translated = emit if as_it_is else translating(gateway.codecs[flight.dialect], emit)

    async def hand_on(event: Event) -> None:
        _say_as_leader(flight, turn)
        await translated(event)

    try:
        with turn.timeline.stage("upstream", "joined"):
            await flight.follow(hand_on)
    except UpstreamError as error:
        if error.said and not as_it_is:  # the frame that said so was of another form
            raise UpstreamClosed(error.message, code=error.code) from error
        raise
    _say_as_leader(flight, turn)
    turn.complete = True
    if isinstance(flight.leader, Turn):
        turn.usage, turn.saved_usd = flight.leader.usage, flight.leader.cost_usd
        turn.finish = flight.leader.finish


def _say_as_leader(flight: Flight, turn: Turn) -> None:
    if turn.model is None and isinstance(flight.leader, Turn):
        turn.model, turn.answered_tier = flight.leader.model, flight.leader.answered_tier


def translating(codec: Codec, emit: Emit) -> Emit:
    """An ``emit`` that reads opaque frames into neutral events first."""
    reader = codec.reader()

    async def hand_on(event: Event) -> None:
        match event:
            case Frames(data):
                for read in reader.feed(data):
                    await emit(read)
            case Whole(body):
                for told in replay(codec.read_answer(body)):
                    await emit(told)
            case _:
                await emit(event)

    return hand_on


def joinable(flight: Flight, request: ChatRequest) -> bool:
    """Whether ``flight`` says all that ``request`` must be told (its usage chunk may be missing)."""
    if flight.dialect is Dialect.CHAT and flight.streamed and not flight.usage_shown:
        return request.dialect is Dialect.CHAT and request.stream and not request.include_usage
    return True


class keep(Flight):  # noqa: N801 - reads as a verb: ``with keep(...) as flight``
    """Lead a flight; when the answer came whole, keep it.

    Only whole, successful answers are kept: never one that was cut, refused, filtered, failed or cancelled.
    """

    def __init__(self, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn) -> None:
        # As Flight's own, without a call of it.
        self.dialect, self.streamed = request.dialect, request.stream
        self.usage_shown, self.cancel, self.leader = request.include_usage, turn.cancel, turn
        self._events = []
        self.key, self._request, self._gateway, self._turn = key, request, gateway, turn

    def adopt(self, request: ChatRequest, turn: Turn) -> None:
        """Go on for ``turn`` with a flight that began before there was one."""
        self._request, self._turn = request, turn
        self.cancel, self.leader = turn.cancel, turn

    def __enter__(self) -> Flight:
        gateway = self._gateway
        self._turn.flight = self
        gateway.flights.lead(self.key, self)
        if gateway.shared is not None:
            gateway.shared.begin(self.key, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gateway, turn = self._gateway, self._turn
        gateway.flights.land(self.key, self, error)
        whole = turn.complete and (turn.finish == "" or turn.finish in COMPLETE_FINISHES)
        kept = whole and error is None and turn.cache is _MISS
        if gateway.shared is not None:
            entry = self._entry() if kept else None
            gateway.shared.land(self, entry, self._request, turn.classification)
        elif kept and gateway.exact is not None:
            model = "" if turn.model is None else turn.model.name
            began_ns = turn.timeline.started_ns
            kept = not gateway.exact.barred(began_ns, self.key, turn.tenant, model, turn.tags)
            if kept:
                gateway.exact.put(self.key, self._entry())
        if kept and gateway.sharing is not None:
            gateway.sharing.kept(self.key, turn.user)

    def _entry(self) -> CachedAnswer:
        turn, request = self._turn, self._request
        pieces: list[bytes] = []
        builder: AnswerBuilder | None = None
        for event in self._events if self._run is None else self.events:
            if type(event) is Frames:
                pieces.append(event.data)
            elif type(event) is Whole:
                pieces.append(event.body)
            else:
                builder = builder or AnswerBuilder()
                builder.add(event)
        # By position: keywords would double what an entry costs, and one is made for every miss.
        entry = CachedAnswer(
            self.key,
            request.dialect,
            request.stream,
            request.include_usage,
            tuple(pieces) if len(pieces) < 2 else (b"".join(pieces),),  # noqa: PLR2004
            turn.model.name if turn.model is not None else "",
            turn.answered_tier,
            turn.tenant,
            0.0,
            0.0,
            turn.request_id,
            turn.tags,
            turn.usage,
            turn.cost_usd,
            turn.upstream_ns / 1e9,
            None if builder is None else builder.answer(),
        )
        if turn.classification is not None and turn.classification.ttl_s is None:
            entry.judged = True
        return entry
