"""Limits of keys and tenants: what is let in, what is refused, and what is settled; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.admission import Admission, limit_lines
from app.domain.access import UNLIMITED, Access, Limits
from app.domain.chat import Dialect
from app.domain.deadline import Deadline
from app.domain.models import Model
from app.domain.usage import Price, Usage
from app.errors import Forbidden, RateLimited, TooLarge
from app.pipeline.gateway import Turn
from app.providers.profiles import abilities
from app.stores.memory import MemoryCounters
from app.stores.spent_file import SpentFile
from app.telemetry.timeline import Timeline

pytestmark = pytest.mark.anyio

NOON = 1_800_014_400.0  # 2027-01-15T12:00:00Z


class Clock:
    """Unix seconds that pass when the test says so."""

    now_s = NOON

    def __call__(self) -> float:
        return self.now_s


@dataclass
class House:
    """An admission under test."""

    admission: Admission
    clock: Clock
    refused: list[str] = field(default_factory=list)

    def guard(self, limits: Limits, tenant: str = "acme"):
        guard = self.admission.guard(tenant, Access("k", tenant, limits=limits))
        assert guard is not None
        return guard


@asynccontextmanager
async def house(default: Limits = UNLIMITED, **tenants: Limits) -> AsyncIterator[House]:
    clock, refused = Clock(), []
    counters = MemoryCounters(clock=clock)
    admission = Admission(
        counters,
        counters,
        default=default,
        tenants=tenants,
        wall_clock=clock,
        on_refused=refused.append,
    )
    task = asyncio.get_running_loop().create_task(admission.run())
    try:
        yield House(admission, clock, refused)
    finally:
        task.cancel()


MODEL = Model(
    "m", "p", "m", "fast", Price(1.0, 1.0), abilities("openai", "m", {}), context_tokens=None
)


def turn(tokens: int = 0, usd: float = 0.0, *, attempts: int = 1, **more: object) -> Turn:
    it = Turn("r", "acme", Timeline(), Deadline(None), 0.0)
    it.attempts, it.cost_usd, it.model = attempts, usd, MODEL
    it.usage = Usage(output_tokens=tokens) if tokens else None
    for name, value in more.items():
        setattr(it, name, value)
    return it


async def refusal(call: Callable[[], object]) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        await call()
    return caught.value


async def test_who_is_limited_in_nothing_has_no_guard():
    async with house() as it:
        assert it.admission.guard("default", None) is None
        assert it.admission.guard("acme", Access("k", "acme")) is None


async def test_requests_go_through_as_a_burst_and_then_as_they_come_back():
    async with house() as it:
        guard = it.guard(Limits(requests_per_minute=60))
        for _ in range(60):
            (await guard.admit(0)).settle(None)
        error = await refusal(lambda: guard.admit(0))
        assert error.retry_after_s == pytest.approx(1.0)
        assert it.refused == ["requests_per_minute"]
        it.clock.now_s += 1.0
        (await guard.admit(0)).settle(None)
        await refusal(lambda: guard.admit(0))


async def test_a_tenants_limit_holds_for_all_its_keys_together_and_for_no_other_tenant():
    async with house(Limits(requests_per_minute=2)) as it:
        one = it.admission.guard("acme", Access("1", "acme"))
        two = it.admission.guard("acme", Access("2", "acme"))
        other = it.admission.guard("other", Access("3", "other"))
        await one.admit(0)
        await two.admit(0)
        await refusal(lambda: one.admit(0))
        await other.admit(0)


async def test_tokens_are_charged_by_size_and_settled_by_use():
    async with house() as it:
        guard = it.guard(Limits(tokens_per_minute=1000))
        ticket = await guard.admit(400)  # about 100 tokens
        ticket.settle(turn(1300))
        error = await refusal(lambda: guard.admit(400))
        assert error.retry_after_s == pytest.approx((300 + 100) * 60 / 1000)
        it.clock.now_s += error.retry_after_s
        ticket = await guard.admit(400)
        ticket.settle(turn(attempts=0))  # kept answer: nothing was used
        await guard.admit(400)


async def test_a_prompt_over_a_whole_minutes_tokens_never_fits_and_is_told_so():
    async with house() as it:
        guard = it.guard(Limits(tokens_per_minute=10))
        with pytest.raises(TooLarge):
            await guard.admit(4000)


async def test_a_broken_off_stream_is_charged_by_what_was_streamed():
    """A client that always leaves before the usage is told gets nothing for free."""
    async with house() as it:
        guard = it.guard(Limits(usd_per_day=0.001))
        ticket = await guard.admit(400)
        ticket.settle(turn(tokens_streamed=900))
        error = await refusal(lambda: guard.admit(0))
        assert error.code == "budget_exceeded"


async def test_requests_at_once_are_counted_until_they_leave():
    async with house() as it:
        guard = it.guard(Limits(concurrent_requests=2))
        first, _ = await guard.admit(0), await guard.admit(0)
        error = await refusal(lambda: guard.admit(0))
        assert error.retry_after_s == 1
        first.settle(None)
        first.settle(None)  # twice is once
        await guard.admit(0)
        await refusal(lambda: guard.admit(0))


async def test_a_refused_request_leaves_no_place_taken():
    async with house() as it:
        guard = it.guard(Limits(requests_per_minute=1, concurrent_requests=3))
        (await guard.admit(0)).settle(None)
        for _ in range(10):
            await refusal(lambda: guard.admit(0))
        assert [subject.in_flight for subject in guard.subjects] == [0]


async def test_a_budget_ends_with_its_day_or_month():
    async with house() as it:
        guard = it.guard(Limits(usd_per_day=1.0, usd_per_month=1.5))
        (await guard.admit(0)).settle(turn(1, 1.0))
        error = await refusal(lambda: guard.admit(0))
        assert error.retry_after_s == pytest.approx(12 * 3600)
        it.clock.now_s += 12 * 3600
        (await guard.admit(0)).settle(turn(1, 0.5))
        error = await refusal(lambda: guard.admit(0))
        assert error.retry_after_s == pytest.approx(16 * 24 * 3600)  # until the first of February
        it.clock.now_s += error.retry_after_s
        await guard.admit(0)


async def test_what_is_in_flight_counts_against_a_budget_by_what_the_last_ones_cost():
    async with house() as it:
        guard = it.guard(Limits(usd_per_day=10.0))
        for _ in range(6):
            (await guard.admit(0)).settle(turn(1, 1.0))
        for _ in range(6):
            await guard.admit(0)
        error = await refusal(lambda: guard.admit(0))  # nothing more was spent so far
        assert error.code == "budget_exceeded"


async def test_a_key_may_ask_for_what_it_names_and_nothing_else():
    async with house() as it:
        access = Access("k", "a", models=frozenset({"small"}), agents=frozenset({"desk"}))
        guard = it.admission.guard("a", access)
        guard.require_model("small")
        guard.require_model("agent/desk")
        for name in ("large", "auto", "agent/other", "desk"):
            with pytest.raises(Forbidden):
                guard.require_model(name)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 400)), max_size=60),
    st.integers(1, 200),
)
async def test_in_no_window_does_more_get_through_than_the_burst_and_the_rate(asked, per_minute):
    async with house() as it:
        guard = it.guard(Limits(requests_per_minute=per_minute))
        let_in: list[float] = []
        for wait_s, count in asked:
            it.clock.now_s += wait_s
            for _ in range(count):
                try:
                    (await guard.admit(0)).settle(None)
                except RateLimited:
                    break
                let_in.append(it.clock.now_s)
        for start in range(0, len(let_in), 7):
            for end in range(start, len(let_in), 11):
                span_s = let_in[end] - let_in[start]
                assert end - start + 1 <= per_minute + span_s * per_minute / 60 + 1


def test_the_vendors_headers_are_in_their_own_words():
    told = [("requests", 60, 59, 1.0, NOON + 1), ("tokens", 1000, 0, 90.0, NOON + 90)]
    openai = limit_lines(told, Dialect.CHAT).decode()
    assert "x-ratelimit-remaining-requests: 59\r\n" in openai
    assert "x-ratelimit-reset-tokens: 1m30s\r\n" in openai
    anthropic = limit_lines(told, Dialect.MESSAGES).decode()
    assert "anthropic-ratelimit-tokens-remaining: 0\r\n" in anthropic
    assert "anthropic-ratelimit-requests-reset: 2027-01-15T12:00:01Z\r\n" in anthropic


async def test_money_that_was_spent_outlives_the_process_and_is_shared_by_workers(tmp_path):
    clock = Clock()
    one, two = SpentFile(tmp_path / "limits", clock), SpentFile(tmp_path / "limits", clock)
    assert await one.add(b"k", 1.0, 100) == 1.0
    assert await two.add(b"k", 0.5, 100) == 0.5
    await one.merge()
    await two.merge()
    await one.merge()
    assert await one.add(b"k", 0.0, 100) == await two.add(b"k", 0.0, 100) == 1.5
    await two.add(b"k", 0.25, 100)
    two.close()
    later = SpentFile(tmp_path / "limits", clock)
    later.load()
    assert await later.add(b"k", 0.0, 100) == 1.75
    clock.now_s += 101
    later.load()
    assert await later.add(b"k", 0.0, 100) == 0.0


async def test_sums_that_cannot_be_written_are_kept_told_and_written_later(tmp_path):
    faults: list[str | None] = []
    (tmp_path / "limits").write_text("no folder")
    spent = SpentFile(tmp_path / "limits", on_fault=faults.append)
    spent.load()
    await spent.add(b"k", 1.0, 100)
    await spent.merge()
    assert faults
    assert all(faults)
    (tmp_path / "limits").unlink()
    await spent.merge()
    assert faults[-1] is None
    later = SpentFile(tmp_path / "limits")
    later.load()
    assert await later.add(b"k", 0.0, 100) == 1.0
