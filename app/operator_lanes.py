"""The examples of the operator's lane rules, run before a gateway starts.

`settings` may not import `lanes`, and `lanes` knows no configuration file; here the two meet, so
that `slipstream check` tells of a rule that fails its own examples as of any other configuration
error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.lanes.rules import Case, LaneRuleError, Lanes, operator_rule
from app.settings import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.lanes.rules import Rule
    from app.settings import LaneRule


def rule_of(configured: LaneRule) -> Rule:
    """Make the lane's rule of a configured one. Raises LaneRuleError."""
    cases = [Case(test.input, test.output) for test in configured.tests]
    return operator_rule(
        configured.name,
        configured.pattern,
        configured.template,
        cases,
        ignore_case=configured.ignore_case,
    )


def failures(rules: Sequence[LaneRule], file: str) -> list[Problem]:
    """Run each rule's examples against it alone; say which rules fail theirs."""
    found: list[Problem] = []
    for index, configured in enumerate(rules):
        try:
            Lanes((rule_of(configured),))
        except LaneRuleError as exc:
            message = str(exc).removeprefix("lanes: ")
            path = f"lanes.rules[{index}]"
            found.append(Problem(file, None, path, None, message, ""))
    return found
