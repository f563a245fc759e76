"""Turns' canonical lines as JSON, quickly: what turns have in common is written once and remembered.

Of thirty fields a dozen are new on every turn (time, id, durations, tokens, cost). The others (dialect,
model, tier, cache ...) are the turn's ``kind``: their part of the line is kept by value. Turns of one kind
come together. Many are printed as one block of bytes (``app.telemetry.line_block``), few by columns of text
and one join a line (``%`` reads its template character by character).
The result says the same as ``json_line(turn_fields(record))``; a test
holds the two together. The thread that writes shares the loop's GIL, so this is the hot path's money.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from itertools import repeat

import orjson

from app.domain.turn_record import TurnRecord
from app.telemetry.line_block import LineBlock
from app.telemetry.turn_batch import Columns, TurnBatch, batch_of

_KEPT = 2048
_FEW = 12
"""Up to here a block's fixed cost is more than it saves."""
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
        self._block = LineBlock(self._seconds)

    def lines(self, turns: Sequence[TurnRecord]) -> str:
        """The lines of ``turns``, which are of one kind, line ends included."""
        batch = batch_of(turns)
        of = batch.columns
        if of.same_stages and not of.mixed():
            return self._lines(batch)
        shapes: dict[tuple[object, ...], TurnBatch] = {}
        for turn in batch:
            times = turn.times
            shape = (
                turn.ttft_s is None, turn.overhead_s is None, turn.usage is None,
                None if times is None else tuple(times.stage_times_ns()),
            )  # fmt: skip
            shapes.setdefault(shape, TurnBatch()).append(turn)
        return "".join([self._lines(each) for each in shapes.values()])

    def _lines(self, turns: TurnBatch) -> str:
        """The lines of turns of one kind that know the same things."""
        first, of = turns[0], turns.columns
        kind = first.kind()
        common = self._common.get(kind) or self._remember(kind, first)
        if len(turns) >= _FEW and not any(of.tools) and of.reason.count(first.reason) == len(turns):
            text = self._block.text(turns, common + self._reasons[first.reason])
            if text is not None:
                return text
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
            pieces += (
                repeat(',"input_tokens":'), _texts(of.tokens.prompt),
                repeat(',"cached_tokens":'), _texts(of.tokens.cached),
                repeat(',"output_tokens":'), _texts(of.tokens.output),
            )  # fmt: skip
        pieces += _times(turns)
        lines: Iterable[str] = map("".join, zip(*pieces, strict=False))
        return "".join(map(_with_tools, lines, turns) if any(of.tools) else lines)

    def _stamps(self, of: Columns) -> tuple[Iterable[str], Iterable[str]]:
        """When each turn ended: up to the second, and the rest."""
        ended = [a + b for a, b in zip(of.started_unix_s, of.total_s, strict=True)]
        whole = map(self._seconds.__getitem__, map(int, ended))
        return whole, [_MILLISECONDS[int(each % 1 * 1e3)] for each in ended]

    def _remember(self, kind: tuple[object, ...], record: TurnRecord) -> str:
        """What all turns of a kind say."""
        if len(self._common) >= _KEPT:
            self._common.clear()
        same = {k: value for k, value in self._fields(record).items() if k not in _VARYING}
        common = self._common[kind] = _json(same)[1:-1]
        return common


def _times(turns: TurnBatch) -> list[Iterable[str]]:
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
    told = [
        [((each or 0) * scale + 0.5) // 1 / 1000 for each in column]
        for place, column in enumerate(columns)
        for scale in (1e6 if place < in_seconds else 1e-3,)
    ]
    return orjson.dumps(told).decode()[2:-2].split("],[")


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


def _texts(numbers: Sequence[float]) -> list[str]:
    """Each number as JSON."""
    return orjson.dumps(numbers)[1:-1].decode().split(",")


def _with_tools(line: str, turn: TurnRecord) -> str:
    if not turn.tools:
        return line
    used = orjson.dumps([f"{use.name}:{use.outcome}" for use in turn.tools]).decode()
    return f'{line[:-2]},"tools":{used}}}\n'
