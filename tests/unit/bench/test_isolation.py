"""The isolation benchmark makes pairs of every kind, and none of them meets."""

from __future__ import annotations

from random import Random

import pytest

from app.cache.partition import partition_key
from bench.cache.isolation import CHANGES, _chat, _request, measure_isolation


def test_no_pair_that_differs_in_one_field_meets():
    found = measure_isolation(pairs=50 * len(CHANGES), seed=3)
    assert (found.met_by_meaning, found.met_exactly) == (0, 0)


@pytest.mark.parametrize("name", CHANGES)
def test_but_equal_requests_do(name):
    rng = Random(name)
    made = CHANGES[name](rng, _request(rng))
    assert partition_key(made[0], _chat(made)) == partition_key(made[0], _chat(made)) is not None
