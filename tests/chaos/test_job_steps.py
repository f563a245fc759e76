"""A job whose worker is killed at a step of its life is finished by another, and nothing is done twice."""

from __future__ import annotations

import pytest

from bench.chaos.job_steps import POINTS, die_at_each_step
from tests.support.postgres import postgres_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]
QUICK = (
    "add after 1",
    "claim after 1",
    "model 2",
    "begin_step after 1",
    "tool 1",
    "finish_step before 5",
    "settle before 1",
    "settle after 1",
)
"""Without those around the webhook, which is sent again after a minute: ``make chaos ARGS=--steps``."""


@pytest.mark.parametrize("store", ["file", "postgres"])
async def test_a_worker_killed_at_a_step_loses_nothing_and_doubles_nothing(store: str) -> None:
    assert set(QUICK) <= set(POINTS)
    if store == "file":
        found = await die_at_each_step(QUICK)
    else:
        with postgres_server() as server:
            found = await die_at_each_step(QUICK, postgres_url=server.url)
    assert [(each.point, each.amiss) for each in found if each.amiss] == []
