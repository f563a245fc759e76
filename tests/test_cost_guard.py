"""A request's cost may not grow unnoticed; a ratio within one run, for times depend on the machine."""

from __future__ import annotations

import statistics

import pytest

from bench import guard


@pytest.mark.anyio
async def test_a_request_costs_no_multiple_of_a_bare_pass_through():
    costs = await guard.measure(rounds=3)
    ratio = statistics.median(cost.ratio for cost in costs)
    assert ratio <= guard.LIMIT, f"see `make bench-guard`: {costs}"
