"""The only reader of configuration files and of the environment.

`load` turns a file (or nothing) and an environment into one frozen `Settings`, or raises
`SettingsError` with everything that is wrong. The order is: parse and expand (`settings_text`), lay
the environment's `SLIPSTREAM_...` values over it, check shapes (`settings_schema`), check
references (`settings_checks`). All steps run even if one finds problems, so the operator mends a
file once.
"""

from __future__ import annotations

import os
from pathlib import Path as FilePath
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from app.settings_agents import (
    AgentSettings,
    HttpToolSettings,
    McpServerSettings,
    McpToolSettings,
    ToolEffects,
    ToolSettings,
)
from app.settings_checks import cross_check, models_named
from app.settings_default import embedded, vendors
from app.settings_docs import said_of
from app.settings_lanes import LaneRule, LaneSettings, LaneTest, Skeleton
from app.settings_problems import (
    Path,
    Problem,
    SettingsError,
    did_you_mean,
    dotted,
    is_secret,
    without_userinfo,
)
from app.settings_routing import (
    AnswerCheckSettings,
    RoutingSettings,
    TriggerSettings,
)
from app.settings_schema import (
    AbilitySettings,
    AuthSettings,
    CacheSettings,
    ExactCacheSettings,
    KeySettings,
    LimitSettings,
    ModelSettings,
    PriceSettings,
    ProviderSettings,
    SdkSettings,
    SemanticCacheSettings,
    ServerSettings,
    Settings,
    SimulatorSettings,
    StateSettings,
    TelemetrySettings,
)
from app.settings_text import Source, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

__all__ = [
    "AbilitySettings",
    "AgentSettings",
    "AnswerCheckSettings",
    "AuthSettings",
    "CacheSettings",
    "ExactCacheSettings",
    "HttpToolSettings",
    "KeySettings",
    "LaneRule",
    "LaneSettings",
    "LaneTest",
    "LimitSettings",
    "McpServerSettings",
    "McpToolSettings",
    "ModelSettings",
    "PriceSettings",
    "Problem",
    "ProviderSettings",
    "RoutingSettings",
    "SdkSettings",
    "SemanticCacheSettings",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "SimulatorSettings",
    "Skeleton",
    "StateSettings",
    "TelemetrySettings",
    "ToolEffects",
    "ToolSettings",
    "TriggerSettings",
    "describe",
    "load",
    "loads",
]

PREFIX = "SLIPSTREAM_"
"""`SLIPSTREAM_SERVER__PORT=9000` overrides `server.port`: two underscores go one level down."""

_BUILT_IN = "(built in)"
_EMPTY_IS_ABSENT = (
    ("state", "redis_url"),
    ("state", "qdrant_url"),
    ("state", "qdrant_api_key"),
    ("telemetry", "otlp_endpoint"),
)


def load(
    path: str | FilePath | None = None,
    env: Mapping[str, str] | None = None,
    changes: Mapping[str, str] | None = None,
) -> Settings:
    """Read the configuration at `path`, or the embedded default where it is None.

    `env` is the environment that variables are taken from; None: this process's own. `changes` are laid
    over both, by dotted key (`routing.fast_share`), as variables `SLIPSTREAM_SECTION__KEY` are.
    Raises SettingsError with every problem of the file at once, also where it cannot be read.
    """
    env = os.environ if env is None else env
    if changes:
        env = {**env, **{_variable(key): value for key, value in changes.items()}}
    if path is None:
        return _settled(Source(_BUILT_IN, values=embedded(env)), env)
    file = FilePath(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        if isinstance(exc, OSError):
            reason, fix = exc.strerror, "Check the path and its permissions."
        else:
            reason, fix = "it is not UTF-8 text", "Save it as UTF-8."
        problem = Problem(str(path), None, "", None, f"cannot be read: {reason}", fix)
        raise SettingsError([problem]) from exc
    source = parse(text, str(path), env)
    if (
        source.problems and not source.values
    ):  # not YAML, or not a mapping: there is nothing to check
        raise SettingsError(source.problems)
    if not (source.values.get("providers") or source.values.get("models")):
        source.values.update(vendors(env))
    return _settled(source, env, to_serve=True)


def _variable(key: str) -> str:
    return PREFIX + key.upper().replace(".", "__")


def loads(text: str, file: str, env: Mapping[str, str]) -> Settings:
    """Read the configuration in `text`; problems call it `file`. Raises SettingsError."""
    return _settled(parse(text, file, env), env)


def settle_for_libraries() -> None:
    """Say in the environment what libraries read there when they are loaded, here and in processes that we
    begin, where the operator has said nothing.

    numpy's products are small here, and threads that spin for their share of one take the CPUs of the
    requests, and take longer where these are busy.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def describe(settings: Settings) -> str:
    """Write the settings that differ from their defaults as YAML, every secret blanked."""
    values = settings.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(_redacted(values, ()), sort_keys=False, allow_unicode=True, width=100)


def _redacted(value: object, path: Path) -> object:
    if isinstance(value, dict):
        return {key: _redacted(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, (*path, index)) for index, item in enumerate(value)]
    if isinstance(value, str):
        return "***" if is_secret(path) and value else without_userinfo(value)
    return value


def _settled(source: Source, env: Mapping[str, str], *, to_serve: bool = False) -> Settings:
    """Turn parsed values into Settings, or raise with all that is wrong in them.

    `to_serve`: it is somebody's whole configuration, which has to name a model.
    """
    overrides = _environment(env)
    for override in overrides:
        _overlay(source.values, override.values)
    _drop_empty(source.values)
    told = {problem.path for problem in source.problems}
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(source.values)
    except ValidationError as exc:
        for error in exc.errors(include_url=False):
            path = _path(error["loc"])
            if dotted(path) not in told:
                _explain(_owner(path, source, overrides), path, error)
    problems = [problem for each in (source, *overrides) for problem in each.problems]
    told = {problem.path for problem in problems}
    checked = Source(source.file, source.values, source.lines, source.raw)
    cross_check(checked)
    if to_serve:
        models_named(checked)
    problems += [problem for problem in checked.problems if problem.path not in told]
    if problems or settings is None:
        raise SettingsError(sorted(problems, key=lambda problem: (problem.file, problem.line or 0)))
    return settings


def _environment(env: Mapping[str, str]) -> list[Source]:
    """The values that `SLIPSTREAM_SECTION__KEY` variables give, each a source of its own."""
    found: list[Source] = []
    for name in sorted(env):
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        path = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
        value = _override(env[name])
        for part in reversed(path):
            value = {part: value}
        if isinstance(value, dict):
            found.append(Source(f"${name}", values=value, raw={path: env[name]}))
    return found


def _override(text: str) -> object:
    """A variable's value as YAML, so that lists and numbers can be given; else the text itself."""
    try:
        value: object = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if value is None else value


def _overlay(values: dict[str, object], over: dict[str, object]) -> None:
    for key, value in over.items():
        inner = values.get(key)
        if isinstance(value, dict) and isinstance(inner, dict):
            _overlay(inner, value)
        else:
            values[key] = value


def _drop_empty(values: dict[str, object]) -> None:
    """Take a section whose keys are all commented out, and an empty address, as absent."""
    for section in [name for name, value in values.items() if value is None]:
        del values[section]
    for section, key in _EMPTY_IS_ABSENT:
        inner = values.get(section)
        if isinstance(inner, dict) and inner.get(key) == "":
            del inner[key]


def _owner(path: Path, source: Source, overrides: list[Source]) -> Source:
    """The source that a problem at `path` is told of: a variable's if the value is its own."""
    for override in overrides:
        (own,) = override.raw
        if path[: len(own)] == own or (own[: len(path)] == path and path not in source.lines):
            return override
    return source


def _path(loc: tuple[int | str, ...]) -> Path:
    return tuple(part for part in loc if part != "[key]")


def _explain(source: Source, path: Path, error: ErrorDetails) -> None:
    """Translate one finding of pydantic into words for the operator."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        known = _keys(_annotation(path[:-1]))
        source.report(path, "is not a known key", did_you_mean(str(path[-1]), known))
    elif kind == "missing":
        source.report(path, "is missing", f"Add it: {_doc(path)}")
    elif kind in {"literal_error", "enum"}:
        expected = str(context["expected"]).replace(" or ", ", ")
        words = [word.strip("'") for word in expected.split(", ")]
        source.report(
            path, f"is not one of {', '.join(words)}", did_you_mean(str(value), words), value
        )
    elif kind in {"model_type", "model_attributes_type"}:
        keys = ", ".join(sorted(_keys(_annotation(path)))) or "its keys"
        source.report(path, "is not a mapping", f"Write its keys below it: {keys}.", value)
    else:
        text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
        text = text.replace("tuple", "list").replace("dictionary", "mapping")
        message = (
            text if text.startswith("should") else f"is not valid: {text[0].lower()}{text[1:]}"
        )
        source.report(path, message, _doc(path), value)


def _doc(path: Path) -> str:
    """What the schema says of the key at `path`."""
    parent = _annotation(path[:-1])
    while path and (isinstance(path[-1], int) or parent is None):
        path = path[:-1]
        parent = _annotation(path[:-1])
    model = _model(parent)
    return said_of(model).get(str(path[-1]), "") if model is not None and path else ""


def _keys(annotation: object) -> set[str]:
    model = _model(annotation)
    return set() if model is None else set(model.model_fields)


def _model(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation names, through `X | None`."""
    if get_origin(annotation) in {Union, UnionType}:
        found = [_model(part) for part in get_args(annotation)]
        return next((model for model in found if model is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def _annotation(path: Path) -> object:
    """The type that the schema has at `path`; None where it has none."""
    found: object = Settings
    for part in path:
        model = _model(found)
        if model is not None:
            field = model.model_fields.get(str(part))
            found = None if field is None else field.annotation
        elif get_origin(found) is dict:
            found = get_args(found)[1]
        elif get_origin(found) is tuple:
            found = get_args(found)[0]
        else:
            return None
    return found
