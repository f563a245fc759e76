"""A second deployment beside a slow first one, in virtual time: who answers, what it costs, what it saves."""

from __future__ import annotations

import asyncio
import time
from random import Random

import msgspec
import pytest

from app.bootstrap import _gateway, _model
from app.domain.chat import ChatRequest, Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import CacheMode, Tier
from app.domain.events import Event, Frames
from app.errors import UpstreamError, UpstreamStatus
from app.pipeline.gateway import Gateway, Turn
from app.pipeline.turn import answer
from app.routing.hedge import Hedging
from app.telemetry.timeline import Timeline
from tests.support.gateway import configuration, settings_of
from tests.support.providers import ScriptedProvider, answer_events
from tests.support.virtual_time import run_virtually


def virtual_ns() -> int:
    """The running loop's time."""
    return int(asyncio.get_running_loop().time() * 1e9)


class SlowProvider(ScriptedProvider):
    """Waits as the test says before its first event; knows which calls were cancelled."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.waits_s: list[float] = []
        self.fails = False
        self.fails_with: UpstreamError | None = None
        self.refuses = False
        self.cancelled = 0

    async def stream(self, call, emit):
        self.calls.append(call)
        try:
            await asyncio.sleep(self.waits_s.pop(0) if self.waits_s else 0.01)
            if self.fails:
                raise UpstreamStatus("down", status=500)
            if self.fails_with is not None:
                raise self.fails_with
            call.timing.first_event_ns = virtual_ns()
            if self.refuses:
                for event in answer_events("I'm sorry, but I can't help with that."):
                    await emit(event)
                call.complete, call.finish = True, "stop"
                return
            for piece in (self.name, "!"):
                await emit(Frames(piece.encode()))
                await asyncio.sleep(0.001)
            call.complete, call.finish = True, "stop"
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Harness:
    def __init__(self, *, hedging: Hedging | None) -> None:
        settings = settings_of(configuration("http://127.0.0.1:1"))
        models = {model.name: _model(model, settings) for model in settings.models}
        self.local, self.claude = SlowProvider("local"), SlowProvider("claude")
        self.gateway: Gateway = _gateway(
            settings, models, {"local": self.local, "claude": self.claude}
        )
        self.gateway.hedging = hedging
        self.gateway.escalate = False

    def know_the_usual(self, first_s: float = 0.02) -> None:
        for name in ("small", "small2"):
            for _ in range(30):
                self.gateway.load.deployment(name).first_tokens.add(first_s)

    async def ask(self, text: str = "Why?") -> tuple[Turn, str, float]:
        """The turn, the events, and the time of the first text."""
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": text}]}
        request = ChatRequest(Dialect.CHAT, "auto", True, body, msgspec.json.encode(body))  # noqa: FBT003
        turn = Turn("r", "t", Timeline(virtual_ns), Deadline(None), time.time())
        turn.tier = Tier.FAST
        turn.cache_mode = CacheMode.BYPASS
        emitted: list[bytes] = []
        loop = asyncio.get_running_loop()
        started_s, first_s = loop.time(), 0.0

        async def emit(event: Event) -> None:
            nonlocal first_s
            assert isinstance(event, Frames)
            first_s = first_s or loop.time() - started_s
            emitted.append(event.data)

        await answer(request, self.gateway, turn, emit)
        return turn, b"".join(emitted).decode(), first_s


def eager(outcomes: list[str]) -> Hedging:
    """A budget that is full already."""
    hedging = Hedging(0.2, 1.0, on_outcome=lambda outcome, *_: outcomes.append(outcome))
    hedging._tokens = 5.0
    return hedging


@pytest.fixture
def outcomes() -> list[str]:
    return []


def test_a_slow_first_call_is_raced_and_cancelled_when_the_second_speaks(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        harness.local.waits_s = [5.0]
        turn, emitted, first_s = await harness.ask()
        assert emitted == "claude!"
        assert first_s == pytest.approx(0.03, abs=0.005)
        assert (harness.local.cancelled, harness.claude.cancelled) == (1, 0)
        assert turn.model is not None
        assert turn.model.name == "small2"
        assert turn.complete
        assert turn.attempts == 2
        # no known first token of the first took longer than was waited: nothing is claimed
        assert turn.hedge is not None
        assert turn.hedge[0] == 0
        assert turn.hedge[1] >= 0
        assert "second call after 20 ms was quicker" in turn.reason
        assert [harness.gateway.load.deployment(n).in_flight for n in ("small", "small2")] == [0, 0]

    run_virtually(go())
    assert outcomes == ["won"]


def test_what_a_won_race_saved_is_what_the_slow_first_tokens_take_less_the_wait(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        for seconds in (1.0, 3.0):
            harness.gateway.load.record_hedged_wait("small", seconds)
        harness.local.waits_s = [5.0]
        turn, _, first_s = await harness.ask()
        assert turn.hedge is not None
        # it was waited for 1 s, the slow ones' quantile: of those that are known, one took longer
        assert turn.hedge[0] == pytest.approx(3.0 - first_s, abs=0.005)

    run_virtually(go())


def test_the_first_call_may_still_win_and_then_the_second_is_cancelled(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        harness.local.waits_s, harness.claude.waits_s = [0.05], [9.0]
        turn, emitted, _ = await harness.ask()
        assert emitted == "local!"
        assert harness.claude.cancelled == 1
        assert turn.model is not None
        assert turn.model.name == "small"
        assert turn.complete

    run_virtually(go())
    assert outcomes == ["lost"]


def test_a_first_call_that_fails_while_raced_leaves_the_answer_to_the_second(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        harness.local.waits_s, harness.claude.waits_s = [0.05], [0.5]
        harness.local.fails = True
        _, emitted, _ = await harness.ask()
        assert emitted == "claude!"

    run_virtually(go())
    assert outcomes == ["won"]


def test_when_both_fail_the_first_failure_is_told_once_and_no_call_is_left(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        harness.local.waits_s, harness.claude.waits_s = [0.05], [0.06]
        harness.local.fails = harness.claude.fails = True
        harness.gateway.retries = {"local": 0, "claude": 0}
        with pytest.raises(UpstreamStatus):
            await harness.ask()

    run_virtually(go())
    assert outcomes == ["failed"]


def test_a_client_that_leaves_during_a_race_ends_both_calls(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        harness.local.waits_s, harness.claude.waits_s = [9.0], [9.0]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(harness.ask(), 1.0)
        assert (harness.local.cancelled, harness.claude.cancelled) == (1, 1)

    run_virtually(go())


def test_an_open_breaker_is_no_second_deployment(outcomes):
    async def go() -> None:
        harness = Harness(hedging=eager(outcomes))
        harness.know_the_usual()
        for _ in range(5):
            harness.gateway.load.deployment("small2").breaker.record_failure(time.monotonic())
        harness.local.waits_s = [0.5]
        _, emitted, first_s = await harness.ask()
        assert emitted == "local!"
        assert first_s == pytest.approx(0.5)
        assert not harness.claude.calls

    run_virtually(go())
    assert not outcomes


def test_under_a_heavy_tail_it_halves_the_p99_for_three_calls_in_a_hundred():
    """2,000 requests over two deployments of which each is 20 times slower for 2 % of its calls."""

    async def go(share: float) -> tuple[float, float]:
        harness = Harness(hedging=Hedging(share, 1.0) if share else None)
        random, firsts = Random(7), []
        calls = 2_000
        for provider in (harness.local, harness.claude):
            provider.waits_s = [
                random.uniform(0.09, 0.11) * (20 if random.random() < 0.02 else 1)
                for _ in range(2 * calls)
            ]
        for _ in range(calls):
            firsts += [(await harness.ask())[2]]
        asked = len(harness.local.calls) + len(harness.claude.calls)
        return sorted(firsts)[int(0.99 * calls)], asked / calls - 1

    plain, _ = run_virtually(go(0.0))
    hedged, extra = run_virtually(go(0.03))
    assert hedged <= 0.5 * plain
    assert extra <= 0.03
