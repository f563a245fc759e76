"""The quick experiments of the fault laboratory: nothing wrong, nothing lost, nothing left over."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bench.chaos.__main__ import EXPERIMENTS, conduct
from bench.chaos.asking import Ask, judge
from bench.chaos.experiment import Experiment
from bench.chaos.lab import Lab, laboratory

pytestmark = pytest.mark.anyio
QUICK = [each for each in EXPERIMENTS if each.quick]


@pytest.fixture(scope="module")
async def lab() -> AsyncIterator[Lab]:
    """A gateway process with a fault proxy before everything that it talks to."""
    async with laboratory() as made:
        yield made


@pytest.mark.parametrize("experiment", QUICK, ids=lambda each: each.name)
async def test_an_experiment_ends_as_promised(lab: Lab, experiment: Experiment) -> None:
    if lab.redis is None and experiment.name.startswith("redis-"):
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    row = await conduct(lab, experiment)
    assert row.good, row


def test_there_are_forty_experiments_and_each_has_its_name() -> None:
    assert len({each.name for each in EXPERIMENTS}) == len(EXPERIMENTS) >= 40


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        (b"", "lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", "lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "wrong"),
        (b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\n{}", "lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: [DONE]\n\n", "wrong"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: \n\n", "lost"),
    ],
)
def test_the_judge_takes_nothing_for_an_answer_that_is_none(raw: bytes, verdict: str) -> None:
    assert judge(Ask("Is it so?"), raw, 0.0).verdict == verdict
