"""Speculation on recorded dialogues: how much tool time it hides, and how many calls it wastes.

Each dialogue's calls are made one after another, as the model of the trace made them; before each
the predictor sees the user's words and the calls so far. Latencies are seeded; the model takes a
second to decide. The predictor starts with nothing and learns as it goes (dialogues in a seeded
order); calls that change something are never started early, which is decided by the tool's name.
"""

from __future__ import annotations

import ast
import math
import random

from app.domain.speculation import LEAST_TRIES, Patterns, Prediction, key_of, pays
from app.pipeline.speculation import stage_of

DECIDE_S = 1.0
MEDIAN_TOOL_S = 0.8
VALUE_USD_PER_S = 0.002
COST_USD = 1e-4
MAX_WASTE = 0.1
_READS = (
    "get", "find", "list", "search", "check", "display", "view", "estimate", "ls", "pwd",
    "cat", "grep", "sort", "diff", "tail", "wc", "du", "compute", "retrieve", "verify", "show",
    "fetch", "contact",
)  # fmt: skip


def foresight(dialogues: list[list[tuple[str, list[str]]]]) -> dict[str, float]:
    """Replay the dialogues; shares of tool time hidden and of calls wasted."""
    draw = random.Random(11)
    order = list(range(len(dialogues)))
    draw.shuffle(order)
    stages: dict[str, Patterns] = {}
    tool_s = hidden_s = 0.0
    calls = fired = hits = wasted = 0
    squared, predictions = 0.0, 0
    names = {call.partition("(")[0] for d in dialogues for _, turn in d for call in turn}
    for index in order:
        seen: list[str] = []
        previous = "start"
        for question, turn in dialogues[index]:
            seen.append(question)
            for text in [*turn, ""]:
                made = _parsed(text) if text else None
                patterns = stages.setdefault(stage_of([previous]), Patterns())
                reading = "\n".join(seen[-6:])
                predicted = patterns.predict(reading, names)
                budget = MAX_WASTE * (calls + 20) - wasted
                started = _worth_it(predicted, budget)
                key = None if made is None else key_of(*made)
                predictions += len(predicted)
                squared += sum((each.p - (each.key == key)) ** 2 for each in predicted)
                fired += len(started)
                hit = key is not None and any(each.key == key for each in started)
                wasted += len(started) - hit
                if made is not None:
                    calls += 1
                    took_s = draw.lognormvariate(math.log(MEDIAN_TOOL_S), 0.6)
                    tool_s += took_s
                    if hit:
                        hits += 1
                        hidden_s += min(DECIDE_S, took_s)
                    seen.append(text)
                    previous = made[0]
                patterns.learn(reading, predicted, [] if made is None else [made])
            previous = "start"
    return {
        "calls": calls,
        "fired": fired,
        "hits": hits,
        "hidden_share": hidden_s / tool_s if tool_s else 0.0,
        "wasted_share": wasted / calls if calls else 0.0,
        "brier": squared / predictions if predictions else 0.0,
    }


def _worth_it(predicted: list[Prediction], budget: float) -> list[Prediction]:
    found: list[Prediction] = []
    for each in predicted:
        if len(found) + 1 > budget or each.tries < LEAST_TRIES or not each.tool.startswith(_READS):
            continue
        if pays(each.p, COST_USD, VALUE_USD_PER_S, min(DECIDE_S, MEDIAN_TOOL_S)):
            found.append(each)
    return found


def _parsed(text: str) -> tuple[str, dict[str, object]]:
    """A call as it is written in the traces: ``name(a='x', b=1)``."""
    tree = ast.parse(text, mode="eval").body
    if not isinstance(tree, ast.Call):
        return text.partition("(")[0], {}
    arguments: dict[str, object] = {}
    for position, value in enumerate(tree.args):
        arguments[f"_{position}"] = _literal(value)
    for keyword in tree.keywords:
        arguments[keyword.arg or "**"] = _literal(keyword.value)
    return text.partition("(")[0], arguments


def _literal(value: ast.expr) -> object:
    try:
        found: object = ast.literal_eval(value)
    except ValueError:
        return ast.unparse(value)
    return found
