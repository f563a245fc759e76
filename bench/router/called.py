"""What agents' own answers teach about their tools: BFCL's multi-turn conversations as a stream of requests.

Each request is judged, then its right calls are told. Beside what the gateway does stand the words alone, and
the shares of calls that it mixed in before: (calls + 8 guess) / (requests + 8).
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
class Judged:
    """A request, and what its words alone say."""

    turn: AgentTurn
    guess: ToolGuess
    features: Features
    asked: PromptView


class _Way(Protocol):
    def judge(self, one: Judged) -> tuple[Floats, float]:
        """P(called) of each tool in the order offered, P(several)."""
        ...

    def hear(self, guess: ToolGuess, called: tuple[str, ...]) -> None: ...


class _Words:
    """No statistics."""

    def judge(self, one: Judged) -> tuple[Floats, float]:
        guess = one.guess
        return np.array(guess.calls), several_calls_probability(
            guess.conjunctions, guess.calls, 1.0
        )

    def hear(self, guess: ToolGuess, called: tuple[str, ...]) -> None:
        """Nothing is learned."""


class _Shares:
    """The guess counts as eight earlier requests."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[float, float, Floats]] = {}

    def judge(self, one: Judged) -> tuple[Floats, float]:
        guess = one.guess
        nothing = 0.0, 0.0, np.zeros(len(guess.names))
        requests, several, calls = self.seen.get(guess.agent, nothing)
        shares = (calls + np.array(guess.calls) * _PRIOR_CALLS) / (requests + _PRIOR_CALLS)
        own = several_calls_probability(guess.conjunctions, shares.tolist(), 1.0)
        return shares, (several + own * _PRIOR_CALLS) / (requests + _PRIOR_CALLS)

    def hear(self, guess: ToolGuess, called: tuple[str, ...]) -> None:
        nothing = 0.0, 0.0, np.zeros(len(guess.names))
        requests, several, calls = self.seen.get(guess.agent, nothing)
        came = np.array([float(name in called) for name in guess.names])
        self.seen[guess.agent] = requests + 1, several + (len(called) > 1), calls + came


class _Offsets:
    """The gateway's."""

    def __init__(self) -> None:
        self.need = ToolNeed()

    def judge(self, one: Judged) -> tuple[Floats, float]:
        shares, several, _ = self.need.estimate(one.features, one.asked)
        known = dict(shares)
        return np.array([known[name] for name in one.guess.names]), several

    def hear(self, guess: ToolGuess, called: tuple[str, ...]) -> None:
        self.need.observe(guess, called)


_WAYS: dict[str, Callable[[], _Way]] = {
    "words alone": _Words,
    "shares mixed in": _Shares,
    "offsets": _Offsets,
}
_MEASURES = tuple(
    f"{measure}, {what}"
    for what in ("called", "several calls")
    for measure in ("log loss", "Brier score", "AUROC")
)


def learned(tools: Path) -> list[Figure]:
    """How well calls are foreseen, each judged before it is told; the bar is the better of the other ways.

    Over the turns as they are, where all call something; and with as many questions of EverGreenQA between,
    for which none of the tools is called. Once: 14 turns an agent; and with all turns three times.
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
            for way, made in _WAYS.items()
        }
        for at, what in enumerate(_MEASURES):
            words, shares, own = (float(scores[way][at]) for way in _WAYS)
            note = f"words {words:.4f}, shares {shares:.4f}; n={len(streams[0])}"
            bar = max(words, shares) if "AUROC" in what else min(words, shares)
            sense: Sense = ">=" if "AUROC" in what else "<="
            figures.append(Figure(f"{what}, {name}", own, bar, sense, note=note))
    return figures


def _stream(turns: list[AgentTurn], between: list[str], seed: int, passes: int) -> list[Judged]:
    """The turns in any order, each pass anew, judged by their words alone already."""
    rng, need = np.random.default_rng(seed), ToolNeed()
    stream: list[Judged] = []
    for _ in range(passes):
        for at in rng.permutation(len(turns)):
            turn = turns[at]
            stream.append(_judged(turn, need))
            if between:
                text = between[rng.integers(len(between))]
                stream.append(_judged(AgentTurn(turn.tools, text, ()), need))
    return stream


def _judged(turn: AgentTurn, need: ToolNeed) -> Judged:
    asked = PromptView(text=turn.text, total_chars=len(turn.text), tool_names=turn.tools)
    features = extract(asked)
    guess = need.estimate(features, asked)[2]
    assert guess is not None
    return Judged(turn, guess, features, asked)


def _replay(way: _Way, stream: Sequence[Judged]) -> tuple[float, ...]:
    """Each measure of ``_MEASURES`` over the stream."""
    shares, came, several, more = [], [], [], []
    for one in stream:
        turn = one.turn
        calls, both = way.judge(one)
        way.hear(one.guess, turn.called)
        shares.append(calls)
        came.append([name in turn.called for name in turn.tools])
        several.append(both)
        more.append(len(turn.called) > 1)
    return (
        *_scores(np.concatenate(shares), np.concatenate([np.array(one) for one in came])),
        *_scores(np.array(several), np.array(more)),
    )


def _scores(said: Floats, was: Bools) -> tuple[float, float, float]:
    clear = np.clip(said, 1e-6, 1 - 1e-6)
    loss = -float(np.mean(np.where(was, np.log(clear), np.log(1 - clear))))
    return loss, float(np.mean((said - was) ** 2)), auroc(said, was)
