"""Every field that an official client can say, tried one by one on its way to another dialect.

The clients' own TypedDicts are walked, so a new version's new field is tried as soon as it is installed. For
each field a smallest request with it is read and written; what became of it is its *fate*:

* ``carried``: the body for the other dialect says it;
* ``told``: it was left out and named (``x-slipstream-dropped``);
* ``refused``: a 400 whose ``param`` is the field, or something that holds it;
* ``LOST``: the other body is the same as without it, and nobody was told.

What is refused or told is not walked into: all that stands in it has the same fate. What is decided of each
field stands in ``sdk_fields.txt``; ``python -m tests.wire.sdk_fields`` prints it anew.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Required, Union, get_args, get_origin

from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

from app.domain.chat import Dialect
from app.domain.models import Model
from app.errors import BadRequest, Unsupported
from app.wire.codecs import CODECS
from tests.wire.samples import model as model_with

PARAMS = {
    Dialect.CHAT: CompletionCreateParamsNonStreaming,
    Dialect.RESPONSES: ResponseCreateParamsNonStreaming,
    Dialect.MESSAGES: MessageCreateParamsNonStreaming,
}
_SAID = {"role": "user", "content": "Hello"}
_NEEDED: dict[Dialect, dict[str, object]] = {
    Dialect.CHAT: {"model": "m", "messages": [_SAID]},
    Dialect.RESPONSES: {"model": "m", "input": [_SAID]},
    Dialect.MESSAGES: {"model": "m", "max_tokens": 4000, "messages": [_SAID]},
}
_TOOL = {"description": "d", "parameters": {"type": "object"}, "name": "x"}
_TOOLS = {
    Dialect.CHAT: {"type": "function", "function": _TOOL},
    Dialect.RESPONSES: {"type": "function", **_TOOL},
    Dialect.MESSAGES: {"name": "x", "description": "d", "input_schema": {"type": "object"}},
}
_STEPS = 24
_NONE = {"annotations", "logprobs", "top_logprobs"}
_PDF = "data:application/pdf;base64,AA=="
_WHOLE: dict[str, dict[str, object]] = {
    "FileFile": {"file_data": _PDF},
    "ResponseInputImageParam": {"type": "input_image", "image_url": "https://example.com/a"},
    "ResponseInputImageContentParam": {"type": "input_image", "image_url": "https://example.com/a"},
    "ResponseInputFileParam": {"type": "input_file", "file_data": _PDF},
    "ResponseInputFileContentParam": {"type": "input_file", "file_data": _PDF},
    "FunctionCallOutput": {"type": "function_call_output", "call_id": "x", "output": "x"},
}
"""Lists that may be empty, and objects of which one of several fields is needed."""
UNKNOWN = "a_field_of_tomorrow"
"""Tried in every object that is walked into: what no version knows yet."""
# What a string of a certain name has to look like; every other one is a word.
_TEXTS = {
    "url": ("https://example.com/a", "https://example.com/b"),
    "image_url": ("https://example.com/a", "https://example.com/b"),
    "arguments": ('{"a": 1}', '{"a": 2}'),
    "ttl": ("5m", "1h"),
    "file_data": (_PDF, _PDF.replace("AA", "BB")),
}
_NUMBERS = {"budget_tokens": (2000, 3000), "max_tokens": (4000, 5000)}


OPENAI = model_with(
    cache_breakpoints="openai", thinking="effort", max_tokens_field="max_completion_tokens"
)
CLAUDE = model_with(cache_breakpoints="anthropic", thinking="budget")
WAYS = (
    (Dialect.CHAT, Dialect.MESSAGES, CLAUDE),
    (Dialect.MESSAGES, Dialect.CHAT, OPENAI),
    (Dialect.RESPONSES, Dialect.CHAT, OPENAI),
    (Dialect.RESPONSES, Dialect.MESSAGES, CLAUDE),
)


def fates(dialect: Dialect, target: Dialect, model: Model) -> dict[str, str]:
    """The fate of every field of ``dialect`` on its way to a ``model`` of ``target``, by its place."""
    return dict(_Walk(dialect, target, model).top())


class _Walk:
    def __init__(self, dialect: Dialect, target: Dialect, model: Model) -> None:
        self._dialect, self._target, self._model = dialect, target, model

    def top(self) -> Iterator[tuple[str, str]]:
        needed = _NEEDED[self._dialect]
        for name, hint in sorted(get_type_hints(PARAMS[self._dialect]).items()):
            if name == "model":
                continue

            def body(value: object, name: str = name) -> dict[str, object]:
                if name in {"messages", "input"}:
                    between = value if isinstance(value, list) else [value]
                    return {**needed, name: [_SAID, *between, _SAID]}
                with_it = {**needed, name: value}
                if name in {"tool_choice", "parallel_tool_calls"}:
                    with_it["tools"] = [_TOOLS[self._dialect]]
                return with_it

            base = body([]) if name in {"messages", "input"} else body(None)
            said = _list_of(hint) if name in {"messages", "input"} else hint
            yield from self._field(name, name, said, body, base, 0)

    def _outcome(self, body: Mapping[str, object]) -> tuple[object, str]:
        """(body and names of what was dropped, "") or (None, what is refused)."""
        source, target = CODECS[self._dialect], CODECS[self._target]
        try:
            source.check(body)
            written, dropped = target.write(source.read(body), self._model, stream=False)
        except (BadRequest, Unsupported) as error:
            return None, error.param or "?"
        return (written, dropped), ""

    def _fate(self, body: Mapping[str, object], base: Mapping[str, object]) -> str:
        if body == base:
            return "carried"  # the request is none without it
        told, refused = self._outcome(body)
        if told is None:
            return f"refused: {refused}"
        before, _ = self._outcome(base)
        if before is None:
            return "carried"
        (written, dropped), (written_before, dropped_before) = told, before
        if set(dropped) - set(dropped_before):
            return "told"
        return "carried" if written != written_before else "LOST"

    def _field(self, place, name, hint, body, base, depth):  # noqa: PLR0917
        """Each way to say the field; ``body`` puts a value there, ``base`` is the request without it."""
        if depth > _STEPS:
            raise AssertionError(place)
        for label, arm in _arms(hint):
            here = f"{place}{label}"
            if is_typeddict(arm):
                smallest = _smallest(arm, name)
                fate = self._fate(body(smallest), base)
                if fate == "LOST" and not smallest:
                    fate = "carried"  # an empty object says nothing
                yield here, fate
                if fate in {"carried", "LOST"}:
                    yield from self._inside(here, arm, smallest, body, depth + 1)
            elif get_origin(arm) in _LISTS:
                (inner,) = get_args(arm)[:1]
                yield from self._field(
                    f"{here}[]", name, inner, lambda value, b=body: b([value]), base, depth + 1
                )
            else:
                for word, value, other in _values(arm, name):
                    fate = self._fate(body(value), base)
                    if fate == "LOST" and other is not None:
                        # Perhaps the request without it says the same by itself.
                        fate = self._fate(body(other), body(value))
                    yield f"{here}{word}", fate

    def _inside(self, place, kind, smallest, body, depth):
        hints, required = _keys(kind)
        yield f"{place}.{UNKNOWN}", self._fate(body({**smallest, UNKNOWN: "x"}), body(smallest))
        for name, hint in sorted(hints.items()):
            if name in {"type", "role"} and name in smallest:
                continue

            def within(value: object, name: str = name) -> object:
                return body({**smallest, name: value})

            base = body(smallest)
            if name in required and not _composite(hint):
                for _, value, other in _values(_arms(hint)[0][1], name):
                    yield f"{place}.{name}", self._fate(within(other), within(value))
                    break
                continue
            yield from self._field(f"{place}.{name}", name, hint, within, base, depth + 1)


_LISTS = (list, Iterable, Sequence)


@cache
def _keys(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of a TypedDict's keys, and which of them are required (its own word is not right for those
    of modules whose annotations are text).
    """
    hints = get_type_hints(kind, include_extras=True)
    required = {key for key, hint in hints.items() if get_origin(hint) is Required}
    return get_type_hints(kind), frozenset(required | kind.__required_keys__)


def _list_of(hint: Any) -> Any:
    return next(arm for _, arm in _arms(hint) if get_origin(arm) in _LISTS)


def _composite(hint: Any) -> bool:
    return any(is_typeddict(arm) or get_origin(arm) in _LISTS for _, arm in _arms(hint))


def _arms(hint: Any) -> list[tuple[str, Any]]:
    """The arms of a union but None, each with what tells it from the others."""
    if get_origin(hint) in {Union, types.UnionType}:
        # What the vendor answered may be said again as it came: the same fields in classes of their own.
        flat = [arm for each in get_args(hint) for arm in _arms(each) if not _is_answer(arm[1])]
        labels = [label for label, _ in flat]
        return [
            (f"<{arm.__name__}>" if is_typeddict(arm) and labels.count(label) > 1 else label, arm)
            for label, arm in flat
        ]
    if is_typeddict(hint):
        hints = _keys(hint)[0]
        words = [
            word
            for key in ("type", "role")
            for word in get_args(hints.get(key))
            if isinstance(word, str)
        ]
        return [(f"<{words[0] if words else hint.__name__}>", hint)]
    return [("", hint)]


def _is_answer(arm: Any) -> bool:
    return arm is type(None) or (isinstance(arm, type) and issubclass(arm, BaseModel))


def _values(hint: Any, name: str) -> list[tuple[str, object, object]]:
    """(what is said, a value, another one of the same kind or None) of what is no composite."""
    if get_origin(hint) is Literal:
        words = [word for word in get_args(hint) if word is not None]
        return [(f"={word}", word, None) for word in words]
    if hint is bool:
        return [("", True, None)]
    if hint is int:
        one, other = _NUMBERS.get(name, (2, 3))
        return [("", one, other)]
    if hint is float:
        return [("", 0.25, 0.5)]
    if hint is str:
        one, other = _TEXTS.get(name, ("x", "y"))
        return [("", one, other)]
    return [("", {"k": "v"}, {"k": "w"})]


def _smallest(hint: Any, name: str) -> Any:
    """The smallest value of a type: its first arm, only what is required, one of each list."""
    _, arm = _arms(hint)[0]
    if arm.__name__ in _WHOLE if is_typeddict(arm) else name in _NONE:
        return _WHOLE[arm.__name__] if is_typeddict(arm) else []
    if is_typeddict(arm):
        hints, required = _keys(arm)
        wanted = set(required) | ({"type"} & set(hints))
        return {key: _smallest(hints[key], key) for key in sorted(wanted)}
    if get_origin(arm) in _LISTS:
        return [_smallest(get_args(arm)[0], name)]
    return _values(arm, name)[0][1]


def table() -> str:
    """All fates, a line each, by the way that is gone."""
    lines = []
    for source, target, model in WAYS:
        lines.append(f"[{source} -> {target}]")
        lines.extend(f"{place}: {fate}" for place, fate in fates(source, target, model).items())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
