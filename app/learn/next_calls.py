"""Which tool calls come next in a conversation, learned from one agent's own: the words of the user
and the calls so far say which tool, ``app.learn.copying`` says with which arguments.

Plan. *Which tool*: ridge regression in its dual form on hashed words, pairs of words and the calls so
far, one output a tool; the target is whether the tool is called before anything is changed or the
turn is over, learned where such a stretch of calls begins. Each tool's own name and description
count as one example of its use, so that the first conversations are not blind. *How likely*:
logistic regression over a handful of figures (that score, how sure the arguments are, what was
called before this tool), learned on every prediction that was judged, made or not: its output is the
probability that speculation needs, and it is calibrated on live traffic before money is risked.
*How many*: of what was lately predicted, the least probability for which the expected waste stays
within a share of the calls.

Bounds: 1,024 decision points of 4,096 columns (8 MB) an agent; a refit compares only the new ones
with all, solves n x n, and comes after every sixteenth more, in a thread (``fitting``): its CPU
time (up to 0.3 s) would hold up every stream of the loop. Predicting takes 1 to 2 ms for 16 tools
(2026-11, a busy machine).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

import numpy as np

from app.domain.chat import Json
from app.domain.speculation import key_of
from app.learn.copying import Copying, Guess
from app.learn.said import Made, Places, Scene, places, words
from app.learn.weights import Figures, Weights, chance

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float32]"
Rows: TypeAlias = "NDArray[np.float16]"

_COLUMNS = 4096
_MOST_POINTS = 1024
_MOST_TOOLS = 256
_REFITS = 16
"""A refit takes in a sixteenth more than there was."""
_PENALTY = 0.1
_CALLS_WEIGH = 0.6
_RATE = 0.3
_LEAST_SCORE = 0.01
_LEAST_P = 0.02
_MOST_LIKELY = 8
"""Tools whose arguments are thought about: one that is less likely would not be started anyway."""
_MOST_JUDGED = 2000
_BEFORE = 0.5
"""What a guess must have before there is enough traffic to say what may be wasted."""
_ENOUGH_CALLS = 30
_FIT_AT_ONCE_POINTS = 64
"""So few take less than a millisecond; more are fitted in a thread."""


@dataclass(frozen=True, slots=True)
class Known:
    """A tool that may be started early: what its declaration says."""

    name: str
    description: str
    parameters: Json


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A call that may come, and what its probability was made from."""

    tool: str
    arguments: Json
    p: float
    figures: Figures

    @property
    def key(self) -> str:
        """Names the call: equal arguments in any order give one key."""
        return key_of(self.tool, self.arguments)


@dataclass(slots=True)
class Point:
    """A moment at which the model chose: what was at hand, and what was foreseen."""

    scene: Scene
    found: Places
    foreseen: list[Foreseen]


@dataclass(slots=True)
class NextCalls:
    """What was learned of one agent's conversations, for one tenant."""

    copying: Copying = field(default_factory=Copying)
    turns: int = 0
    """User turns that were learned from."""
    least_p: float = _BEFORE
    """What a guess must have for the expected waste to stay within its share."""
    _tools: dict[str, int] = field(default_factory=dict)
    _rows: Rows = field(default_factory=lambda: np.zeros((0, _COLUMNS), dtype=np.float16))
    _labels: list[frozenset[str]] = field(default_factory=list)
    _seen: dict[int, int] = field(default_factory=dict)
    _weights: Floats | None = None
    _alike: Floats | None = None
    """How alike the points are that the last fit saw, each with each."""
    _unfitted: int = 0
    _form: int = 0
    """Counts how often the tools' order, and with it what a column of the weights means, has changed."""
    _odds: Weights = field(default_factory=lambda: Weights(_RATE, _start))
    _judged: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MOST_JUDGED))
    """The probabilities of guesses, and -1 with a turn's calls."""

    def foresee(self, scene: Scene, tools: Sequence[Known]) -> Point:
        """What may be called next, most probable first, each call once."""
        for tool in tools:
            self._meet(tool)
        found, row = places(scene), self._row(scene, {tool.name for tool in tools})
        point = Point(scene, found, [])
        if self._weights is None and len(self._labels) <= _FIT_AT_ONCE_POINTS:
            self.fit()
        if self._weights is None:
            return point
        scores = row @ self._weights
        done = {key_of(each.tool, dict(each.arguments)) for each in scene.made}
        best: dict[str, Foreseen] = {}
        for place, (score, tool) in enumerate(self._likely(scores, tools)):
            guesses = self.copying.guesses(tool.name, tool.parameters, found, scene.said)
            for rank, guess in enumerate(guesses):
                made = key_of(tool.name, guess.arguments) in done
                figures = _figures(scene, tool.name, (score, place), guess, rank, made=made)
                p = chance(self._odds.total(figures))
                # The odds are quickly sure of a tool; a second choice of arguments is sure of less.
                p = min(p, guess.p) if rank else p
                each = Foreseen(tool.name, guess.arguments, p, figures)
                if p >= _LEAST_P and (each.key not in best or best[each.key].p < p):
                    best[each.key] = each
        point.foreseen = sorted(best.values(), key=lambda each: -each.p)
        return point

    def _likely(self, scores: Floats, tools: Sequence[Known]) -> list[tuple[float, Known]]:
        """The tools that may well be called, likeliest first, with their scores."""
        found = []
        for tool in tools:
            index = self._tools.get(tool.name)
            score = 0.0 if index is None or index >= len(scores) else float(scores[index])
            if score >= _LEAST_SCORE:
                found.append((score, tool))
        return sorted(found, key=lambda each: -each[0])[:_MOST_LIKELY]

    def learn(
        self,
        points: Sequence[tuple[Point, Sequence[Made]]],
        parameters: Mapping[str, Json],
        changes: Iterable[str],
        share: float,
    ) -> list[tuple[Foreseen, bool]]:
        """A user turn is over: each point with the calls that came after it, in order.

        ``parameters``: the schemas of the tools; ``changes``: which of them change something, so
        that nothing foreseen before them counts after them. ``share``: wasted calls allowed for each
        call. The guesses with whether each was right, the likeliest of those that are one draft.
        """
        changing = frozenset(changes)
        outcomes: dict[tuple[int, str], tuple[Foreseen, bool]] = {}
        for point, after in points:
            reach = _reach(after, changing)
            right = {key_of(each.tool, dict(each.arguments)) for each in after[:reach]}
            segment = len(after) - reach
            for each in point.foreseen:
                good = each.key in right
                error = chance(self._odds.total(each.figures)) - good
                self._odds.step({name: error * each.figures[name] for name in each.figures})
                known = outcomes.get((segment, each.key))
                if known is None or known[0].p < each.p or good > known[1]:
                    outcomes[segment, each.key] = (each, good or (known is not None and known[1]))
            made = point.scene.made
            # Between two changes hardly anything is read: a thousand points that say so say one thing.
            if not made or (made[-1].tool in changing and reach):
                row = self._row(point.scene, parameters.keys() - changing, learning=True)
                self._keep(row, frozenset(each.tool for each in after[:reach]))
        if points:
            self._learn_arguments(points, parameters)
            self.turns += 1
            self._judged.append((-1.0, len(points[0][1])))
        self._judged.extend((each.p, 0) for each, _ in outcomes.values())
        self._pace(share)
        if self.due and len(self._labels) <= _FIT_AT_ONCE_POINTS:
            self.fit()
        return list(outcomes.values())

    @property
    def due(self) -> bool:
        """Whether enough was learned since the last fit for another one."""
        missing = self._weights is None and bool(self._labels)
        return missing or self._unfitted >= max(1, len(self._labels) // _REFITS)

    def fit(self) -> None:
        """Take in what was learned, here and now; see ``fitting``."""
        work = self.fitting()
        self.adopt(work.form, work.solve())

    def fitting(self) -> Fitting:
        """The work of a fit, up to 50 ms of CPU, to be done in a thread beside this object's use; then
        ``adopt`` what it gives.
        """
        used = len(self._labels)
        self._unfitted = 0
        # Rows are only ever added behind these, or copied elsewhere: the view stays as it is.
        return Fitting(
            self._form, self._rows[:used], tuple(self._labels), dict(self._tools), self._alike
        )

    def adopt(self, form: int, solved: Solved | None) -> None:
        """Foresee by ``solved`` from now on; of no effect where what it means has changed meanwhile."""
        if form == self._form and solved is not None:
            self._weights, self._alike = solved.weights, solved.alike

    def _learn_arguments(
        self, points: Sequence[tuple[Point, Sequence[Made]]], parameters: Mapping[str, Json]
    ) -> None:
        calls: dict[str, list[tuple[Json, Places, str]]] = {}
        for at, (point, after) in enumerate(points):
            until = len(after) - (len(points[at + 1][1]) if at + 1 < len(points) else 0)
            for each in after[:until]:
                made = (dict(each.arguments), point.found, point.scene.said)
                calls.setdefault(each.tool, []).append(made)
        for tool, made_of_tool in calls.items():
            if tool in parameters:
                self.copying.learn(tool, parameters[tool], made_of_tool)

    def _pace(self, share: float) -> None:
        """The least probability for which what lately was foreseen keeps within the share."""
        calls = sum(count for p, count in self._judged if p < 0)
        if calls < _ENOUGH_CALLS:
            self.least_p = _BEFORE
            return
        budget = share * calls
        self.least_p = _LEAST_P
        for p in sorted((each for each, _ in self._judged if each >= 0), reverse=True):
            budget -= 1 - p
            if budget < 0:
                self.least_p = p
                return

    def _meet(self, tool: Known) -> None:
        if tool.name in self._tools or len(self._tools) >= _MOST_TOOLS:
            return
        self._tools[tool.name] = len(self._tools)
        name = "".join(f" {c}" if c.isupper() else c for c in tool.name.replace("_", " "))
        weights = {each: 1.0 for each in words(tool.description) if " " not in each}
        weights |= {each: 2.0 for each in words(name) if " " not in each}
        self._count(_hashed(weights))
        self._append(_unit(_hashed(weights)), frozenset({tool.name}))
        if len(self._labels) <= _FIT_AT_ONCE_POINTS:
            self._weights = None
        else:  # what the others' columns mean has not changed
            self._unfitted += len(self._labels)

    def _row(self, scene: Scene, reading: Container[str], *, learning: bool = False) -> Floats:
        """A point as float32[columns]: the words, rare ones weighing more, as one part of length
        one, the calls so far as another; a short text is not drowned by either.
        """
        count = max(1, len(self._labels))
        said = {}
        for word in words(scene.said):
            seen = self._seen.get(_column(word), 0)
            if not seen and not learning:
                continue  # what was never seen says nothing, and must not dilute what was
            said[word] = math.log((count + 1) / (seen + 1)) + 1
        done = [each.tool for each in scene.made if each.tool not in reading]
        calls = {"=after " + (done[-1] if done else ""): 1.5}
        calls |= {f"=before {each.tool}": 1.0 for each in scene.before[-6:]}
        calls |= {f"=done {tool}": 1.0 for tool in done}
        if done:
            calls["=any"] = 1.0
        elif scene.before:
            calls[f"=last {scene.before[-1].tool}"] = 1.0
        return _unit(_hashed(said)) + _CALLS_WEIGH * _unit(_hashed(calls))

    def _keep(self, row: Floats, tools: frozenset[str]) -> None:
        self._count(row)
        self._append(row, tools)
        self._unfitted += 1

    def _count(self, row: Floats) -> None:
        for column in np.flatnonzero(row):
            self._seen[int(column)] = self._seen.get(int(column), 0) + 1

    def _append(self, row: Floats, tools: frozenset[str]) -> None:
        used = len(self._labels)
        if used == len(self._rows):
            more = np.zeros((max(32, len(self._rows)), _COLUMNS), dtype=np.float16)
            self._rows = np.concatenate([self._rows, more])
        self._rows[used] = row
        self._labels.append(tools)
        if len(self._labels) > _MOST_POINTS + len(self._tools):
            half = (
                len(self._labels) // 2
            )  # what tools say of themselves is said anew when forgotten
            self._rows = self._rows[half : used + 1].copy()
            del self._labels[:half]
            self._tools.clear()
            self._form += 1
            self._weights = self._alike = None


@dataclass(frozen=True, slots=True)
class Solved:
    """What a fit found."""

    weights: Floats
    """float32[columns, tools]"""
    alike: Floats
    """float32[points, points]"""


@dataclass(frozen=True, slots=True)
class Fitting:
    """Everything that a fit reads; nothing of it changes."""

    form: int
    rows: Rows
    labels: tuple[frozenset[str], ...]
    tools: dict[str, int]
    alike: Floats | None = None

    def solve(self) -> Solved | None:
        """The weights; None where there is nothing to learn from."""
        used = len(self.labels)
        if not used or not self.tools:
            return None
        targets = np.zeros((used, len(self.tools)), dtype=np.float32)
        for index, tools in enumerate(self.labels):
            for tool in tools:
                if tool in self.tools:
                    targets[index, self.tools[tool]] = 1
        rows = self.rows.astype(np.float32)
        alike = self._compared(rows)
        gram = alike.copy()
        gram[np.diag_indices(used)] += _PENALTY
        weights: Floats = rows.T @ np.linalg.solve(gram, targets)
        return Solved(weights, alike)

    def _compared(self, rows: Floats) -> Floats:
        """How alike the rows are, each with each: what an earlier fit compared is not compared again."""
        used, known = len(rows), 0 if self.alike is None else len(self.alike)
        alike = np.empty((used, used), dtype=np.float32)
        if self.alike is not None:
            alike[:known, :known] = self.alike
        fresh = rows[known:] @ rows.T
        alike[known:] = fresh
        alike[:, known:] = fresh.T
        return alike


_STARTS = {
    "always": -0.5,
    "score": 1.0,
    "arguments": 1.0,
    "again": -0.5,
    "made": -1.5,
    "later": -0.5,
}


def _start(name: str) -> float:
    return _STARTS.get(name, 0.0)


def _figures(
    scene: Scene, tool: str, scored: tuple[float, int], guess: Guess, rank: int, *, made: bool
) -> dict[str, float]:
    """What a guess's probability is made from; ``scored``: the tool's score, and its place among them."""
    score, place = scored
    bounded = min(max(score, 0.01), 0.99)
    last = (scene.made or scene.before)[-1:]
    figures = {
        "always": 1.0,
        "score": math.log(bounded / (1 - bounded)) / 2,
        "arguments": math.log(max(guess.p, 1e-3)),
        f"after {bool(scene.made)} {last[0].tool if last else ''} {tool}": 1.0,
    }
    said = {
        "again": any(each.tool == tool for each in scene.made),
        "made": made,
        "later": rank > 0,
        "under way": bool(scene.made),
        "not the likeliest": place > 0,
        "third or later": place > 1,
        "nothing yet": not scene.before and not scene.made,
    }
    return figures | {name: 1.0 for name, holds in said.items() if holds}


def _reach(after: Sequence[Made], changing: frozenset[str]) -> int:
    """How many of the calls come before something is changed."""
    for index, each in enumerate(after):
        if each.tool in changing:
            return index
    return len(after)


def _column(word: str) -> int:
    return crc32(word.encode()) % _COLUMNS


def _hashed(weights: Mapping[str, float]) -> Floats:
    row = np.zeros(_COLUMNS, dtype=np.float32)
    for word, weight in weights.items():
        row[_column(word)] += weight
    return row


def _unit(row: Floats) -> Floats:
    return row / max(float(np.sqrt(row @ row)), 1e-9)
