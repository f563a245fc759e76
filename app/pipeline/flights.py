"""Single flight: join a request that is already in flight, or lead one and store its answer."""

from __future__ import annotations

from types import TracebackType

from app.cache.coalesce import Flight
from app.cache.exact import CachedAnswer
from app.domain.chat import ChatRequest, Dialect
from app.domain.decisions import CacheOutcome
from app.domain.events import COMPLETE_FINISHES, AnswerBuilder, Emit, Event, Frames, WholeBody
from app.domain.replay import replay
from app.errors import UpstreamClosed, UpstreamError
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.replay import same_form
from app.ports import Codec

_MISS = CacheOutcome.MISS


async def join_flight(
    flight: Flight, request: ChatRequest, gateway: Gateway, turn: Turn, emit: Emit
) -> None:
    """Join an identical request in flight: its events so far, then the live rest, in this client's form."""
    turn.cache, turn.cache_reason = CacheOutcome.COALESCED, "in_flight"
    turn.reason = "joined an identical request in flight"
    is_same_form = same_form(flight, request)
    translated = emit if is_same_form else translating_emit(gateway.codecs[flight.dialect], emit)

    async def forward(event: Event) -> None:
        _copy_leader_details(flight, turn)
        await translated(event)

    try:
        with turn.timeline.stage("upstream", "joined"):
            await flight.follow(forward)
    except UpstreamError as error:
        if error.already_reported and not is_same_form:  # its error frame was in another form
            raise UpstreamClosed(error.message, code=error.code) from error
        raise
    _copy_leader_details(flight, turn)
    turn.complete = True
    if isinstance(flight.leader, Turn):
        turn.usage, turn.saved_usd = flight.leader.usage, flight.leader.cost_usd
        turn.finish = flight.leader.finish


def _copy_leader_details(flight: Flight, turn: Turn) -> None:
    if turn.model is None and isinstance(flight.leader, Turn):
        turn.model, turn.answered_tier = flight.leader.model, flight.leader.answered_tier


def translating_emit(codec: Codec, emit: Emit) -> Emit:
    """An ``Emit`` that parses opaque frames into neutral events for ``emit``."""
    reader = codec.reader()

    async def forward(event: Event) -> None:
        match event:
            case Frames(data):
                for read in reader.feed(data):
                    await emit(read)
            case WholeBody(body):
                for read in replay(codec.read_answer(body)):
                    await emit(read)
            case _:
                await emit(event)

    return forward


def joinable(flight: Flight, request: ChatRequest) -> bool:
    """Whether ``flight`` carries everything that ``request`` asked for (its usage chunk may be missing)."""
    if flight.dialect is Dialect.CHAT and flight.streamed and not flight.usage_shown:
        return request.dialect is Dialect.CHAT and request.stream and not request.include_usage
    return True


class LeadingFlight(Flight):
    """A flight that this turn leads: ``with`` registers it, and stores its answer at the end.

    Only complete, successful answers are stored: never one that was cut, refused, filtered, failed or
    cancelled.
    """

    def __init__(self, key: bytes, request: ChatRequest, gateway: Gateway, turn: Turn) -> None:
        # Flight.__init__ inlined: one call fewer a request.
        self.dialect, self.streamed = request.dialect, request.stream
        self.usage_shown, self.cancel, self.leader = request.include_usage, turn.cancel, turn
        self._events = []
        self.key, self._request, self._gateway, self._turn = key, request, gateway, turn

    def attach(self, request: ChatRequest, turn: Turn) -> None:
        """Attach the turn to a flight that was started before the turn existed."""
        self._request, self._turn = request, turn
        self.cancel, self.leader = turn.cancel, turn

    def __enter__(self) -> Flight:
        gateway = self._gateway
        self._turn.flight = self
        gateway.flights.lead(self.key, self)
        if gateway.shared is not None:
            gateway.shared.register(self.key, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gateway, turn = self._gateway, self._turn
        gateway.flights.land(self.key, self, error)
        complete = turn.complete and (turn.finish == "" or turn.finish in COMPLETE_FINISHES)
        stored = complete and error is None and turn.cache is _MISS
        if gateway.shared is not None:
            entry = self._entry() if stored else None
            gateway.shared.land(self, entry, self._request, turn.classification)
        elif stored and gateway.exact is not None:
            model = "" if turn.model is None else turn.model.name
            began_ns = turn.timeline.started_ns
            stored = not gateway.exact.blocks(began_ns, self.key, turn.tenant, model, turn.tags)
            if stored:
                gateway.exact.put(self.key, self._entry())
        if stored and gateway.sharing is not None:
            gateway.sharing.record_answer(self.key, turn.user)

    def _entry(self) -> CachedAnswer:
        turn, request = self._turn, self._request
        pieces: list[bytes] = []
        builder: AnswerBuilder | None = None
        for event in self._events if self._run is None else self.events:
            if type(event) is Frames:
                pieces.append(event.data)
            elif type(event) is WholeBody:
                pieces.append(event.body)
            else:
                builder = builder or AnswerBuilder()
                builder.add(event)
        # Positional: keywords would double the cost of an entry, and every miss makes one.
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
            entry.gate_passed = True
        return entry
