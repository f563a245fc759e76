"""Finished turns of one kind, and what differs between them as columns.

Telemetry takes turns many at a time. To walk over them once for each figure costs Python a hundred steps
a turn; ``zip`` turns the whole batch on its side in one, and from there sums, histograms and log lines
work on columns. A batch is turned once for all who read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

from app.domain.turn_record import SHARED_FIELDS, StageName, ToolUse, TurnRecord
from app.domain.usage import Usage
from app.telemetry.few_spans import BY_COLUMN

_kind = itemgetter(SHARED_FIELDS)
_AT = {name: place for place, name in enumerate(TurnRecord._fields)}
_UNKNOWN = type(None)


class Tokens(NamedTuple):
    """The tokens of each turn that tells them, by what they were."""

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
    """One tuple a field, in the order of the turns."""

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
    """The times of each stage that has run in any of the turns, in nanoseconds."""
    same_stages: bool
    """Every turn went through these stages, in this order."""
    timed: bool
    """Some turn has a timeline."""

    def __init__(self, turns: Iterable[TurnRecord]) -> None:
        """Turn ``turns`` on their side."""
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
        for few in BY_COLUMN:
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
        """What is known of usage."""
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
        """Whether some turns know what others do not."""
        return any(_mixed(column) for column in (self.ttft_s, self.overhead_s, self.usage))

    @staticmethod
    def known(column: Sequence[float | None]) -> Sequence[float]:
        """What is known of a column; it is itself where all is."""
        if _UNKNOWN not in {
            *map(type, column)
        }:  # to ask each whether it is None costs twice as much
            return column  # type: ignore[return-value]
        return [each for each in column if each is not None]


def _mixed(column: Sequence[object]) -> bool:
    kinds = {*map(type, column)}
    return _UNKNOWN in kinds and len(kinds) > 1


def _by_stage(turns: list[dict[StageName, int]]) -> tuple[dict[StageName, Sequence[int]], bool]:
    """The times of each stage, and whether all of ``turns`` went through the same."""
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


class Alike(list[TurnRecord]):
    """A batch; nobody changes it once its columns were read."""

    @cached_property
    def columns(self) -> Columns:
        """What differs between the turns."""
        return Columns(self)


def alike(turns: Iterable[TurnRecord]) -> Alike:
    """The batch of ``turns``, which are of one kind."""
    return turns if isinstance(turns, Alike) else Alike(turns)


def by_kind(turns: Sequence[TurnRecord]) -> list[Alike]:
    """Batches of one kind each, turns in their order."""
    kinds = [*map(_kind, turns)]
    if kinds.count(kinds[0]) == len(kinds):
        return [Alike(turns)]
    found: dict[object, Alike] = {}
    for kind, turn in zip(kinds, turns, strict=True):
        batch = found.get(kind)
        if batch is None:
            found[kind] = Alike((turn,))
        else:
            batch.append(turn)
    return [*found.values()]
