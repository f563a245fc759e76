"""Predict an agent's next tool calls from its own traffic: the user's words and the calls so far give
the tool, ``app.learn.argument_model`` its arguments.

Plan. *Which tool*: ridge regression in its dual form on hashed words, pairs of words and the calls so
far, one output a tool; the target is whether the tool is called before anything is changed or the
turn is over, learned where such a stretch of calls begins. Each tool's own name and description
count as one example of its use, so that the first conversations are not blind. *How likely*:
logistic regression over a few features (that score, the probability of the arguments, the call
before), trained on every prediction whose outcome is known, started or not: its output is the
probability that speculation needs, calibrated on live traffic before money is risked. *How many*:
the lowest probability for which the expected waste of recent predictions stays within a share of the calls.

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
from app.domain.speculation import call_identity
from app.learn.argument_model import ArgumentModel, Guess
from app.learn.argument_sources import (
    ConversationState,
    PastCall,
    ValuesBySource,
    values_by_source,
    word_stems,
)
from app.learn.weights import Features, Weights, logistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float32]"
Rows: TypeAlias = "NDArray[np.float16]"

_COLUMNS = 4096
_MOST_POINTS = 1024
_MOST_TOOLS = 256
_REFIT_SHARE = 16
"""A refit is due after a sixteenth more examples."""
_PENALTY = 0.1
_CALLS_WEIGH = 0.6
_RATE = 0.3
_LEAST_SCORE = 0.01
_LOWEST_P = 0.02
_MOST_LIKELY = 8
"""Tools whose arguments are guessed: a less likely one would not be started anyway."""
_MAX_OUTCOMES = 2000
_MIN_P_WITHOUT_TRAFFIC = 0.5
"""``min_p`` until there is enough traffic to estimate waste."""
_ENOUGH_CALLS = 30
_FIT_AT_ONCE_POINTS = 64
"""So few take less than a millisecond; more are fitted in a thread."""


@dataclass(frozen=True, slots=True)
class SpeculativeTool:
    """The declaration of a tool that may be started early."""

    name: str
    description: str
    parameters: Json


@dataclass(frozen=True, slots=True)
class PredictedCall:
    """A call that may come next, with its probability and the features behind it."""

    tool: str
    arguments: Json
    p: float
    features: Features

    @property
    def key(self) -> str:
        """Identity of the call: equal arguments in any order give one key."""
        return call_identity(self.tool, self.arguments)


@dataclass(slots=True)
class DecisionPoint:
    """A moment at which the model chose its calls: the values it had, and the predictions made."""

    state: ConversationState
    values: ValuesBySource
    predictions: list[PredictedCall]


@dataclass(slots=True)
class NextCallModel:
    """The model of one agent's next calls, for one tenant."""

    argument_model: ArgumentModel = field(default_factory=ArgumentModel)
    turns: int = 0
    """User turns trained on."""
    min_p: float = _MIN_P_WITHOUT_TRAFFIC
    """Lowest probability of a prediction to act on: keeps the expected waste within its share."""
    _tools: dict[str, int] = field(default_factory=dict)
    _rows: Rows = field(default_factory=lambda: np.zeros((0, _COLUMNS), dtype=np.float16))
    _labels: list[frozenset[str]] = field(default_factory=list)
    _column_counts: dict[int, int] = field(default_factory=dict)
    _weights: Floats | None = None
    _similarities: Floats | None = None
    """Gram matrix of the examples of the last fit."""
    _unfitted: int = 0
    _layout_version: int = 0
    """Raised whenever the order of the tools, and so the meaning of the weights' columns, changes."""
    _calibration: Weights = field(default_factory=lambda: Weights(_RATE, _initial_weight))
    _outcomes: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_MAX_OUTCOMES))
    """Probabilities of predictions, and (-1, number of calls) for each turn."""

    def predict(self, scene: ConversationState, tools: Sequence[SpeculativeTool]) -> DecisionPoint:
        """Predict the next calls, most probable first, each once."""
        for tool in tools:
            self._register_tool(tool)
        found, row = values_by_source(scene), self._row(scene, {tool.name for tool in tools})
        point = DecisionPoint(scene, found, [])
        if self._weights is None and len(self._labels) <= _FIT_AT_ONCE_POINTS:
            self.fit()
        if self._weights is None:
            return point
        scores = row @ self._weights
        done = {call_identity(each.tool, dict(each.arguments)) for each in scene.calls}
        best: dict[str, PredictedCall] = {}
        for place, (score, tool) in enumerate(self._likely_tools(scores, tools)):
            guesses = self.argument_model.guesses(
                tool.name, tool.parameters, found, scene.user_text
            )
            for rank, guess in enumerate(guesses):
                made = call_identity(tool.name, guess.arguments) in done
                figures = _features(scene, tool.name, (score, place), guess, rank, made=made)
                p = logistic(self._calibration.score(figures))
                # The odds are quickly sure of a tool; a second choice of arguments is sure of less.
                p = min(p, guess.p) if rank else p
                each = PredictedCall(tool.name, guess.arguments, p, figures)
                if p >= _LOWEST_P and (each.key not in best or best[each.key].p < p):
                    best[each.key] = each
        point.predictions = sorted(best.values(), key=lambda each: -each.p)
        return point

    def _likely_tools(
        self, scores: Floats, tools: Sequence[SpeculativeTool]
    ) -> list[tuple[float, SpeculativeTool]]:
        """The tools worth guessing arguments for, likeliest first, with their scores."""
        found = []
        for tool in tools:
            index = self._tools.get(tool.name)
            score = 0.0 if index is None or index >= len(scores) else float(scores[index])
            if score >= _LEAST_SCORE:
                found.append((score, tool))
        return sorted(found, key=lambda each: -each[0])[:_MOST_LIKELY]

    def learn(
        self,
        points: Sequence[tuple[DecisionPoint, Sequence[PastCall]]],
        parameters: Mapping[str, Json],
        changes: Iterable[str],
        share: float,
    ) -> list[tuple[PredictedCall, bool]]:
        """Train on a finished user turn: each decision point with the calls that came after it, in order.

        ``parameters``: the tools' schemas; ``changes``: tools that are not read-only: a prediction
        made before such a call does not count after it. ``share``: allowed wasted calls per call.
        Gives each prediction and whether it was right; of equal ones the most probable.
        """
        changing = frozenset(changes)
        outcomes: dict[tuple[int, str], tuple[PredictedCall, bool]] = {}
        for point, after in points:
            reach = _calls_before_change(after, changing)
            right = {call_identity(each.tool, dict(each.arguments)) for each in after[:reach]}
            segment = len(after) - reach
            for each in point.predictions:
                good = each.key in right
                error = logistic(self._calibration.score(each.features)) - good
                self._calibration.step(
                    {name: error * each.features[name] for name in each.features}
                )
                known = outcomes.get((segment, each.key))
                if known is None or known[0].p < each.p or good > known[1]:
                    outcomes[segment, each.key] = (each, good or (known is not None and known[1]))
            made = point.state.calls
            # Between two changes hardly anything is read: a thousand points that say so say one thing.
            if not made or (made[-1].tool in changing and reach):
                row = self._row(point.state, parameters.keys() - changing, learning=True)
                self._add_example(row, frozenset(each.tool for each in after[:reach]))
        if points:
            self._learn_arguments(points, parameters)
            self.turns += 1
            self._outcomes.append((-1.0, len(points[0][1])))
        self._outcomes.extend((each.p, 0) for each, _ in outcomes.values())
        self._adjust_min_p(share)
        if self.fit_due and len(self._labels) <= _FIT_AT_ONCE_POINTS:
            self.fit()
        return list(outcomes.values())

    @property
    def fit_due(self) -> bool:
        """Whether there are enough new examples for another fit."""
        missing = self._weights is None and bool(self._labels)
        return missing or self._unfitted >= max(1, len(self._labels) // _REFIT_SHARE)

    def fit(self) -> None:
        """Fit here and now; see ``fit_job``."""
        work = self.fit_job()
        self.apply_fit(work.layout_version, work.solve())

    def fit_job(self) -> FitJob:
        """A fit, up to 50 ms of CPU, to be solved in a thread while this object stays in use; then
        ``apply_fit`` its result.
        """
        used = len(self._labels)
        self._unfitted = 0
        # Rows are only ever added behind these, or copied elsewhere: the view stays as it is.
        return FitJob(
            self._layout_version,
            self._rows[:used],
            tuple(self._labels),
            dict(self._tools),
            self._similarities,
        )

    def apply_fit(self, form: int, solved: FitResult | None) -> None:
        """Predict by ``solved`` from now on; ignored where the columns have changed meanwhile."""
        if form == self._layout_version and solved is not None:
            self._weights, self._similarities = solved.weights, solved.similarities

    def _learn_arguments(
        self,
        points: Sequence[tuple[DecisionPoint, Sequence[PastCall]]],
        parameters: Mapping[str, Json],
    ) -> None:
        calls: dict[str, list[tuple[Json, ValuesBySource, str]]] = {}
        for at, (point, after) in enumerate(points):
            until = len(after) - (len(points[at + 1][1]) if at + 1 < len(points) else 0)
            for each in after[:until]:
                made = (dict(each.arguments), point.values, point.state.user_text)
                calls.setdefault(each.tool, []).append(made)
        for tool, made_of_tool in calls.items():
            if tool in parameters:
                self.argument_model.learn(tool, parameters[tool], made_of_tool)

    def _adjust_min_p(self, share: float) -> None:
        """Set the lowest probability for which recent predictions keep within the share of waste."""
        calls = sum(count for p, count in self._outcomes if p < 0)
        if calls < _ENOUGH_CALLS:
            self.min_p = _MIN_P_WITHOUT_TRAFFIC
            return
        budget = share * calls
        self.min_p = _LOWEST_P
        for p in sorted((each for each, _ in self._outcomes if each >= 0), reverse=True):
            budget -= 1 - p
            if budget < 0:
                self.min_p = p
                return

    def _register_tool(self, tool: SpeculativeTool) -> None:
        if tool.name in self._tools or len(self._tools) >= _MOST_TOOLS:
            return
        self._tools[tool.name] = len(self._tools)
        name = "".join(f" {c}" if c.isupper() else c for c in tool.name.replace("_", " "))
        weights = {each: 1.0 for each in word_stems(tool.description) if " " not in each}
        weights |= {each: 2.0 for each in word_stems(name) if " " not in each}
        self._count_columns(_hashed(weights))
        self._append(_unit(_hashed(weights)), frozenset({tool.name}))
        if len(self._labels) <= _FIT_AT_ONCE_POINTS:
            self._weights = None
        else:  # what the others' columns mean has not changed
            self._unfitted += len(self._labels)

    def _row(
        self, scene: ConversationState, reading: Container[str], *, learning: bool = False
    ) -> Floats:
        """A decision point as float32[columns]: words (rare ones weigh more) and calls so far, each
        part normalised on its own so that neither outweighs the other.
        """
        count = max(1, len(self._labels))
        said = {}
        for word in word_stems(scene.user_text):
            seen = self._column_counts.get(_column(word), 0)
            if not seen and not learning:
                continue  # what was never seen says nothing, and must not dilute what was
            said[word] = math.log((count + 1) / (seen + 1)) + 1
        done = [each.tool for each in scene.calls if each.tool not in reading]
        calls = {"=after " + (done[-1] if done else ""): 1.5}
        calls |= {f"=before {each.tool}": 1.0 for each in scene.earlier_calls[-6:]}
        calls |= {f"=done {tool}": 1.0 for tool in done}
        if done:
            calls["=any"] = 1.0
        elif scene.earlier_calls:
            calls[f"=last {scene.earlier_calls[-1].tool}"] = 1.0
        return _unit(_hashed(said)) + _CALLS_WEIGH * _unit(_hashed(calls))

    def _add_example(self, row: Floats, tools: frozenset[str]) -> None:
        self._count_columns(row)
        self._append(row, tools)
        self._unfitted += 1

    def _count_columns(self, row: Floats) -> None:
        for column in np.flatnonzero(row):
            self._column_counts[int(column)] = self._column_counts.get(int(column), 0) + 1

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
            self._layout_version += 1
            self._weights = self._similarities = None


@dataclass(frozen=True, slots=True)
class FitResult:
    """Result of a fit."""

    weights: Floats
    """float32[columns, tools]"""
    similarities: Floats
    """float32[points, points]"""


@dataclass(frozen=True, slots=True)
class FitJob:
    """Immutable input of a fit."""

    layout_version: int
    rows: Rows
    labels: tuple[frozenset[str], ...]
    tools: dict[str, int]
    similarities: Floats | None = None

    def solve(self) -> FitResult | None:
        """Solve for the weights; None where there are no examples."""
        used = len(self.labels)
        if not used or not self.tools:
            return None
        targets = np.zeros((used, len(self.tools)), dtype=np.float32)
        for index, tools in enumerate(self.labels):
            for tool in tools:
                if tool in self.tools:
                    targets[index, self.tools[tool]] = 1
        rows = self.rows.astype(np.float32)
        alike = self._compare(rows)
        gram = alike.copy()
        gram[np.diag_indices(used)] += _PENALTY
        weights: Floats = rows.T @ np.linalg.solve(gram, targets)
        return FitResult(weights, alike)

    def _compare(self, rows: Floats) -> Floats:
        """Gram matrix of the rows; the part that an earlier fit computed is reused."""
        used, known = len(rows), 0 if self.similarities is None else len(self.similarities)
        alike = np.empty((used, used), dtype=np.float32)
        if self.similarities is not None:
            alike[:known, :known] = self.similarities
        fresh = rows[known:] @ rows.T
        alike[known:] = fresh
        alike[:, known:] = fresh.T
        return alike


_INITIAL_WEIGHTS = {
    "always": -0.5,
    "score": 1.0,
    "arguments": 1.0,
    "again": -0.5,
    "made": -1.5,
    "later": -0.5,
}


def _initial_weight(name: str) -> float:
    return _INITIAL_WEIGHTS.get(name, 0.0)


def _features(
    scene: ConversationState,
    tool: str,
    scored: tuple[float, int],
    guess: Guess,
    rank: int,
    *,
    made: bool,
) -> dict[str, float]:
    """Features of a prediction's probability; ``scored``: the tool's score and its rank."""
    score, place = scored
    bounded = min(max(score, 0.01), 0.99)
    last = (scene.calls or scene.earlier_calls)[-1:]
    figures = {
        "always": 1.0,
        "score": math.log(bounded / (1 - bounded)) / 2,
        "arguments": math.log(max(guess.p, 1e-3)),
        f"after {bool(scene.calls)} {last[0].tool if last else ''} {tool}": 1.0,
    }
    said = {
        "again": any(each.tool == tool for each in scene.calls),
        "made": made,
        "later": rank > 0,
        "under way": bool(scene.calls),
        "not the likeliest": place > 0,
        "third or later": place > 1,
        "nothing yet": not scene.earlier_calls and not scene.calls,
    }
    return figures | {name: 1.0 for name, holds in said.items() if holds}


def _calls_before_change(after: Sequence[PastCall], changing: frozenset[str]) -> int:
    """How many calls come before the first that is not read-only."""
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
