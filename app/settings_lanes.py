"""The schema of `lanes`: rules that answer without a model, and skeletons with a few words to fill in."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.settings_types import Name, Section


class LaneTest(Section):
    """An example that `slipstream check` runs against its rule."""

    input: str
    """The user's message."""
    output: str | None = None
    """The answer; null: the rule must not match."""


class LaneRule(Section):
    """One deterministic answer."""

    name: Name
    """Name of the rule in traces and metrics."""
    pattern: Annotated[str, Field(min_length=1)]
    """RE2 expression (linear time, no look-around) that must match the whole last user message, without
    leading and trailing white space.
    """
    template: str
    """The answer; `{name}` is replaced by a named group of the pattern, `{{` is a brace."""
    ignore_case: bool = True
    """Match case-insensitively."""
    tests: Annotated[tuple[LaneTest, ...], Field(min_length=1)]
    """Examples, run at start; a rule without one, or that fails one, is a configuration error."""


class SkeletonSlot(Section):
    """A gap in a skeleton that the fast model fills."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", max_length=64)]
    """Its name in the template: `{name}`."""
    hint: Annotated[str, Field(min_length=1, max_length=500)]
    """What the model should fill in."""
    max_chars: Annotated[int, Field(ge=1, le=2_000)] = 200
    """Longest value in characters; with a longer one the request is answered as any other."""


class SkeletonTest(Section):
    """An example that `slipstream check` runs against its skeleton."""

    input: str
    """The user's message."""
    values: dict[str, str] = Field(default_factory=dict)
    """The model's value of each slot."""
    output: str | None = None
    """The resulting answer; null: the skeleton must not match."""


class Skeleton(Section):
    """A prepared answer with a few slots that a model fills."""

    name: Name
    """Name of the skeleton in reasons and traces."""
    pattern: Annotated[str, Field(min_length=1)]
    """RE2 expression, as in a lane rule: must match the whole last user message."""
    template: str
    """The answer; `{name}` is replaced by a named group of the pattern or by a slot."""
    slots: Annotated[tuple[SkeletonSlot, ...], Field(max_length=20)] = ()
    """Filled by one short call of the fast tier; without slots no model is called."""
    ignore_case: bool = True
    """Match case-insensitively."""
    tests: Annotated[tuple[SkeletonTest, ...], Field(min_length=1)]
    """Examples, run at start."""


class LaneSettings(Section):
    """Answers without a model."""

    enabled: bool = True
    """Try the lanes."""
    built_in: bool = True
    """Try the built-in rules: arithmetic, units, dates, greetings.
    """
    rules: tuple[LaneRule, ...] = ()
    """Tried in order before the built-in ones; the first match answers."""
    skeletons: tuple[Skeleton, ...] = ()
    """Tried in order if no rule matches."""
