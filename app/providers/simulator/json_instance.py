"""An instance of a JSON schema, chosen by a seed: what the simulated model writes as JSON.

Covers what structured outputs of the vendors allow: types, enum, const, nested objects, arrays,
local `$ref`, anyOf, oneOf, allOf, the common formats, and the bounds of lengths and numbers. Every
property is filled, required or not; where a schema refers to itself, the shortest way out is taken.
`pattern` is not honoured: no vendor promises it either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import ceil, floor
from typing import cast

from app.providers.simulator.fields import JsonObject

_DEEPEST = 8
_FORMATS = {
    "date": "2026-11-21",
    "date-time": "2026-11-21T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT5M",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/item",
    "uuid": "0b6f3a52-6c1e-4f7e-9a53-2d1f5f4d7c11",
}
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "iris", "juniper")


def instance_of(schema: JsonObject, seed: bytes) -> object:
    """Make a value that obeys `schema`; the same seed makes the same value."""
    return _value(schema, schema, seed, 0)


def resolved(schema: JsonObject, root: JsonObject) -> JsonObject:
    """`schema` with a local `$ref` followed (what stands beside the reference is kept)."""
    for _ in range(_DEEPEST):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**_target(reference, root), **beside}
    return {}


def _target(reference: str, root: JsonObject) -> JsonObject:
    """What a reference such as `#/$defs/Item` points to; an unknown one allows anything."""
    node: object = root
    for part in reference.removeprefix("#").split("/"):
        if part:
            key = part.replace("~1", "/").replace("~0", "~")
            node = node.get(key) if isinstance(node, Mapping) else None
    return cast("JsonObject", node) if isinstance(node, Mapping) else {}


def _value(schema: object, root: JsonObject, seed: bytes, depth: int) -> object:
    if not isinstance(schema, Mapping):
        return None
    schema = _flat(resolved(cast("JsonObject", schema), root), root, depth)
    if "const" in schema:
        return schema["const"]
    options = schema.get("enum")
    if isinstance(options, Sequence) and options:
        return options[_pick(seed, len(options))]
    kind = _kind(schema, depth)
    if kind == "object":
        return _object(schema, root, seed, depth)
    if kind == "array":
        return _array(schema, root, seed, depth)
    return _plain(kind, schema, seed)


def _plain(kind: str, schema: JsonObject, seed: bytes) -> object:
    """A value without parts."""
    if kind in ("integer", "number"):
        return _number(schema, seed, whole=kind == "integer")
    if kind == "boolean":
        return bool(_pick(seed, 2))
    return None if kind == "null" else _string(schema, seed)


def _flat(schema: JsonObject, root: JsonObject, depth: int) -> JsonObject:
    """Merge allOf and take a branch of anyOf or oneOf: the first, or deep down the simplest."""
    for key in ("anyOf", "oneOf"):
        branches = schema.get(key)
        if isinstance(branches, Sequence) and branches:
            options = [resolved(cast("JsonObject", b), root) for b in branches]
            best = options[0] if depth < _DEEPEST else min(options, key=_weight)
            rest = {k: v for k, v in schema.items() if k != key}
            return _flat({**rest, **best}, root, depth)
    parts = schema.get("allOf")
    if not isinstance(parts, Sequence):
        return schema
    merged: dict[str, object] = {k: v for k, v in schema.items() if k != "allOf"}
    for part in parts:
        _merge(merged, _flat(resolved(cast("JsonObject", part), root), root, depth))
    return merged


def _merge(into: dict[str, object], part: JsonObject) -> None:
    for key, value in part.items():
        held = into.get(key)
        if key == "properties" and isinstance(held, Mapping) and isinstance(value, Mapping):
            into[key] = {**held, **value}
        elif key == "required" and isinstance(held, list) and isinstance(value, list):
            into[key] = [*held, *value]
        else:
            into[key] = value


def _weight(schema: JsonObject) -> int:
    """How deep a branch may lead: plain values before lists before objects."""
    kind = schema.get("type")
    return {"object": 2, "array": 1}.get(kind, 0) if isinstance(kind, str) else 2


def _kind(schema: JsonObject, depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if isinstance(kind, Sequence) and kind:
        kinds = [str(option) for option in kind]
        return "null" if depth >= _DEEPEST and "null" in kinds else kinds[0]
    for key, implied in (("properties", "object"), ("items", "array"), ("minimum", "number")):
        if key in schema:
            return implied
    return "object" if depth == 0 else "string"


def _object(schema: JsonObject, root: JsonObject, seed: bytes, depth: int) -> object:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        properties = {}
    required = schema.get("required")
    needed = list(required) if isinstance(required, Sequence) else []
    names = [str(n) for n in properties if depth < _DEEPEST or n in needed]
    names += [str(n) for n in needed if n not in properties]
    made: dict[str, object] = {
        name: _value(properties.get(name, {"type": "string"}), root, _child(seed, name), depth + 1)
        for name in names
        # A required member of an endless schema cannot be had: give up rather than recurse.
        if depth < 2 * _DEEPEST
    }
    if not made and depth == 0 and "properties" not in schema:
        made["answer"] = _string({}, seed)
    return made


def _array(schema: JsonObject, root: JsonObject, seed: bytes, depth: int) -> object:
    least = _bound(schema, "minItems", 0)
    most = _bound(schema, "maxItems", max(2, least))
    wanted = least if depth >= _DEEPEST else min(max(least, 1 + _pick(seed, 2)), most)
    heads = schema.get("prefixItems")
    fixed = list(heads) if isinstance(heads, Sequence) else []
    items = schema.get("items", {"type": "string"})
    return [
        _value(fixed[i] if i < len(fixed) else items, root, _child(seed, str(i)), depth + 1)
        for i in range(max(wanted, len(fixed)))
    ]


def _number(schema: JsonObject, seed: bytes, *, whole: bool) -> object:
    low, high = schema.get("minimum"), schema.get("maximum")
    step = schema.get("multipleOf")
    least = float(low) if isinstance(low, int | float) else None
    most = float(high) if isinstance(high, int | float) else None
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    gap = float(step) if isinstance(step, int | float) else (1.0 if whole else 0.5)
    if isinstance(over, int | float):
        least = (floor(over / gap) + 1) * gap if whole else over + _gap(over, most, under, gap)
    if isinstance(under, int | float):
        most = (ceil(under / gap) - 1) * gap if whole else max(under - gap, least or under - gap)
    value = gap * _pick(seed, 1_000)
    if least is not None:
        value = ceil(least / gap) * gap + gap * _pick(seed, 10)
    if most is not None and value > most:
        value = floor(most / gap) * gap
        value = least if least is not None and value < least else value
    return int(value) if whole else value


def _gap(over: float, most: float | None, under: object, gap: float) -> float:
    """A step above an exclusive minimum that stays below the maximum, however close."""
    ceiling = under if isinstance(under, int | float) else most
    return gap if ceiling is None else min(gap, (ceiling - over) / 2)


def _string(schema: JsonObject, seed: bytes) -> str:
    form = schema.get("format")
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form]
    least = _bound(schema, "minLength", 0)
    text = f"{_WORDS[_pick(seed, len(_WORDS))]} {seed[:2].hex()}"
    while len(text) < least:
        text += " " + _WORDS[len(text) % len(_WORDS)]
    most = schema.get("maxLength")
    return text[:most] if isinstance(most, int) else text


def _bound(schema: JsonObject, name: str, default: int) -> int:
    value = schema.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _child(seed: bytes, name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogatepass"), key=seed[:64], digest_size=16).digest()


def _pick(seed: bytes, options: int) -> int:
    return int.from_bytes(blake2b(seed, digest_size=4).digest(), "big") % options
