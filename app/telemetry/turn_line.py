"""Turns' canonical lines as JSON, quickly: what turns have in common is written once and remembered.

Of thirty fields a dozen are new on every turn (time, id, durations, tokens, cost). The others (dialect,
model, tier, cache ...) are the turn's ``kind``: their part of the line is kept by value. Turns of one kind
come together, so what differs is written column by column: numbers by numpy and orjson (Python rounds and
prints a float in two thousand instructions, they in five hundred), the line by one join (``%`` reads its
template character by character). The result says the same as ``json_line(turn_fields(record))``; a test
holds the two together. The thread that writes shares the loop's GIL, so this is the hot path's money.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from itertools import repeat

import numpy as np
import orjson
from numpy.typing import NDArray

from app.domain.turn_record import TurnRecord
from app.telemetry.alike import Alike, Columns, alike

_KEPT = 2048
_FEW = 12
"""Up to here numpy's fixed cost is more than it saves."""
_MILLISECONDS = tuple(f".{each:03d}Z" for each in range(1000))
_VARYING = frozenset(
    {
        "timestamp", "request_id", "reason", "total_ms", "ttft_ms", "upstream_ms", "overhead_ms",
        "input_tokens", "cached_tokens", "output_tokens", "cost_usd", "stages_ms", "tools",
    }
)  # fmt: skip


class TurnLines:
    """Writes turns' lines; one thread owns it."""

    def __init__(
        self,
        fields: Callable[[TurnRecord], MutableMapping[str, object]],
        iso: Callable[[float], str],
    ) -> None:
        """``fields`` gives a turn's whole line, ``iso`` an instant's text."""
        self._fields = fields
        self._common: dict[tuple[object, ...], str] = {}
        self._reasons = _Reasons()
        self._seconds = _Seconds(iso)

    def lines(self, turns: Sequence[TurnRecord]) -> list[str]:
        """The lines of ``turns``, which are of one kind, line ends included."""
        batch = alike(turns)
        of = batch.columns
        if of.same_stages and not any(map(_mixed, (of.ttft_s, of.overhead_s, of.usage))):
            return self._lines(batch)
        shapes: dict[tuple[object, ...], Alike] = {}
        for turn in batch:
            times = turn.times
            shape = (
                turn.ttft_s is None, turn.overhead_s is None, turn.usage is None,
                None if times is None else tuple(times.stage_times_ns()),
            )  # fmt: skip
            shapes.setdefault(shape, Alike()).append(turn)
        return [line for each in shapes.values() for line in self._lines(each)]

    def _lines(self, turns: Alike) -> list[str]:
        """The lines of turns of one kind that know the same things."""
        first, of = turns[0], turns.columns
        kind = first.kind()
        common = self._common.get(kind) or self._remember(kind, first)
        pieces: list[Iterable[str]] = [
            repeat('{"timestamp":"'),
            *self._stamps(of),
            repeat('","request_id":"'),
            of.request_id,
            repeat(f'",{common}'),
            map(self._reasons.__getitem__, of.reason),
            repeat(',"cost_usd":'),
            _texts(of.cost_usd),
        ]
        if first.usage is not None:
            used = of.usages()
            prompts = [
                each.input_tokens + each.cached_tokens + each.cache_write_tokens for each in used
            ]
            pieces += (
                repeat(',"input_tokens":'), _texts(prompts),
                repeat(',"cached_tokens":'), _texts([each.cached_tokens for each in used]),
                repeat(',"output_tokens":'), _texts([each.output_tokens for each in used]),
            )  # fmt: skip
        pieces += _times(turns)
        lines = list(map("".join, zip(*pieces, strict=False)))
        return list(map(_with_tools, lines, turns)) if any(of.tools) else lines

    def _stamps(self, of: Columns) -> tuple[Iterable[str], Iterable[str]]:
        """When each turn ended: up to the second, and the rest."""
        if len(of.total_s) < _FEW:
            ended = [a + b for a, b in zip(of.started_unix_s, of.total_s, strict=True)]
            whole = map(self._seconds.__getitem__, map(int, ended))
            return whole, [_MILLISECONDS[int(each % 1 * 1e3)] for each in ended]
        ended_s = np.array(of.started_unix_s) + np.array(of.total_s)
        seconds, milliseconds = np.divmod((ended_s * 1e3).astype(np.int64), 1000)
        first, last = int(seconds.min()), int(seconds.max())
        rest = [_MILLISECONDS[each] for each in milliseconds.tolist()]
        if first == last:
            return repeat(self._seconds[first]), rest
        return map(self._seconds.__getitem__, seconds.tolist()), rest

    def _remember(self, kind: tuple[object, ...], record: TurnRecord) -> str:
        """What all turns of a kind say."""
        if len(self._common) >= _KEPT:
            self._common.clear()
        same = {k: value for k, value in self._fields(record).items() if k not in _VARYING}
        common = self._common[kind] = _json(same)[1:-1]
        return common


def _mixed(column: Sequence[object]) -> bool:
    """Whether some of it is unknown and some known."""
    return column.count(None) not in {0, len(column)}


def _times(turns: Alike) -> list[Iterable[str]]:
    """The durations, in milliseconds to the microsecond, and the line's end."""
    first, of = turns[0], turns.columns
    names = ["total_ms", "upstream_ms"]
    columns: list[Sequence[float | None]] = [of.total_s, of.upstream_s]
    if first.ttft_s is not None:
        names.append("ttft_ms")
        columns.append(of.ttft_s)
    if first.overhead_s is not None:
        names.append("overhead_ms")
        columns.append(of.overhead_s)
    in_seconds = len(names)
    names += of.stages
    columns += of.stages.values()
    printed = _printed(columns, in_seconds)
    pieces: list[Iterable[str]] = []
    for place, (name, texts) in enumerate(zip(names, printed, strict=True)):
        pieces += (
            repeat(f',"stages_ms":{{"{name}":' if place == in_seconds else f',"{name}":'),
            texts.split(","),
        )
    if not of.timed:
        end = "}\n"
    elif len(names) > in_seconds:
        end = "}}\n"
    else:
        end = ',"stages_ms":{}}\n'
    return [*pieces, repeat(end)]


def _printed(columns: Sequence[Sequence[float | None]], in_seconds: int) -> list[str]:
    """The first columns, in seconds, and the others, in nanoseconds, as milliseconds with commas between."""
    if len(columns[0]) < _FEW:
        told = [
            [((each or 0) * scale + 0.5) // 1 / 1000 for each in column]
            for place, column in enumerate(columns)
            for scale in (1e6 if place < in_seconds else 1e-3,)
        ]
        return orjson.dumps(told).decode()[2:-2].split("],[")
    times = np.array(columns, float)
    times[:in_seconds] *= 1e3
    times[in_seconds:] /= 1e6
    rounded = orjson.dumps(np.round(times, 3), option=orjson.OPT_SERIALIZE_NUMPY)
    return rounded.decode()[2:-2].split("],[")


class _Reasons(dict[str, str]):
    """Reasons as JSON fields: few words, most of them said before."""

    def __missing__(self, reason: str) -> str:
        if len(self) >= _KEPT:
            self.clear()
        text = self[reason] = f',"reason":{_json(reason)}' if reason else ""
        return text


class _Seconds(dict[int, str]):
    """The text of each second."""

    def __init__(self, iso: Callable[[float], str]) -> None:
        self._iso = iso

    def __missing__(self, second: int) -> str:
        if len(self) >= _KEPT:
            self.clear()
        text = self[second] = self._iso(second)[:19]
        return text


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # a lone surrogate in a model's name, say
        return json.dumps(value, default=str)


def _texts(numbers: Sequence[float] | NDArray[np.int64]) -> list[str]:
    """Each number as JSON."""
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")


def _with_tools(line: str, turn: TurnRecord) -> str:
    if not turn.tools:
        return line
    used = orjson.dumps([f"{use.name}:{use.outcome}" for use in turn.tools]).decode()
    return f'{line[:-2]},"tools":{used}}}\n'
