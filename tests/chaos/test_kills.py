"""Workers that are killed under running jobs lose no job and double no side effect."""

from __future__ import annotations

import pytest

from bench.chaos.jobs import kill_under_jobs


@pytest.mark.anyio
@pytest.mark.timeout(3600)
async def test_killed_workers_of_one_store_lose_nothing_and_double_nothing(
    pytestconfig: pytest.Config,
) -> None:
    """``--kills N`` has N workers killed; the whole measure is ``make chaos ARGS="--kills 1000"``."""
    found = await kill_under_jobs(int(pytestconfig.getoption("kills")))
    assert found.good, found
    assert found.crashes > 0
    assert found.finished == found.jobs > 0
