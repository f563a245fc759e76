"""Turns' canonical lines as JSON, quickly: what turns have in common is written once and remembered.

Of thirty fields a dozen are new on every turn (time, id, durations, tokens, cost). The others (dialect,
model, tier, cache ...) are the turn's ``kind``: their part of the line is kept by value, and the rest is
filled in. Turns of one kind come together, so their numbers are printed column by column, by one call of
orjson each: Python prints a float in a thousand instructions, orjson in a hundred. The result says the same
as ``json_line(turn_fields(record))``; a test holds the two together. The thread that writes shares the
loop's GIL, so this is the hot path's money.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence

import orjson

from app.domain.turn_record import StageName, TurnRecord

_KEPT = 2048
_VARYING = frozenset(
    {
        "timestamp", "request_id", "reason", "total_ms", "ttft_ms", "upstream_ms", "overhead_ms",
        "input_tokens", "cached_tokens", "output_tokens", "cost_usd", "stages_ms", "tools",
    }
)  # fmt: skip
_MILLISECONDS = tuple(f".{each:03d}Z" for each in range(1000))


class TurnLines:
    """Writes turns' lines; one thread owns it."""

    def __init__(
        self,
        fields: Callable[[TurnRecord], MutableMapping[str, object]],
        iso: Callable[[float], str],
    ) -> None:
        """``fields`` gives a turn's whole line, ``iso`` an instant's text."""
        self._fields, self._iso = fields, iso
        self._templates: dict[tuple[object, ...], str] = {}
        self._reasons: dict[str, str] = {}
        self._second = (0.0, "")

    def lines(self, turns: Sequence[TurnRecord]) -> list[str]:
        """The lines of ``turns``, which are of one kind, line ends included."""
        kind = turns[0].kind()
        groups: dict[tuple[object, ...], list[TurnRecord]] = {}
        for turn in turns:
            times = turn.times
            stages = () if times is None else tuple(times.stage_times_ns())
            shape: tuple[object, ...] = (
                turn.ttft_s is None, turn.overhead_s is None, turn.usage is None, not turn.reason,
                times is None, *stages,
            )  # fmt: skip
            group = groups.get(shape)
            if group is None:
                groups[shape] = [turn]
            else:
                group.append(turn)
        lines: list[str] = []
        for shape, group in groups.items():
            key = (kind, shape)
            template = self._templates.get(key) or self._remember(key, group[0])
            lines += [template % row for row in zip(*self._columns(group), strict=True)]
            if any([turn.tools for turn in group]):  # noqa: C419 - a list costs less than a generator
                lines[-len(group) :] = map(_with_tools, lines[-len(group) :], group)
        return lines

    def _columns(self, turns: Sequence[TurnRecord]) -> list[Sequence[str]]:
        """What differs between turns of one shape, in the template's order."""
        first = turns[0]
        columns: list[Sequence[str]] = [
            [self._stamp(turn.started_unix_s + turn.total_s) for turn in turns],
            [turn.request_id for turn in turns],
            _ms([turn.total_s for turn in turns]),
            _ms([turn.upstream_s for turn in turns]),
            _texts([turn.cost_usd for turn in turns]),
        ]
        if first.reason:
            columns.append([self._reason(turn.reason) for turn in turns])
        if first.ttft_s is not None:
            columns.append(_ms([turn.ttft_s or 0.0 for turn in turns]))
        if first.overhead_s is not None:
            columns.append(_ms([turn.overhead_s or 0.0 for turn in turns]))
        if first.usage is not None:
            used = [turn.usage for turn in turns if turn.usage is not None]
            cached = [each.cached_tokens for each in used]
            columns.append(
                _texts(
                    [
                        each.input_tokens + each.cached_tokens + each.cache_write_tokens
                        for each in used
                    ]
                )
            )
            columns += _texts(cached), _texts([each.output_tokens for each in used])
        if first.times is not None:
            passed = [
                turn.times.stage_times_ns().values() for turn in turns if turn.times is not None
            ]
            columns += [
                _texts([ns // 1000 / 1000 for ns in each]) for each in zip(*passed, strict=True)
            ]
        return columns

    def _stamp(self, unix_s: float) -> str:
        second = unix_s // 1
        if self._second[0] != second:
            self._second = (second, self._iso(second)[:19])
        return self._second[1] + _MILLISECONDS[int((unix_s - second) * 1e3)]

    def _reason(self, reason: str) -> str:
        """The reason as JSON: few words, most of them said before."""
        text = self._reasons.get(reason)
        if text is None:
            if len(self._reasons) >= _KEPT:
                self._reasons.clear()
            text = self._reasons[reason] = _json(reason)
        return text

    def _remember(self, key: tuple[object, ...], record: TurnRecord) -> str:
        """The line of a kind of turn: what all of them say, and a place for each value that differs."""
        if len(self._templates) >= _KEPT:
            self._templates.clear()
        same = {k: value for k, value in self._fields(record).items() if k not in _VARYING}
        common = _json(same)[1:-1].replace("%", "%%")
        fields = [
            '{"timestamp":"%s","request_id":"%s"',
            common,
            '"total_ms":%s,"upstream_ms":%s,"cost_usd":%s',
        ]
        if record.reason:
            fields.append('"reason":%s')
        if record.ttft_s is not None:
            fields.append('"ttft_ms":%s')
        if record.overhead_s is not None:
            fields.append('"overhead_ms":%s')
        if record.usage is not None:
            fields.append('"input_tokens":%s,"cached_tokens":%s,"output_tokens":%s')
        if record.times is not None:
            stages: Mapping[StageName, int] = record.times.stage_times_ns()
            places = ",".join(f'"{name}":%s' for name in stages)
            fields.append(f'"stages_ms":{{{places}}}')
        template = self._templates[key] = ",".join(fields) + "}\n"
        return template


def _json(value: object) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:  # a lone surrogate in a model's name, say
        return json.dumps(value, default=str)


def _texts(numbers: Sequence[float]) -> list[str]:
    """Each number as JSON."""
    return orjson.dumps(numbers)[1:-1].decode().split(",")


def _ms(seconds: Iterable[float]) -> list[str]:
    """Each time in milliseconds, to the microsecond."""
    return _texts([(each * 1e6 + 0.5) // 1 / 1000 for each in seconds])


def _with_tools(line: str, turn: TurnRecord) -> str:
    if not turn.tools:
        return line
    used = orjson.dumps([f"{use.name}:{use.outcome}" for use in turn.tools]).decode()
    return f'{line[:-2]},"tools":{used}}}\n'
