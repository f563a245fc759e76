"""The ledger credits each technique by its written rule, and claims nothing it cannot know."""

from __future__ import annotations

from typing import cast

import pytest

from app.domain.decisions import Tier
from app.domain.models import Model
from app.domain.turn_record import ToolUse, TurnRecord
from app.domain.usage import Price, Usage
from app.telemetry.ledger import TECHNIQUES, Ledger
from app.telemetry.metrics import Metrics
from tests.unit.telemetry.records import a_hit, a_turn

SMALL = Model("small", "local", "sim-fast", Tier.FAST, Price(1.0, 2.0, cached_input=0.1))
LARGE = Model("large", "local", "sim-powerful", Tier.POWERFUL, Price(10.0, 20.0))
MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


class Clock:
    now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger([SMALL, LARGE], clock=clock)


def saved(
    ledger: Ledger, technique: str, window_s: float | None = None
) -> tuple[int, float, float]:
    report = ledger.savings(window_s)
    part = cast("dict[str, dict[str, float]]", report["by_technique"])[technique]
    return int(part["turns"]), part["saved_usd"], part["saved_s"]


def unrouted(**changes: object) -> TurnRecord:
    return a_turn(**({"routed": False} | changes))


def test_a_hit_saves_the_recorded_cost_and_the_models_mean_upstream_time(ledger: Ledger) -> None:
    ledger.record(unrouted(upstream_s=1.0))
    ledger.record(unrouted(upstream_s=2.0))
    ledger.record(a_hit(avoided_cost_usd=0.5, total_s=0.1))
    assert saved(ledger, "exact") == (1, 0.5, pytest.approx(1.4))


def test_a_hit_without_a_recorded_cost_is_priced_by_its_tokens(ledger: Ledger) -> None:
    ledger.record(a_hit(cache="semantic", usage=MILLION))
    turns, usd, seconds = saved(ledger, "semantic")
    assert (turns, usd) == (1, 3.0)
    assert seconds == 0.0, "no call of the model was seen, so no time is claimed"


def test_a_lane_saves_a_mean_call(ledger: Ledger) -> None:
    ledger.record(unrouted(upstream_s=1.0, cost_usd=0.2))
    ledger.record(unrouted(model="large", upstream_s=3.0, cost_usd=0.4))
    ledger.record(a_hit(cache="lane", model="", usage=None, total_s=0.0))
    assert saved(ledger, "lane") == (1, pytest.approx(0.3), pytest.approx(2.0))


def test_a_lane_claims_nothing_while_no_call_is_known(ledger: Ledger) -> None:
    ledger.record(a_hit(cache="lane", model="", usage=None, total_s=0.5))
    assert saved(ledger, "lane") == (1, 0.0, 0.0)


def test_routing_saves_the_difference_to_the_powerful_price_on_the_same_tokens(
    ledger: Ledger,
) -> None:
    ledger.record(unrouted(model="large", tier="powerful", upstream_s=2.5))
    ledger.record(a_turn(usage=MILLION, cost_usd=3.0, upstream_s=0.5))
    assert saved(ledger, "routing") == (1, 27.0, 2.0)


@pytest.mark.parametrize("changes", [{"routed": False}, {"tier": "powerful", "model": "large"}])
def test_a_choice_that_was_not_the_routers_or_not_the_fast_tier_saves_nothing(
    ledger: Ledger, changes: dict[str, object]
) -> None:
    ledger.record(a_turn(**changes))
    assert saved(ledger, "routing") == (0, 0.0, 0.0)


def test_the_vendors_prompt_cache_saves_the_difference_to_plain_input(ledger: Ledger) -> None:
    usage = Usage(cached_tokens=1_000_000)
    ledger.record(unrouted(usage=usage, cost_usd=0.1))
    assert saved(ledger, "prompt_cache") == (1, pytest.approx(0.9), 0.0)


@pytest.mark.parametrize("hedge", [(1.5, 0.002), (0.0, 0.002)])
def test_a_second_call_saves_the_wait_it_spared_and_costs_the_prompt_of_the_loser(
    ledger: Ledger, hedge: tuple[float, float]
) -> None:
    ledger.record(unrouted(attempts=2, hedge=hedge))
    ledger.record(unrouted(attempts=2))  # a retry: no hedge
    assert saved(ledger, "hedging") == (1, -0.002, hedge[0])


def test_parallel_tools_save_their_sum_less_the_time_in_which_any_ran(ledger: Ledger) -> None:
    second = 1_000_000_000
    uses = (
        ToolUse("a", 0, 2 * second, "ok"),
        ToolUse("b", second, 3 * second, "ok"),
        ToolUse("c", 10 * second, second, "error"),
        ToolUse("d", 0, 9 * second, "discarded"),
    )
    ledger.record(unrouted(tools=uses))
    assert saved(ledger, "parallel_tools") == (1, 0.0, 1.0)


@pytest.mark.parametrize(
    "changes", [{"status": 502}, {"code": "upstream_closed"}, {"disconnect": "mid_stream"}]
)
def test_a_turn_that_failed_is_spent_and_claims_nothing(
    ledger: Ledger, changes: dict[str, object]
) -> None:
    ledger.record(a_turn(cost_usd=0.25, **changes))
    report = ledger.savings()
    assert (report["turns"], report["spent_usd"], report["saved_usd"]) == (1, 0.25, 0)


def test_a_window_holds_its_own_minutes_and_the_whole_holds_all(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.record(a_hit(avoided_cost_usd=1.0))
    clock.now += 3600
    ledger.record(a_hit(avoided_cost_usd=2.0))
    assert saved(ledger, "exact", window_s=600)[1] == 2.0
    assert saved(ledger, "exact", window_s=7200)[1] == 3.0
    assert saved(ledger, "exact")[1] == 3.0


def test_memory_is_bounded_by_the_minutes_of_a_day(ledger: Ledger, clock: Clock) -> None:
    for _ in range(2000):
        ledger.record(a_hit(avoided_cost_usd=1.0))
        clock.now += 60
    assert len(ledger._minutes) == 24 * 60
    assert ledger.savings()["saved_usd"] == 2000.0


def test_a_clock_that_jumps_back_does_not_lose_a_turn(ledger: Ledger, clock: Clock) -> None:
    ledger.record(a_turn())
    clock.now -= 300
    ledger.record(a_turn())
    assert ledger.savings(window_s=3600)["turns"] == 2


def test_what_was_saved_is_also_a_metric() -> None:
    metrics = Metrics(["small"])
    Ledger([SMALL], metrics).record(a_hit(avoided_cost_usd=0.5))
    assert metrics.saved_cost.child("exact").value == 0.5


def test_every_technique_is_in_every_report(ledger: Ledger) -> None:
    assert tuple(cast("dict[str, object]", ledger.savings(60)["by_technique"])) == TECHNIQUES
