"""Fast check for simple JSON Schemas: accepts most calls' arguments without the full validator.

Nearly all tools declare an object of named scalars. One pass over the arguments then suffices, at a
twentieth of the validator's time, which delays every call. It answers *valid* or *unknown*; the
validator decides on the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from app.domain.chat import Json

Fits = Callable[[Json], bool]
_Check = Callable[[object], bool]

_SAYS_NOTHING = frozenset(
    {"title", "description", "default", "examples", "format", "deprecated", "$comment"}
)
"""Keywords that do not affect validation."""
_OF_OBJECT = frozenset({"type", "properties", "required", "additionalProperties"})


def _is_integer(value: object) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return type(value) is int or type(value) is float


_TYPES: Mapping[str, _Check] = {
    "string": lambda value: type(value) is str,
    "integer": _is_integer,
    "number": _is_number,
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
}


def fast_check_for(schema: Json) -> Fits | None:
    """A check that is true only of valid arguments; None for a schema that is not simple."""
    if not set(schema) <= _OF_OBJECT | _SAYS_NOTHING or schema.get("type", "object") != "object":
        return None
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return None
    if not isinstance(schema.get("additionalProperties", True), bool):
        return None
    checks: dict[str, _Check] = {}
    for name, inner in properties.items():
        check = _check(inner)
        if check is None:
            return None
        checks[str(name)] = check
    needed = frozenset(str(name) for name in required)

    def fits(arguments: Json) -> bool:
        for name, value in arguments.items():
            check = checks.get(name)
            if check is None or not check(value):
                return False
        return needed <= arguments.keys()

    return fits


def _check(schema: object) -> _Check | None:
    if not isinstance(schema, Mapping) or not {"type", "enum"} | _SAYS_NOTHING >= set(schema):
        return None
    kind = schema.get("type")
    check = _TYPES.get(kind) if isinstance(kind, str) else None
    if "enum" not in schema:
        return check
    allowed = schema["enum"]
    if kind != "string" or not isinstance(allowed, list):
        return None
    words = frozenset(word for word in allowed if isinstance(word, str))
    return lambda value: type(value) is str and value in words
