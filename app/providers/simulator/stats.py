"""What the simulator has seen: counts for tests and benchmarks, and, if asked for, bodies."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.providers.simulator.dialect import DialectName

_KEPT_LEAVINGS = 1_000


@dataclass(slots=True)
class Stats:
    """Counters since the start or the last reset. Holds no prompt unless `keep_requests` > 0."""

    keep_requests: int = 0
    requests: Counter[tuple[DialectName, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    refused: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    completed: int = 0
    aborted: int = 0
    leavings: deque[Mapping[str, object]] = field(
        default_factory=lambda: deque(maxlen=_KEPT_LEAVINGS)
    )
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_written_tokens: int = 0
    output_tokens: int = 0
    bodies: deque[Mapping[str, object]] = field(init=False)

    def __post_init__(self) -> None:
        self.bodies = deque(maxlen=self.keep_requests)

    def enter(self) -> None:
        """A request has come in."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def snapshot(self) -> dict[str, object]:
        """What `GET /sim/stats` answers."""
        by_dialect: Counter[str] = Counter()
        by_model: Counter[str] = Counter()
        for (dialect, model), count in self.requests.items():
            by_dialect[dialect] += count
            by_model[model] += count
        return {
            "requests": self.requests.total(),
            "by_dialect": by_dialect,
            "by_model": by_model,
            "by_dialect_and_model": {
                f"{dialect}/{model}": count for (dialect, model), count in self.requests.items()
            },
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "completed": self.completed,
            "refused": {str(status): count for status, count in self.refused.items()},
            "faults": self.faults,
            "aborted": self.aborted,
            "leavings": list(self.leavings),
            "tokens": {
                "input": self.input_tokens,
                "cached": self.cached_tokens,
                "cache_written": self.cache_written_tokens,
                "output": self.output_tokens,
            },
        }
