"""When the simulated model calls tools, and with what: simple rules instead of understanding.

A tool is called when the question shares words with its name, description or parameters, or holds
something that can only be meant for it: `u-123` for a `user_id`, `INC-4821` for the `ticket_id` of
a tool that speaks of tickets. One call is made for each such thing, so a question about two tickets
makes two parallel calls. Parameters are filled from the question: identifiers, numbers, quoted
text, names in capitals, else the question itself. The same question always makes the same calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from app.providers.simulator.fields import JsonObject
from app.providers.simulator.json_instance import instance_of, resolved
from app.providers.simulator.question import Question, Tool
from app.providers.simulator.tokens import pieces

_ENOUGH = 2
_FREE_TEXT = frozenset({"query", "question", "text", "prompt", "input", "search", "message", "q"})
_ID_NAMES = frozenset({"id", "key", "number", "code", "ref", "email"})
_STOP_WORDS = frozenset({
    "a", "about", "an", "and", "any", "are", "at", "be", "by", "can", "do", "does", "for",
    "from", "get", "give", "has", "have", "how", "i", "id", "in", "is", "it", "its", "list",
    "look", "may", "me", "my", "name", "of", "on", "or", "please", "say", "tell", "that", "the",
    "their", "then", "this", "to", "up", "use", "was", "what", "when", "where", "which", "who",
    "will", "with", "you", "your",
})  # fmt: skip
_WORD = re.compile(r"[A-Za-z][a-z]+|[A-Z]+(?![a-z])|\d+")
_IDENTIFIER = re.compile(r"\b[A-Za-z]{1,10}-\d+\b|\b[\w.+-]+@[\w-]+\.[\w.]+\b")
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?\b")
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|\'([^\']{2,})\'')
_PROPER = re.compile(r"(?<=[a-z,] )[A-Z][\w'-]+(?: [A-Z][\w'-]+)*")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model makes: `arguments` is JSON text, `pieces` the same, cut."""

    id: str
    name: str
    arguments: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Clues:
    """What the question's text offers to fill parameters with."""

    text: str
    words: frozenset[str]
    identifiers: tuple[str, ...]
    numbers: tuple[str, ...]
    quoted: tuple[str, ...]
    proper: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Match:
    tool: Tool
    score: int
    arguments: tuple[JsonObject, ...]


def choose_calls(question: Question) -> tuple[ToolCall, ...]:
    """The calls that the question calls for; empty when the model answers in words."""
    choice = question.tool_choice
    if not question.tools or choice.mode == "none" or question.tool_results:
        return ()
    if question.entries and question.entries[-1].role == "assistant":
        return ()
    clues = _clues(question.text)
    tools = [t for t in question.tools if choice.mode != "named" or t.name == choice.name]
    matches = [_match(tool, clues, question.tools) for tool in tools]
    chosen = _chosen(matches, forced=choice.mode in ("required", "named"), clues=clues)
    wanted = [(match.tool, arguments) for match in chosen for arguments in match.arguments]
    if not choice.parallel:
        wanted = wanted[:1]
    mark = question.digest[:6].hex()
    return tuple(
        _call(f"{mark}{index:02d}", tool, arguments)
        for index, (tool, arguments) in enumerate(wanted)
    )


def _call(call_id: str, tool: Tool, arguments: JsonObject) -> ToolCall:
    text = orjson.dumps(arguments).decode()
    return ToolCall(call_id, tool.name, text, pieces(text))


def _chosen(matches: Sequence[_Match], *, forced: bool, clues: _Clues) -> list[_Match]:
    """The matches that are good enough, or the best one where something must be called."""
    good = [match for match in matches if match.score >= _ENOUGH]
    if good or not matches:
        return good
    best = max(matches, key=lambda match: match.score)
    if forced or (clues.identifiers and best.score > 0):
        return [best]
    return []


def _clues(text: str) -> _Clues:
    identifiers = tuple(dict.fromkeys(_IDENTIFIER.findall(text)))
    plain = _IDENTIFIER.sub(" ", text)
    quoted = tuple(next(filter(None, groups)) for groups in _QUOTED.findall(text))
    return _Clues(
        text=text,
        words=_words(plain),
        identifiers=identifiers,
        numbers=tuple(_NUMBER.findall(plain)),
        quoted=quoted,
        proper=tuple(dict.fromkeys(_PROPER.findall(plain))),
    )


def _words(text: str) -> frozenset[str]:
    """The telling words of a text, in lower case and without a plural's s."""
    found = (word.lower() for word in _WORD.findall(text))
    return frozenset(w.removesuffix("s") or w for w in found if w not in _STOP_WORDS)


def _match(tool: Tool, clues: _Clues, offered: Sequence[Tool]) -> _Match:
    """How well a tool fits the question, and the arguments it would be called with."""
    score = 2 * len(_words(tool.name) & clues.words)
    score += len(_words(tool.description) & clues.words)
    variants: list[dict[str, object]] = [{}]
    properties = _properties(tool)
    required = tool.parameters.get("required")
    for name, schema in properties.items():
        is_required = isinstance(required, list) and name in required
        values, certainty = _values(name, schema, clues, offered)
        score += certainty
        if certainty == 0 and not is_required:
            continue
        if len(values) > 1 and len(variants) == 1:
            variants = [{**variants[0], name: value} for value in values]
        else:
            variants = [{**variant, name: values[0]} for variant in variants]
    return _Match(tool, score, tuple(variants))


def _properties(tool: Tool) -> dict[str, JsonObject]:
    found = tool.parameters.get("properties")
    if not isinstance(found, dict):
        return {}
    return {
        str(name): resolved(cast("JsonObject", schema), tool.parameters)
        for name, schema in found.items()
        if isinstance(schema, dict)
    }


def _values(
    name: str, schema: JsonObject, clues: _Clues, offered: Sequence[Tool]
) -> tuple[list[object], int]:
    """Candidate values for one parameter (never none), and 0 to 2 for how surely they are meant."""
    options = schema.get("enum")
    if isinstance(options, list) and options:
        named = [o for o in options if isinstance(o, str) and _words(o) & clues.words]
        return ([named[0]], 1) if named else ([options[0]], 0)
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return _numbers(str(kind), clues)
    if kind not in (None, "string"):
        return [instance_of(schema, clues.text.encode())], 0
    return _strings(name, clues, offered)


def _numbers(kind: str, clues: _Clues) -> tuple[list[object], int]:
    for text in clues.numbers:
        if kind == "number":
            return [float(text)], 1
        if "." not in text:
            return [int(text)], 1
    return [1], 0


def _strings(name: str, clues: _Clues, offered: Sequence[Tool]) -> tuple[list[object], int]:
    """A string parameter: an identifier meant for it, then one meant for no other, then text."""
    meant = [i for i in clues.identifiers if _claims(name, i)]
    if meant:
        return [*meant], 2
    if _is_identifier_name(name):
        others = {other for tool in offered for other in _properties(tool) if other != name}
        free = [i for i in clues.identifiers if not any(_claims(other, i) for other in others)]
        if free:
            return [*free], 1
    if name.lower() in _FREE_TEXT:
        return [clues.quoted[0] if clues.quoted else clues.text], 0
    if clues.proper and not _is_identifier_name(name):
        return [*clues.proper], 0
    if clues.quoted:
        return [clues.quoted[0]], 0
    return [clues.text], 0


def _is_identifier_name(name: str) -> bool:
    return bool({word.lower() for word in _WORD.findall(name)} & _ID_NAMES)


def _claims(name: str, identifier: str) -> bool:
    """Whether a parameter's name says that this identifier is for it: `user_id` and `u-123`."""
    stem = _WORD.findall(name)
    if not stem or not _is_identifier_name(name):
        return False
    if "@" in identifier:
        return "email" in name.lower()
    prefix = identifier.partition("-")[0].lower()
    return stem[0].lower() not in _ID_NAMES and stem[0].lower().startswith(prefix)
