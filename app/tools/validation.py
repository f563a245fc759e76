"""Whether a call's arguments fit its tool's JSON Schema: in bounded time, without asking anybody.

The arguments are a model's, and who talks to the model has a say in them; the schema may be a foreign
server's. So patterns are matched by RE2, in time linear in the text; what RE2 cannot do (look-around,
back-references) goes to Python's engine where nothing in it repeats what repeats. ``uniqueItems`` is one
pass, references lead nowhere outside the schema, and what nests too deeply to be judged is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from re import _constants as signs  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import cast

import jsonschema
import msgspec
from jsonschema import validators
from jsonschema.exceptions import UndefinedTypeCheck, UnknownType, ValidationError, best_match
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from app.domain.chat import Json
from app.errors import ToolError
from app.tools.fast_schema_check import fast_check_for

_LONGEST_REASON_CHARS = 300
_LONGEST_BACKTRACKED_CHARS = 10_000
"""Without nested repeats an engine that backtracks takes a power of the length: longer texts do not fit."""
_SHOWN_CHARS = 80
_DATA = frozenset({"enum", "const", "default", "examples"})
"""Keywords whose values are no schemas."""
_REPEATS = {signs.MAX_REPEAT, signs.MIN_REPEAT}
_Validator = jsonschema.Draft202012Validator
Searches = Callable[[str], bool]


class SchemaFault(ValueError):
    """What is declared is no JSON Schema that arguments can be judged by."""


class ArgumentValidator:
    """A schema, ready to judge."""

    __slots__ = ("_fits", "_validator")

    def __init__(self, schema: Json) -> None:
        """Raises ``SchemaFault``."""
        whole: dict[str, object] = {**schema} if schema else {"type": "object"}
        draft = cast("type[_Validator]", validators.validator_for(whole, default=_Validator))
        _validate_schema(draft, whole)
        self._fits = fast_check_for(schema)
        self._validator = _bounded(draft)(whole, registry=REGISTRY)

    def check(self, arguments: Json) -> None:
        """Raise ``ToolError`` saying what is wrong, in words that a model can act on."""
        if self._fits is not None and self._fits(arguments):
            return
        try:
            if self._validator.is_valid(arguments):
                return
            error = best_match(self._validator.iter_errors(arguments))
        except RecursionError as exc:
            message = "the arguments, or the tool's schema, nest too deeply"
            raise ToolError(message, code="tool_arguments") from exc
        except Unresolvable as exc:
            message = "cannot be called: its schema refers to what is not in it"
            raise ToolError(message, code="tool_schema") from exc
        except OverflowError as exc:
            raise ToolError(
                "the arguments hold a number out of range", code="tool_arguments"
            ) from exc
        where = "/".join(str(step) for step in error.absolute_path) if error else ""
        what = error.message[:_LONGEST_REASON_CHARS] if error else "they do not fit the schema"
        place = f" at {where}" if where else ""
        raise ToolError(f"the arguments do not fit{place}: {what}", code="tool_arguments")


def _validate_schema(draft: type[_Validator], schema: dict[str, object]) -> None:
    try:
        draft.check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise SchemaFault(f"is not JSON Schema: {exc.message[:_LONGEST_REASON_CHARS]}") from exc
    except (RecursionError, UnknownType, UndefinedTypeCheck, TypeError, AttributeError) as exc:
        raise SchemaFault("is not JSON Schema") from exc
    try:
        for pattern, backtracks in _patterns(schema):
            _backtracking(pattern) if backtracks else searching(pattern)
    except RecursionError as exc:
        raise SchemaFault("nests too deeply") from exc


def _patterns(schema: object, *, backtracks: bool = False) -> Iterator[tuple[str, bool]]:
    """Every pattern that may be asked for, wherever it stands, and whether the library matches it itself."""
    if isinstance(schema, Mapping):
        backtracks = backtracks or "unevaluatedProperties" in schema
        for name, inner in schema.items():
            if name == "pattern" and isinstance(inner, str):
                yield inner, False
            elif name == "patternProperties" and isinstance(inner, Mapping):
                yield from ((each, backtracks) for each in inner)
            if name not in _DATA:
                yield from _patterns(inner, backtracks=backtracks)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _patterns(inner, backtracks=backtracks)


@lru_cache(maxsize=1024)
def searching(pattern: str) -> Searches:
    """Whether ``pattern`` is found in a text; raises ``SchemaFault`` where that could take for ever."""
    import re2  # a native library that few configurations need

    options = re2.Options()
    options.log_errors = False
    try:
        linear = re2.compile(pattern, options)
    except (re2.error, UnicodeError):
        return _backtracking(pattern)
    return lambda text: linear.search(text) is not None


def _backtracking(pattern: str) -> Searches:
    shown = pattern[:_SHOWN_CHARS]
    try:
        tree = parser.parse(pattern)
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as exc:
        raise SchemaFault(f"has the pattern {shown!r}, which is no regular expression") from exc
    if _repeats_what_repeats(tree, inside=False):
        message = (
            f"has the pattern {shown!r}, which has look-around or a back-reference and repeats what"
            " repeats: matching it could take for ever"
        )
        raise SchemaFault(message)
    return lambda text: (
        len(text) <= _LONGEST_BACKTRACKED_CHARS and compiled.search(text) is not None
    )


def _repeats_what_repeats(tree: Iterable[object], *, inside: bool) -> bool:
    """Whether a repetition, or a choice within one, stands within a repetition."""
    for node in tree:
        within = inside
        if isinstance(node, tuple) and node and node[0] in _REPEATS and node[1][1] > 1:
            if inside:
                return True
            within = True
        elif isinstance(node, tuple) and node and node[0] is signs.BRANCH and inside:
            return True
        nests = isinstance(node, tuple | list | parser.SubPattern)
        if nests and _repeats_what_repeats(cast("Iterable[object]", node), inside=within):
            return True
    return False


def _pattern(_: object, wanted: str, value: object, __: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and not searching(wanted)(value):
        yield ValidationError(f"{value!r} does not match {wanted!r}")


def _pattern_properties(
    validator: _Validator, wanted: Mapping[str, Mapping[str, object]], value: object, _: object
) -> Iterator[ValidationError]:
    if not isinstance(value, Mapping):
        return
    for pattern, inner in wanted.items():
        found = searching(pattern)
        for name, each in value.items():
            if found(name):
                yield from validator.descend(each, inner, path=name, schema_path=pattern)


def _additional(
    validator: _Validator, wanted: object, value: object, schema: Mapping[str, object]
) -> Iterator[ValidationError]:
    if not isinstance(value, Mapping):
        return
    named, patterned = schema.get("properties", {}), schema.get("patternProperties", {})
    known = named if isinstance(named, Mapping) else {}
    patterns = [searching(each) for each in patterned] if isinstance(patterned, Mapping) else []
    extras = [
        name for name in value if name not in known and not any(found(name) for found in patterns)
    ]
    if isinstance(wanted, Mapping):
        for name in extras:
            yield from validator.descend(value[name], wanted, path=name)
    elif wanted is False and extras:
        names = ", ".join(repr(name) for name in extras[:5])
        yield ValidationError(f"there is no argument {names}")


def _unique(_: object, wanted: object, value: object, __: object) -> Iterator[ValidationError]:
    if wanted is not True or not isinstance(value, list):
        return
    seen: set[bytes] = set()
    for item in value:
        key = msgspec.json.encode(_plain(item), order="deterministic")
        if key in seen:
            yield ValidationError("the items are not unique")
            return
        seen.add(key)


def _plain(value: object) -> object:
    """A value in the one form that equal values have: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value)) if abs(value) >= 1 << 63 else int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 63:
        return str(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value


@lru_cache(maxsize=16)
def _bounded(draft: type[_Validator]) -> type[_Validator]:
    """A draft's validator with those keywords in our way."""
    keywords = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional,
        "uniqueItems": _unique,
    }
    extended = validators.extend(draft, keywords)  # type: ignore[no-untyped-call]
    return cast("type[_Validator]", extended)
