"""Online learning of tool calls: BFCL's multi-turn conversations as a stream of requests.

Each request is predicted, then its true calls are observed (prequential evaluation). Baselines: the words
alone, and call shares with the guess as a prior of eight requests: (calls + 8 guess) / (requests + 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from app.classify.features import Features, extract
from app.classify.tool_need import ToolNeed, several_calls_probability
from app.domain.decisions import PromptView, ToolGuess
from bench.router.data import SHARED, AgentTurn, read_agent_turns, read_evergreen
from bench.router.report import Figure
from bench.router.text import Bools, Floats, auroc

Sense = Literal[">=", "<="]
_SEEDS, _PRIOR_CALLS = 3, 8.0


@dataclass(frozen=True, slots=True)
class JudgedTurn:
    """A request, its features, and the guess from its words alone."""

    turn: AgentTurn
    guess: ToolGuess
    features: Features
    asked: PromptView


class _Predictor(Protocol):
    def predict(self, one: JudgedTurn) -> tuple[Floats, float]:
        """P(called) of each tool in the order offered, P(several)."""
        ...

    def observe(self, guess: ToolGuess, called: tuple[str, ...]) -> None: ...


class _Words:
    """No statistics."""

    def predict(self, one: JudgedTurn) -> tuple[Floats, float]:
        guess = one.guess
        return np.array(guess.calls), several_calls_probability(
            guess.conjunctions, guess.calls, 1.0
        )

    def observe(self, guess: ToolGuess, called: tuple[str, ...]) -> None:
        """Nothing is learned."""


class _Shares:
    """Call shares; the guess counts as eight earlier requests."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[float, float, Floats]] = {}

    def predict(self, one: JudgedTurn) -> tuple[Floats, float]:
        guess = one.guess
        nothing = 0.0, 0.0, np.zeros(len(guess.names))
        requests, several, calls = self.seen.get(guess.agent, nothing)
        shares = (calls + np.array(guess.calls) * _PRIOR_CALLS) / (requests + _PRIOR_CALLS)
        own = several_calls_probability(guess.conjunctions, shares.tolist(), 1.0)
        return shares, (several + own * _PRIOR_CALLS) / (requests + _PRIOR_CALLS)

    def observe(self, guess: ToolGuess, called: tuple[str, ...]) -> None:
        nothing = 0.0, 0.0, np.zeros(len(guess.names))
        requests, several, calls = self.seen.get(guess.agent, nothing)
        came = np.array([float(name in called) for name in guess.names])
        self.seen[guess.agent] = requests + 1, several + (len(called) > 1), calls + came


class _Offsets:
    """What the gateway does."""

    def __init__(self) -> None:
        self.need = ToolNeed()

    def predict(self, one: JudgedTurn) -> tuple[Floats, float]:
        shares, several, _ = self.need.estimate(one.features, one.asked)
        known = dict(shares)
        return np.array([known[name] for name in one.guess.names]), several

    def observe(self, guess: ToolGuess, called: tuple[str, ...]) -> None:
        self.need.observe(guess, called)


_PREDICTORS: dict[str, Callable[[], _Predictor]] = {
    "words alone": _Words,
    "shares mixed in": _Shares,
    "offsets": _Offsets,
}
_MEASURES = tuple(
    f"{measure}, {what}"
    for what in ("called", "several calls")
    for measure in ("log loss", "Brier score", "AUROC")
)


def tool_call_learning(tools: Path) -> list[Figure]:
    """How well calls are predicted; the bar is the better of the two baselines.

    Over the turns as they are, where all call something; and with as many questions of EverGreenQA between,
    for which no tool is called. One pass: 14 turns an agent; and all turns three times.
    """
    folder = tools.parent / "orchestration"
    turns = read_agent_turns(folder if folder.exists() else SHARED / "orchestration")
    path = tools / "evergreenqa" / "dev.csv"
    quiet = read_evergreen(path if path.exists() else SHARED / "tools" / "evergreenqa" / "dev.csv")
    figures: list[Figure] = []
    texts = [text for text, _ in quiet]
    for name, between, passes in (
        ("all call", [], 1),
        ("half call", texts, 1),
        ("half call, three times", texts, 3),
    ):
        streams = [_stream(turns, between, seed, passes) for seed in range(_SEEDS)]
        scores = {
            way: np.mean([_replay(made(), one) for one in streams], axis=0)
            for way, made in _PREDICTORS.items()
        }
        for at, what in enumerate(_MEASURES):
            words, shares, own = (float(scores[way][at]) for way in _PREDICTORS)
            note = f"words {words:.4f}, shares {shares:.4f}; n={len(streams[0])}"
            bar = max(words, shares) if "AUROC" in what else min(words, shares)
            sense: Sense = ">=" if "AUROC" in what else "<="
            figures.append(Figure(f"{what}, {name}", own, bar, sense, note=note))
    return figures


def _stream(turns: list[AgentTurn], between: list[str], seed: int, passes: int) -> list[JudgedTurn]:
    """The turns, shuffled in each pass, with their guesses."""
    rng, need = np.random.default_rng(seed), ToolNeed()
    stream: list[JudgedTurn] = []
    for _ in range(passes):
        for at in rng.permutation(len(turns)):
            turn = turns[at]
            stream.append(_judged(turn, need))
            if between:
                text = between[rng.integers(len(between))]
                stream.append(_judged(AgentTurn(turn.tools, text, ()), need))
    return stream


def _judged(turn: AgentTurn, need: ToolNeed) -> JudgedTurn:
    asked = PromptView(text=turn.text, total_chars=len(turn.text), tool_names=turn.tools)
    features = extract(asked)
    guess = need.estimate(features, asked)[2]
    assert guess is not None
    return JudgedTurn(turn, guess, features, asked)


def _replay(way: _Predictor, stream: Sequence[JudgedTurn]) -> tuple[float, ...]:
    """Each measure of ``_MEASURES`` over the stream."""
    shares, came, several, more = [], [], [], []
    for one in stream:
        turn = one.turn
        calls, both = way.predict(one)
        way.observe(one.guess, turn.called)
        shares.append(calls)
        came.append([name in turn.called for name in turn.tools])
        several.append(both)
        more.append(len(turn.called) > 1)
    return (
        *_scores(np.concatenate(shares), np.concatenate([np.array(one) for one in came])),
        *_scores(np.array(several), np.array(more)),
    )


def _scores(predicted: Floats, actual: Bools) -> tuple[float, float, float]:
    clear = np.clip(predicted, 1e-6, 1 - 1e-6)
    loss = -float(np.mean(np.where(actual, np.log(clear), np.log(1 - clear))))
    return loss, float(np.mean((predicted - actual) ** 2)), auroc(predicted, actual)
