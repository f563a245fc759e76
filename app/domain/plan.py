"""A plan of work as data: nodes, and references between them that make the edges.

A node's arguments are a JSON tree in which ``{{id}}`` stands for the whole result of node ``id`` and
``{{id.path.0.to}}`` for a part of it. A string that is one reference takes the value with its type;
inside a longer string the value is written as text. Nobody states an edge twice: what an argument
refers to is what it waits for (``after`` adds an order that no value carries).

A whole plan is checked before anything runs: every name once, every reference to a node of the
plan, no circle. A streamed plan (a model writes it line by line) needs no search for circles: each
node may only refer to earlier ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from app.errors import BadRequest

_REFERENCE = re.compile(r"\{\{\s*([A-Za-z_][\w-]*|\d+)((?:\.[\w-]+)*)\s*\}\}")
ITEM = "item"
"""The name under which a ``map`` node's work sees its element: ``{{item}}``."""
INPUT = "input"
"""The name under which every node sees what the user asked: ``{{input}}``."""


class PlanError(BadRequest):
    """A plan that cannot be run: a name twice, a reference to nothing, a circle. Nothing of it has run."""

    code = "invalid_plan"


class NodeKind(StrEnum):
    """What a node does."""

    TOOL = "tool"
    MODEL = "model"
    TEMPLATE = "template"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Node:
    """One piece of work. ``needs`` are the ids of the nodes whose results it takes or waits for."""

    id: str
    needs: tuple[str, ...] = ()
    kind: NodeKind = NodeKind.TOOL
    name: str = ""
    """The tool's or the model's name; a map node's: of the tool it applies to each element."""
    arguments: object = None
    """A JSON tree with references; a template node's is its text, a map node's holds ``over`` and
    ``arguments``.
    """
    deadline_s: float | None = None
    """Seconds from its start after which it counts as timed out; None = no limit of its own."""
    tolerant: bool = False
    """It also runs when some of what it needs has failed; the failed parts are then absent from its
    inputs.
    """


class Ending(StrEnum):
    """How a node ended."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """It never started, for something it needs did not end well."""


class Outcome(NamedTuple):
    """Outcome of one node. Times in seconds of the runner's clock; a skipped node has none.

    A tuple, for one is made for every node of every plan: a frozen dataclass costs a microsecond more.
    """

    id: str
    ending: Ending
    value: object = None
    error: BaseException | None = None
    because: str = ""
    """For a skipped node: the id of what it needed and did not get."""
    ready_s: float = 0.0
    """When its last input was there."""
    started_s: float = 0.0
    ended_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Say whether there is a value."""
        return self.ending is Ending.DONE


def node(
    node_id: str,
    kind: NodeKind = NodeKind.TOOL,
    name: str = "",
    arguments: object = None,
    *,
    after: Sequence[str] = (),
    deadline_s: float | None = None,
    tolerant: bool = False,
) -> Node:
    """A node whose needs are read from its arguments' references and ``after``."""
    own = {INPUT, ITEM} if kind is NodeKind.MAP else {INPUT}
    found = [name for name in references(arguments) if name not in own]
    needs = tuple(dict.fromkeys([*found, *after]))
    return Node(node_id, needs, kind, name, arguments, deadline_s, tolerant)


def references(tree: object) -> tuple[str, ...]:
    """The ids that a JSON tree refers to, in order, each once."""
    found: dict[str, None] = {}
    _collect(tree, found)
    return tuple(found)


def _collect(tree: object, found: dict[str, None]) -> None:
    if isinstance(tree, str):
        for match in _REFERENCE.finditer(tree):
            found[match[1]] = None
    elif isinstance(tree, Mapping):
        for value in tree.values():
            _collect(value, found)
    elif isinstance(tree, list | tuple):
        for value in tree:
            _collect(value, found)


def filled(tree: object, results: Mapping[str, object]) -> object:
    """``tree`` with every reference replaced; one whose node or path has no value becomes None
    (text: empty).
    """
    if isinstance(tree, str):
        whole = _REFERENCE.fullmatch(tree)
        if whole is not None:
            return _value(whole, results)
        return _REFERENCE.sub(lambda match: _text(_value(match, results)), tree)
    if isinstance(tree, Mapping):
        return {key: filled(value, results) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [filled(value, results) for value in tree]
    return tree


def _value(match: re.Match[str], results: Mapping[str, object]) -> object:
    value = results.get(match[1])
    for step in match[2].split(".")[1:]:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list | tuple) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def validated(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """The nodes in an order in which each comes after what it needs; raises ``PlanError`` for the
    whole plan.
    """
    by_id: dict[str, Node] = {}
    for each in nodes:
        if each.id in by_id:
            raise PlanError(f"the plan names {each.id!r} twice: give each node its own id")
        by_id[each.id] = each
    waiting: dict[str, int] = {}
    dependents: dict[str, list[str]] = {}
    for each in by_id.values():
        needs = set(each.needs)
        unknown = sorted(needs - by_id.keys())
        if unknown:
            known = ", ".join(sorted(by_id)[:12])
            raise PlanError(
                f"node {each.id!r} refers to {unknown[0]!r}, which the plan does not hold: it holds {known}"
            )
        waiting[each.id] = len(needs)
        for needed in needs:
            dependents.setdefault(needed, []).append(each.id)
    order = [node_id for node_id, count in waiting.items() if count == 0]
    for node_id in order:
        for dependent in dependents.get(node_id, ()):
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                order.append(dependent)
    if len(order) < len(by_id):
        stuck = {node_id for node_id, count in waiting.items() if count > 0}
        raise PlanError(f"the plan goes in a circle: {' -> '.join(_circle(stuck, by_id))}")
    return tuple(by_id[node_id] for node_id in order)


def _circle(stuck: set[str], by_id: Mapping[str, Node]) -> list[str]:
    """One circle among nodes that all wait for each other, closed by naming its first node again."""
    path: list[str] = []
    at = min(stuck)
    while at not in path:
        path.append(at)
        at = next(needed for needed in by_id[at].needs if needed in stuck)
    return [*path[path.index(at) :], at]


def critical_path_s(nodes: Iterable[Node], cost_s: Mapping[str, float]) -> float:
    """Seconds of the longest chain of nodes, each costing ``cost_s``: no schedule can be faster."""
    ends: dict[str, float] = {}
    for each in validated(nodes):
        begin = max((ends[needed] for needed in each.needs), default=0.0)
        ends[each.id] = begin + cost_s[each.id]
    return max(ends.values(), default=0.0)
