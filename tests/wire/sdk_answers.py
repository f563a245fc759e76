"""Every field of a vendor's whole answer, tried one by one on its way to a client of another dialect.

As ``tests.wire.sdk_fields``, for answers: the clients' own classes are walked, and each field's fate is
``carried`` (the client's body says it) or ``LOST``.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from anthropic.types import Message
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from app.domain.chat import Dialect
from app.errors import GatewayError
from app.wire.codecs import CODECS
from tests.wire.samples import request

ANSWERS: dict[Dialect, type[BaseModel]] = {Dialect.CHAT: ChatCompletion, Dialect.MESSAGES: Message}
WAYS = (
    (Dialect.MESSAGES, Dialect.CHAT),
    (Dialect.MESSAGES, Dialect.RESPONSES),
    (Dialect.CHAT, Dialect.MESSAGES),
    (Dialect.CHAT, Dialect.RESPONSES),
)
_LISTS = {"choices", "content"}
"""Those that an answer has one of in any case."""
Body = Callable[[object], object]


def fates(source: Dialect, target: Dialect) -> dict[str, str]:
    """The fate of every field of an answer of ``source`` on its way to a client of ``target``."""
    codec, other = CODECS[source], CODECS[target]

    def written(body: object) -> object:
        try:
            answer = codec.read_answer(json.dumps(body).encode())
            said = json.loads(other.write_answer(answer, request(target)))
        except GatewayError as error:
            return error.code
        return {key: value for key, value in said.items() if key not in {"created", "created_at"}}

    def fate(body: object, base: object) -> str:
        return "carried" if body == base or written(body) != written(base) else "LOST"

    return dict(_inside("", ANSWERS[source], lambda value: value, fate))


def _inside(
    place: str, kind: type[BaseModel], body: Body, fate: Callable[[object, object], str]
) -> Iterator[tuple[str, str]]:
    smallest = _smallest(kind, "")
    assert isinstance(smallest, dict)
    for name, field in sorted(kind.model_fields.items()):
        if name in {"type", "role", "object"}:
            continue

        def within(value: object, name: str = name) -> object:
            return body({**smallest, name: value})

        base = within([]) if name == "content" else body(smallest)
        yield from _field(f"{place}.{name}", name, field.annotation, within, base, fate)


def _field(place, name, hint, body, base, fate):  # noqa: PLR0917
    for label, arm in _arms(hint):
        here = f"{place}{label}"
        if isinstance(arm, type) and issubclass(arm, BaseModel):
            told = fate(body(_smallest(arm, name)), base)
            yield here, told
            needed = {key for key, each in arm.model_fields.items() if each.is_required()}
            if told == "carried" or not needed - {"type"}:
                yield from _inside(here, arm, body, fate)
        elif get_origin(arm) is list:
            (inner,) = get_args(arm)
            yield from _field(f"{here}[]", name, inner, lambda value: body([value]), base, fate)
        else:
            one, other = _values(arm)
            told = fate(body(one), base)
            yield here, fate(body(other), body(one)) if told == "LOST" else told


def _values(hint: Any) -> tuple[object, object]:
    if get_origin(hint) is Literal:
        words = get_args(hint)
        return words[0], words[-1]
    if hint is bool:
        return True, False
    if hint in {int, float}:
        return 2, 3
    return ("x", "y") if hint is str else ({"k": 1}, {"k": 2})


def _smallest(hint: Any, name: str) -> object:
    _, arm = _arms(hint)[0]
    if isinstance(arm, type) and issubclass(arm, BaseModel):
        fields = arm.model_fields
        wanted = [key for key, each in fields.items() if each.is_required() or key == "type"]
        return {key: _smallest(fields[key].annotation, key) for key in wanted}
    if get_origin(arm) is list:
        return [_smallest(get_args(arm)[0], name)] if name in _LISTS else []
    return _values(arm)[0]


def _arms(hint: Any) -> list[tuple[str, Any]]:
    """The arms of a union but None, each with what tells it from the others."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _arms(get_args(hint)[0])
    if origin in {Union, types.UnionType}:
        return [arm for each in get_args(hint) for arm in _arms(each) if arm[1] is not type(None)]
    return [(f"<{hint.__name__}>", hint)] if _is_answer(hint) else [("", hint)]


def _is_answer(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)
