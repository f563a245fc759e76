"""Where each argument of a tool comes from, counted over an agent's own conversations: pure, no I/O.

For each argument of a tool every place that has a value of its type is a guess (see
``app.learn.said``), and so are the values that this argument had before. What a guess is worth is how
often its place was right for this argument, backed off to arguments of that name in any tool and to
the kind of place: a handful of conversations is enough to say something.

A text that one conversation used is offered in another only after three have used it: what somebody
said stays theirs.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.domain.chat import Json
from app.domain.speculation import plain
from app.learn.said import Places, shape_of_value

_MOST_ARGUMENTS = 512
_MOST_PLACES = 24
_MOST_VALUES = 64
_SHARED_AFTER = 3
"""Conversations that must have used a text before it is offered in others."""
_ABSENT = "absent"
_LONGEST_KEPT_CHARS = 40
_GENERIC = (
    *(f"text {kind} 0" for kind in ("quoted", "file", "number", "code", "name", "id", "date")),
    *(f"text {kind} 1" for kind in ("quoted", "file", "number", "code", "name")),
    "text email 0", "text number all", "text quoted all", "earlier file 0", "earlier quoted 0",
    "earlier number 0",
)  # fmt: skip
_OPTIONS = 3
_SAME_TWICE = 0.3
"""How likely it is, for lack of knowledge, that two arguments of a call are the same text."""


@dataclass(slots=True)
class Count:
    """How often something was right."""

    right: float = 0.0
    tries: float = 0.0

    def p(self, prior: float, weight: float) -> float:
        """The share that was right, ``prior`` counting as ``weight`` tries."""
        return (self.right + weight * prior) / (self.tries + weight)


@dataclass(slots=True)
class _Argument:
    """What is known of one argument (of one tool, or of any)."""

    places: dict[str, Count] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)
    values: OrderedDict[str, int] = field(default_factory=OrderedDict)
    calls: int = 0

    def saw(self, value: object, text: str) -> None:
        """Count a call's value for this argument."""
        self.calls += 1
        if text != _ABSENT:
            shape = shape_of_value(value)
            self.shapes[shape] = self.shapes.get(shape, 0) + 1
        if len(text) <= _LONGEST_KEPT_CHARS:
            self.values[text] = self.values.pop(text, 0) + 1
            if len(self.values) > _MOST_VALUES:
                self.values.popitem(last=False)

    def judged(self, place: str, *, right: bool) -> None:
        """Count whether a place had the value; new ones are taken in when they were right."""
        if place not in self.places:
            if not right or len(self.places) >= _MOST_PLACES:
                return
            self.places[place] = Count()
        count = self.places[place]
        count.tries += 1
        count.right += right


@dataclass(frozen=True, slots=True)
class Guess:
    """Arguments for a call, and how likely they are if the call is made at all."""

    arguments: Json
    p: float


@dataclass(slots=True)
class Copying:
    """What was learned of all arguments of one agent's tools."""

    of_tool: OrderedDict[tuple[str, str], _Argument] = field(default_factory=OrderedDict)
    of_name: OrderedDict[str, _Argument] = field(default_factory=OrderedDict)
    of_kind: dict[str, Count] = field(default_factory=dict)
    meant: OrderedDict[str, dict[str, int]] = field(default_factory=OrderedDict)
    """By a name or code that a user wrote: the values that were used for it (Apple: AAPL)."""

    def guesses(self, tool: str, parameters: Json, found: Places, said: str) -> list[Guess]:
        """The likeliest arguments first, at most three; none where a required one has no guess."""
        beams: list[Guess] = [Guess({}, 1.0)]
        required = parameters.get("required")
        needed = required if isinstance(required, list) else []
        for name, schema in _properties(parameters):
            kind = str(schema.get("type", ""))
            options = self._options(tool, name, kind, found, said, needed=name in needed)
            if not options:
                return []
            longer = [
                _with(beam, name, value, p, absent=text == _ABSENT)
                for beam in beams
                for text, (p, value) in options
            ]
            beams = sorted(longer, key=lambda each: -each.p)[:_OPTIONS]
        return beams

    def learn(self, tool: str, parameters: Json, calls: Sequence[tuple[Json, Places, str]]) -> None:
        """Count the calls that one turn made of a tool: arguments, what was at hand, what was said."""
        for index, (arguments, found, said) in enumerate(calls):
            others = [each[0] for at, each in enumerate(calls) if at != index]
            for name, schema in _properties(parameters):
                kind = str(schema.get("type", ""))
                value = arguments.get(name)
                text = canonical(value) if name in arguments else _ABSENT
                known = (self._known_of_tool(tool, name), self._known_of_name(name))
                if text != _ABSENT:
                    also = {canonical(each[name]) for each in others if name in each}
                    self._judge(known, kind, (text, also), (found, said))
                    if isinstance(value, str) and value.lower() not in said.lower():
                        self._associate(text, found)
                for each in known:
                    each.saw(value, text)

    def _judge(
        self,
        known: tuple[_Argument, _Argument],
        kind: str,
        right: tuple[str, set[str]],
        at_hand: tuple[Places, str],
    ) -> None:
        text, also = right
        generic = {*_GENERIC, "known mentioned", "known meant"}
        tried = {*known[0].places, *known[1].places, *generic}
        found, said = at_hand
        for place, value in [*found.items(), *self._from_knowledge(known[1], found, said)]:
            fitted = fit(value, kind)
            if fitted is None:
                continue
            seen = canonical(fitted)
            good = seen == text
            if not good and (place not in tried or seen in also):
                continue
            for each in known:
                each.judged(place, right=good)
            if place in tried:
                count = self.of_kind.setdefault(_kind(place), Count())
                count.tries += 1
                count.right += good

    def _associate(self, text: str, found: Places) -> None:
        for place, value in found.items():
            if place.startswith(("text name", "text code")) and isinstance(value, str):
                meant = self.meant.setdefault(value, {})
                meant[text] = meant.get(text, 0) + 1
                self.meant.move_to_end(value)
        while len(self.meant) > _MOST_ARGUMENTS:
            self.meant.popitem(last=False)

    def _options(
        self, tool: str, name: str, kind: str, found: Places, said: str, *, needed: bool
    ) -> list[tuple[str, tuple[float, object]]]:
        known, named = self._known_of_tool(tool, name), self._known_of_name(name)
        best: dict[str, tuple[float, object]] = {}

        def offer(p: float, value: object, text: str) -> None:
            if text not in best or best[text][0] < p:
                best[text] = (p, value)

        tried = dict.fromkeys(
            [*known.places, *named.places, f"named {name}", f"field {name}", *_GENERIC]
        )
        at_hand = [(place, found[place]) for place in tried if place in found]
        for place, value in [*at_hand, *self._from_knowledge(named, found, said)]:
            fitted = fit(value, kind)
            if fitted is not None:
                p = self._worth(known, named, place, name) * _looks(known, named, fitted)
                offer(p, fitted, canonical(fitted))
        for text, count in known.values.items():
            own = text == _ABSENT or not text.startswith('"') or count >= _SHARED_AFTER
            if own:
                p = max(0.0, count - (0.2 if text == _ABSENT else 0.75)) / (known.calls + 0.5)
                offer(p, None if text == _ABSENT else json.loads(text), text)
        if not needed and _ABSENT not in best:
            offer(1 / (known.calls + 2), None, _ABSENT)
        return sorted(best.items(), key=lambda each: -each[1][0])[:_OPTIONS]

    def _from_knowledge(
        self, named: _Argument, found: Places, said: str
    ) -> list[tuple[str, object]]:
        """Values that this argument had before and that the text mentions, or has another name for."""
        low = said.lower()
        out: list[tuple[str, object]] = []
        for text, count in named.values.items():
            value = json.loads(text) if text.startswith('"') else None
            if isinstance(value, str) and len(value) > 1 and count >= _SHARED_AFTER:
                at = low.find(value.lower())
                if at >= 0 and not (at and low[at - 1].isalnum()):
                    out.append(("known mentioned", value))
        for place, term in found.items():
            if not place.startswith(("text name", "text code")) or not isinstance(term, str):
                continue
            meant = self.meant.get(term, {})
            usable = {
                text: count / named.values[text]
                for text, count in meant.items()
                if count >= _SHARED_AFTER and text in named.values
            }
            if usable:
                out.append(("known meant", json.loads(max(usable, key=lambda key: usable[key]))))
        return out

    def _worth(self, known: _Argument, named: _Argument, place: str, name: str) -> float:
        kind = self.of_kind.get(_kind(place), Count()).p(0.15, 4.0)
        if place in {f"named {name}", f"field {name}"}:
            kind = max(kind, 0.5)
        p = named.places.get(place, Count()).p(kind, 2.0)
        return known.places.get(place, Count()).p(p, 1.5)

    def _known_of_tool(self, tool: str, name: str) -> _Argument:
        return _kept(self.of_tool, (tool, name))

    def _known_of_name(self, name: str) -> _Argument:
        return _kept(self.of_name, name)


_K = TypeVar("_K")


def _kept(table: OrderedDict[_K, _Argument], key: _K) -> _Argument:
    found = table.get(key)
    if found is None:
        found = table[key] = _Argument()
        if len(table) > _MOST_ARGUMENTS:
            table.popitem(last=False)
    return found


def _with(beam: Guess, name: str, value: object, p: float, *, absent: bool) -> Guess:
    if absent:
        return Guess(beam.arguments, beam.p * p)
    if isinstance(value, str) and value in beam.arguments.values():
        p *= _SAME_TWICE
    return Guess({**beam.arguments, name: value}, beam.p * p)


def _looks(known: _Argument, named: _Argument, value: object) -> float:
    """How far a value looks like those that the argument had."""
    shapes = known.shapes or named.shapes
    seen = sum(shapes.values())
    if not seen:
        return 0.7
    return min(1.0, 1.5 * (shapes.get(shape_of_value(value), 0) + 0.5) / (seen + 0.5))


def _kind(place: str) -> str:
    first, _, rest = place.partition(" ")
    return place if first in {"text", "earlier", "known"} else f"{first} {rest[-1:]}"


def _properties(parameters: Json) -> list[tuple[str, Mapping[str, object]]]:
    found = parameters.get("properties")
    if not isinstance(found, Mapping):
        return []
    return [
        (str(name), schema if isinstance(schema, Mapping) else {}) for name, schema in found.items()
    ]


def canonical(value: object) -> str:
    """A value as JSON text that equal values share."""
    return json.dumps(plain(value), sort_keys=True, ensure_ascii=False, default=str)


def fit(value: object, kind: str) -> object | None:
    """``value`` as the schema type ``kind``; None where it is not of it."""
    if isinstance(value, bool):
        return value if kind in {"boolean", ""} else None
    if kind == "string":
        if isinstance(value, int | float):
            return str(value)
        return value if isinstance(value, str) else None
    if kind in {"integer", "number", "float"}:
        return _number(value, whole=kind == "integer")
    if kind == "array":
        return value if isinstance(value, list) else None
    return value if kind == "" else None


def _number(value: object, *, whole: bool) -> int | float | None:
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}(\.\d{1,9})?", value):
        value = float(value) if "." in value else int(value)
    if isinstance(value, float) and whole:
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int | float) else None
