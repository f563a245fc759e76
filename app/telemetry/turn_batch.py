"""A batch of finished turns of one kind, with the fields that differ as columns.

Iterating over the turns once for each figure would cost a hundred interpreter steps a turn; ``zip``
transposes the whole batch in one, and sums, histograms and log lines are computed from columns. A batch is
transposed once for all its readers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from app.domain.turn_record import SHARED_FIELDS, StageName, ToolUse, TurnRecord
from app.domain.usage import Usage
from app.telemetry.fixed_timelines import FIXED_TIMELINES

_kind = itemgetter(SHARED_FIELDS)
_AT = {name: place for place, name in enumerate(TurnRecord._fields)}
_UNKNOWN = type(None)


class Tokens(NamedTuple):
    """The token counts of each turn that has a usage."""

    fresh: list[int]
    cached: list[int]
    written: list[int]
    output: list[int]

    @property
    def prompt(self) -> list[int]:
        """All tokens of each prompt."""
        if not any(self.cached) and not any(self.written):
            return self.fresh
        return [*map(sum, zip(self.fresh, self.cached, self.written, strict=True))]


class Columns:
    """One tuple per field, in the order of the turns."""

    __slots__ = (
        "_tokens", "avoided_cost_usd", "cost_usd", "discarded_tokens", "overhead_s", "reason",
        "request_id", "same_stages", "stages", "started_unix_s", "timed", "tools", "total_s", "ttft_s",
        "upstream_s", "usage",
    )  # fmt: skip

    request_id: Sequence[str]
    total_s: Sequence[float]
    started_unix_s: Sequence[float]
    reason: Sequence[str]
    ttft_s: Sequence[float | None]
    upstream_s: Sequence[float]
    overhead_s: Sequence[float | None]
    usage: Sequence[Usage | None]
    cost_usd: Sequence[float]
    avoided_cost_usd: Sequence[float | None]
    discarded_tokens: Sequence[int]
    tools: Sequence[tuple[ToolUse, ...]]
    stages: dict[StageName, Sequence[int]]
    """Nanoseconds of each stage that ran in any of the turns."""
    same_stages: bool
    """Whether every turn went through the same stages in the same order."""
    timed: bool
    """Whether any turn has a timeline."""

    def __init__(self, turns: Iterable[TurnRecord]) -> None:
        """Transpose ``turns``."""
        self._tokens: Tokens | None = None
        columns = tuple(zip(*turns, strict=True))
        self.request_id, self.total_s = columns[_AT["request_id"]], columns[_AT["total_s"]]
        self.started_unix_s, self.reason = columns[_AT["started_unix_s"]], columns[_AT["reason"]]
        self.ttft_s, self.upstream_s = columns[_AT["ttft_s"]], columns[_AT["upstream_s"]]
        self.overhead_s, self.usage = columns[_AT["overhead_s"]], columns[_AT["usage"]]
        self.cost_usd, self.tools = columns[_AT["cost_usd"]], columns[_AT["tools"]]
        self.avoided_cost_usd = columns[_AT["avoided_cost_usd"]]
        self.discarded_tokens = columns[_AT["discarded_tokens"]]
        times = columns[_AT["times"]]
        for few in FIXED_TIMELINES:
            if type(times[0]) is few and [*map(type, times)].count(few) == len(times):
                self.stages, self.same_stages, self.timed = few.by_stage(times), True, True
                return
        stages = [each.stage_times_ns() for each in times if each is not None]
        self.stages, self.same_stages = _by_stage(stages)
        if 0 < len(stages) < len(times):
            self.same_stages = False
        self.timed = bool(stages)

    @property
    def tokens(self) -> Tokens:
        """The token columns."""
        found = self._tokens
        if found is None:
            used = [usage for usage in self.usage if usage is not None]
            found = self._tokens = Tokens(
                [each.input_tokens for each in used],
                [each.cached_tokens for each in used],
                [each.cache_write_tokens for each in used],
                [each.output_tokens for each in used],
            )
        return found

    def mixed(self) -> bool:
        """Whether a field is known for some turns only."""
        return any(_mixed(column) for column in (self.ttft_s, self.overhead_s, self.usage))

    @staticmethod
    def known(column: Sequence[float | None]) -> Sequence[float]:
        """The values of a column that are not None; the column itself if none is."""
        if _UNKNOWN not in {
            *map(type, column)
        }:  # to ask each whether it is None costs twice as much
            return column  # type: ignore[return-value]
        return [each for each in column if each is not None]


def _mixed(column: Sequence[object]) -> bool:
    kinds = {*map(type, column)}
    return _UNKNOWN in kinds and len(kinds) > 1


def _by_stage(turns: list[dict[StageName, int]]) -> tuple[dict[StageName, Sequence[int]], bool]:
    """The times of each stage, and whether all ``turns`` went through the same stages."""
    if not turns:
        return {}, True
    first = tuple(turns[0])
    if [*map(tuple, turns)].count(first) == len(turns):
        rows = zip(*[each.values() for each in turns], strict=True)
        return dict(zip(first, rows, strict=True)), True
    found: dict[StageName, list[int]] = {}
    for each in turns:
        for stage, passed_ns in each.items():
            found.setdefault(stage, []).append(passed_ns)
    return {**found}, False


class TurnBatch(list[TurnRecord]):
    """Turns of one kind; must not be changed once ``columns`` was read."""

    @cached_property
    def columns(self) -> Columns:
        """The fields that differ between the turns."""
        return Columns(self)


def batch_of(turns: Iterable[TurnRecord]) -> TurnBatch:
    """``turns``, which must be of one kind, as a batch."""
    return turns if isinstance(turns, TurnBatch) else TurnBatch(turns)


def by_kind(turns: Sequence[TurnRecord]) -> list[TurnBatch]:
    """Group ``turns`` into batches of one kind each, in order."""
    kinds = [*map(_kind, turns)]
    if kinds.count(kinds[0]) == len(kinds):
        return [TurnBatch(turns)]
    found: dict[object, TurnBatch] = {}
    for kind, turn in zip(kinds, turns, strict=True):
        batch = found.get(kind)
        if batch is None:
            found[kind] = TurnBatch((turn,))
        else:
            batch.append(turn)
    return [*found.values()]
