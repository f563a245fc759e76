"""Injectable faults, and how they are requested.

A fault is a word, some with a number: `429`, `429:2`, `500`, `529`, `reset`, `reset-mid-stream:3`,
`cut:3`, `stall:3`, `hang`, `malformed-frame:3`, `garbage`, `drip`, `truncated:3`, `empty`,
`refusal`, `error-event:3`. It is asked for by the request header `x-sim-fault`, by the model's name
(`sim-fast!stall:3`), by a script that the next requests take from (`POST /sim/faults`), or by
chance (`SimulatorSettings.fault_rates`); the first of these that speaks decides.

The number of a fault within a stream is how many server-sent events go out before it; in a JSON
answer such a fault strikes at half of the body. For `429` it is the seconds in `retry-after`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.providers.simulator.errors import RefusedError

_DEFAULT_AT = 3
_DEFAULT_RETRY_S = 1


class FaultKind(StrEnum):
    """Every fault by its spec word."""

    RATE_LIMITED = "429"
    SERVER_ERROR = "500"
    OVERLOADED = "529"
    RESET = "reset"
    """A TCP reset before any header."""
    RESET_MID_STREAM = "reset-mid-stream"
    """A TCP reset within the body."""
    CUT = "cut"
    """An orderly close of the connection within the body, so that its framing is left open."""
    STALL = "stall"
    """Silence within the body, until the peer leaves."""
    HANG = "hang"
    """Silence before any header, until the peer leaves."""
    MALFORMED_FRAME = "malformed-frame"
    """One event whose data is broken JSON; the stream goes on after it."""
    GARBAGE = "garbage"
    """Status 200 and a body that is neither JSON nor events."""
    DRIP = "drip"
    """The right answer, byte by byte."""
    TRUNCATED = "truncated"
    """A body that ends in good order before the dialect's own end has come."""
    EMPTY = "empty"
    """Status 200 and no body."""
    REFUSAL = "refusal"
    """The model declines, in the dialect's own form."""
    ERROR_EVENT = "error-event"
    """The dialect's own error in the middle of a stream."""


_WITH_NUMBER = frozenset(
    {
        FaultKind.RATE_LIMITED,
        FaultKind.RESET_MID_STREAM,
        FaultKind.CUT,
        FaultKind.STALL,
        FaultKind.MALFORMED_FRAME,
        FaultKind.TRUNCATED,
        FaultKind.ERROR_EVENT,
    }
)
_REFUSALS = {
    FaultKind.RATE_LIMITED: (429, "rate_limited", "Rate limit reached; try again later."),
    FaultKind.SERVER_ERROR: (500, "server_error", "The server had an error; this is simulated."),
    FaultKind.OVERLOADED: (529, "overloaded", "Overloaded"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its number (events before it, or seconds to wait)."""

    kind: FaultKind
    number: int

    def refusal(self) -> RefusedError | None:
        """The error that the request is answered with, for the faults that are statuses."""
        if self.kind not in _REFUSALS:
            return None
        status, kind, message = _REFUSALS[self.kind]
        return RefusedError(message, status=status, kind=kind)


def parse_fault(spec: str) -> Fault:
    """Read `word` or `word:number`. Raises `RefusedError` (400) listing the words when wrong."""
    word, colon, number = spec.strip().partition(":")
    try:
        kind = FaultKind(word)
    except ValueError:
        known = ", ".join(kind.value for kind in FaultKind)
        raise RefusedError(f"Unknown fault '{word}'; known are: {known}.") from None
    if not colon:
        return Fault(kind, _DEFAULT_RETRY_S if kind is FaultKind.RATE_LIMITED else _DEFAULT_AT)
    if kind not in _WITH_NUMBER or not (number.isascii() and number.isdigit()):
        raise RefusedError(f"The fault '{spec}' is not a word with a number where one belongs.")
    return Fault(kind, int(number))
