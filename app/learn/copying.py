"""Where each argument of a tool comes from, learned from an agent's own conversations: pure, no I/O.

Every value at hand of an argument's type is a choice, and so is leaving it out, and so is something that
nobody could foresee; one of them is right. What speaks for a choice are the places that hold it (see
``app.learn.said``), what the argument's declaration lists, what it was before, how its values look.
How much each says is learned for this argument of this tool, for arguments of that name in any tool, and
for the kind of place, all at once (see ``app.learn.weights``): a handful of conversations is enough to
say something, and what a text says now wins against what was said earlier because it competes with it.

A text that one conversation used is offered in another only after three have used it: what somebody
said stays theirs.
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
from app.domain.speculation import plain
from app.learn.declared import options, said_of
from app.learn.said import Places, shape_of_value
from app.learn.weights import Weights, chances

_MOST_ARGUMENTS = 512
_MOST_VALUES = 64
_SHARED_AFTER = 3
"""Conversations that must have used a text before it is offered in others."""
_ABSENT = "absent"
_OTHER = "other"
"""The choice of something that is not at hand."""
_LONGEST_KEPT_CHARS = 40
_GUESSES = 3
_RATE = 0.5
_SAME_TWICE = 0.1
"""How likely it is that two arguments of a call are the same text, against what each alone says."""
_LEAST_SLOPE = 1e-3
_MOST_MENTIONED = 3
_TERMS = ("text name", "text code", "text quoted")
"""Places of what may have another name: "Apple" means AAPL."""
_WORDS = re.compile(r"[a-z]+")
_STARTS = {
    "known called": 2.0,
    "named own": 1.5,
    "field own": 1.5,
    "look": 1.0,
    "usual": 1.0,
    "usually absent": 0.7,
    "not listed": -3.0,
    _OTHER: 1.0,
}
_STARTS_OF_KIND = {"known option": 2.0, "text": 0.3, "earlier": -0.3, "named": -0.3, "field": -0.3}


@dataclass(slots=True)
class _Argument:
    """What is known of one argument (of one tool, or of any)."""

    shapes: OrderedDict[str, int] = field(default_factory=OrderedDict)
    values: OrderedDict[str, int] = field(default_factory=OrderedDict)
    calls: int = 0

    def saw(self, value: object, text: str) -> None:
        """Count a call's value for this argument."""
        self.calls += 1
        if text != _ABSENT:
            _count(self.shapes, shape_of_value(value))
        if len(text) <= _LONGEST_KEPT_CHARS:
            _count(self.values, text)

    def usable(self) -> list[str]:
        """The values, as JSON text, that may be offered in any conversation."""
        return [
            text
            for text, count in self.values.items()
            if text != _ABSENT and (not text.startswith('"') or count >= _SHARED_AFTER)
        ]


def _count(table: OrderedDict[str, int], key: str) -> None:
    """Count one more; what was not seen for longest is forgotten."""
    table[key] = table.pop(key, 0) + 1
    if len(table) > _MOST_VALUES:
        table.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Guess:
    """Arguments for a call, and how likely they are if the call is made at all."""

    arguments: Json
    p: float


@dataclass(slots=True)
class _Slot:
    """One argument to be filled, and the choices for it: figures by the value's JSON text."""

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
        fitted = fit(value, self.kind)
        if fitted is not None:
            text = canonical(fitted)
            self.values.setdefault(text, fitted)
            self.places[text] = (*self.places.get(text, ()), place)


@dataclass(slots=True)
class _AtHand:
    """What is at hand, by the type that is asked for: the same for all arguments of all tools."""

    found: Places
    slots: dict[str, _Slot] = field(default_factory=dict)

    def slot(self, tool: str, name: str, schema: Mapping[str, object], *, needed: bool) -> _Slot:
        """A slot to which all of it was offered."""
        slot = _Slot(tool, name, schema, needed)
        whole = self.slots.get(slot.kind)
        if whole is None:
            whole = self.slots[slot.kind] = _Slot("", "", schema, needed=False)
            for place, value in self.found.items():
                whole.offer(place, value)
        slot.values, slot.places = dict(whole.values), dict(whole.places)
        return slot


def _start(name: str) -> float:
    if ":" in name:
        return 0.0
    found = _STARTS.get(name)
    if found is None:
        kind = "known option" if name.startswith("known option") else name.partition(" ")[0]
        found = _STARTS_OF_KIND.get(kind, 0.0)
    return found


@dataclass(slots=True)
class Copying:
    """What was learned of all arguments of one agent's tools."""

    of_tool: OrderedDict[tuple[str, str], _Argument] = field(default_factory=OrderedDict)
    of_name: OrderedDict[str, _Argument] = field(default_factory=OrderedDict)
    weights: Weights = field(default_factory=lambda: Weights(_RATE, _start))
    meant: OrderedDict[str, dict[str, int]] = field(default_factory=OrderedDict)
    """By a name or code that a user wrote: the values that were used for it (Apple: AAPL)."""
    _at_hand: _AtHand = field(default_factory=lambda: _AtHand({}))

    def guesses(self, tool: str, parameters: Json, found: Places, said: str) -> list[Guess]:
        """The likeliest arguments first, at most three; none where a required one has no guess."""
        beams: list[Guess] = [Guess({}, 1.0)]
        for slot in self._slots(tool, parameters, found, said):
            likely = self._chances(slot)
            del likely[_OTHER]
            best = sorted(likely.items(), key=lambda each: -each[1])[:_GUESSES]
            longer = [_with(beam, slot, text, p) for beam in beams for text, p in best]
            beams = sorted(longer, key=lambda each: -each.p)[:_GUESSES]
        return beams

    def learn(self, tool: str, parameters: Json, calls: Sequence[tuple[Json, Places, str]]) -> None:
        """Learn from the calls that one turn made of a tool: arguments, what was at hand, what was said."""
        for arguments, found, said in calls:
            for slot in self._slots(tool, parameters, found, said):
                value = arguments.get(slot.name)
                text = canonical(value) if slot.name in arguments else _ABSENT
                self._step(slot, text)
                for known in (self._of_tool(tool, slot.name), self._of_name(slot.name)):
                    known.saw(value, text)
                if isinstance(value, str) and value.lower() not in said.lower():
                    self._associate(text, found)

    def _step(self, slot: _Slot, text: str) -> None:
        """Make what was right likelier, and all else less likely."""
        right = text if text in slot.choices else _OTHER
        slopes: dict[str, float] = {}
        for choice, p in self._chances(slot).items():
            error = p - (choice == right)
            if abs(error) >= _LEAST_SLOPE:
                for name, figure in slot.choices[choice].items():
                    slopes[name] = slopes.get(name, 0.0) + error * figure
        self.weights.step(slopes)

    def _chances(self, slot: _Slot) -> dict[str, float]:
        total = self.weights.total
        return chances({text: total(figures) for text, figures in slot.choices.items()})

    def _slots(self, tool: str, parameters: Json, found: Places, said: str) -> list[_Slot]:
        if self._at_hand.found is not found:
            self._at_hand = _AtHand(found)
        required = parameters.get("required")
        needed = required if isinstance(required, list) else []
        slots = []
        for name, schema in _properties(parameters):
            slot = self._at_hand.slot(tool, name, schema, needed=name in needed)
            self._offer_known(slot, found, said)
            self._weigh(slot)
            slots.append(slot)
        return slots

    def _offer_known(self, slot: _Slot, found: Places, said: str) -> None:
        """Offer what nothing holds as it stands: meanings, listed values, earlier ones."""
        known, named = self._of_tool(slot.tool, slot.name), self._of_name(slot.name)
        for place, value in found.items():
            if place.startswith("text ") and isinstance(value, str) and value in self.meant:
                meaning = self._meaning(value, named)
                if meaning is not None:
                    slot.offer(f"meant {place[5:]}", meaning)
        for index, option in enumerate(said_of(slot.schema, said)[:_MOST_MENTIONED]):
            slot.offer(f"known option {index}", option)
        called = _called(slot.name, found)
        if called is not None:
            slot.offer("known called", called)
        for index, mentioned in enumerate(_mentioned(named, said)):
            slot.offer(f"known mentioned {index}", mentioned)
        for text in known.usable():
            slot.offer("usual", json.loads(text))

    def _weigh(self, slot: _Slot) -> None:
        """What speaks for each choice."""
        known, named = self._of_tool(slot.tool, slot.name), self._of_name(slot.name)
        own, looks = f"{slot.tool}.{slot.name}", known.shapes or named.shapes
        seen, calls = sum(looks.values()) + 1, known.calls + 1
        listed = {canonical(value) for value, _ in options(slot.schema)}
        for text, places in slot.places.items():
            figures = _figures(slot, places)
            if "usual" in places:
                usual = math.log((known.values.get(text, 0) + 0.2) / calls) + 1.5
                figures["usual"] = figures[f"usual:{own}"] = usual
            if looks:
                alike = looks.get(shape_of_value(slot.values[text]), 0)
                figures["look"] = math.log((alike + 0.3) / seen)
            if listed and text.startswith('"') and text not in listed:
                figures["not listed"] = 1.0
            slot.choices[text] = figures
        if not slot.needed:
            usual = math.log((known.values.get(_ABSENT, 0) + 0.5) / calls)
            slot.choices[_ABSENT] = {"absent": 1.0, f"absent:{own}": 1.0, "usually absent": usual}
        slot.choices[_OTHER] = {_OTHER: 1.0, f"{_OTHER}:{own}": 1.0, f"{_OTHER}:{slot.name}": 1.0}

    def _meaning(self, term: str, named: _Argument) -> object | None:
        """What arguments of this name were, where a user wrote ``term``."""
        usable = {
            text: count / named.values[text]
            for text, count in self.meant[term].items()
            if count >= _SHARED_AFTER and text in named.values
        }
        return json.loads(max(usable, key=lambda text: usable[text])) if usable else None

    def _associate(self, text: str, found: Places) -> None:
        for place, value in found.items():
            if place.startswith(_TERMS) and isinstance(value, str):
                meant = self.meant.setdefault(value, {})
                if text in meant or len(meant) < _MOST_VALUES:
                    meant[text] = meant.get(text, 0) + 1
                self.meant.move_to_end(value)
        while len(self.meant) > _MOST_ARGUMENTS:
            self.meant.popitem(last=False)

    def _of_tool(self, tool: str, name: str) -> _Argument:
        return _kept(self.of_tool, (tool, name))

    def _of_name(self, name: str) -> _Argument:
        return _kept(self.of_name, name)


_K = TypeVar("_K")


def _kept(table: OrderedDict[_K, _Argument], key: _K) -> _Argument:
    found = table.get(key)
    if found is None:
        found = table[key] = _Argument()
        if len(table) > _MOST_ARGUMENTS:
            table.popitem(last=False)
    return found


def _with(beam: Guess, slot: _Slot, text: str, p: float) -> Guess:
    if text == _ABSENT:
        return Guess(beam.arguments, beam.p * p)
    value = slot.values[text]
    if isinstance(value, str) and value in beam.arguments.values():
        p *= _SAME_TWICE
    return Guess({**beam.arguments, slot.name: value}, beam.p * p)


def _figures(slot: _Slot, places: tuple[str, ...]) -> dict[str, float]:
    """What the places say that hold a value: by their kind, for this name, for this tool."""
    figures: dict[str, float] = {}
    for place in places:
        figures[_kind(place, slot.name)] = 1.0
        figures[f"{slot.name}:{place}"] = 1.0
        figures[f"{slot.tool}.{slot.name}:{place}"] = 1.0
    return figures


def _kind(place: str, name: str) -> str:
    first, _, rest = place.partition(" ")
    if first in {"named", "field"}:
        return f"{first} own" if rest == name else first
    if first in {"argument", "result"}:
        return f"{first} own {rest[-1:]}" if f".{name} " in rest else f"{first} {rest[-1:]}"
    return place


def _mentioned(named: _Argument, said: str) -> list[str]:
    """Values that arguments of this name had before and that the text mentions, in its order."""
    low = said.lower()
    found: list[tuple[int, str]] = []
    for text in named.usable():
        value = json.loads(text)
        if isinstance(value, str) and len(value) > 1:
            at = low.find(value.lower())
            if at >= 0 and not (at and low[at - 1].isalnum()):
                found.append((at, value))
    return [value for _, value in sorted(found)[:_MOST_MENTIONED]]


def _called(name: str, found: Places) -> object | None:
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
