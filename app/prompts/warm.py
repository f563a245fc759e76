"""Priming a vendor's prompt cache, and when keeping it alive pays.

A priming request asks for no answer: ``max_tokens: 0`` where the vendor takes it, a prewarm where it has one, else one
token. What the vendor renders (tools, system, messages) goes out byte for byte as it would in the real
request, because any other prefix would be of no use to it.

Keeping alive is arithmetic. A ping costs what reading the prefix costs and buys one more lifetime; it pays where
P(the conversation goes on within that time) x (what a miss would cost more than a hit) is more. The chance is
counted, by how long conversations of this tenant have been silent before, and taken three standard errors low:
where little is known, nothing is spent.
"""  # noqa: E501

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import msgspec

from app.domain.chat import Dialect
from app.domain.models import Model
from app.prompts.breakpoints import LIFETIME_S, prices
from app.prompts.prefix import RenderedPrompt, render
from app.prompts.spans import Span

PING_AT = 0.9
"""The share of a lifetime after which a ping is due: 270 s of five minutes."""
_WINDOWS = 24
_LEAST_EVIDENCE = 40
_ERRORS = 3.0
"""How many standard errors low a chance is taken. Two is not enough: of many windows and tenants that are
looked at, the luckiest is pinged (2 replays of 32 cost more than they saved; 0 of 72 with three).
"""
_MARGIN = 1.25
"""By how much a ping must be worth its price: at the break-even itself chance alone decides."""
_HOUR_S = 3_600.0
_MOST_SESSIONS = 2_048
_NOT_WITH_ZERO = ("stream", "stream_options")


def priming_body(raw: bytes, dialect: Dialect) -> bytes:
    """``raw`` as a request that only primes the cache. Raises ``UnreadableError``.

    What the vendor does not take beside a limit of 0 is left out only where it is no part of the prefix;
    with thinking, a format or a forced tool one token is asked for instead.
    """
    rendered = render(raw, dialect)
    drop = {name: rendered.fields[name] for name in _NOT_WITH_ZERO if name in rendered.fields}
    if dialect is Dialect.RESPONSES:
        body = _with(_without(rendered, {**drop, **_at(rendered, "prompt_cache_options")}))
        return b'%b,"prompt_cache_options":%b}' % (body, _prewarm(rendered))
    if dialect is Dialect.MESSAGES:
        body = _with(_without(rendered, {**drop, **_at(rendered, "max_tokens")}))
        return b'%b,"max_tokens":%d}' % (body, 0 if _takes_zero(rendered) else _least(rendered))
    limits = {**_at(rendered, "max_tokens"), **_at(rendered, "max_completion_tokens")}
    name = b"max_completion_tokens" if "max_completion_tokens" in limits else b"max_tokens"
    return b'%b,"%b":1}' % (_with(_without(rendered, {**drop, **limits})), name)


def _at(rendered: RenderedPrompt, name: str) -> dict[str, Span]:
    return {name: rendered.fields[name]} if name in rendered.fields else {}


def _prewarm(rendered: RenderedPrompt) -> bytes:
    """The client's own cache options with ``prewarm`` added."""
    at = rendered.fields.get("prompt_cache_options")
    options: dict[str, object] = {}
    if at is not None:
        options = msgspec.json.decode(rendered.raw[at.start : at.end], type=dict[str, object])
    return msgspec.json.encode({**options, "prewarm": True})


def _takes_zero(rendered: RenderedPrompt) -> bool:
    raw = rendered.raw
    thinking = rendered.options.get("thinking", b"")
    choice = rendered.options.get("tool_choice", b"")
    config = rendered.fields.get("output_config")
    formed = config is not None and b'"format"' in raw[config.start : config.end]
    forced = b'"any"' in choice or b'"tool"' in choice
    return not formed and not forced and (not thinking or b'"disabled"' in thinking)


def _least(rendered: RenderedPrompt) -> int:
    """The shortest answer that goes with the request's thinking: one more than its budget."""
    thinking = rendered.options.get("thinking")
    if thinking is None:
        return 1
    budget = msgspec.json.decode(thinking, type=dict[str, object]).get("budget_tokens")
    return int(budget) + 1 if isinstance(budget, int) else 1


def _without(rendered: RenderedPrompt, drop: dict[str, Span]) -> bytes:
    """The body without top-level fields, every other byte of the values as it was."""
    raw = rendered.raw
    kept = [
        msgspec.json.encode(name) + b":" + raw[at.start : at.end]
        for name, at in rendered.fields.items()
        if name not in drop
    ]
    return b"{" + b",".join(kept) + b"}"


def _with(body: bytes) -> bytes:
    """An object, open at its end."""
    return body[:-1]


@dataclass(slots=True)
class SilenceStatistics:
    """How long conversations are silent before they continue: a hazard estimate per window of one ping."""

    window_s: float
    at_risk: list[float] = field(default_factory=lambda: [0.0] * _WINDOWS)
    went_on: list[float] = field(default_factory=lambda: [0.0] * _WINDOWS)

    def enter_windows(self, gap_s: float, counted: int) -> int:
        """A conversation is silent for ``gap_s`` and was ``counted`` in so many windows: in how many it is now.

        It counts as at risk from the moment that it enters a window, so that those still silent weigh on the
        chance from the start: else only those that came back would.
        """  # noqa: E501
        # The first ping, at the end of window 0, buys the time from the end of the first lifetime on.
        slack_s = self.window_s * (1 - PING_AT) / PING_AT
        window = min(int(max(0.0, gap_s - slack_s) / self.window_s), _WINDOWS - 1)
        for each in range(counted, window + 1):
            self.at_risk[each] += 1
        return max(counted, window + 1)

    def record_return(self, counted: int) -> None:
        """It went on in the last of the windows in which it was ``counted``."""
        self.went_on[counted - 1] += 1

    def return_probability(self, window: int) -> float:
        """P(it goes on in ``window`` | it had not before), three standard errors low; 0 where little is known."""  # noqa: E501
        if window >= _WINDOWS or self.at_risk[window] < _LEAST_EVIDENCE:
            return 0.0
        n = self.at_risk[window]
        p = (self.went_on[window] + 0.5) / (n + 1)
        return max(0.0, p - _ERRORS * math.sqrt(p * (1 - p) / (n + 1)))


@dataclass(frozen=True, slots=True)
class PingValue:
    """The expected value of one ping."""

    chance: float
    miss_usd: float
    ping_usd: float

    @property
    def pays(self) -> bool:
        """Whether the ping is worth its price."""
        return self.chance * self.miss_usd > _MARGIN * self.ping_usd

    def __str__(self) -> str:
        """The sum as a trace shows it."""
        sign = ">" if self.pays else "<="
        return (
            f"P {self.chance:.2f} x miss {self.miss_usd:.6f} USD {sign} "
            f"{_MARGIN} x ping {self.ping_usd:.6f} USD"
        )


@dataclass(slots=True)
class Session:
    """A prefix that may be kept alive."""

    model: Model
    tokens: int
    body: bytes
    dialect: Dialect
    tenant: str
    asked_s: float
    """When its conversation last asked."""
    read_s: float
    """When the vendor last read it: the last request or ping."""
    until_s: float = math.inf
    """Kept only so long."""
    counted: int = 0
    """In how many windows of silence it was counted."""
    requested: bool = False
    """A caller requested it: pinged unconditionally until ``until_s``."""


class KeepAlive:
    """Decides which prefixes to ping, and when; the time is passed in."""

    def __init__(self, budget_usd_per_hour: float) -> None:
        """Spend at most so much."""
        self._budget = budget_usd_per_hour
        self._left_usd = budget_usd_per_hour
        self._at_s = 0.0
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._gaps: OrderedDict[tuple[str, str], SilenceStatistics] = OrderedDict()
        self.spent_usd = 0.0
        self.decisions: deque[str] = deque(maxlen=256)

    def __len__(self) -> int:
        return len(self._sessions)

    def record_request(self, key: bytes, session: Session) -> None:
        """A conversation's request was answered; ``session.asked_s`` is now."""
        before = self._sessions.pop(key, None)
        gaps = self._gaps_of(session)
        if before is not None:
            gaps.record_return(gaps.enter_windows(session.asked_s - before.asked_s, before.counted))
            if before.requested and before.until_s > session.asked_s:
                session.requested, session.until_s = True, before.until_s
        self._sessions[key] = session
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)

    def due(self, now_s: float) -> list[tuple[Session, PingValue]]:
        """The sessions to ping now, each with its arithmetic; those past saving are let go."""
        self._refill(now_s)
        found: list[tuple[Session, PingValue]] = []
        for key, session in list(self._sessions.items()):
            life_s = lifetime_s(session.model)
            gaps, silent_s = self._gaps_of(session), now_s - session.asked_s
            session.counted = gaps.enter_windows(silent_s, session.counted)
            if silent_s > _WINDOWS * gaps.window_s:
                del self._sessions[key]
            if not PING_AT * life_s <= now_s - session.read_s < life_s:
                continue
            total = self._ping_value(session, gaps, silent_s, now_s)
            if total.pays and total.ping_usd <= self._left_usd:
                self._left_usd -= total.ping_usd
                self.spent_usd += total.ping_usd
                session.read_s = now_s
                found.append((session, total))
            self.decisions.append(str(total))
        return found

    def _ping_value(
        self, session: Session, gaps: SilenceStatistics, silent_s: float, now_s: float
    ) -> PingValue:
        plain, cached, write = prices(session.model)
        miss = session.tokens * (max(plain, write) - cached) / 1e6
        ping = session.tokens * cached / 1e6 + session.model.price.output / 1e6
        # The ping buys the time from the end of this lifetime on: the next window.
        chance = gaps.return_probability(int(silent_s / gaps.window_s))
        if session.requested:
            chance = 1.0 if now_s < session.until_s else 0.0
        return PingValue(chance, miss, ping)

    def _gaps_of(self, session: Session) -> SilenceStatistics:
        key = (session.tenant, session.model.name)
        gaps = self._gaps.get(key)
        if gaps is None:
            gaps = self._gaps[key] = SilenceStatistics(PING_AT * lifetime_s(session.model))
            if len(self._gaps) > _MOST_SESSIONS:
                self._gaps.popitem(last=False)
        self._gaps.move_to_end(key)
        return gaps

    def _refill(self, now_s: float) -> None:
        if self._at_s:
            earned = (now_s - self._at_s) * self._budget / _HOUR_S
            self._left_usd = min(self._budget, self._left_usd + earned)
        self._at_s = now_s


def lifetime_s(model: Model) -> float:
    """How long the vendor keeps an unread prefix, in seconds."""
    return LIFETIME_S.get(model.abilities.cache_breakpoints, 300.0)
