"""Rate limits, concurrency limits and budgets per key and tenant: checked before a request, settled after.

Requests and tokens are GCRA buckets (``app.domain.limits``), shared by all workers if the counters are. The
prompt's tokens are estimated from its size and charged at admission; the difference to the real usage is
charged at the end and may leave a bucket below zero, which delays the next request. Budgets: a request is
admitted while the spend plus the expected cost of requests in flight (this caller's recent mean) is below it.

A caller without limits has no ``Guard``, and none of this runs for it.
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
from app.domain.agents import AGENT_MODEL_PREFIX
from app.domain.chat import Dialect
from app.domain.limits import Charge, Counters, Grant, Rate
from app.domain.usage import Usage
from app.errors import Forbidden, GatewayError, RateLimited, StoreError, TooLarge
from app.pipeline.gateway import Turn

_MINUTE_S = 60.0
_BYTES_PER_TOKEN = 4
"""For English prose in JSON, within a fifth of the vendors' counts; corrected by the real usage later."""
_RECENT = 0.2
"""Weight of the newest request in the exponential mean of request costs."""
_BUSY_RETRY_S = 1.0
_log = logging.getLogger("slipstream.limits")


class SpendCounters(Protocol):
    """Sums of money by key; ``Counters`` implements it."""

    async def add(self, key: bytes, amount: float, ttl_s: float) -> float:
        """Add to a sum that expires ``ttl_s`` seconds after its first entry; returns the new sum."""
        ...


def _ignore_refusal(_limit: str) -> None:
    """Do nothing."""


@dataclass(slots=True)
class _Subject:
    """A key or a tenant with its limits and its requests in flight."""

    kind: str
    """``key`` or ``tenant``, for messages and metrics."""
    name: str
    limits: Limits
    in_flight: int = 0
    mean_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class _Settlement:
    """The usage of a finished request that is yet to be charged."""

    subjects: Sequence[_Subject]
    tokens: float
    """Beyond what was charged at admission; a negative number is refunded."""
    usd: float


class Admission:
    """The limits of this worker; ``run`` must be running. Owned by one event loop."""

    def __init__(
        self,
        counters: Counters,
        sums: SpendCounters,
        *,
        default: Limits = UNLIMITED,
        tenants: Mapping[str, Limits] | None = None,
        wall_clock: Callable[[], float] = time.time,
        on_refused: Callable[[str], None] = _ignore_refusal,
    ) -> None:
        """``default`` applies to tenants that ``tenants`` does not name; ``wall_clock`` gives Unix seconds.

        ``on_refused`` is called with the name of the limit that refused a request.
        """
        self.counters, self._sums = counters, sums
        self._default, self._tenants = default, tenants or {}
        self.wall_clock, self.on_refused = wall_clock, on_refused
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._pending: list[_Settlement] = []
        self._wake = asyncio.Event()
        self._settling: asyncio.Event | None = None
        self._next_batch_settled = asyncio.Event()

    def guard(self, tenant: str, access: Access | None) -> Guard | None:
        """The guard of this caller; None if it has no limits and no restrictions."""
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

    def enqueue_settlement(self, settlement: _Settlement) -> None:
        """Charge ``settlement`` soon."""
        self._pending.append(settlement)
        self._wake.set()

    async def wait_settled(self) -> None:
        """Wait until all usage reported so far is charged."""
        if self._pending:
            await self._next_batch_settled.wait()
        elif self._settling is not None:
            await self._settling.wait()

    async def run(self) -> None:
        """Charge the usage of finished requests; runs until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, []
            done = self._settling = self._next_batch_settled
            self._next_batch_settled = asyncio.Event()
            try:
                for settlement in pending:
                    await self._settle(settlement)
            except StoreError as error:
                _log.warning("limits_not_settled", extra={"code": error.code})
            finally:
                self._settling = None
                done.set()

    async def _settle(self, settlement: _Settlement) -> None:
        for subject in settlement.subjects:
            if subject.limits.tokens_per_minute is not None and settlement.tokens:
                rate = _rate(subject.limits.tokens_per_minute)
                await self.counters.settle(Charge(_key("tokens", subject), rate, settlement.tokens))
            for key, _, ttl_s, _ in self.budgets(subject):
                await self._sums.add(key, settlement.usd, ttl_s)

    def budgets(self, subject: _Subject) -> list[tuple[bytes, float, float, float]]:
        """Each budget as (key of its sum, USD, seconds to keep the sum, seconds until it resets)."""
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
        """The amount spent of a budget, in USD."""
        return await self._sums.add(key, 0.0, ttl_s)


@dataclass(frozen=True, slots=True)
class Guard:
    """Admits or refuses one caller's requests."""

    admission: Admission
    subjects: tuple[_Subject, ...]
    access: Access | None

    def require_model(self, name: str) -> None:
        """Raise ``Forbidden`` if the key may not use the model or agent ``name``."""
        access = self.access
        if access is None or self.may_use(name):
            return
        message = f"the key {access.id} may not use {name[:80]!r}"
        raise Forbidden(message, code="model_not_allowed", param="model")

    def may_use(self, name: str) -> bool:
        """Whether the key may use the model or agent ``name``."""
        access = self.access
        if access is None:
            return True
        if name.startswith(AGENT_MODEL_PREFIX):
            agents = access.agents
            return agents is None or name.removeprefix(AGENT_MODEL_PREFIX) in agents
        return access.models is None or name in access.models

    def charge_job(self, turn: Turn) -> None:
        """Charge the usage of a job's turn, which was admitted when the job was submitted."""
        Ticket(self, 0).settle(turn)

    async def admit(self, size_bytes: int) -> Ticket:
        """Let a request of ``size_bytes`` in; raises ``RateLimited`` or ``TooLarge``.

        Whoever was let in leaves by ``Ticket.leave``, once.
        """
        admission, subjects = self.admission, self.subjects
        if not subjects:
            return Ticket(self, 0)
        await admission.wait_settled()
        for subject in subjects:
            most = subject.limits.concurrent_requests
            if most is not None and subject.in_flight >= most:
                message = f"this {subject.kind} already has {most} requests in flight, its limit"
                raise self._refusal("concurrent_requests", message, _BUSY_RETRY_S)
        for subject in subjects:  # before the first await, so that no request slips past the check
            subject.in_flight += 1
        tokens = size_bytes // _BYTES_PER_TOKEN
        ticket = Ticket(self, tokens)
        try:
            await self._check_budgets()
            ticket.requests = await self._take("requests", 1.0)
            ticket.prompt = await self._take("tokens", float(tokens)) if size_bytes else None
        except BaseException:
            ticket.release()
            raise
        return ticket

    async def _check_budgets(self) -> None:
        for subject in self.subjects:
            for key, most_usd, ttl_s, left_s in self.admission.budgets(subject):
                spent_usd = await self.admission.spent_usd(key, ttl_s)
                if spent_usd + (subject.in_flight - 1) * subject.mean_usd >= most_usd:
                    message = f"the {subject.kind}'s budget of {most_usd:g} USD is spent"
                    raise self._refusal("budget", message, left_s, code="budget_exceeded")

    async def _take(self, what: str, cost: float) -> _BucketState | None:
        charges, limits = [], []
        for subject in self.subjects:
            wanted = subject.limits
            most = wanted.requests_per_minute if what == "requests" else wanted.tokens_per_minute
            if most is None:
                continue
            if cost > most:
                message = (
                    f"the prompt is about {cost:.0f} tokens, more than the {most} a minute of"
                    f" this {subject.kind}"
                )
                raise TooLarge(message)
            charges.append(Charge(_key(what, subject), _rate(most), cost))
            limits.append((most, subject.kind))
        if not charges:
            return None
        grant = await self.admission.counters.take(charges)
        most = min(limits)[0]
        taken = _BucketState(most, grant)
        if not grant.allowed:
            most, word = limits[max(0, grant.refused_index)]
            message = f"more than {most} {what} a minute with this {word}: wait, or raise the limit"
            error = self._refusal(f"{what}_per_minute", message, grant.retry_after_s)
            error.limited = taken.header_values(what, self.admission.wall_clock())
            raise error
        return taken

    def _refusal(
        self, limit: str, message: str, retry_after_s: float, code: str | None = None
    ) -> RateLimited:
        self.admission.on_refused(limit)
        return RateLimited(message, code=code, retry_after_s=retry_after_s)


@dataclass(frozen=True, slots=True)
class _BucketState:
    """The state of a bucket after a charge."""

    limit: int
    grant: Grant

    def header_values(
        self, what: str, now_s: float
    ) -> tuple[tuple[str, int, int, float, float], ...]:
        """The values for headers: resource, limit, remaining, seconds until full, Unix time of that."""
        remaining = max(0, min(self.limit, int(self.grant.remaining)))
        full_s = (self.limit - self.grant.remaining) * _MINUTE_S / self.limit
        full_s = max(0.0, full_s)
        return ((what, self.limit, remaining, full_s, now_s + full_s),)


class Ticket:
    """One admitted request."""

    __slots__ = ("_guard", "_left", "_tokens", "prompt", "requests")

    def __init__(self, guard: Guard, tokens: int) -> None:
        """``tokens``: the estimate charged for the prompt until the real usage is known."""
        self._guard, self._tokens = guard, tokens
        self.requests: _BucketState | None = None
        self.prompt: _BucketState | None = None
        self._left = False

    def limit_head(self, dialect: Dialect) -> bytes:
        """The rate-limit header lines of the vendor whose ``dialect`` is spoken."""
        now_s = self._guard.admission.wall_clock()
        told: list[tuple[str, int, int, float, float]] = []
        for what, taken in (("requests", self.requests), ("tokens", self.prompt)):
            told += () if taken is None else taken.header_values(what, now_s)
        return limit_lines(told, dialect)

    def apply_to(self, turn: Turn, name: str, dialect: Dialect) -> None:
        """Give ``turn`` the caller's restrictions; raises ``Forbidden`` if it may not use ``name``."""
        self._guard.require_model(name)
        access = self._guard.access
        turn.tools_allowed = None if access is None else access.tools
        turn.limit_head = self.limit_head(dialect)
        turn.settle_limits = self.settle

    def settle(self, turn: Turn | None) -> None:
        """Charge the usage of ``turn``; None: the request never became one. Idempotent."""
        if self._left:
            return
        self._left = True
        guard = self._guard
        tokens, usd = (0.0, 0.0) if turn is None else _usage_of(turn, self._tokens)
        for subject in guard.subjects:
            subject.in_flight -= 1
            subject.mean_usd += _RECENT * (usd - subject.mean_usd)
        charged = self._tokens if self.prompt is not None else 0
        if guard.subjects and (usd or tokens != charged):
            guard.admission.enqueue_settlement(_Settlement(guard.subjects, tokens - charged, usd))

    def release(self) -> None:
        """Undo the admission of a refused request; what a bucket was charged stays charged."""
        self._left = True
        for subject in self._guard.subjects:
            subject.in_flight -= 1


def _usage_of(turn: Turn, prompt_tokens: int) -> tuple[float, float]:
    """Tokens and USD of a turn's calls; estimated for one that broke off before it reported usage."""
    if not turn.attempts:
        return 0.0, turn.cost_usd
    if turn.usage is not None:
        return float(turn.usage.total_tokens), turn.cost_usd
    usage = Usage(input_tokens=prompt_tokens, output_tokens=turn.tokens_streamed)
    if not turn.tokens_streamed and not turn.complete:
        return 0.0, turn.cost_usd  # it failed, or the client left before the first token
    usd = 0.0 if turn.model is None else turn.model.price.cost_usd(usage)
    return float(usage.total_tokens), turn.cost_usd + usd


def limit_lines(told: Sequence[tuple[str, int, int, float, float]], dialect: Dialect) -> bytes:
    """Rate-limit header lines in the form of the vendor whose ``dialect`` is spoken."""
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
            lines.append(f"x-ratelimit-reset-{what}: {_openai_duration(full_s)}\r\n")
    return "".join(lines).encode("ascii")


def refusal_lines(error: GatewayError, dialect: Dialect) -> bytes:
    """The header lines of the limit that refused a request, if one did."""
    if isinstance(error, RateLimited) and error.limited:
        return limit_lines(error.limited, dialect)
    return b""


def _openai_duration(seconds: float) -> str:
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
    return f"{word}:{subject.kind}:{subject.name}".encode()
