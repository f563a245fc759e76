"""Extract the values of a conversation that a tool argument may be copied from: pure, no learning.

Every value is named by its source (``text quoted 0``: the first quoted span of the user's last message;
``result get_user.id 0``: that field of the latest ``get_user`` result). A source has the same meaning in
every conversation, so how often it was right can be counted across them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

ValuesBySource = dict[str, object]
"""Values by the name of their source."""

_MOST_SPANS = 6
_MOST_CALLS = 12
_MOST_FIELDS = 12
_MOST_ELEMENTS = 4
_MOST_TEXT_CHARS = 4000
_LONGEST_VALUE_CHARS = 200
_LATEST_OF_A_TOOL = 3

_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_SHORT = "|".join(each[:3] for each in _MONTHS.split("|"))
_DATE = re.compile(
    rf"\b(?P<m1>{_MONTHS}|{_SHORT})\.?\s+(?P<d1>\d{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<y1>\d{{4}})"
    rf"|\b(?P<d2>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<m2>{_MONTHS}|{_SHORT})\.?,?\s+(?P<y2>\d{{4}})"
    r"|\b(?P<y3>\d{4})-(?P<m3>\d{2})-(?P<d3>\d{2})\b",
    re.IGNORECASE,
)
_QUOTED = (
    r"(?<!\w)'([^'\n]{1,200}?)'(?!\w)|\"([^\"\n]{1,200})\""
    "|\u201c([^\u201d\n]{1,200})\u201d|\u2018([^\u2019\n]{1,200})\u2019"
)
_KINDS = {
    "quoted": re.compile(_QUOTED),
    "file": re.compile(r"(?<![\w.])([\w-]+\.[A-Za-z]\w{0,4})(?!\w)"),
    "number": re.compile(r"(?<![\w.-])\$?(\d[\d,]*(?:\.\d+)?)(?!\w)"),
    "code": re.compile(r"\b([A-Z]{2,5})\b"),
    "name": re.compile(r"\b([A-Z][a-z]+(?:\s+[A-Z][a-z]+)*)\b"),
    "id": re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Za-z])([\w-]{2,64})(?![\w-])"),
    "email": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+\w"),
}
_LISTED_KINDS = frozenset({"quoted", "file", "number", "code"})
_NEIGHBOUR_CHARS = 48
_NEIGHBOUR = re.compile(r"[A-Za-z]+")
_SKIPPED_WORDS = frozenset(
    {
        "the", "a", "an", "my", "your", "our", "his", "her", "their", "is", "are", "was", "as", "be",
        "called", "named", "titled", "labeled", "dubbed", "being", "this", "that", "new",
    }
)  # fmt: skip
"""Words between a value and the word that describes it."""
_RUN = re.compile(r"\w+")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;]\s+|\n)$")
_WORD = re.compile(r"[A-Za-z][a-z]+|[A-Z]+(?![a-z])")
_STOP_WORDS = frozenset(
    {
        "the", "a", "an", "of", "to", "and", "or", "in", "on", "for", "with", "is",
        "are", "was", "be", "been", "it", "its", "this", "that", "these", "those", "my", "me",
        "i", "im", "you", "your", "we", "our", "us", "please", "could", "can", "would", "do",
        "does", "did", "have", "has", "had", "as", "at", "by", "from", "so", "but", "if",
        "then", "than", "them", "they", "he", "she", "his", "her", "there", "here", "what", "which",
        "who", "how", "any", "all", "some", "just", "now", "also", "into", "up", "out", "about",
        "not", "no", "yes", "will", "shall", "may", "might", "should", "let", "lets", "get", "got",
    }
)  # fmt: skip
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "s", "ly", "e")
_SHORTEST_STEM = 3


@dataclass(frozen=True, slots=True)
class PastCall:
    """A tool call of a conversation and its result (JSON, or text)."""

    tool: str
    arguments: Mapping[str, object]
    result: object = None


@dataclass(frozen=True, slots=True)
class ConversationState:
    """What the model had read when it chose its next call."""

    user_text: str
    """The user's last message."""
    earlier_user_texts: tuple[str, ...] = ()
    """The messages before it, oldest first."""
    earlier_calls: tuple[PastCall, ...] = ()
    """Calls before the last message, oldest first."""
    calls: tuple[PastCall, ...] = ()
    """Calls since the last message, oldest first."""


def word_stems(text: str) -> list[str]:
    """Stems of a text's content words, and of pairs of neighbours; each once."""
    found: dict[str, None] = {}
    previous = ""
    for match in _WORD.finditer(text[:_MOST_TEXT_CHARS]):
        word = match[0].lower()
        if word in _STOP_WORDS:
            continue
        stem = _stem(word)
        found[stem] = None
        if previous:
            found[f"{previous} {stem}"] = None
        previous = stem
    return list(found)


def _stem(word: str) -> str:
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST_STEM:
            return word[: -len(ending)]
    return word


def values_by_kind(text: str) -> dict[str, list[object]]:
    """Values of a text by kind, in order, each once."""
    found: dict[str, dict[object, None]] = {}
    for kind, value, _, _ in _iter_spans(text[:_MOST_TEXT_CHARS]):
        found.setdefault(kind, {})[value] = None
    return {kind: list(values)[:_MOST_SPANS] for kind, values in found.items()}


def _iter_spans(text: str) -> Iterator[tuple[str, object, int, int]]:
    """Kind, value, start and end of each."""
    for kind, pattern in _KINDS.items():
        for match in pattern.finditer(text):
            said = next((each for each in match.groups() if each is not None), match[0])
            if kind == "name" and " " not in said and _SENTENCE_START.search(text[: match.start()]):
                continue  # a sentence begins with a capital, whatever the word
            yield kind, parse_number(said) if kind == "number" else said, *match.span()
    for match in _DATE.finditer(text):
        yield "date", _iso_date(match), *match.span()


def values_by_neighbour(text: str) -> ValuesBySource:
    """Values by the words next to them: ``text after from``, ``text before gallons``.

    Spans do not overlap: a quoted text hides what is inside it, a date its numbers.
    """
    text = text[:_MOST_TEXT_CHARS]
    order = ("quoted", "email", "date", "file", "id", "number", "code", "name")
    taken: list[tuple[int, int]] = []
    kept: list[tuple[int, int, object]] = []
    for _, value, start, end in sorted(_iter_spans(text), key=lambda each: order.index(each[0])):
        if all(end <= other[0] or start >= other[1] for other in taken):
            taken.append((start, end))
            kept.append((start, end, value))
    found: ValuesBySource = {}
    for start, end, value in sorted(kept, key=lambda each: each[0]):
        before = _NEIGHBOUR.findall(text[max(0, start - _NEIGHBOUR_CHARS) : start].lower())
        near = [word for word in before if word not in _SKIPPED_WORDS][-2:]
        if near:
            found.setdefault(f"text after {near[-1]}", value)
            found.setdefault(f"text after {' '.join(near)}", value)
        behind = _NEIGHBOUR.match(text[end : end + _NEIGHBOUR_CHARS].lower().lstrip(" -"))
        if behind is not None:
            found.setdefault(f"text before {behind[0]}", value)
    return found


def parse_number(said: str) -> int | float:
    """The number that a text of digits, commas and a point stands for."""
    value = float(said.replace(",", ""))
    return int(value) if value.is_integer() else value


def _iso_date(match: re.Match[str]) -> str:
    parts = match.groupdict()
    year = parts["y1"] or parts["y2"] or parts["y3"] or ""
    day = parts["d1"] or parts["d2"] or parts["d3"] or ""
    month = parts["m1"] or parts["m2"]
    number = _SHORT.split("|").index(month.lower()[:3]) + 1 if month else int(parts["m3"] or 0)
    return f"{int(year):04}-{number:02}-{int(day):02}"


def values_by_source(scene: ConversationState) -> ValuesBySource:
    """All values that an argument may be copied from, by their source."""
    found: ValuesBySource = {}
    for kind, values in values_by_kind(scene.user_text).items():
        for index, value in enumerate(values):
            found[f"text {kind} {index}"] = value
        if len(values) > 1:
            found[f"text {kind} last"] = values[-1]
        if kind in _LISTED_KINDS:
            found[f"text {kind} all"] = values
    found |= values_by_neighbour(scene.user_text)
    older: dict[str, dict[object, None]] = {}
    for text in reversed(scene.earlier_user_texts[-_MOST_SPANS:]):
        for kind, values in values_by_kind(text).items():
            older.setdefault(kind, {}).update(dict.fromkeys(values))
    for kind, values_of_kind in older.items():
        for index, value in enumerate(list(values_of_kind)[:_MOST_ELEMENTS]):
            found[f"earlier {kind} {index}"] = value
    _add_calls([*scene.earlier_calls, *scene.calls][-_MOST_CALLS:], found)
    return found


def _add_calls(made: Sequence[PastCall], found: ValuesBySource) -> None:
    """Add the arguments and results of calls, the latest first."""
    seen: dict[str, int] = {}
    for call in reversed(made):
        nth = seen.get(call.tool, 0)
        seen[call.tool] = nth + 1
        if nth >= _LATEST_OF_A_TOOL:
            continue
        for name, value in call.arguments.items():
            found[f"argument {call.tool}.{name} {nth}"] = value
            found.setdefault(f"named {name}", value)
        for path, value in _leaves(call.result):
            found[f"result {call.tool}{path} {nth}"] = value
            names = [part for part in path.split(".") if part and not part.lstrip("-").isdigit()]
            if names:
                found.setdefault(f"field {names[-1]}", value)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, inner in list(value.items())[:_MOST_FIELDS]:
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for index, inner in enumerate(value[:_MOST_ELEMENTS]):
            yield from _leaves(inner, f"{path}.{index}")
        if len(value) > 1 and isinstance(value[-1], str | int | float):
            yield f"{path}.-1", value[-1]
    elif isinstance(value, str):
        if 0 < len(value) <= _LONGEST_VALUE_CHARS:
            yield path, value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def value_shape(value: object) -> str:
    """The format of a value: ``INC-4821`` and ``INC-7`` have the same, ``ann`` another."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        return "#"
    if isinstance(value, list):
        return "[" + (value_shape(value[0]) if value else "")
    if not isinstance(value, str):
        return "{"
    shape = _RUN.sub(lambda run: _run_shape(run[0]), value)
    return re.sub(r"(?:a\W+)+a", "a a", shape) if " " in shape else shape[:12]


def _run_shape(run: str) -> str:
    if run.isdigit():
        return "0"
    return "A" if run.isupper() else "a"
