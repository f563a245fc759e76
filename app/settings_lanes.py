"""The shape of `lanes`: answers of exact grammar, and answers that stand ready but for a few words."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.settings_types import Name, Section


class LaneTest(Section):
    """An example that `slipstream check` runs against its rule."""

    input: str
    """What the user says."""
    output: str | None = None
    """What the lane answers; null: the rule must not match."""


class LaneRule(Section):
    """One deterministic answer."""

    name: Name
    """Names the rule in traces and metrics."""
    pattern: Annotated[str, Field(min_length=1)]
    """RE2 expression (linear time, no look-around) that must match the whole last user message,
    ignoring outer white space.
    """
    template: str
    """The answer; `{name}` stands for a named group of the pattern, `{{` for a brace."""
    ignore_case: bool = True
    """Whether capital and small letters are the same to the pattern."""
    tests: Annotated[tuple[LaneTest, ...], Field(min_length=1)]
    """Examples, run at start: a rule without any, or that fails one, is a configuration error."""


class SkeletonSlot(Section):
    """A gap in a skeleton that the fast model fills."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$", max_length=64)]
    """What the template calls it: `{name}`."""
    hint: Annotated[str, Field(min_length=1, max_length=500)]
    """What the model is to put there."""
    max_chars: Annotated[int, Field(ge=1, le=2_000)] = 200
    """A longer value is not taken: the request is then answered as any other."""


class SkeletonTest(Section):
    """An example that `slipstream check` runs against its skeleton."""

    input: str
    """What the user says."""
    values: dict[str, str] = Field(default_factory=dict)
    """What the model says for each slot."""
    output: str | None = None
    """The answer that comes of it; null: the skeleton must not match."""


class Skeleton(Section):
    """An answer that stands ready but for a few words."""

    name: Name
    """Names the skeleton in reasons and traces."""
    pattern: Annotated[str, Field(min_length=1)]
    """As that of a lane rule: RE2, and the whole last user message."""
    template: str
    """The answer; `{name}` stands for a named group of the pattern, or for a slot."""
    slots: Annotated[tuple[SkeletonSlot, ...], Field(max_length=20)] = ()
    """Filled all together by one short call of the fast tier; without any, no model is asked."""
    ignore_case: bool = True
    """Whether capital and small letters are the same to the pattern."""
    tests: Annotated[tuple[SkeletonTest, ...], Field(min_length=1)]
    """Examples, run at start."""


class LaneSettings(Section):
    """Answers without a model."""

    enabled: bool = True
    """Whether the rules are tried."""
    built_in: bool = True
    """Whether the rules that come with the gateway are tried: arithmetic, units, dates, greetings.
    """
    rules: tuple[LaneRule, ...] = ()
    """Tried in order, before the built-in ones; the first that matches answers."""
    skeletons: tuple[Skeleton, ...] = ()
    """Tried in order where no rule matches."""
