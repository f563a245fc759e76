"""Live estimates of the deployments: the order in which they are tried, and the breaker of each."""

from __future__ import annotations

import pytest

from app.domain.decisions import Tier
from app.domain.models import Model
from app.routing.load import LoadBalancer
from app.routing.retry_budget import RetryBudget

MODELS = [Model(name, name, "sim", Tier.FAST) for name in ("a", "b", "c")]


class Clock:
    """Seconds that pass when the test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def load(clock: Clock) -> LoadBalancer:
    return LoadBalancer([model.name for model in MODELS], clock, sample=lambda models: models)


def order(load: LoadBalancer, preferred: str = "") -> str:
    return "".join(m.name for m in load.rank(MODELS, lambda model: model.name == preferred))


def call(
    load: LoadBalancer, name: str, *, ok: bool | None = True, ttft_s: float | None = None
) -> None:
    load.record_start(name)
    load.record_end(name, ok=ok, ttft_s=ttft_s, total_s=ttft_s)


def test_without_news_the_preferred_one_comes_first(load):
    assert order(load) == "abc"
    assert order(load, "b") == "bac"


def test_the_faster_comes_first_and_a_small_difference_is_none(load):
    for name, ttft_s in (("a", 1.0), ("b", 0.3), ("c", 0.6)):
        call(load, name, ttft_s=ttft_s)
    assert order(load) == "bca"
    assert order(load, "a") == "bca"
    load.deployment("b").ttft_s, load.deployment("c").ttft_s = 1.0, 1.02
    assert order(load, "c") == "cab"


def test_what_is_in_flight_lengthens_the_wait(load):
    for name in "abc":
        call(load, name, ttft_s=1.0)
    load.record_start("a")
    load.record_start("a")
    load.record_start("b")
    assert order(load) == "cba"


def test_old_trouble_fades(load, clock):
    call(load, "a", ttft_s=9.0)
    call(load, "b", ttft_s=0.5)
    clock.now_s = 300
    call(load, "b", ttft_s=0.5)
    assert order(load).index("a") < order(load).index("b")


def test_a_deployment_that_fails_in_a_row_goes_last_for_a_growing_while(load, clock):
    """One success closes the breaker; the first failure after its time opens it for twice as long."""
    for _ in range(4):
        call(load, "a", ok=False)
    assert order(load, "a") == "abc"
    call(load, "a", ok=False)
    assert order(load, "a") == "bca"
    clock.now_s = 1.0
    assert order(load, "a") == "abc"
    call(load, "a", ok=False)
    clock.now_s = 2.9
    assert order(load, "a") == "bca"
    clock.now_s = 3.0
    call(load, "a", ok=True)
    assert order(load, "a")[0] == "a"


def test_one_probe_at_a_time_tries_an_open_breaker(load, clock):
    for _ in range(5):
        call(load, "a", ok=False)
    clock.now_s = 2.0
    assert order(load, "a") == "abc"
    load.record_start("a")
    assert order(load, "a") == "bca"
    load.record_end("a", ok=True)
    assert order(load, "a") == "abc"


def test_a_client_that_left_says_nothing_about_the_deployment(load):
    for _ in range(20):
        call(load, "a", ok=None)
    assert order(load, "a") == "abc"
    assert load.deployment("a").in_flight == 0


def test_when_all_breakers_are_open_somebody_is_asked_all_the_same(load):
    for name in "abc":
        for _ in range(5):
            call(load, name, ok=False)
    assert sorted(order(load)) == ["a", "b", "c"]


def test_retries_are_a_share_of_the_calls_and_a_few_a_second(clock):
    budget = RetryBudget(share=0.2, floor_per_s=2, clock=clock)
    assert [budget.try_take() for _ in range(3)] == [True, True, False]
    for _ in range(5):
        budget.deposit()
    assert [budget.try_take() for _ in range(2)] == [True, False]
    clock.now_s = 1.0
    assert [budget.try_take() for _ in range(3)] == [True, True, False]
    clock.now_s = 1e6
    assert sum(budget.try_take() for _ in range(1000)) == 100
