"""Typed reading of a JSON body: every getter names the field in the error it raises.

The body is `object` until one of these functions has looked at it, so that no unchecked value
travels further, and a client learns which field to mend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import orjson

from app.providers.simulator.errors import RefusedError

_TYPE_NAMES = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}
_DEEPEST = 240
"""orjson writes 254 levels, and an answer holds parts of the question some levels down."""

JsonObject = Mapping[str, object]


def parse_body(raw: bytes) -> JsonObject:
    """Read a request body. Raises `RefusedError` (400) unless it is one JSON object."""
    try:
        body: object = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise RefusedError(f"The request body is not valid JSON: {exc}.") from exc
    if not isinstance(body, dict):
        raise RefusedError("The request body must be a JSON object.")
    if raw.count(b"{") + raw.count(b"[") > _DEEPEST and _is_deep(body):
        raise RefusedError(f"The request body is nested too deeply: {_DEEPEST} levels are read.")
    return cast("JsonObject", body)


def _is_deep(value: object) -> bool:
    """Whether more than ``_DEEPEST`` containers hold each other."""
    row = [value]
    for _ in range(_DEEPEST):
        row = [each for outer in row for each in _held(outer) if isinstance(each, dict | list)]
    return bool(row)


def _held(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def wrong_type(path: str, expected: str, value: object) -> RefusedError:
    """The error of a field that holds the wrong type."""
    found = "null" if value is None else _TYPE_NAMES.get(type(value), type(value).__name__)
    return RefusedError(f"Invalid type for '{path}': expected {expected}, got {found}.", param=path)


def missing(path: str) -> RefusedError:
    """The error of a required field that is absent."""
    return RefusedError(f"Missing required parameter: '{path}'.", param=path)


def as_object(value: object, path: str) -> JsonObject:
    """`value` as a JSON object. Raises `RefusedError` naming `path`."""
    if not isinstance(value, dict):
        raise wrong_type(path, "an object", value)
    return cast("JsonObject", value)


def as_list(value: object, path: str) -> Sequence[object]:
    """`value` as a JSON array. Raises `RefusedError` naming `path`."""
    if not isinstance(value, list):
        raise wrong_type(path, "an array", value)
    return cast("Sequence[object]", value)


def as_text(value: object, path: str) -> str:
    """`value` as a string. Raises `RefusedError` naming `path`."""
    if not isinstance(value, str):
        raise wrong_type(path, "a string", value)
    return value


def required(body: JsonObject, name: str) -> object:
    """The value of a field that must be there. Raises `RefusedError` when it is not."""
    if name not in body:
        raise missing(name)
    return body[name]


def text(body: JsonObject, name: str) -> str:
    """A required string field."""
    return as_text(required(body, name), name)


def optional_text(body: JsonObject, name: str, path: str = "") -> str | None:
    """A string field that may be absent or null."""
    value = body.get(name)
    return None if value is None else as_text(value, path or name)


def optional_object(body: JsonObject, name: str) -> JsonObject:
    """An object field; absent or null reads as empty."""
    value = body.get(name)
    return {} if value is None else as_object(value, name)


def optional_list(body: JsonObject, name: str) -> Sequence[object]:
    """An array field; absent or null reads as empty."""
    value = body.get(name)
    return () if value is None else as_list(value, name)


def flag(body: JsonObject, name: str, *, default: bool) -> bool:
    """A boolean field; absent or null reads as `default`."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def integer(body: JsonObject, name: str, *, least: int, most: int = 2**31) -> int | None:
    """An integer field within [least, most], or None when absent or null."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if not least <= value <= most:
        raise RefusedError(
            f"Invalid value for '{name}': {value}; expected {least} to {most}.", param=name
        )
    return value


def check_number(body: JsonObject, name: str, *, least: float, most: float) -> None:
    """Check a numeric field that the simulator does not use. Raises `RefusedError`."""
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a number", value)
    if not least <= value <= most:
        raise RefusedError(
            f"Invalid value for '{name}': {value}; expected {least:g} to {most:g}.", param=name
        )


def stop_strings(body: JsonObject, name: str) -> tuple[str, ...]:
    """The stop sequences: a string, an array of strings, or nothing. Empty ones are refused."""
    value = body.get(name)
    if value is None:
        return ()
    found = [value] if isinstance(value, str) else as_list(value, name)
    stops = tuple(as_text(item, f"{name}[{index}]") for index, item in enumerate(found))
    if "" in stops:
        raise RefusedError(f"Invalid value for '{name}': a stop sequence is empty.", param=name)
    return stops
