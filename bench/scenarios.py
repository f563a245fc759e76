"""What is measured: the load of each scenario, and the request it sends.

Two rules make the figures mean something. A request of a throughput scenario is a question never
asked before (its prompt holds a nonce), so that a gateway's cache works, and misses; only the `hit`
scenarios repeat. And a model's name at the gateway differs from its name at the upstream, so that a
gateway does the rewriting that it does in life.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Dialect = Literal["openai", "anthropic"]

NONCE = "@@@@@@@@@@@@@@@@"
"""Sixteen bytes that loadgen replaces in every request."""

MODELS = {
    "bench-json": "mock-t0-n16-s700",
    "bench-stream": "mock-t0-n40-g20",
    "bench-slow": "mock-t0-n10-g5",
    "bench-burst": "mock-t0-n200-g0",
    "bench-stream-claude": "mock-t0-n40-g20",
}
"""A model's name at a gateway, and at the upstream (whose behaviour it spells)."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load.

    `tokens` 0 means a JSON call. `cycle` 0 means that no request repeats, K that K requests do, in
    turn. `spread_s` spaces the first starts of the connections; 0 starts them all at once. `rate`
    (requests a second) makes it an open loop. `least_s` is the shortest slice that measures it.
    `only` names the targets that can take it; None: all can.
    """

    name: str
    title: str
    model: str
    concurrency: int
    tokens: int = 0
    dialect: Dialect = "openai"
    cycle: int = 0
    spread_s: float = 0.0
    rate: float = 0.0
    least_s: float = 0.0
    drain_s: float = 3.0
    only: frozenset[str] | None = None
    question: str = ""
    """The last message, which holds NONCE; "": the usual one."""
    turns: int = 0
    """Earlier messages, of 2,000 bytes each."""

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return self.tokens > 0

    @property
    def path(self) -> str:
        """The endpoint, below the target's prefix."""
        return "/v1/messages" if self.dialect == "anthropic" else "/v1/chat/completions"

    @property
    def last_words(self) -> str | None:
        """What the last 64 bytes of a whole stream must hold."""
        if not self.streams:
            return None
        return "message_stop" if self.dialect == "anthropic" else "[DONE]"

    def takes(self, target: str) -> bool:
        """Whether this target is measured under this load."""
        return self.only is None or target in self.only


_OURS = frozenset({"slipstream"})
_LARGE = frozenset({"direct", "nginx", "go_proxy", "bare_wire", "slipstream"})
_HIT = frozenset({"direct", "nginx", "slipstream"})

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("json_c1", "JSON, 1 at a time", "bench-json", 1),
        Scenario("json_c50", "JSON, 50 at a time", "bench-json", 50),
        Scenario("json_c200", "JSON, 200 at a time", "bench-json", 200),
        Scenario("stream_c1", "1 stream, 5 ms gaps", "bench-slow", 1, tokens=10, least_s=2.0),
        Scenario(
            "stream_c50",
            "50 streams at once, 20 ms gaps",
            "bench-stream",
            50,
            tokens=40,
            least_s=1.6,
        ),
        Scenario(
            "stream_c50_spread",
            "50 streams, starts spread, 20 ms gaps",
            "bench-stream",
            50,
            tokens=40,
            spread_s=0.8,
            least_s=2.4,
        ),
        Scenario(
            "stream_c200",
            "200 streams, starts spread, 20 ms gaps",
            "bench-stream",
            200,
            tokens=40,
            spread_s=0.8,
            least_s=2.4,
        ),
        Scenario("stream_max", "20 streams, no gap", "bench-burst", 20, tokens=200),
        Scenario("hit_c1", "exact hit, 1 at a time", "bench-json", 1, cycle=64, only=_HIT),
        Scenario("hit_c50", "exact hit, 50 at a time", "bench-json", 50, cycle=64, only=_HIT),
        Scenario(
            "messages_on_openai",
            "50 streams, Anthropic client on an OpenAI model",
            "bench-stream",
            50,
            tokens=40,
            dialect="anthropic",
            least_s=1.6,
            only=_OURS,
        ),
        Scenario(
            "chat_on_anthropic",
            "50 streams, OpenAI client on an Anthropic model",
            "bench-stream-claude",
            50,
            tokens=40,
            least_s=1.6,
            only=_OURS,
        ),
        Scenario("json_200k", "JSON, 100 messages of 2 KB", "bench-json", 1, turns=98, only=_LARGE),
        Scenario("json_r1000", "JSON, open loop, 1,000 a second", "bench-json", 100, rate=1000.0),
    )
}

DEFAULT = (
    "json_c1",
    "json_c50",
    "json_c200",
    "stream_c1",
    "stream_c50",
    "stream_c50_spread",
    "stream_c200",
    "stream_max",
    "hit_c1",
    "hit_c50",
    "messages_on_openai",
    "chat_on_anthropic",
    "json_200k",
)
QUICK = ("json_c1", "json_c50", "stream_c50", "hit_c1")

_TURN_BYTES = 2_000
_SYSTEM = "You are a terse assistant of a help desk. Answer in the language of the question."
_QUESTION = (
    f"nonce={NONCE} Which of our plans include single sign-on, and how long does it take to change?"
)


def request_body(scenario: Scenario, model: str) -> bytes:
    """The request: about 300 bytes and the earlier turns; NONCE where the load generator writes its own."""
    body: dict[str, object] = {"model": model}
    user = {"role": "user", "content": scenario.question or _QUESTION}
    if scenario.dialect == "anthropic":
        body |= {"max_tokens": 256, "system": _SYSTEM, "messages": [user]}
    else:
        system = {"role": "system", "content": _SYSTEM}
        body |= {"messages": [system, *_earlier(scenario.turns), user], "max_tokens": 256}
    body["temperature"] = 0.2
    if scenario.streams:
        body["stream"] = True
    return json.dumps(body, separators=(",", ":")).encode()


def _earlier(turns: int) -> list[dict[str, str]]:
    """A conversation so far, the asker first."""
    said = "The plan that you have holds single sign-on, and the change takes effect at once. "
    text = (said * (_TURN_BYTES // len(said) + 1))[:_TURN_BYTES]
    roles = ("user", "assistant")
    return [{"role": roles[turn % 2], "content": f"{turn}. {text}"} for turn in range(turns)]
