"""The same traffic past several gateways, counted by the simulated vendor's own cache accounting."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from app.domain.chat import Dialect
from app.domain.deadline import Deadline
from app.domain.decisions import Tier
from app.domain.model_call import ModelCall
from app.domain.models import Abilities, Model
from app.domain.usage import Price, Usage
from app.prompts.caching import PromptCaching
from app.providers.simulator.dialect import Call
from app.providers.simulator.messages import MessagesDialect
from app.providers.simulator.profile import ModelChoice, ModelProfile
from app.providers.simulator.prompt_cache import CacheRules, CacheUse, Mark, PromptCache
from bench.prompts.traffic import Sent

CLAUDE = Model(
    "claude",
    "vendor",
    "claude",
    Tier.POWERFUL,
    Price(3.0, 15.0, 0.3, 3.75),
    Abilities(cache_breakpoints="anthropic"),
)
_PROFILE = ModelProfile("claude", 0.5, 0.01, 100)
_CHOICE = ModelChoice("claude", _PROFILE)
_vendor = MessagesDialect()


@dataclass
class Clock:
    """Virtual seconds."""

    now_s: float = 0.0

    def __call__(self) -> float:
        """Now."""
        return self.now_s


@dataclass
class Tally:
    """Tokens, by what became of them."""

    read: int = 0
    written: int = 0
    plain: int = 0
    requests: int = 0
    first_reads: dict[int, int] = field(default_factory=dict)

    def add(self, use: CacheUse) -> None:
        """Count one request."""
        self.read += use.read_tokens
        self.written += use.all_written_tokens
        self.plain += use.uncached_tokens
        self.requests += 1

    def usd(self) -> float:
        """What the prompts cost."""
        return (self.read * 0.3 + self.written * 3.75 + self.plain * 3.0) / 1e6


class Gateway:
    """A way to the vendor: gives the bytes that it would send, and hears of the usage."""

    def send(self, sent: Sent) -> bytes:
        """The body upstream."""
        return json.dumps(sent.body, separators=(",", ":")).encode()

    def answered(self, number: int, use: CacheUse) -> None:
        """The answer to the request ``number`` is over."""


class Slipstream(Gateway):
    """This gateway's own code: ``PromptCaching`` as the pipeline calls it."""

    def __init__(self, clock: Clock) -> None:
        """Know nothing yet."""
        self.caching = PromptCaching([CLAUDE], clock=clock)
        self._calls: list[ModelCall] = []
        self._loop = asyncio.new_event_loop()

    def send(self, sent: Sent) -> bytes:
        """As ``app.providers.upstream_request`` does it."""
        call = ModelCall(CLAUDE, stream=False, deadline=Deadline(None))
        call.tenant = sent.tenant
        self._calls.append(call)
        return self.caching.shape(call, Dialect.MESSAGES, super().send(sent))

    def answered(self, number: int, use: CacheUse) -> None:
        """As ``app.pipeline.converse`` does it."""
        call = self._calls[number]
        self.caching._written(call.prompt_shape)  # type: ignore[arg-type] # noqa: SLF001 - the first byte, without a stream
        call.usage = Usage(use.uncached_tokens, use.read_tokens, use.all_written_tokens, 100)

        async def settle() -> None:
            self.caching.settle(call)
            self.caching.drain()

        self._loop.run_until_complete(settle())


class Reserialising(Gateway):
    """Reads a request into objects and prints it anew; the client's own breakpoints survive."""

    def __init__(self, *, stable: bool) -> None:
        """``stable``: keys always in the same order; else workers differ, as where each sorts its own way."""
        self._stable = stable

    def send(self, sent: Sent) -> bytes:
        """Printed anew, by one of two workers in turn."""
        in_order = self._stable or (sent.conversation + sent.turn) % 2 == 0
        return json.dumps(sent.body, sort_keys=in_order).encode()


def replay(traffic: Sequence[Sent], clock: Clock, gateway: Gateway) -> Tally:
    """Send all of ``traffic``; answers end, and entries become readable, when their time comes."""
    cache, tally = PromptCache(clock), Tally()
    open_: list[tuple[float, int, CacheUse]] = []
    for number, sent in enumerate(traffic):
        _advance(open_, sent.at_s, clock, cache, gateway.answered)
        call = _vendor.read(json.loads(gateway.send(sent)), _CHOICE)
        use = cache.look_up(sent.tenant, call.blocks, call.rules)
        tally.add(use)
        heapq.heappush(open_, (sent.answered_s, number, use))
    _advance(open_, float("inf"), clock, cache, gateway.answered)
    return tally


def _advance(
    open_: list[tuple[float, int, CacheUse]],
    until_s: float,
    clock: Clock,
    cache: PromptCache,
    answered: Callable[[int, CacheUse], None],
) -> None:
    while open_ and open_[0][0] <= until_s:
        at_s, number, use = heapq.heappop(open_)
        clock.now_s = max(clock.now_s, at_s)
        cache.commit(use)
        answered(number, use)
    if until_s != float("inf"):
        clock.now_s = max(clock.now_s, until_s)


def oracle(traffic: Sequence[Sent], clock: Clock) -> Tally:
    """The most that could be read: as if every block had been marked, with no limit and no look-back."""
    cache, tally = PromptCache(clock), Tally()
    open_: list[tuple[float, int, CacheUse]] = []
    for number, sent in enumerate(traffic):
        _advance(open_, sent.at_s, clock, cache, lambda *_: None)
        call: Call = _vendor.read(json.loads(json.dumps(sent.body)), _CHOICE)
        marks = [Mark(position, 300) for position in range(len(call.blocks))]
        rules = CacheRules(marks, _PROFILE.cache_minimum_tokens)
        use = cache.look_up(sent.tenant, call.blocks, rules)
        tally.add(use)
        heapq.heappush(open_, (sent.answered_s, number, use))
    return tally


async def fan_out(width: int, *, lead: bool) -> tuple[int, int]:
    """``width`` requests at once that share tools and system prompt: tokens written, and unique ones."""
    from random import Random

    from bench.prompts.traffic import tools, words

    rng = Random(width)
    given, system = tools(rng, 8), words(rng, 3000)
    clock = Clock(1000.0)
    caching = PromptCaching([CLAUDE], clock=clock, lead=lead)
    cache = PromptCache(clock)
    written = 0
    names: dict[bytes, int] = {}
    serial = count()

    async def one() -> None:
        nonlocal written
        body = {
            "model": "claude",
            "max_tokens": 9,
            "tools": given,
            "system": system,
            "messages": [{"role": "user", "content": f"Task {next(serial)}: {words(rng, 20)}"}],
        }
        call = ModelCall(CLAUDE, stream=True, deadline=Deadline(None))
        call.tenant = "t"
        raw = caching.shape(call, Dialect.MESSAGES, json.dumps(body).encode())

        async def emit(_: object) -> None:
            return

        first = await caching.gate(call, emit)
        read = _vendor.read(json.loads(raw), _CHOICE)
        use = cache.look_up("t", read.blocks, read.rules)
        await asyncio.sleep(0.001)  # the prompt is read
        cache.commit(use)
        await first(None)  # type: ignore[arg-type]
        written += use.all_written_tokens
        running = b""
        for block in read.blocks:
            running += block.content
            names[running] = block.tokens
        call.usage = Usage(use.uncached_tokens, use.read_tokens, use.all_written_tokens, 9)
        caching.settle(call)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(one())
    caching.drain()
    return written, sum(names.values())
