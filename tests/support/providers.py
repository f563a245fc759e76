"""An in-memory way to models, for tests of the pipeline: it says and fails what the test wrote down."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from app.domain.chat import Dialect
from app.domain.events import AnswerStarted, Emit, Event, Finished, FinishReason, TextDelta
from app.domain.model_call import ModelCall
from app.domain.usage import Usage
from app.errors import Unsupported, UpstreamError

USAGE = Usage(input_tokens=10, output_tokens=5)


def answer_events(text: str, reason: FinishReason = FinishReason.STOP) -> tuple[Event, ...]:
    """A whole answer."""
    return (AnswerStarted("a-1", "m"), TextDelta(text), Finished(reason, USAGE))


class ScriptedProvider:
    """A ``Provider`` that plays one script a call: events, then perhaps a failure."""

    def __init__(self, name: str, dialects: frozenset[Dialect] = frozenset(Dialect)) -> None:
        """Speak ``dialects`` untouched."""
        self.name = name
        self._dialects = dialects
        self._scripts: deque[tuple[Sequence[Event], UpstreamError | None]] = deque()
        self.calls: list[ModelCall] = []

    def say(self, *events: Event, then: UpstreamError | None = None) -> None:
        """Play ``events`` at the next call that has no script yet, then raise ``then``."""
        self._scripts.append((events, then))

    def dialects(self) -> frozenset[Dialect]:
        """As it was made."""
        return self._dialects

    async def stream(self, call: ModelCall, emit: Emit) -> None:
        """Play the next script; without one, answer with this provider's name."""
        self.calls.append(call)
        events, failure = (
            self._scripts.popleft() if self._scripts else (answer_events(self.name), None)
        )
        for event in events:
            call.timing.first_event_ns = call.timing.first_event_ns or 1
            await emit(event)
            if isinstance(event, Finished):
                call.usage, call.finish, call.complete = event.usage, event.reason.value, True
        if failure is not None:
            raise failure

    async def count_tokens(self, call: ModelCall) -> int:  # noqa: ARG002 (the protocol's shape)
        """It has no count."""
        raise Unsupported(f"{self.name} does not count")

    async def start(self) -> None:
        """Nothing to warm."""

    async def aclose(self) -> None:
        """Nothing to close."""
