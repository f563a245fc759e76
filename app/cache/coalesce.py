"""Single flight: identical requests in flight share one upstream call, and a late one joins the running
stream.

The first request (the leader) runs the call in its own task and writes every event into its ``Flight``.
A later identical request (a follower) gets what was already streamed and then the live rest. A request
that nobody joins pays for one list and one dict entry, and no task or queue of its own.

When the leader's client leaves, the call goes on for the followers; the last one to leave ends it. A
failure goes to all. A leader whose client reads slowly does not slow the others: while there are
followers its back-pressure is not awaited, as the answer is in memory for them anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.domain.chat import Dialect
from app.domain.events import Emit, Event, Frames, Offer, Pipe, WholeBody, offer_of, pipe_of
from app.errors import GatewayError, UpstreamClosed


class Flight:
    """One running call; owned by the leader's task, read by followers of the same event loop."""

    # Initial values: class attributes, so that a flight need not set them.
    followers = 0
    leader_gone = done = False
    error: GatewayError | None = None
    _waiters: list[asyncio.Future[None]] | None = None
    _emit: Emit | None = None
    _offer: Offer | None = None
    _run: list[bytes] | None = None
    """Piped frames, not among ``events`` yet."""

    def __init__(
        self,
        dialect: Dialect,
        streamed: bool,  # noqa: FBT001 - made by position once a request; keywords cost as much again
        usage_shown: bool,  # noqa: FBT001
        cancel: Callable[[], object],
        leader: object = None,
    ) -> None:
        """Begin without events."""
        self.dialect = dialect
        """The dialect of the leader's ``Frames`` and ``Whole``."""
        self.streamed = streamed
        self.usage_shown = usage_shown
        """Chat dialect: the usage chunk is among the frames."""
        self.cancel = cancel
        """Ends the leader's task."""
        self.leader = leader
        """The leader's turn: what followers say about model, tier and reason."""
        self._events: list[Event] = []

    @property
    def events(self) -> list[Event]:
        """All events so far; frames that were piped one by one are joined."""
        run = self._run
        if run:
            self._events.append(Frames(b"".join(run), len(run)))
            run.clear()
        return self._events

    def finish(self, error: GatewayError | None) -> None:
        """The call is over, whole (None) or failed."""
        self.done = True
        self.error = error
        self.notify_followers()

    def leader_left(self) -> bool:
        """Note that the leader's client has left; returns whether followers remain, for whom to go on."""
        self.leader_gone = True
        return self.followers > 0

    def recording(self, emit: Emit) -> Emit:
        """The leader's ``emit``: keeps every event, and hands it on while the leader's client is there."""
        self._emit, self._offer = emit, offer_of(emit)
        return self

    async def __call__(self, event: Event) -> None:
        """Record an event for the followers and the cache, and pass it to the leader's client."""
        self.events.append(event)
        if self.followers:
            self.notify_followers()
        if self._emit is not None and not self.leader_gone:
            await self._emit(event)

    def offer(self, event: Frames | WholeBody) -> bool:
        """As a call, where the leader's client can take it at once; else False and nothing is changed."""
        if not self.leader_gone and (self._offer is None or not self._offer(event)):
            return False
        self.events.append(event)
        if self.followers:
            self.notify_followers()
        return True

    def pipe(self) -> Pipe | None:
        """A ``Pipe`` to the leader's client that keeps what goes through."""
        behind = None if self._emit is None else pipe_of(self._emit)
        if behind is None:
            return None
        run = self._run = self._run or []

        def pass_on(frame: bytes, chunk: bytes) -> bool:
            if self.followers or self.leader_gone:
                return self.offer(Frames(frame))
            if not behind(frame, chunk):
                return False
            run.append(frame)
            return True

        return pass_on

    async def follow(self, emit: Emit) -> None:
        """Emit all events, past and to come; raises the call's failure after what came before it.

        Leaving in any way counts as leaving the flight; the last one out ends the call.
        """
        self.followers += 1
        seen = 0
        try:
            while True:
                while seen < len(self.events):
                    seen += 1
                    await emit(self.events[seen - 1])
                if self.done:
                    break
                news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters = [*(self._waiters or ()), news]
                await news
        finally:
            self.followers -= 1
            if self.followers == 0 and self.leader_gone and not self.done:
                self.cancel()
        if self.error is not None:
            raise self.error

    def next_event(self) -> asyncio.Future[None]:
        """A future that ends with the next event or the call; for followers on behalf of others."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters = [*(self._waiters or ()), news]
        return news

    def notify_followers(self) -> None:
        """Wake the followers."""
        news, self._waiters = self._waiters, None
        for future in news or ():
            if not future.done():
                future.set_result(None)


class Flights:
    """The running calls by exact key; one event loop owns it."""

    def __init__(self) -> None:
        """Start with nothing in flight."""
        self._flights: dict[bytes, Flight] = {}
        # The dictionary's own methods: every request calls each of them.
        self.running: Callable[[bytes], Flight | None] = self._flights.get
        """The flight to join, by its key, if there is one."""
        self.lead: Callable[[bytes, Flight], None] = self._flights.__setitem__
        """Let others find a flight, by its key, from now on."""
        self.drop: Callable[[bytes], None] = self._flights.__delitem__
        """Let nobody find the flight of a key any more."""

    def __len__(self) -> int:
        """How many calls can be joined now."""
        return len(self._flights)

    def forget(self, entry_id: str = "") -> None:
        """Let nobody join what is in flight now: it may bring what has just been invalidated.

        ``entry_id``: only what will be kept under that name (see ``CachedAnswer.id``).
        """
        if not entry_id:
            self._flights.clear()
            return
        for key in [key for key in self._flights if key[:16].hex() == entry_id]:
            del self._flights[key]

    def land(self, key: bytes, flight: Flight, error: BaseException | None) -> None:
        """``flight`` is over: nobody can join it any more, and its followers hear how it ended."""
        if self._flights.get(key) is flight:
            del self._flights[key]
        if error is None and flight.followers == 0:
            flight.done = True
        elif error is None or isinstance(error, GatewayError):
            flight.finish(error)
        else:
            flight.finish(
                UpstreamClosed("the shared upstream call was stopped: send the request again")
            )
