"""The ledger: what was spent and what each technique saved, by the rules in docs/metrics.md ("The ledger").

Theory of operation. A saving is the difference between what happened and the counterfactual, which is
estimated from this gateway's own recent traffic, never from a constant: the mean upstream time of a model,
the recorded cost of a cached answer, the powerful tier's configured price. Each technique is credited alone,
by the same rule for every turn; if nothing is known yet (no call of that model so far), nothing is claimed.

Totals are kept per minute for a day and since the start; memory is bounded by minutes times
techniques.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from itertools import count
from operator import mul
from time import time
from typing import Literal

from app.domain.models import Model
from app.domain.turn_record import TurnRecord
from app.domain.usage import Usage
from app.telemetry.ledger_file import LedgerFile, MinuteSums, Saving
from app.telemetry.metrics import Metrics
from app.telemetry.turn_batch import TurnBatch, batch_of

Technique = Literal[
    "lane", "exact", "semantic", "coalesced", "routing", "prompt_cache", "parallel_tools", "hedging"
]
TECHNIQUES: tuple[Technique, ...] = (
    "lane",
    "exact",
    "semantic",
    "coalesced",
    "routing",
    "prompt_cache",
    "parallel_tools",
    "hedging",
)

KEPT_MINUTES = 24 * 60
_HITS: Mapping[str, Technique] = {
    "lane": "lane",
    "exact": "exact",
    "semantic": "semantic",
    "coalesced": "coalesced",
}
_OK = HTTPStatus.OK.value
_PLAIN_CALLS = 50
_WEIGHT = 1 / _PLAIN_CALLS
"""Weight of the newest call in a mean: about the last fifty calls count."""


@dataclass(slots=True)
class _Saved:
    """One technique's share of a period."""

    turns: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def merge(self, other: _Saved) -> None:
        self.turns += other.turns
        self.seconds += other.seconds
        self.usd += other.usd


@dataclass(slots=True)
class _Period:
    """Totals of a minute, or of all time."""

    minute: int
    turns: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    saved: dict[Technique, _Saved] = field(default_factory=dict)

    def merge(self, other: _Period) -> None:
        self.turns += other.turns
        self.seconds += other.seconds
        self.usd += other.usd
        for technique, saved in other.saved.items():
            self.saved.setdefault(technique, _Saved()).merge(saved)


@dataclass(slots=True)
class _Mean:
    """An exponentially weighted mean, which is a plain one over the first calls."""

    calls: int = 0
    seconds: float = 0.0
    usd: float = 0.0

    def add_all(self, seconds: Sequence[float], usd: Sequence[float]) -> None:
        """Add calls: the seconds and the USD of each, oldest first."""
        many = len(seconds)
        if self.calls >= _PLAIN_CALLS:
            left, weights = _weights(many)
            self.seconds = left * self.seconds + sum(map(mul, weights, seconds))
            self.usd = left * self.usd + sum(map(mul, weights, usd))
        else:
            for number, each_s, each_usd in zip(count(self.calls + 1), seconds, usd, strict=False):
                weight = _WEIGHT if number >= _PLAIN_CALLS else 1.0 / number
                self.seconds += weight * (each_s - self.seconds)
                self.usd += weight * (each_usd - self.usd)
        self.calls += many


@lru_cache(maxsize=512)
def _weights(calls: int) -> tuple[float, tuple[float, ...]]:
    """The remaining weight of a mean after so many calls, and the weight of each, oldest first."""
    kept = 1.0 - _WEIGHT
    return kept**calls, tuple(_WEIGHT * kept**later for later in reversed(range(calls)))


def _unmeasured(_: str) -> float:
    """Nothing was measured yet."""
    return 0.0


class Ledger:
    """Running totals of money and time, spent and saved; one event loop writes."""

    def __init__(
        self,
        models: Iterable[Model],
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time,
    ) -> None:
        """``clock`` gives Unix seconds; ``metrics`` gets each saving as it is booked."""
        self._models = {model.name: model for model in models}
        powerful = [model for model in self._models.values() if model.tier == "powerful"]
        self._powerful = powerful[0] if powerful else None
        self._clock = clock
        self._started_unix_s = clock()
        self._minutes: deque[_Period] = deque(maxlen=KEPT_MINUTES)
        self._current = _Period(minute=-1)
        self._before = _Period(minute=-1)
        """Everything up to the current minute."""
        self._next_minute_s = 0.0
        self._calls: dict[str, _Mean] = {}
        self._any_call = _Mean()
        self._powerful_call = _Mean()
        self.prompt_token_s: Callable[[str], float] = _unmeasured
        """Seconds that a prompt token read anew costs a model's first token, as measured."""
        self._file: LedgerFile | None = None
        self._savings: list[Saving] = []
        """Of the batch at hand, for the book."""
        self._counters = {
            technique: (metrics.saved_seconds.child(technique), metrics.saved_cost.child(technique))
            for technique in TECHNIQUES
            if metrics is not None
        }

    def write_to(self, book: LedgerFile, last_day: Iterable[MinuteSums]) -> None:
        """Write every turn to ``book`` from now on; go on from the last day, as its ``start`` gave it."""
        for held in last_day:
            period = _Period(held.minute, held.turns, held.seconds, held.usd)
            for technique in TECHNIQUES:
                if technique in held.saved:
                    period.saved[technique] = _Saved(*held.saved[technique])
            self._minutes.append(period)
            self._before.merge(period)
            self._started_unix_s = min(self._started_unix_s, held.minute * 60.0)
        self._file = book

    def record(self, turn: TurnRecord) -> None:
        """Book a finished turn; one that failed or was left claims no saving."""
        self.record_all((turn,))

    def record_all(self, turns: Sequence[TurnRecord]) -> None:
        """Book finished turns of one ``kind``, in the order in which they ended."""
        batch = batch_of(turns)
        self._record_all(batch)
        if self._file is not None:
            savings, self._savings = self._savings, []
            self._file.add(batch, savings)

    def _record_all(self, turns: TurnBatch) -> None:
        first, period, of = turns[0], self._period(), turns.columns
        period.turns += len(turns)
        period.seconds += sum(of.total_s)
        period.usd += sum(of.cost_usd)
        if first.status != _OK or first.code or first.disconnect:
            return
        hit = _HITS.get(first.cache)
        if hit is not None:
            self._book_hits(period, hit, turns)
        elif first.attempts:
            self._book_calls(period, turns)
        if first.attempts > 1:
            for place, turn in enumerate(turns):
                if turn.hedge is not None:
                    saved_s, cost_usd = turn.hedge
                    self._book(period, place, "hedging", saved_s, -cost_usd)
        if any(of.tools):
            for place, turn in enumerate(turns):
                if len(turn.tools) > 1:
                    self._book_tools(period, place, turn)

    def savings(self, window_s: float | None = None) -> dict[str, object]:
        """The body of ``GET /v1/savings``: whole minutes that reach into the last ``window_s``,
        None = all.
        """
        if window_s is None:
            total = _Period(minute=0)
            total.merge(self._before)
            total.merge(self._current)
            since = self._started_unix_s
        else:
            since = max(self._clock() - window_s, self._started_unix_s)
            total = _Period(minute=0)
            for period in self._minutes:
                if (period.minute + 1) * 60 > since:
                    total.merge(period)
        saved = total.saved
        saved_usd = sum(part.usd for part in saved.values())
        saved_s = sum(part.seconds for part in saved.values())
        return {
            "window_s": None if window_s is None else round(window_s, 3),
            "since_unix_s": round(since, 3),
            "turns": total.turns,
            "spent_usd": total.usd,
            "spent_s": round(total.seconds, 3),
            "saved_usd": saved_usd,
            "saved_s": round(saved_s, 3),
            "without_usd": total.usd + saved_usd,
            "without_s": round(total.seconds + saved_s, 3),
            "by_technique": {
                technique: {
                    "turns": part.turns,
                    "saved_usd": part.usd,
                    "saved_s": round(part.seconds, 3),
                }
                for technique in TECHNIQUES
                for part in (saved.get(technique, _Saved()),)
            },
        }

    def _book_hits(self, period: _Period, technique: Technique, turns: TurnBatch) -> None:
        """Kept or joined answers: against a call of the model that had made them; lanes against a
        mean call.
        """
        model = self._models.get(turns[0].model)
        mean = self._calls.get(turns[0].model)
        if mean is None and technique == "lane" and self._any_call.calls:
            mean = self._any_call

        def avoided_usd(turn: TurnRecord) -> float:
            if model is not None and turn.usage is not None:
                return model.price.cost_usd(turn.usage)
            return mean.usd if mean is not None else 0.0

        of = turns.columns
        usd = [
            (avoided_usd(turn) if known is None else known) - cost
            for turn, known, cost in zip(turns, of.avoided_cost_usd, of.cost_usd, strict=True)
        ]
        usual_s = None if mean is None else mean.seconds
        seconds = [0.0 if usual_s is None else usual_s - total_s for total_s in of.total_s]
        self._credit(period, technique, Saving(technique, range(len(turns)), seconds, usd))

    def _book_calls(self, period: _Period, turns: TurnBatch) -> None:
        """Update the means from upstream calls, and credit routing and prompt-cache savings."""
        first = turns[0]
        mean = self._calls.get(first.model)
        if mean is None:
            mean = self._calls[first.model] = _Mean()
        means = [mean, self._any_call]
        if first.tier == "powerful":
            means.append(self._powerful_call)
        of = turns.columns
        for each in means:
            each.add_all(of.upstream_s, of.cost_usd)
        if first.routed or any(of.tokens.cached) or any(of.tokens.written):
            for place, turn in enumerate(turns):
                usage = turn.usage
                if usage is not None and (
                    first.routed or usage.cached_tokens or usage.cache_write_tokens
                ):
                    self._book_cheaper(period, place, turn, usage)

    def _book_cheaper(self, period: _Period, place: int, turn: TurnRecord, usage: Usage) -> None:
        """What the router's choice and the vendor's prompt cache saved on one call."""
        model, powerful = self._models.get(turn.model), self._powerful
        if model is None:
            return
        if turn.routed and turn.tier == "fast" and powerful is not None:
            known = self._powerful_call
            seconds = known.seconds - turn.upstream_s if known.calls else 0.0
            saved_usd = powerful.price.cost_usd(usage) - turn.cost_usd
            self._book(period, place, "routing", seconds, saved_usd)
        if usage.cached_tokens or usage.cache_write_tokens:
            plain = Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
            saved_usd = model.price.cost_usd(plain) - model.price.cost_usd(usage)
            seconds = usage.cached_tokens * self.prompt_token_s(turn.model)
            self._book(period, place, "prompt_cache", seconds, saved_usd)

    def _book_tools(self, period: _Period, place: int, turn: TurnRecord) -> None:
        """Credit parallel tool calls: the sum of their times minus the time in which any of them ran."""
        busy_ns = end_ns = 0
        used = sorted(turn.tools, key=lambda use: use.start_ns)
        kept = [use for use in used if use.outcome not in {"discarded", "cached"}]
        for use in kept:
            until_ns = use.start_ns + use.duration_ns
            busy_ns += max(0, until_ns - max(use.start_ns, end_ns))
            end_ns = max(end_ns, until_ns)
        overlap_ns = sum(use.duration_ns for use in kept) - busy_ns
        if overlap_ns:
            self._book(period, place, "parallel_tools", overlap_ns / 1e9, 0.0)

    def _book(
        self, period: _Period, place: int, technique: Technique, seconds: float, usd: float
    ) -> None:
        """Credit a technique for one turn."""
        self._credit(period, technique, Saving(technique, (place,), (seconds,), (usd,)))

    def _credit(self, period: _Period, technique: Technique, saving: Saving) -> None:
        """Credit a technique; a negative saving is recorded too, so that a net cost shows."""
        if self._file is not None:
            self._savings.append(saving)
        part = period.saved.get(technique)
        if part is None:
            part = period.saved[technique] = _Saved()
        part.turns += len(saving.places)
        part.seconds += sum(saving.seconds)
        part.usd += sum(saving.usd)
        if self._counters:
            # Counters cannot fall; the ledger's own report has the signed truth.
            saved_s, saved_usd = self._counters[technique]
            saved_s.value += sum([seconds for seconds in saving.seconds if seconds > 0])
            saved_usd.value += sum([usd for usd in saving.usd if usd > 0])

    def _period(self) -> _Period:
        """The current minute's totals; after a clock step backwards, the newest minute's."""
        now_s = self._clock()
        if now_s >= self._next_minute_s:
            minute = int(now_s // 60)
            self._next_minute_s = (minute + 1) * 60
            self._before.merge(self._current)
            self._current = _Period(minute=minute)
            self._minutes.append(self._current)
        return self._current
