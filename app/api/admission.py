"""What a key or a tenant may use: rates, requests at once, money; checked before a request, settled after.

Requests and tokens are GCRA buckets (``app.domain.limits``), shared by all workers where the counters
are. A call's tokens are not known before it is over: the prompt is charged by its size when it comes,
and the difference to what was used when it is over, which may leave a bucket below empty; then the
next request waits. Money likewise: a request is let in while what was spent, and what those in flight
will cost going by this caller's last ones, is below the budget.

Most callers are limited in nothing and have no ``Guard``: then none of this runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from app.domain.access import UNLIMITED, Access, Limits
from app.domain.agents import PREFIX
from app.domain.chat import Dialect
from app.domain.limits import Charge, Counters, Grant, Rate
from app.domain.usage import Usage
from app.errors import Forbidden, GatewayError, RateLimited, StoreError, TooLarge
from app.pipeline.gateway import Turn

_MINUTE_S = 60.0
_BYTES_PER_TOKEN = 4
"""English prose in JSON, within a fifth of what the vendors count; settled exactly afterwards."""
_RECENT = 0.2
"""Weight of the newest request in what one costs on average."""
_BUSY_RETRY_S = 1.0
_log = logging.getLogger("slipstream.limits")


class Sums(Protocol):
    """Sums of money by key; ``Counters`` is one."""

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum that is forgotten ``ttl_s`` seconds after it began; says the new sum."""
        ...


def _unheard(_limit: str) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class _Subject:
    """A key or a tenant, with its limits and what it has open."""

    word: str
    """``key`` or ``tenant``, for messages and metrics."""
    name: str
    limits: Limits
    open: int = 0
    mean_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class _Owed:
    """What a finished request turned out to use."""

    subjects: Sequence[_Subject]
    tokens: float
    """Beyond what was charged for it before; negative gives back."""
    usd: float


class Admission:
    """All limits of this worker; ``run`` must be running. One event loop owns it."""

    def __init__(
        self,
        counters: Counters,
        sums: Sums,
        *,
        default: Limits = UNLIMITED,
        tenants: Mapping[str, Limits] | None = None,
        wall_clock: Callable[[], float] = time.time,
        on_refused: Callable[[str], None] = _unheard,
    ) -> None:
        """``default`` is for tenants that ``tenants`` does not name; ``wall_clock`` gives Unix seconds.

        ``on_refused`` is told which limit refused a request.
        """
        self.counters, self._sums = counters, sums
        self._default, self._tenants = default, tenants or {}
        self.wall_clock, self.on_refused = wall_clock, on_refused
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._owed: list[_Owed] = []
        self._wake = asyncio.Event()
        self._settled: asyncio.Event | None = None
        self._next_settled = asyncio.Event()

    def guard(self, tenant: str, access: Access | None) -> Guard | None:
        """What stands before this caller; None where it may do all it likes."""
        subjects = []
        limits = self._tenants.get(tenant, self._default)
        if limits.any:
            subjects.append(self._subject("tenant", tenant, limits))
        if access is not None and access.limits.any:
            subjects.append(self._subject("key", access.usage_key, access.limits))
        scoped = access is not None and not (
            access.models is None and access.agents is None and access.tools is None
        )
        if not subjects and not scoped:
            return None
        return Guard(self, tuple(subjects), access)

    def _subject(self, word: str, name: str, limits: Limits) -> _Subject:
        known = self._subjects.get((word, name))
        if known is None:
            known = self._subjects[word, name] = _Subject(word, name, limits)
        known.limits = limits
        return known

    def owe(self, owed: _Owed) -> None:
        """Have ``owed`` settled, soon."""
        self._owed.append(owed)
        self._wake.set()

    async def settled(self) -> None:
        """Wait until everything that is owed now has been settled."""
        if self._owed:
            await self._next_settled.wait()
        elif self._settled is not None:
            await self._settled.wait()

    async def run(self) -> None:
        """Settle what finished requests used; runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            owed, self._owed = self._owed, []
            done = self._settled = self._next_settled
            self._next_settled = asyncio.Event()
            try:
                for one in owed:
                    await self._settle(one)
            except StoreError as error:
                _log.warning("limits_not_settled", extra={"code": error.code})
            finally:
                self._settled = None
                done.set()

    async def _settle(self, owed: _Owed) -> None:
        for subject in owed.subjects:
            if subject.limits.tokens_per_minute is not None and owed.tokens:
                rate = _rate(subject.limits.tokens_per_minute)
                await self.counters.settle(Charge(_key("tokens", subject), rate, owed.tokens))
            for key, _, ttl_s, _ in self.budgets(subject):
                await self._sums.add(key, owed.usd, ttl_s)

    def budgets(self, subject: _Subject) -> list[tuple[bytes, float, float, float]]:
        """Each budget: its sum's key, the USD, how long the sum is kept, when it begins anew; seconds."""
        limits, found = subject.limits, []
        if limits.usd_per_day is None and limits.usd_per_month is None:
            return []
        now = datetime.fromtimestamp(self.wall_clock(), UTC)
        day = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if limits.usd_per_day is not None:
            left_s = (day + timedelta(days=1) - now).total_seconds()
            word = f"usd:{day:%Y-%m-%d}"
            found.append((_key(word, subject), limits.usd_per_day, left_s + _MINUTE_S, left_s))
        if limits.usd_per_month is not None:
            following = (day.replace(day=1) + timedelta(days=32)).replace(day=1)
            left_s = (following - now).total_seconds()
            word = f"usd:{day:%Y-%m}"
            found.append((_key(word, subject), limits.usd_per_month, left_s + _MINUTE_S, left_s))
        return found

    async def spent_usd(self, key: bytes, ttl_s: float) -> float:
        """What was spent of a budget."""
        return await self._sums.add(key, 0.0, ttl_s)


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands before one caller's requests."""

    admission: Admission
    subjects: tuple[_Subject, ...]
    access: Access | None

    def permit(self, name: str) -> None:
        """Raise ``Forbidden`` where the key may not ask for the model or agent ``name``."""
        access = self.access
        if access is None or self.permits(name):
            return
        message = f"the key {access.id} may not ask for {name[:80]!r}"
        raise Forbidden(message, code="model_not_allowed", param="model")

    def permits(self, name: str) -> bool:
        """Say whether the key may ask for the model or agent ``name``."""
        access = self.access
        if access is None:
            return True
        if name.startswith(PREFIX):
            agents = access.agents
            return agents is None or name.removeprefix(PREFIX) in agents
        return access.models is None or name in access.models

    def charge(self, turn: Turn) -> None:
        """Put down to the limits what a job's turn used; it was let in long ago."""
        Ticket(self, 0).leave(turn)

    async def enter(self, size_bytes: int) -> Ticket:
        """Let a request of ``size_bytes`` in; raises ``RateLimited`` or ``TooLarge``.

        Whoever was let in leaves by ``Ticket.leave``, once.
        """
        admission, subjects = self.admission, self.subjects
        if not subjects:
            return Ticket(self, 0)
        await admission.settled()
        for subject in subjects:
            most = subject.limits.concurrent_requests
            if most is not None and subject.open >= most:
                message = f"{most} requests of this {subject.word} are being answered already"
                raise self._refusal("concurrent_requests", message, _BUSY_RETRY_S)
        for subject in subjects:  # before the first await, so that nobody slips past a count
            subject.open += 1
        tokens = size_bytes // _BYTES_PER_TOKEN
        ticket = Ticket(self, tokens)
        try:
            await self._check_budgets()
            ticket.requests = await self._take("requests", 1.0)
            ticket.prompt = await self._take("tokens", float(tokens)) if size_bytes else None
        except BaseException:
            ticket.abandon()
            raise
        return ticket

    async def _check_budgets(self) -> None:
        for subject in self.subjects:
            for key, most_usd, ttl_s, left_s in self.admission.budgets(subject):
                spent_usd = await self.admission.spent_usd(key, ttl_s)
                if spent_usd + (subject.open - 1) * subject.mean_usd >= most_usd:
                    message = f"the {subject.word}'s budget of {most_usd:g} USD is spent"
                    raise self._refusal("budget", message, left_s, code="budget_exceeded")

    async def _take(self, what: str, cost: float) -> _Taken | None:
        charges, limits = [], []
        for subject in self.subjects:
            wanted = subject.limits
            most = wanted.requests_per_minute if what == "requests" else wanted.tokens_per_minute
            if most is None:
                continue
            if cost > most:
                message = (
                    f"the prompt is about {cost:.0f} tokens, more than the {most} a minute of"
                    f" this {subject.word}"
                )
                raise TooLarge(message)
            charges.append(Charge(_key(what, subject), _rate(most), cost))
            limits.append((most, subject.word))
        if not charges:
            return None
        grant = await self.admission.counters.take(charges)
        most = min(limits)[0]
        taken = _Taken(most, grant)
        if not grant.allowed:
            most, word = limits[max(0, grant.refused_index)]
            message = f"more than {most} {what} a minute with this {word}: wait, or ask for more"
            error = self._refusal(f"{what}_per_minute", message, grant.retry_after_s)
            error.limited = taken.told(what, self.admission.wall_clock())
            raise error
        return taken

    def _refusal(
        self, limit: str, message: str, retry_after_s: float, code: str | None = None
    ) -> RateLimited:
        self.admission.on_refused(limit)
        return RateLimited(message, code=code, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A bucket after a charge."""

    most: int
    grant: Grant

    def told(self, what: str, now_s: float) -> tuple[tuple[str, int, int, float, float], ...]:
        """What the headers say: of what, the limit, what remains, until full, and that instant."""
        remaining = max(0, min(self.most, int(self.grant.remaining)))
        full_s = (self.most - self.grant.remaining) * _MINUTE_S / self.most
        full_s = max(0.0, full_s)
        return ((what, self.most, remaining, full_s, now_s + full_s),)


class Ticket:
    """One request that was let in."""

    __slots__ = ("_guard", "_left", "_tokens", "prompt", "requests")

    def __init__(self, guard: Guard, tokens: int) -> None:
        """Charge ``tokens`` for the prompt until the request's own count is known."""
        self._guard, self._tokens = guard, tokens
        self.requests: _Taken | None = None
        self.prompt: _Taken | None = None
        self._left = False

    def head(self, dialect: Dialect) -> bytes:
        """The vendor's header lines about its limits, as its clients read them."""
        now_s = self._guard.admission.wall_clock()
        told: list[tuple[str, int, int, float, float]] = []
        for what, taken in (("requests", self.requests), ("tokens", self.prompt)):
            told += () if taken is None else taken.told(what, now_s)
        return limit_lines(told, dialect)

    def bind(self, turn: Turn, name: str, dialect: Dialect) -> None:
        """Tell ``turn`` of its caller; raises ``Forbidden`` where ``name`` is not for it."""
        self._guard.permit(name)
        access = self._guard.access
        turn.tools_allowed = None if access is None else access.tools
        turn.limit_head = self.head(dialect)
        turn.settle_limits = self.leave

    def leave(self, turn: Turn | None) -> None:
        """Settle what ``turn`` used, None where it came to none. Leaving twice is leaving once."""
        if self._left:
            return
        self._left = True
        guard = self._guard
        tokens, usd = (0.0, 0.0) if turn is None else _used(turn, self._tokens)
        for subject in guard.subjects:
            subject.open -= 1
            subject.mean_usd += _RECENT * (usd - subject.mean_usd)
        charged = self._tokens if self.prompt is not None else 0
        if guard.subjects and (usd or tokens != charged):
            guard.admission.owe(_Owed(guard.subjects, tokens - charged, usd))

    def abandon(self) -> None:
        """Undo what was opened for a request that was not let in; what a bucket took stays taken."""
        self._left = True
        for subject in self._guard.subjects:
            subject.open -= 1


def _used(turn: Turn, prompt_tokens: int) -> tuple[float, float]:
    """Tokens and USD of a turn's calls; estimated where one was broken off before it told."""
    if not turn.attempts:
        return 0.0, turn.cost_usd
    if turn.usage is not None:
        return float(turn.usage.total_tokens), turn.cost_usd
    usage = Usage(input_tokens=prompt_tokens, output_tokens=turn.tokens_streamed)
    if not turn.tokens_streamed and not turn.complete:
        return 0.0, turn.cost_usd  # it failed, or was left before a word was said
    usd = 0.0 if turn.model is None else turn.model.price.cost_usd(usage)
    return float(usage.total_tokens), turn.cost_usd + usd


def limit_lines(told: Sequence[tuple[str, int, int, float, float]], dialect: Dialect) -> bytes:
    """Header lines about limits, in the form of the vendor whose ``dialect`` is spoken."""
    lines = []
    for what, most, remaining, full_s, full_unix_s in told:
        if dialect is Dialect.MESSAGES:
            at = datetime.fromtimestamp(full_unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            name = f"anthropic-ratelimit-{what}"
            lines.append(f"{name}-limit: {most}\r\n{name}-remaining: {remaining}\r\n")
            lines.append(f"{name}-reset: {at}\r\n")
        else:
            lines.append(f"x-ratelimit-limit-{what}: {most}\r\n")
            lines.append(f"x-ratelimit-remaining-{what}: {remaining}\r\n")
            lines.append(f"x-ratelimit-reset-{what}: {_span(full_s)}\r\n")
    return "".join(lines).encode("ascii")


def refusal_lines(error: GatewayError, dialect: Dialect) -> bytes:
    """The header lines about the limit that refused a request, if one did."""
    if isinstance(error, RateLimited) and error.limited:
        return limit_lines(error.limited, dialect)
    return b""


def _span(seconds: float) -> str:
    """A time as OpenAI writes it: ``850ms``, ``6.5s``, ``1m0s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


def _rate(per_minute: int) -> Rate:
    return Rate(float(per_minute), _MINUTE_S, float(per_minute))


def _key(word: str, subject: _Subject) -> bytes:
    return f"{word}:{subject.word}:{subject.name}".encode()
