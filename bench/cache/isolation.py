"""Pairs of requests that differ in one field: none may share a partition, or an exact key."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.domain.chat import ChatRequest, Dialect

if TYPE_CHECKING:
    from collections.abc import Callable

PAIRS: Final = 100_000
_WORDS: Final = (
    "invoice", "refund", "window", "Paris", "late", "order", "42", "not", "before", "why", "how",
)  # fmt: skip
_Made = tuple[CacheScope, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Isolation:
    """How many pairs were made, and how many of them met though one field differs."""

    pairs: int
    met_by_meaning: int
    met_exactly: int


def _text(rng: Random) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randrange(3, 9)))


def _request(rng: Random) -> _Made:
    turns = [{"role": "user", "content": _text(rng)}]
    if rng.random() < 0.5:
        turns = [{"role": "user", "content": _text(rng)},
                 {"role": "assistant", "content": _text(rng)}, *turns]  # fmt: skip
    system = [{"role": "system", "content": _text(rng)}]
    body: dict[str, object] = {"messages": [*system, *turns], "temperature": rng.choice([0, 0.5])}
    scope = CacheScope(f"t{rng.randrange(99)}", f"u{rng.randrange(99)}", "small", "")
    return scope, body


def _turn(rng: Random, made: _Made, at: int) -> _Made:
    scope, body = made
    turns = body["messages"]
    assert isinstance(turns, list)
    changed = {**turns[at], "content": f"{turns[at]['content']} {rng.choice(_WORDS)}"}
    return scope, {**body, "messages": [*turns[:at], changed, *turns[at + 1 :]]}


def _field(name: str, value: object) -> Callable[[Random, _Made], _Made]:
    return lambda _, made: (made[0], {**made[1], name: value})


_TOOL: Final = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
CHANGES: Final[dict[str, Callable[[Random, _Made], _Made]]] = {
    "tenant": lambda _, m: (m[0]._replace(tenant=m[0].tenant + "x"), m[1]),
    "user": lambda _, m: (m[0]._replace(user=m[0].user + "x"), m[1]),
    "model": lambda _, m: (m[0]._replace(model="large"), m[1]),
    "tier": lambda _, m: (m[0]._replace(tier="fast"), m[1]),
    "system prompt": lambda rng, m: _turn(rng, m, 0),
    "an earlier turn": lambda rng, m: _turn(rng, m, 1) if _turns(m) > 2 else _turn(rng, m, 0),
    "temperature": _field("temperature", 0.25),
    "top_p": _field("top_p", 0.5),
    "max_tokens": _field("max_tokens", 77),
    "stop": _field("stop", ["."]),
    "seed": _field("seed", 7),
    "response format": _field("response_format", {"type": "json_object"}),
    "tools": _field("tools", [_TOOL]),
    "an unknown field": _field("some_vendors_new_field", 1),
}
"""What differs in a pair, by name."""


def _turns(made: _Made) -> int:
    turns = made[1]["messages"]
    return len(turns) if isinstance(turns, list) else 0


def _chat(made: _Made) -> ChatRequest:
    body = json.loads(json.dumps(made[1]))
    return ChatRequest(Dialect.CHAT, made[0].model, stream=False, body=body, raw=b"")


def measure_isolation(pairs: int = PAIRS, seed: int = 0) -> Isolation:
    """Make pairs, one field apart and otherwise equal, and count those that meet."""
    rng, names = Random(seed), list(CHANGES)
    by_meaning = exactly = 0
    for number in range(pairs):
        made = _request(rng)
        other = CHANGES[names[number % len(names)]](rng, made)
        a, b = _chat(made), replace(_chat(other))
        by_meaning += partition_key(made[0], a) == partition_key(other[0], b)
        exactly += exact_key(made[0], a) == exact_key(other[0], b)
    return Isolation(pairs, by_meaning, exactly)
