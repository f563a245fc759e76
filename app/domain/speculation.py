"""Which tool calls are likely to come next, learned from this agent's own traffic: pure, no I/O, no
clock.

A *template* says where a call's arguments came from: text of a certain shape in what the model
could read (``INC-4821`` is an ``INC-`` with digits), or the same constant as always. Every template
that fits what is at hand is a prediction, fired or not, and is right or wrong once the model has
called: so each one's probability is counted on live traffic, and is known before any money is
risked.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from app.domain.chat import Json

_PRIOR_RIGHT, _PRIOR_TRIES = 0.5, 2.0
"""As if one in four had been right: a new template needs a few good outcomes before it is believed."""
_MOST_TEMPLATES = 64
_MOST_MATCHES = 4
_EMAIL = r"[\w.+-]+@[\w-]+\.[\w.]+"
_FILE = re.compile(r"[\w-]+\.([A-Za-z]{1,5})")
_SHORTEST_CHARS = 2
LEAST_TRIES = 2
"""Fewer outcomes than this are no evidence: of those that one alone stood behind, one in seven was right
(200 multi-turn dialogues of BFCL, five orders, 2026-11-21).
"""
_MOST_SAVED_CALLS = 5.0
LEAST_P = 0.5
"""A template that is wrong more often than right spends on waste what better guesses could."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one argument comes from: text of a shape, or a constant (as JSON text)."""

    argument: str
    shape: str = ""
    constant: str = ""
    number: bool = False


Template = tuple[str, tuple[Source, ...]]
"""A tool, and where each of its arguments comes from."""


@dataclass(slots=True)
class Record:
    """How often a template's predictions were right."""

    right: int = 0
    tries: int = 0

    @property
    def p(self) -> float:
        """The probability that the next one is right."""
        return (self.right + _PRIOR_RIGHT) / (self.tries + _PRIOR_TRIES)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A call that may come."""

    tool: str
    arguments: Json
    p: float
    template: Template
    tries: int = 0
    """How many outcomes ``p`` rests on."""

    @property
    def key(self) -> str:
        """Names the call: equal arguments in any order give one key."""
        return key_of(self.tool, self.arguments)


def key_of(tool: str, arguments: Json) -> str:
    """Name a call within a run."""
    said = json.dumps(plain(arguments), sort_keys=True, ensure_ascii=False, default=str)
    return f"{tool} {said}"


def plain(value: object) -> object:
    """``value`` with one spelling for each number: JSON has no other 980 than 980.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


@dataclass(slots=True)
class Patterns:
    """The templates of one stage of one agent: what it calls first, or after which tools."""

    records: OrderedDict[Template, Record] = field(default_factory=OrderedDict)

    def predict(self, text: str, offered: Iterable[str]) -> list[Prediction]:
        """The calls that known templates give for ``text``, most probable first, each call once."""
        names, found = set(offered), dict[str, Prediction]()
        for template, record in self.records.items():
            if template[0] not in names:
                continue
            for arguments in _instances(template[1], text):
                prediction = Prediction(template[0], arguments, record.p, template, record.tries)
                known = found.get(prediction.key)
                if known is None or known.p < prediction.p:
                    found[prediction.key] = prediction
        return sorted(found.values(), key=lambda each: -each.p)

    def learn(
        self, text: str, predicted: Sequence[Prediction], calls: Sequence[tuple[str, Json]]
    ) -> None:
        """Count what was right, and take in the templates of calls that nothing predicted."""
        made = {key_of(tool, arguments) for tool, arguments in calls}
        for prediction in predicted:
            record = self.records.get(prediction.template)
            if record is not None:
                record.tries += 1
                record.right += prediction.key in made
        for tool, arguments in calls:
            template = template_of(tool, arguments, text)
            if template is None:
                continue
            if template not in self.records:
                self.records[template] = Record()  # that it was seen once is no success yet
                if len(self.records) > _MOST_TEMPLATES:
                    self.records.popitem(last=False)
            self.records.move_to_end(template)


def template_of(tool: str, arguments: Json, text: str) -> Template | None:
    """Where a call's arguments came from; None where one cannot be traced."""
    sources: list[Source] = []
    for name, value in sorted(arguments.items()):
        said = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        shape = shape_of(said)
        if shape and re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text):
            sources.append(Source(name, shape=shape, number=isinstance(value, int)))
        elif isinstance(value, str):
            return None  # a text that came from nowhere: the model's own words
        else:
            sources.append(Source(name, constant=json.dumps(value, sort_keys=True)))
    return tool, tuple(sources)


def shape_of(said: str) -> str:
    """A pattern that finds texts of the same kind; empty for what has no kind of its own."""
    if re.fullmatch(_EMAIL, said):
        return _EMAIL
    if (file := _FILE.fullmatch(said)) is not None:
        return rf"[\w-]+\.{file[1]}"
    if len(said) < _SHORTEST_CHARS or not any(c.isdigit() for c in said) or " " in said:
        return ""
    return re.sub(r"\d+", r"\\d+", re.sub(r"[^\w\s]", lambda match: "\\" + match[0], said))


def _instances(sources: Sequence[Source], text: str) -> list[dict[str, object]]:
    """The arguments that ``text`` gives: one call for each match of the first shape, first matches
    for the others.
    """
    base: dict[str, object] = {}
    varied: tuple[str, list[object]] | None = None
    for source in sources:
        if source.constant:
            base[source.argument] = json.loads(source.constant)
            continue
        matches = list(dict.fromkeys(re.findall(rf"(?<!\w){source.shape}(?!\w)", text)))
        values: list[object] = [int(each) if source.number else each for each in matches]
        if not values:
            return []
        if varied is None:
            varied = (source.argument, values[:_MOST_MATCHES])
        base[source.argument] = values[0]
    if varied is None:
        return [base]
    return [{**base, varied[0]: value} for value in varied[1]]


def pays(p: float, cost_usd: float, value_usd_per_s: float, saved_s: float) -> bool:
    """Whether starting early is worth it: ``p > c / (c + v * saved)``."""
    if saved_s <= 0 or value_usd_per_s <= 0:
        return False
    return p > cost_usd / (cost_usd + value_usd_per_s * saved_s)


@dataclass(slots=True)
class WasteBudget:
    """What may still be wasted, in calls: a share of each call that is made, and no hoard from good times.

    A draft takes the waste that its probability expects when it starts, and what it came to when it
    ends: many at once cannot overspend, and what was thrifty yesterday cannot be spent in one hour.
    """

    left: float = 2.0
    """At first as much as it takes to learn anything at all."""

    def called(self, share: float) -> None:
        """A call was made, of which ``share`` (0 to 1) may be wasted."""
        self.left = min(_MOST_SAVED_CALLS, self.left + share)

    def allows(self, p: float) -> bool:
        """Whether there is room for a draft that is right with probability ``p``."""
        return self.left >= 1 - p

    def fired(self, p: float) -> None:
        """A draft has started."""
        self.left -= 1 - p

    def ended(self, p: float, *, right: bool) -> None:
        """A draft that started with ``p`` was taken, or was not."""
        self.left += 1 - p - (not right)


def flat_text(values: Iterable[object]) -> str:
    """All text in JSON values, one leaf a line: what a next call's arguments may come from."""
    lines: list[str] = []
    stack = list(values)[::-1]
    while stack:
        value = stack.pop()
        if isinstance(value, Mapping):
            stack.extend(reversed(list(value.values())))
        elif isinstance(value, list | tuple):
            stack.extend(reversed(value))
        elif value is not None:
            lines.append(str(value))
    return "\n".join(lines)
