"""Predict the next tool calls from templates of this agent's own traffic: pure, no I/O, no clock.

A *template* says where a call's arguments came from: text of a certain shape in what the model
could read (``INC-4821`` is an ``INC-`` with digits), or a constant. Every template
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
MIN_OUTCOMES = 2
"""Fewer outcomes than this are no evidence: of those that one alone stood behind, one in seven was right
(200 multi-turn dialogues of BFCL, five orders, 2026-11-21).
"""
_MOST_SAVED_CALLS = 5.0
MIN_PROBABILITY = 0.5
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
class TemplateRecord:
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
        """Identity of the call: equal arguments in any order give one key."""
        return call_identity(self.tool, self.arguments)


def call_identity(tool: str, arguments: Json) -> str:
    """Identify a call within a run, whatever the order or spelling of its arguments."""
    said = json.dumps(normalised(arguments), sort_keys=True, ensure_ascii=False, default=str)
    return f"{tool} {said}"


def normalised(value: object) -> object:
    """``value`` with one spelling for each number: JSON has no other 980 than 980.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: normalised(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [normalised(each) for each in value]
    return value


@dataclass(slots=True)
class Patterns:
    """The templates of one stage of one agent: what it calls first, or after which tools."""

    records: OrderedDict[Template, TemplateRecord] = field(default_factory=OrderedDict)

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
        """Count the outcomes, and add the templates of calls that nothing predicted."""
        made = {call_identity(tool, arguments) for tool, arguments in calls}
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
                self.records[template] = TemplateRecord()  # that it was seen once is no success yet
                if len(self.records) > _MOST_TEMPLATES:
                    self.records.popitem(last=False)
            self.records.move_to_end(template)


def template_of(tool: str, arguments: Json, text: str) -> Template | None:
    """Where a call's arguments came from; None where one cannot be traced."""
    sources: list[Source] = []
    for name, value in sorted(arguments.items()):
        said = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        shape = text_pattern(said)
        if shape and re.search(rf"(?<!\w){re.escape(said)}(?!\w)", text):
            sources.append(Source(name, shape=shape, number=isinstance(value, int)))
        elif isinstance(value, str):
            return None  # a text that came from nowhere: the model's own words
        else:
            sources.append(Source(name, constant=json.dumps(value, sort_keys=True)))
    return tool, tuple(sources)


def text_pattern(said: str) -> str:
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


def is_worth_starting(p: float, cost_usd: float, value_usd_per_s: float, saved_s: float) -> bool:
    """Whether starting early is worth it: ``p > c / (c + v * saved)``."""
    if saved_s <= 0 or value_usd_per_s <= 0:
        return False
    return p > cost_usd / (cost_usd + value_usd_per_s * saved_s)


@dataclass(slots=True)
class WasteBudget:
    """The calls that may still be wasted: each call adds a share of one, up to a small cap.

    A draft takes the waste that its probability expects when it starts, and what it came to when it
    ends: many at once cannot overspend, and what was thrifty yesterday cannot be spent in one hour.
    """

    left: float = 2.0
    """At first as much as it takes to learn anything at all."""

    def add_call(self, share: float) -> None:
        """Add ``share`` (0 to 1) of a call."""
        self.left = min(_MOST_SAVED_CALLS, self.left + share)

    def allows(self, p: float) -> bool:
        """Whether there is room for a draft that is right with probability ``p``."""
        return self.left >= 1 - p

    def reserve(self, p: float) -> None:
        """Take the expected waste of a draft that starts."""
        self.left -= 1 - p

    def settle(self, p: float, *, right: bool) -> None:
        """Replace the expected waste of a draft by its outcome."""
        self.left += 1 - p - (not right)
