"""The record of one finished turn, from which all telemetry is derived.

The pipeline fills one ``TurnRecord`` at settle time; metrics, the trace ring, the ledger and the log line
read it and nothing else. It contains times, counts, names and reasons, but never a prompt, an answer, tool
arguments or a key, so that everything derived from it may be shown to an operator.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from app.domain.usage import Usage

StageName = Literal[
    "lanes",
    "cache",
    "embed",
    "classifier",
    "router",
    "upstream",
    "tools",
    "synthesis",
    "stream",
    "total",
]
"""The fixed words: box of the diagram, span, metric label, ``server-timing`` entry and heading of
the docs.
"""

STAGES: tuple[StageName, ...] = (
    "lanes",
    "cache",
    "embed",
    "classifier",
    "router",
    "upstream",
    "tools",
    "synthesis",
    "stream",
    "total",
)
"""All stages, in the order in which ``server-timing`` and the waterfall name them."""

DisconnectWindow = Literal["", "before_headers", "before_first_token", "mid_stream", "json"]
"""When the client left: before the upstream's headers, before the first token, mid-stream, or while
a JSON answer was made. Empty = it stayed.
"""


class Span(NamedTuple):
    """One interval of a turn. Immutable; a tuple because a turn makes ten of them on the hot
    path.
    """

    stage: StageName
    start_ns: int
    """Nanoseconds after the turn began."""
    duration_ns: int
    detail: str = ""
    """What happened in a few words, at most 120 characters; never content."""
    parent: int = -1
    """Position of the enclosing span in the same record; -1 = the turn itself."""


class ToolUse(NamedTuple):
    """One call of a tool of the gateway's own."""

    name: str
    start_ns: int
    """Nanoseconds after the turn began."""
    duration_ns: int
    outcome: str
    """``ok``, ``error``, ``timeout``, ``cached`` or ``discarded`` (speculated in vain)."""
    speculative: bool = False


class Times(Protocol):
    """The spans of a settled turn. The timeline is kept and converted on access: building
    the tuples of a waterfall for every request would cost more than timing it.
    """

    def spans(self) -> tuple[Span, ...]:
        """Every span, by start."""
        ...

    def stage_times_ns(self) -> dict[StageName, int]:
        """The time that passed in each stage; overlapping spans of one stage count once (parallel
        tools).
        """
        ...


class TurnRecord(NamedTuple):
    """One finished turn. Times in seconds, money in USD; ``None`` = it did not come to that.

    A tuple, because one is made for every request: it costs a fifth of an object with thirty fields. The
    fields from ``dialect`` to ``attempts`` are often equal between turns: ``kind`` is that slice, by which
    telemetry aggregates turns. The hot path fills a record by position.
    """

    request_id: str
    total_s: float
    started_unix_s: float
    dialect: str
    status: int
    """The HTTP status the client got; 499 = the client left."""
    code: str = ""
    """Stable code of the error that ended the turn; empty = none. Also set when a stream broke off
    after 200.
    """
    stream: bool = False
    tenant: str = ""
    requested_model: str = ""
    """``auto``, a configured name or ``agent/<name>``."""
    model: str = ""
    """Configured name of the model that answered, or that had answered what the cache held; empty =
    none.
    """
    provider: str = ""
    tier: str = ""
    routed: bool = False
    """The router chose the tier; neither the caller nor a hard rule did."""
    band: str = ""
    """How far the router's score was from its threshold: ``fast``, ``grey``, ``powerful``."""
    cache: str = ""
    """``exact``, ``semantic``, ``coalesced``, ``lane``, ``miss`` or ``bypass``; empty = failed
    before the cache.
    """
    cache_reason: str = ""
    """A stable word of a small set: why it was not a hit, or which kind of hit."""
    finish: str = ""
    disconnect: DisconnectWindow = ""
    attempts: int = 0
    """Upstream calls made, retries, hedges and escalations included."""
    reason: str = ""
    """The ``x-slipstream-reason`` header: why this model, in a few words."""
    complexity: float | None = None
    cache_entry: str = ""
    ttft_s: float | None = None
    """From the request's arrival to the first token given to the client."""
    upstream_s: float = 0.0
    """Time in which an upstream worked for this turn."""
    overhead_s: float | None = None
    """Total minus upstream; None where no upstream was called or the client left."""
    usage: Usage | None = None
    """Tokens of the answer; for a cached answer those of the call that made it."""
    output_tokens_seen: int = 0
    """Content frames that passed, for when the upstream told no usage."""
    cost_usd: float = 0.0
    """What this turn was charged: 0 for a hit."""
    avoided_cost_usd: float | None = None
    """What the cached answer cost originally; None = compute it from ``usage``."""
    discarded_tokens: int = 0
    """Tokens of speculated or hedged work that was discarded."""
    tools: tuple[ToolUse, ...] = ()
    times: Times | None = None
    """The turn's settled timeline."""
    traceparent: str = ""
    """The caller's W3C ``traceparent``; empty = none, or spans are not exported."""
    threshold: float | None = None
    """The threshold for ``complexity``; None where nothing was routed."""
    hedge: tuple[float, float] | None = None
    """Of a hedged call: estimated seconds saved, USD that the losing call cost."""

    def kind(self) -> tuple[object, ...]:
        """The fields that turns often share, as a key."""
        return tuple.__getitem__(self, SHARED_FIELDS)


SHARED_FIELDS = slice(TurnRecord._fields.index("dialect"), TurnRecord._fields.index("attempts") + 1)
"""The slice of a record that ``kind`` returns."""
DEFAULTS_AFTER_TIMES = tuple(
    TurnRecord._field_defaults[name]
    for name in TurnRecord._fields[TurnRecord._fields.index("times") + 1 :]
)
"""The default values of the fields after ``times``, for records built by position."""
