"""What an experiment is: a name, what is injected, what is promised, and the run that finds out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.chaos.asking import Tally
from bench.chaos.lab import Lab

Run = Callable[[Lab, Tally], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One fault and its promise. ``quick``: under a second or two, so that the test suite runs it."""

    name: str
    injects: str
    expects: str
    run: Run
    quick: bool = False


def allowed(tally: Tally, *codes: str, right: float = 0.0) -> None:
    """Expect errors of these codes only, and at least this share of right answers."""
    others = {o.code for o in tally.outcomes if o.verdict == "error"} - set(codes)
    tally.expect(not others, f"errors of other codes: {sorted(others)}")
    share = tally.count("right") / max(1, len(tally.outcomes))
    tally.expect(share >= right, f"{share:.0%} right, wanted {right:.0%}")
