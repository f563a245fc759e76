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

from app.domain.turn_record import TurnRecord

_KEPT = 2048
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
        if _alike(turns):
            return self._lines(turns)
        shapes: dict[tuple[object, ...], list[TurnRecord]] = {}
        for turn in turns:
            times = turn.times
            shape = (
                turn.ttft_s is None, turn.overhead_s is None, turn.usage is None,
                None if times is None else tuple(times.stage_times_ns()),
            )  # fmt: skip
            shapes.setdefault(shape, []).append(turn)
        return [line for alike in shapes.values() for line in self._lines(alike)]

    def _lines(self, turns: Sequence[TurnRecord]) -> list[str]:
        """The lines of turns of one kind that know the same things."""
        first = turns[0]
        kind = first.kind()
        common = self._common.get(kind) or self._remember(kind, first)
        seconds = self._seconds
        ended_ms = _texts([(turn.started_unix_s + turn.total_s) * 1e3 // 1 for turn in turns])
        pieces: list[Iterable[str]] = [
            repeat('{"timestamp":"'),
            [f"{seconds[at[:-5]]}.{at[-5:-2]}" for at in ended_ms],
            repeat('Z","request_id":"'),
            [turn.request_id for turn in turns],
            repeat(f'",{common}'),
            map(self._reasons.__getitem__, [turn.reason for turn in turns]),
            repeat(',"cost_usd":'),
            _texts([turn.cost_usd for turn in turns]),
        ]
        if first.usage is not None:
            used = [turn.usage for turn in turns if turn.usage is not None]
            pieces += (
                repeat(',"input_tokens":'), _texts([each.prompt_tokens for each in used]),
                repeat(',"cached_tokens":'), _texts([each.cached_tokens for each in used]),
                repeat(',"output_tokens":'), _texts([each.output_tokens for each in used]),
            )  # fmt: skip
        pieces += _times(turns)
        lines = list(map("".join, zip(*pieces, strict=False)))
        if any([turn.tools for turn in turns]):  # noqa: C419 - a list costs less than a generator
            return list(map(_with_tools, lines, turns))
        return lines

    def _remember(self, kind: tuple[object, ...], record: TurnRecord) -> str:
        """What all turns of a kind say."""
        if len(self._common) >= _KEPT:
            self._common.clear()
        same = {k: value for k, value in self._fields(record).items() if k not in _VARYING}
        common = self._common[kind] = _json(same)[1:-1]
        return common


def _alike(turns: Sequence[TurnRecord]) -> bool:
    """Whether what one of ``turns`` knows (first token, overhead, usage, stages) all of them know."""
    if len(turns) == 1:
        return True
    for column in (
        [turn.ttft_s for turn in turns],
        [turn.overhead_s for turn in turns],
        [turn.usage for turn in turns],
    ):
        if column.count(None) not in {0, len(turns)}:
            return False
    times = [turn.times for turn in turns]
    if None in times:
        return times.count(None) == len(turns)
    stages = [tuple(each.stage_times_ns()) for each in times if each is not None]
    return stages.count(stages[0]) == len(turns)


def _times(turns: Sequence[TurnRecord]) -> list[Iterable[str]]:
    """The durations, in milliseconds to the microsecond, and the line's end."""
    first = turns[0]
    names = ["total_ms", "upstream_ms"]
    columns: list[Sequence[float]] = [
        [turn.total_s for turn in turns],
        [turn.upstream_s for turn in turns],
    ]
    if first.ttft_s is not None:
        names.append("ttft_ms")
        columns.append([turn.ttft_s or 0.0 for turn in turns])
    if first.overhead_s is not None:
        names.append("overhead_ms")
        columns.append([turn.overhead_s or 0.0 for turn in turns])
    in_seconds = len(names)
    if first.times is not None:
        settled = [turn.times.stage_times_ns() for turn in turns if turn.times is not None]
        names += settled[0]
        columns += zip(*[each.values() for each in settled], strict=True)
    times = np.array(columns, float)
    times[:in_seconds] *= 1e3
    times[in_seconds:] /= 1e6
    printed = orjson.dumps(np.round(times, 3), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    pieces: list[Iterable[str]] = []
    for place, (name, texts) in enumerate(zip(names, printed[2:-2].split("],["), strict=True)):
        pieces += (
            repeat(f',"stages_ms":{{"{name}":' if place == in_seconds else f',"{name}":'),
            texts.split(","),
        )
    if first.times is None:
        end = "}\n"
    elif len(names) > in_seconds:
        end = "}}\n"
    else:
        end = ',"stages_ms":{}}\n'
    return [*pieces, repeat(end)]


class _Reasons(dict[str, str]):
    """Reasons as JSON fields: few words, most of them said before."""

    def __missing__(self, reason: str) -> str:
        if len(self) >= _KEPT:
            self.clear()
        text = self[reason] = f',"reason":{_json(reason)}' if reason else ""
        return text


class _Seconds(dict[str, str]):
    """The text of each second by its digits."""

    def __init__(self, iso: Callable[[float], str]) -> None:
        self._iso = iso

    def __missing__(self, second: str) -> str:
        if len(self) >= _KEPT:
            self.clear()
        text = self[second] = self._iso(int(second or "0"))[:19]
        return text


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # a lone surrogate in a model's name, say
        return json.dumps(value, default=str)


def _texts(numbers: Sequence[float]) -> list[str]:
    """Each number as JSON."""
    return orjson.dumps(numbers)[1:-1].decode().split(",")


def _with_tools(line: str, turn: TurnRecord) -> str:
    if not turn.tools:
        return line
    used = orjson.dumps([f"{use.name}:{use.outcome}" for use in turn.tools]).decode()
    return f'{line[:-2]},"tools":{used}}}\n'
