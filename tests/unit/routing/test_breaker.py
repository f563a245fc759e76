"""The breaker's states over a clock of the test's own, and what vendors' rate headers ask for."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.decisions import Tier
from app.domain.models import Model
from app.routing.affinity import WarmPrefixes
from app.routing.breaker import CircuitBreaker
from app.routing.hedge import Hedging
from app.routing.load import Deployment, FirstTokenTimes, LoadBalancer, sample_two
from app.routing.rate_headers import hold_s

STEPS = ["record_failure", "record_success", "record_start", "release_probe"]


class TestBreaker:
    def test_it_opens_at_the_fifth_failure_in_a_row_and_half_opens_when_its_time_is_over(self):
        breaker = CircuitBreaker()
        for _ in range(4):
            breaker.record_failure(0.0)
        assert not breaker.is_open(0.0)
        breaker.record_failure(0.0)
        assert breaker.is_open(0.999)
        assert not breaker.is_open(1.0)

    def test_it_says_how_it_stands_and_for_how_long(self):
        breaker = CircuitBreaker()
        assert (breaker.state(0.0), breaker.unavailable_for_s(0.0)) == ("closed", 0.0)
        breaker.hold(0.0, 3.0)
        assert (breaker.state(1.0), breaker.unavailable_for_s(1.0)) == ("held", 2.0)
        assert breaker.state(3.0) == "closed"
        for _ in range(5):
            breaker.record_failure(3.0)
        assert (breaker.state(3.5), breaker.unavailable_for_s(3.5)) == ("open", 0.5)
        assert (breaker.state(4.0), breaker.unavailable_for_s(4.0)) == ("half_open", 0.0)

    def test_half_open_it_lets_one_probe_through_and_its_end_decides(self):
        breaker = CircuitBreaker(failures=5, open_until_s=1.0, open_for_s=1.0)
        breaker.record_start()
        assert breaker.is_open(5.0)
        breaker.record_failure(5.0)
        assert breaker.is_open(6.9)
        assert not breaker.is_open(7.0)
        breaker.record_start()
        breaker.record_success()
        assert not breaker.is_open(7.0)
        assert breaker.failures == 0

    def test_a_probe_that_ends_without_a_word_frees_its_place(self):
        breaker = CircuitBreaker(failures=5, open_until_s=1.0, open_for_s=1.0)
        breaker.record_start()
        breaker.release_probe()
        assert not breaker.is_open(2.0)

    @given(
        st.lists(
            st.sampled_from(["record_failure", "record_success", "record_start", "release_probe"]),
            max_size=60,
        )
    )
    def test_whatever_happens_it_is_asked_again_within_half_a_minute(self, steps):
        breaker, now_s = CircuitBreaker(), 0.0
        for step in steps:
            now_s += 0.1
            getattr(breaker, step)(*([now_s] if step == "record_failure" else []))
        breaker.release_probe()
        assert not breaker.is_open(now_s + 30.0)

    def test_a_hold_opens_it_for_a_minute_at_most_and_is_no_failure(self):
        breaker = CircuitBreaker()
        breaker.hold(0.0, 7.0)
        assert breaker.is_open(6.9)
        assert not breaker.is_open(7.0)
        breaker.hold(10.0, 1e9)
        assert not breaker.is_open(70.0)
        assert not breaker.tripped


class TestRateHeaders:
    @pytest.mark.parametrize(
        ("headers", "wait_s"),
        [
            ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
            ({"x-ratelimit-remaining-tokens": "7", "x-ratelimit-reset-tokens": "120ms"}, None),
            ({"x-ratelimit-remaining-tokens": "0"}, None),
            ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, None),
            (
                {
                    "anthropic-ratelimit-requests-remaining": "0",
                    "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:10Z",
                },
                10,
            ),
            ({}, None),
        ],
    )
    def test_a_spent_limit_says_when_it_is_filled_again(self, headers, wait_s):
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        assert hold_s(pairs, 1_767_225_600.0) == (wait_s and pytest.approx(wait_s))

    @given(st.binary(max_size=80))
    def test_rubbish_asks_for_nothing_or_for_something_finite(self, value):
        pairs = [(b"x-ratelimit-remaining-a", b"0"), (b"x-ratelimit-reset-a", value)]
        hold_s(pairs, 0.0)


def model(name: str) -> Model:
    return Model(name, "p", "m", Tier.FAST)


class TestChoice:
    def test_of_many_only_two_are_compared_and_the_better_is_asked(self):
        models = [model(str(number)) for number in range(8)]
        load = LoadBalancer([m.name for m in models], lambda: 0.0, sample_two(Random(1)))
        for number, each in enumerate(models):
            load.record_start(each.name)
            load.record_end(each.name, ok=True, ttft_s=2.0**number)
        asked = [load.rank(models, lambda _: False)[0].name for _ in range(400)]
        counts = [asked.count(m.name) for m in models]
        assert counts[-1] == 0  # the worst of all loses every pair
        assert 0.15 < counts[0] / 400 < 0.35  # the best wins each pair that it is in: one in four

    def test_a_warm_prefix_halves_the_wait(self):
        models = [model("a"), model("b")]
        load = LoadBalancer("ab", lambda: 0.0)
        for name, ttft_s in (("a", 1.0), ("b", 1.5)):
            load.record_start(name)
            load.record_end(name, ok=True, ttft_s=ttft_s)
        assert load.rank(models, lambda _: False)[0].name == "a"
        assert load.rank(models, lambda _: False, warm="b")[0].name == "b"

    def test_a_warm_prefix_is_forgotten_after_five_minutes_and_the_table_is_bounded(self):
        now = [0.0]
        warm = WarmPrefixes(lambda: now[0])
        for prefix in range(5_000):
            warm.record(prefix, "a")
        assert warm.deployment_for(4_999) == "a"
        assert warm.deployment_for(1) == ""
        now[0] = 301.0
        assert warm.deployment_for(4_999) == ""

    def test_what_is_predicted_is_the_first_token_and_the_time_of_the_rest(self):
        load = LoadBalancer("a", lambda: 0.0)
        assert load.predicted_duration_s("a", 100) is None
        load.record_start("a")
        load.record_end("a", ok=True, ttft_s=0.5, total_s=2.5)
        assert load.predicted_duration_s("a", 100) == 2.5
        load.record_stream("a", 0.5, 2.5, 201)
        assert load.predicted_duration_s("a", None) == pytest.approx(0.5 + 201 * 0.01)
        assert load.predicted_duration_s("a", 10) == pytest.approx(0.6)


class TestHedging:
    def known(self, seconds: list[float]) -> Deployment:
        first_tokens = FirstTokenTimes()
        for each in seconds:
            first_tokens.add(each)
        return Deployment(first_tokens=first_tokens)

    def test_the_delay_is_the_quantile_that_the_budget_can_pay(self):
        deployment = self.known([number / 100 for number in range(100)])
        for share, delay_s in ((0.03, 0.97), (0.1, 0.95)):
            hedging = Hedging(share, 1.0, clock=lambda: 0.0)
            for _ in range(50):
                hedging.delay_s(deployment, Deployment())
            assert hedging.delay_s(deployment, Deployment()) == pytest.approx(delay_s, abs=0.011)

    def test_nothing_is_hedged_before_the_tail_is_known(self):
        hedging = Hedging(0.2, 1.0, clock=lambda: 0.0)
        assert [hedging.delay_s(self.known([1.0] * 19), self.known([])) for _ in range(50)] == [
            None
        ] * 50

    @given(st.lists(st.booleans(), min_size=1, max_size=600))
    def test_there_are_never_more_hedges_than_the_share_of_the_calls(self, wanted):
        hedging, deployment = Hedging(0.03, 1.0, clock=lambda: 0.0), self.known([1.0] * 30)
        taken = 0
        for number, want in enumerate(wanted, 1):
            delay_s = hedging.delay_s(deployment, Deployment())
            taken += bool(want and delay_s is not None and hedging.try_take(0.0))
            assert taken <= 0.03 * number + 1e-6

    def test_the_money_of_an_hour_is_a_ceiling(self):
        now = [0.0]
        hedging, deployment = Hedging(0.2, 0.5, clock=lambda: now[0]), self.known([1.0] * 30)
        for _ in range(100):
            hedging.delay_s(deployment, Deployment())
        assert [hedging.try_take(0.2) for _ in range(3)] == [True, True, False]
        now[0] = 1800.0
        assert [hedging.try_take(0.2) for _ in range(2)] == [True, False]
