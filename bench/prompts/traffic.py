"""Multi-turn conversations with tools, as clients send them: seeded, with a clock of their own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from random import Random

_WORDS = re.findall(
    r"\w+",
    "the order was sent to a shop near the harbour where it waits for the parts that nobody has yet "
    "found although three people looked for them twice and wrote down each shelf and its number",
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, when and by whom."""

    at_s: float
    answered_s: float
    tenant: str
    conversation: int
    turn: int
    body: dict[str, object]


def words(rng: Random, count: int) -> str:
    """So many words."""
    return " ".join(rng.choice(_WORDS) for _ in range(count))


def tools(rng: Random, count: int) -> list[dict[str, object]]:
    """Tool definitions with parameters."""
    return [
        {
            "name": f"tool_{number}",
            "description": words(rng, 60),
            "input_schema": {
                "type": "object",
                "properties": {
                    name: {"type": "string", "description": words(rng, 12)}
                    for name in ("place", "part", "count")
                },
                "required": ["part"],
            },
        }
        for number in range(count)
    ]


def conversations(seed: int, count: int = 200) -> list[Sent]:
    """``count`` conversations of four tenants, 3 to 10 model calls each, by time.

    Half of the clients mark the end of their system prompt themselves; the others mark nothing. Gaps between
    calls of a tool loop are seconds; between a user's turns log-normal around 40 s, so that one in twenty is
    longer than five minutes.
    """
    rng = Random(seed)
    tenants = [(f"tenant-{n}", tools(rng, 4 + 3 * n), words(rng, 900 + 700 * n)) for n in range(4)]
    sent: list[Sent] = []
    for number in range(count):
        tenant, given, system = tenants[rng.randrange(4)]
        marks = rng.random() < 0.5
        at_s = rng.random() * 3600.0
        sent += _one(rng, number, tenant, given, system, at_s, marks=marks)
    return sorted(sent, key=lambda each: each.at_s)


def _one(  # noqa: PLR0917 - all of one conversation
    rng: Random,
    number: int,
    tenant: str,
    given: list[dict[str, object]],
    system: str,
    at_s: float,
    *,
    marks: bool,
) -> list[Sent]:
    block = {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}
    history: list[dict[str, object]] = []
    found: list[Sent] = []
    waiting: list[str] = []
    for turn in range(rng.randint(3, 10)):
        if waiting:
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": each,
                    "content": words(rng, rng.randint(40, 400)),
                }
                for each in waiting
            ]
            history.append({"role": "user", "content": results})
        else:
            history.append({"role": "user", "content": words(rng, rng.randint(10, 120))})
        body = {
            "model": "claude",
            "max_tokens": 500,
            "tools": given,
            "system": [block] if marks else system,
            "messages": json.loads(json.dumps(history)),
        }
        took_s = 1.0 + rng.random() * 4
        found.append(Sent(at_s, at_s + took_s, tenant, number, turn, body))
        if not waiting and rng.random() < 0.5:
            waiting = [f"c{number}_{turn}_{i}" for i in range(rng.randint(1, 3))]
            calls = [
                {"type": "tool_use", "id": each, "name": "tool_0", "input": {"part": words(rng, 3)}}
                for each in waiting
            ]
            history.append({"role": "assistant", "content": calls})
            at_s += took_s + 0.5 + rng.random() * 3
        else:
            waiting = []
            history.append({"role": "assistant", "content": words(rng, rng.randint(20, 150))})
            at_s += took_s + rng.lognormvariate(3.7, 1.2)
    return found
