"""Typed access to a client's JSON body, with errors that name the field as a dotted path.

Every function raises ``BadRequest`` with ``param``; none copies the body.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from app.domain.chat import DocumentPart, ImagePart, Json, Part, TextPart
from app.errors import BadRequest, Unsupported

_KINDS = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    dict: "an object",
    list: "an array",
}


def bad_type(path: str, wanted: type) -> BadRequest:
    """The error for a value of the wrong type."""
    return BadRequest(f"'{path}' must be {_KINDS[wanted]}.", param=path)


def as_object(value: object, path: str) -> Json:
    """``value`` as an object."""
    if not isinstance(value, Mapping):
        raise bad_type(path, dict)
    return value


def as_list(value: object, path: str) -> list[object]:
    """``value`` as an array."""
    if not isinstance(value, list):
        raise bad_type(path, list)
    return value


def as_text(value: object, path: str) -> str:
    """``value`` as a string."""
    if not isinstance(value, str):
        raise bad_type(path, str)
    return value


def text_at(obj: Json, key: str, path: str) -> str:
    """The required string ``key`` of ``obj``, which is at ``path``."""
    value = obj.get(key)
    if not isinstance(value, str):
        raise bad_type(join(path, key), str)
    return value


def optional_text(obj: Json, key: str, path: str) -> str:
    """The string ``key`` of ``obj``; "" when absent or null."""
    value = obj.get(key)
    return "" if value is None else as_text(value, join(path, key))


def optional_bool(obj: Json, key: str, path: str = "") -> bool | None:
    """The boolean ``key`` of ``obj``; None when absent or null."""
    value = obj.get(key)
    if value is None or isinstance(value, bool):
        return value
    raise bad_type(join(path, key), bool)


def optional_number(
    obj: Json, key: str, low: float, high: float, path: str = ""
) -> float | int | None:
    """The number ``key`` of ``obj`` within ``low``..``high``; None when absent or null."""
    value = obj.get(key)
    if value is None:
        return None
    where = join(path, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad_type(where, float)
    if not low <= value <= high:
        raise BadRequest(f"'{where}' must be between {low:g} and {high:g}.", param=where)
    return value


def optional_int(obj: Json, key: str, low: int, path: str = "") -> int | None:
    """The integer ``key`` of ``obj``, at least ``low``; None when absent or null."""
    value = obj.get(key)
    if value is None:
        return None
    where = join(path, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_type(where, int)
    if value < low:
        raise BadRequest(f"'{where}' must be at least {low}.", param=where)
    return value


def optional_list(obj: Json, key: str, path: str = "") -> list[object]:
    """The array ``key`` of ``obj``; empty when absent or null."""
    value = obj.get(key)
    return [] if value is None else as_list(value, join(path, key))


def one_of(value: object, allowed: Collection[str], path: str) -> str:
    """``value`` as one of the strings ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        names = ", ".join(f"'{name}'" for name in sorted(allowed))
        raise BadRequest(f"'{path}' must be one of {names}.", param=path)
    return value


def objects(items: list[object], path: str) -> Iterator[tuple[str, Json]]:
    """Each element of an array as an object, with its own path."""
    for index, item in enumerate(items):
        where = f"{path}[{index}]"
        if not isinstance(item, Mapping):
            raise bad_type(where, dict)
        yield where, item


def check_envelope(body: Json) -> None:
    """Check what all dialects share: ``model`` and ``stream``."""
    if not isinstance(body, Mapping):
        raise BadRequest("The request body must be a JSON object.")
    model = body.get("model")
    if model is None:
        raise BadRequest("'model' is required.", param="model")
    if not as_text(model, "model"):
        raise BadRequest("'model' must not be empty.", param="model")
    optional_bool(body, "stream")


def refuse_unknown(obj: Json, known: Collection[str], path: str, target: str = "") -> None:
    """Raise ``Unsupported`` for the first field outside ``known`` that has an effect.

    Null, false and empty values have none.
    """
    for key, value in obj.items():
        if key not in known and has_effect(value):
            raise untranslatable(join(path, key), target)


def has_effect(value: object) -> bool:
    """Whether a field with this value asks for anything: it is not null, false or empty."""
    if value is None or value is False:
        return False
    return not (isinstance(value, str | list | Mapping) and not value)


def untranslatable(path: str, target: str = "", why: str = "") -> Unsupported:
    """The error for a field that has no counterpart in the API of the target model."""
    where = f" to {target}" if target else " to a model of another API"
    tail = f": {why}" if why else ""
    return Unsupported(
        f"'{path}' cannot be carried{where}{tail}. Remove it, or choose a model that speaks this API.",
        param=path,
    )


def result_parts(
    parts: Iterable[Part], path: str
) -> tuple[TextPart | ImagePart | DocumentPart, ...]:
    """``parts`` as a tool result's content; raises ``Unsupported`` for parts that a result cannot have."""
    found: list[TextPart | ImagePart | DocumentPart] = []
    for part in parts:
        if not isinstance(part, TextPart | ImagePart | DocumentPart):
            raise untranslatable(path)
        found.append(part)
    return tuple(found)


def join(path: str, key: str) -> str:
    """``path.key``, or ``key`` at the top."""
    return f"{path}.{key}" if path else key
