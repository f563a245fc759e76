"""The examples of the operator's lane rules and skeletons, run before a gateway starts.

`settings` may not import `lanes`, and `lanes` knows no configuration file; here the two meet, so
that `slipstream check` tells of a rule that fails its own examples as of any other configuration
error.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from app.lanes.rules import Case, LaneRuleError, Lanes, operator_rule
from app.lanes.templates import Skeleton, SkeletonCase, Skeletons, Slot
from app.settings import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.lanes.rules import Rule
    from app.settings import LaneRule, LaneSettings
    from app.settings import Skeleton as SkeletonSettings


def rule_of(configured: LaneRule) -> Rule:
    """Build a lane rule from its settings. Raises LaneRuleError."""
    cases = [Case(test.input, test.output) for test in configured.tests]
    return operator_rule(
        configured.name,
        configured.pattern,
        configured.template,
        cases,
        ignore_case=configured.ignore_case,
    )


def skeleton_of(configured: SkeletonSettings) -> Skeleton:
    """Build a skeleton from its settings."""
    return Skeleton(
        configured.name,
        configured.pattern,
        configured.template,
        tuple(Slot(slot.name, slot.hint, slot.max_chars) for slot in configured.slots),
        tuple(
            SkeletonCase(test.input, test.output, tuple(test.values.items()))
            for test in configured.tests
        ),
        configured.ignore_case,
    )


def failures(lanes: LaneSettings, file: str) -> list[Problem]:
    """Run the examples of each rule and skeleton against it alone; a problem for each that fails."""
    found: list[Problem] = []
    for index, rule in enumerate(lanes.rules):
        found += _failure(partial(_alone, rule), f"lanes.rules[{index}]", file)
    for index, skeleton in enumerate(lanes.skeletons):
        found += _failure(partial(_skeleton_alone, skeleton), f"lanes.skeletons[{index}]", file)
    return found


def _alone(rule: LaneRule) -> None:
    Lanes((rule_of(rule),))


def _skeleton_alone(skeleton: SkeletonSettings) -> None:
    Skeletons((skeleton_of(skeleton),))


def _failure(load: Callable[[], None], path: str, file: str) -> list[Problem]:
    try:
        load()
    except LaneRuleError as exc:
        return [Problem(file, None, path, None, str(exc).removeprefix("lanes: "), "")]
    return []
