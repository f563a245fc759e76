"""Where each argument of a tool comes from, learned from an agent's own conversations: pure, no I/O.

Every available value of an argument's type is a choice, and so are leaving it out and "something else"; one
of them is right. The features of a choice are the sources that hold it (``app.learn.argument_sources``), the
options that the argument's declaration lists, earlier values, and their format. Their weights are learned
at once for this argument of this tool, for arguments of that name in any tool, and for the kind of source
(``app.learn.weights``), so a few conversations suffice.

A text that one conversation used is offered in another only after three have used it: users' words are
not shown to other users.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.domain.chat import Json
from app.domain.speculation import normalised
from app.learn.argument_sources import ValuesBySource, value_shape
from app.learn.declared_options import listed_options, mentioned_options
from app.learn.weights import Weights, softmax

_MOST_ARGUMENTS = 512
_MOST_VALUES = 64
_SHARED_AFTER = 3
"""Calls that must have used a text before it is offered in other conversations."""
_ABSENT = "absent"
_OTHER = "other"
"""The choice of a value that is not available."""
_LONGEST_KEPT_CHARS = 40
_GUESSES = 3
_RATE = 0.5
_SAME_TWICE = 0.1
"""Factor on the probability where two arguments of a call would be the same text."""
_LEAST_SLOPE = 1e-3
_MOST_MENTIONED = 3
_TERMS = ("text name", "text code", "text quoted")
"""Sources of what may be an alias: "Apple" for AAPL."""
_WORDS = re.compile(r"[a-z]+")
_INITIAL_WEIGHTS = {
    "known called": 2.0,
    "named own": 1.5,
    "field own": 1.5,
    "look": 1.0,
    "usual": 1.0,
    "usually absent": 0.7,
    "not listed": -3.0,
    _OTHER: 1.0,
}
_INITIAL_WEIGHTS_BY_KIND = {
    "known option": 2.0,
    "text": 0.3,
    "earlier": -0.3,
    "named": -0.3,
    "field": -0.3,
}


@dataclass(slots=True)
class _ArgumentHistory:
    """Past values of one argument (of one tool, or of any)."""

    shapes: OrderedDict[str, int] = field(default_factory=OrderedDict)
    values: OrderedDict[str, int] = field(default_factory=OrderedDict)
    calls: int = 0

    def record(self, value: object, text: str) -> None:
        """Count a call's value for this argument."""
        self.calls += 1
        if text != _ABSENT:
            _count(self.shapes, value_shape(value))
        if len(text) <= _LONGEST_KEPT_CHARS:
            _count(self.values, text)

    def shareable_values(self) -> list[str]:
        """Values, as JSON text, that may be offered in any conversation."""
        return [
            text
            for text, count in self.values.items()
            if text != _ABSENT and (not text.startswith('"') or count >= _SHARED_AFTER)
        ]


def _count(table: OrderedDict[str, int], key: str) -> None:
    """Count one more; the least recently seen is dropped."""
    table[key] = table.pop(key, 0) + 1
    if len(table) > _MOST_VALUES:
        table.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Guess:
    """Arguments for a call, and their probability given that the call is made."""

    arguments: Json
    p: float


@dataclass(slots=True)
class _Slot:
    """One argument to be filled, and the features of each choice, by the value's JSON text."""

    tool: str
    name: str
    schema: Mapping[str, object]
    needed: bool
    values: dict[str, object] = field(default_factory=dict)
    """By their JSON text."""
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    choices: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The type that its declaration asks for."""
        return str(self.schema.get("type", ""))

    def offer(self, place: str, value: object) -> None:
        """``value`` was found at ``place``."""
        fitted = coerced(value, self.kind)
        if fitted is not None:
            text = canonical(fitted)
            self.values.setdefault(text, fitted)
            self.places[text] = (*self.places.get(text, ()), place)


@dataclass(slots=True)
class _AvailableValues:
    """The available values by type: the same for all arguments of all tools."""

    found: ValuesBySource
    slots: dict[str, _Slot] = field(default_factory=dict)

    def slot(self, tool: str, name: str, schema: Mapping[str, object], *, needed: bool) -> _Slot:
        """A slot with all values of its type."""
        slot = _Slot(tool, name, schema, needed)
        whole = self.slots.get(slot.kind)
        if whole is None:
            whole = self.slots[slot.kind] = _Slot("", "", schema, needed=False)
            for place, value in self.found.items():
                whole.offer(place, value)
        slot.values, slot.places = dict(whole.values), dict(whole.places)
        return slot


def _initial_weight(name: str) -> float:
    if ":" in name:
        return 0.0
    found = _INITIAL_WEIGHTS.get(name)
    if found is None:
        kind = "known option" if name.startswith("known option") else name.partition(" ")[0]
        found = _INITIAL_WEIGHTS_BY_KIND.get(kind, 0.0)
    return found


@dataclass(slots=True)
class ArgumentModel:
    """Learned sources of all arguments of one agent's tools."""

    of_tool: OrderedDict[tuple[str, str], _ArgumentHistory] = field(default_factory=OrderedDict)
    of_name: OrderedDict[str, _ArgumentHistory] = field(default_factory=OrderedDict)
    weights: Weights = field(default_factory=lambda: Weights(_RATE, _initial_weight))
    aliases: OrderedDict[str, dict[str, int]] = field(default_factory=OrderedDict)
    """Values used for a name or code that a user wrote (Apple: AAPL), with counts."""
    _available: _AvailableValues = field(default_factory=lambda: _AvailableValues({}))

    def guesses(self, tool: str, parameters: Json, found: ValuesBySource, said: str) -> list[Guess]:
        """At most three guesses, the most probable first; none where a required argument has no value."""
        beams: list[Guess] = [Guess({}, 1.0)]
        for slot in self._slots(tool, parameters, found, said):
            likely = self._probabilities(slot)
            del likely[_OTHER]
            best = sorted(likely.items(), key=lambda each: -each[1])[:_GUESSES]
            longer = [_extended(beam, slot, text, p) for beam in beams for text, p in best]
            beams = sorted(longer, key=lambda each: -each.p)[:_GUESSES]
        return beams

    def learn(
        self, tool: str, parameters: Json, calls: Sequence[tuple[Json, ValuesBySource, str]]
    ) -> None:
        """Train on one turn's calls of a tool: arguments, available values, the user's text."""
        for arguments, found, said in calls:
            for slot in self._slots(tool, parameters, found, said):
                value = arguments.get(slot.name)
                text = canonical(value) if slot.name in arguments else _ABSENT
                self._step(slot, text)
                for known in (self._of_tool(tool, slot.name), self._of_name(slot.name)):
                    known.record(value, text)
                if isinstance(value, str) and value.lower() not in said.lower():
                    self._record_alias(text, found)

    def _step(self, slot: _Slot, text: str) -> None:
        """One gradient step towards the right choice."""
        right = text if text in slot.choices else _OTHER
        slopes: dict[str, float] = {}
        for choice, p in self._probabilities(slot).items():
            error = p - (choice == right)
            if abs(error) >= _LEAST_SLOPE:
                for name, figure in slot.choices[choice].items():
                    slopes[name] = slopes.get(name, 0.0) + error * figure
        self.weights.step(slopes)

    def _probabilities(self, slot: _Slot) -> dict[str, float]:
        total = self.weights.score
        return softmax({text: total(figures) for text, figures in slot.choices.items()})

    def _slots(self, tool: str, parameters: Json, found: ValuesBySource, said: str) -> list[_Slot]:
        if self._available.found is not found:
            self._available = _AvailableValues(found)
        required = parameters.get("required")
        needed = required if isinstance(required, list) else []
        slots = []
        for name, schema in _properties(parameters):
            slot = self._available.slot(tool, name, schema, needed=name in needed)
            self._offer_known(slot, found, said)
            self._add_choices(slot)
            slots.append(slot)
        return slots

    def _offer_known(self, slot: _Slot, found: ValuesBySource, said: str) -> None:
        """Offer values that no source holds literally: aliases, listed options, earlier values."""
        known, named = self._of_tool(slot.tool, slot.name), self._of_name(slot.name)
        for place, value in found.items():
            if place.startswith("text ") and isinstance(value, str) and value in self.aliases:
                meaning = self._alias_value(value, named)
                if meaning is not None:
                    slot.offer(f"meant {place[5:]}", meaning)
        for index, option in enumerate(mentioned_options(slot.schema, said)[:_MOST_MENTIONED]):
            slot.offer(f"known option {index}", option)
        called = _value_named_like(slot.name, found)
        if called is not None:
            slot.offer("known called", called)
        for index, mentioned in enumerate(_mentioned_values(named, said)):
            slot.offer(f"known mentioned {index}", mentioned)
        for text in known.shareable_values():
            slot.offer("usual", json.loads(text))

    def _add_choices(self, slot: _Slot) -> None:
        """Compute the features of each choice."""
        known, named = self._of_tool(slot.tool, slot.name), self._of_name(slot.name)
        own, looks = f"{slot.tool}.{slot.name}", known.shapes or named.shapes
        seen, calls = sum(looks.values()) + 1, known.calls + 1
        listed = {canonical(value) for value, _ in listed_options(slot.schema)}
        for text, places in slot.places.items():
            figures = _features(slot, places)
            if "usual" in places:
                usual = math.log((known.values.get(text, 0) + 0.2) / calls) + 1.5
                figures["usual"] = figures[f"usual:{own}"] = usual
            if looks:
                alike = looks.get(value_shape(slot.values[text]), 0)
                figures["look"] = math.log((alike + 0.3) / seen)
            if listed and text.startswith('"') and text not in listed:
                figures["not listed"] = 1.0
            slot.choices[text] = figures
        if not slot.needed:
            usual = math.log((known.values.get(_ABSENT, 0) + 0.5) / calls)
            slot.choices[_ABSENT] = {"absent": 1.0, f"absent:{own}": 1.0, "usually absent": usual}
        slot.choices[_OTHER] = {_OTHER: 1.0, f"{_OTHER}:{own}": 1.0, f"{_OTHER}:{slot.name}": 1.0}

    def _alias_value(self, term: str, named: _ArgumentHistory) -> object | None:
        """The usual value of arguments of this name where a user wrote ``term``."""
        usable = {
            text: count / named.values[text]
            for text, count in self.aliases[term].items()
            if count >= _SHARED_AFTER and text in named.values
        }
        return json.loads(max(usable, key=lambda text: usable[text])) if usable else None

    def _record_alias(self, text: str, found: ValuesBySource) -> None:
        for place, value in found.items():
            if place.startswith(_TERMS) and isinstance(value, str):
                meant = self.aliases.setdefault(value, {})
                if text in meant or len(meant) < _MOST_VALUES:
                    meant[text] = meant.get(text, 0) + 1
                self.aliases.move_to_end(value)
        while len(self.aliases) > _MOST_ARGUMENTS:
            self.aliases.popitem(last=False)

    def _of_tool(self, tool: str, name: str) -> _ArgumentHistory:
        return _history_of(self.of_tool, (tool, name))

    def _of_name(self, name: str) -> _ArgumentHistory:
        return _history_of(self.of_name, name)


_K = TypeVar("_K")


def _history_of(table: OrderedDict[_K, _ArgumentHistory], key: _K) -> _ArgumentHistory:
    found = table.get(key)
    if found is None:
        found = table[key] = _ArgumentHistory()
        if len(table) > _MOST_ARGUMENTS:
            table.popitem(last=False)
    return found


def _extended(beam: Guess, slot: _Slot, text: str, p: float) -> Guess:
    if text == _ABSENT:
        return Guess(beam.arguments, beam.p * p)
    value = slot.values[text]
    if isinstance(value, str) and value in beam.arguments.values():
        p *= _SAME_TWICE
    return Guess({**beam.arguments, slot.name: value}, beam.p * p)


def _features(slot: _Slot, places: tuple[str, ...]) -> dict[str, float]:
    """Features of a value's sources: by kind, for this argument name, for this tool."""
    figures: dict[str, float] = {}
    for place in places:
        figures[_source_kind(place, slot.name)] = 1.0
        figures[f"{slot.name}:{place}"] = 1.0
        figures[f"{slot.tool}.{slot.name}:{place}"] = 1.0
    return figures


def _source_kind(place: str, name: str) -> str:
    first, _, rest = place.partition(" ")
    if first in {"named", "field"}:
        return f"{first} own" if rest == name else first
    if first in {"argument", "result"}:
        return f"{first} own {rest[-1:]}" if f".{name} " in rest else f"{first} {rest[-1:]}"
    return place


def _mentioned_values(named: _ArgumentHistory, said: str) -> list[str]:
    """Earlier values of arguments of this name that the text mentions, in its order."""
    low = said.lower()
    found: list[tuple[int, str]] = []
    for text in named.shareable_values():
        value = json.loads(text)
        if isinstance(value, str) and len(value) > 1:
            at = low.find(value.lower())
            if at >= 0 and not (at and low[at - 1].isalnum()):
                found.append((at, value))
    return [value for _, value in sorted(found)[:_MOST_MENTIONED]]


def _value_named_like(name: str, found: ValuesBySource) -> object | None:
    """The value beside most words of an argument's name: ``access_token`` is what follows "token"."""
    own = set(_WORDS.findall(re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()))
    best, most = None, 0
    for place, value in found.items():
        if place.startswith("text after "):
            same = len(own.intersection(place.split()[2:]))
            if same > most:
                best, most = value, same
    return best


def _properties(parameters: Json) -> list[tuple[str, Mapping[str, object]]]:
    found = parameters.get("properties")
    if not isinstance(found, Mapping):
        return []
    return [
        (str(name), schema if isinstance(schema, Mapping) else {}) for name, schema in found.items()
    ]


def canonical(value: object) -> str:
    """A value as JSON text that equal values share."""
    return json.dumps(normalised(value), sort_keys=True, ensure_ascii=False, default=str)


def coerced(value: object, kind: str) -> object | None:
    """``value`` as the schema type ``kind``; None where it does not fit."""
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
