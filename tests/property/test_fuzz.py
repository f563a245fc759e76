"""The fuzzer's promises hold for a few thousand of its million inputs, and it would see a fault."""

from __future__ import annotations

import dataclasses

import pytest

from bench.fuzz.__main__ import run
from bench.fuzz.mutate import Mutator
from bench.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda each: each.name)
def test_broken_input_is_read_or_refused(target: Target) -> None:
    found = run(target, 400, seed=7)
    assert found["faults"] == []
    assert found["inputs"] == 400


def test_each_decoder_reads_some_and_refuses_some() -> None:
    """A fuzzer whose every input is refused at the first byte shows nothing."""
    for target in TARGETS.values():
        found = run(target, 1000, seed=3)
        assert min(int(str(found["read"])), int(str(found["refused"]))) >= 3, found


def test_the_same_seed_breaks_the_same_way() -> None:
    target = TARGETS["http-response"]
    once, again = Mutator(5), Mutator(5)
    assert [target.make(once) for _ in range(50)] == [target.make(again) for _ in range(50)]


def test_a_fault_is_told_with_its_input() -> None:
    def holds(data: bytes, _: Mutator) -> bool:
        raise KeyError(data[:1])

    faulty = dataclasses.replace(TARGETS["sse"], holds=holds)
    found = run(faulty, 400, seed=1)
    assert found["inputs"] == 5
    assert "KeyError" in str(found["faults"])
