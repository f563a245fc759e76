"""How long a whole decision takes with many questions kept: `SIZE=100000 python -m bench.cache.at_size`.

Key, partition, embedding, the nearest ten from the vector process over its socket, guards and verifier: the
gateway's own `SemanticCache`, asked 50 times a second, whatever the answers before took. Then each part alone
in CPU time, how many of the nearest ten the index finds, and the process's memory.

As in a gateway, what was not served is asked of the model and learned from: here at once, after its time was
taken, from the stream's own answers. Without that a route serves a dozen hits and then asks for each, as
nothing would tell it of a change. A run in which fewer than a quarter were hits measured misses, and fails.

Environment: SIZE (100000; several with commas), ASKED (1000), KEPT=folder to fill once and measure again,
OUT=file for the JSON. What is kept: `bench.cache.filled`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np

from app.cache.bound import Limits
from app.cache.key import CacheScope, exact_key
from app.cache.partition import partition_key
from app.cache.route_state import RouteState
from app.cache.routes import RouteStore
from app.cache.semantic import BUDGET_S, Lookup, SemanticCache, SemanticQuery, route_name
from app.cache.verifier import fit_route
from app.domain.chat import ChatRequest, Dialect
from app.domain.vectors import TextTooLong, VectorSearchResult
from app.stores.sidecar_client import VectorProcess
from bench import machine
from bench.cache.__main__ import _files
from bench.cache.data import SHARED, cache_dir, embedder, load_stream
from bench.cache.decision_parts import NEAREST, parts
from bench.cache.filled import NOISE, Source, fill
from bench.cache.policies import prepared
from bench.cache.trials import Shuffled
from bench.figures import Figure, table
from bench.slices import NOISY_SHARE

_LEARNED, _PER_S, _MAX_WORDS = 2_000, 50, 24
_P50_MS, _P99_MS = 3.0, 10.0
_MIN_HITS = 25.0
"""Per cent; below, the figures would be those of misses."""
_SCOPE = CacheScope("t", "", "small")
_ROUTE = route_name("t", "small")
_MIN_QUIET_SECONDS = 3
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni")


@dataclass(frozen=True, slots=True)
class _Asked:
    """One run at a fixed rate: milliseconds of each decision, by second, and whether it was quiet."""

    took_ms: list[list[float]]
    quiet: list[bool]
    late: int
    hits: int
    wrong: int
    own_cpu_ms: float
    process_cpu_ms: float
    rss_mib: float

    def times_ms(self) -> tuple[list[float], bool]:
        """Those of quiet seconds, and True; all, and False, where there are too few."""
        quiet = [
            ms for second, ok in zip(self.took_ms, self.quiet, strict=True) if ok for ms in second
        ]
        if sum(self.quiet) >= _MIN_QUIET_SECONDS:
            return quiet, True
        return [ms for second in self.took_ms for ms in second], False


class FewHitsError(RuntimeError):
    """What was timed were not hits."""


class _Nearest10(VectorProcess):
    """Asked for ten neighbours, whatever the verifier reads."""

    async def recall(self, text: str, partition: str, k: int) -> VectorSearchResult | TextTooLong:
        return await super().recall(text, partition, max(k, NEAREST))


def request_of(text: str) -> ChatRequest:
    """A plain question."""
    body = {"messages": [{"role": "user", "content": text}]}
    return ChatRequest(Dialect.CHAT, "small", stream=False, body=body, raw=b"")


def asked_of(text: str) -> SemanticQuery:
    """What a gateway makes of a request before it looks: its key and its partition."""
    request = request_of(text)
    key, partition = exact_key(_SCOPE, request), partition_key(_SCOPE, request) or ""
    return SemanticQuery(key[:16].hex(), partition, _ROUTE, text, "t", time.time())


class Model:
    """Answers what the cache does not and labels it, outside of what is timed."""

    def __init__(self, state: RouteState, answers: dict[str, str]) -> None:
        """``answers``: the group of each text's answer."""
        self._state, self._answers = state, answers
        self.hits, self.wrong = 0, 0
        self._words: Counter[str] = Counter()

    def settle(self, text: str, look: Lookup) -> None:
        """Count a hit, or learn."""
        answer = self._answers[text]
        self._words[look.outcome] += 1
        if look.hit is not None:
            self.hits += 1
            self.wrong += look.hit[1].group != answer
        elif look.query is not None and look.decision is not None:
            self._state.learn(look.query, answer, look.decision, at_s=time.time())

    def check(self, asked: int) -> None:
        """Raise ``FewHitsError`` where what was timed were mostly no hits."""
        if 100 * self.hits < _MIN_HITS * asked:
            raise FewHitsError(
                f"{self.hits} of {asked} decisions were hits: {_MIN_HITS:g} % are needed for the times to"
                f" be those of hits; they were {dict(self._words)}"
            )


async def _measure(folder: Path, size: int, state: RouteState, answers: dict[str, str]) -> _Asked:
    process = _Nearest10(
        folder, cache_dir() / "embedder-int8", on_state=lambda _: None, max_entries=2 * size
    )
    routes = RouteStore(
        folder / "routes", limits=state.limits, audit_rate=0.0, build_id=lambda: process.build_id,
        on_fault=lambda why: print(why, file=sys.stderr),
    )  # fmt: skip
    (await routes.load(_ROUTE)).state = state
    cache = SemanticCache(process, routes, rng=Random(0), budget_s=2.0, on_lookup=lambda _: None)
    await process.start()
    texts = list(answers)
    took: list[list[float]] = []
    quiet: list[bool] = []
    try:
        await process.there.wait()
        pid = process.pid or 0
        warming = Model(state, {f"so {text}": answers[text] for text in texts[:_PER_S]})
        for text in texts[:_PER_S]:  # the first searches read the index from disk
            warming.settle(f"so {text}", await cache.lookup(asked_of(f"so {text}")))
        model = Model(state, answers)
        cpu_ns, own_ns = machine.cpu_ns({pid}), time.process_time_ns()
        for start in range(0, len(texts), _PER_S):
            second, ok = await _second(cache, pid, texts[start : start + _PER_S], model)
            took.append(second)
            quiet.append(ok)
        own_ms = (time.process_time_ns() - own_ns) / 1e6 / len(texts)
        cpu_ms = (machine.cpu_ns({pid}) - cpu_ns) / 1e6 / len(texts)
        rss_mib = _rss_mib(pid)
    finally:
        await process.aclose()
    model.check(len(texts))
    late = sum(ms > 1e3 * BUDGET_S for second in took for ms in second)
    return _Asked(took, quiet, late, model.hits, model.wrong, own_ms, cpu_ms, rss_mib)


async def _second(
    cache: SemanticCache, pid: int, texts: list[str], model: Model
) -> tuple[list[float], bool]:
    """One second of decisions at a fixed rate: milliseconds each, and whether the machine was quiet."""
    took: list[float] = []

    async def decide(text: str) -> None:
        begun = time.perf_counter()
        look = await cache.lookup(asked_of(text))
        took.append((time.perf_counter() - begun) * 1e3)
        model.settle(text, look)

    begun_s, busy = time.monotonic(), machine.busy_ns()
    ours = machine.cpu_ns({pid}) + time.process_time_ns()
    async with asyncio.TaskGroup() as group:
        for number, text in enumerate(texts):
            await asyncio.sleep(max(0.0, begun_s + number / _PER_S - time.monotonic()))
            group.create_task(decide(text))
    others = machine.busy_ns() - busy - (machine.cpu_ns({pid}) + time.process_time_ns() - ours)
    return took, others / 1e9 / (time.monotonic() - begun_s) <= NOISY_SHARE


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _figures(size: int, seen: _Asked, filled_s: float) -> list[Figure]:
    times, quiet = seen.times_ms()
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    n, asked, head = len(times), sum(map(len, seen.took_ms)), f"{size:,} kept"
    rate = f"a decision at {_PER_S}/s"
    made = [
        Figure(f"{head}: {rate}, p50", p50, " ms", n, "<=", _P50_MS, noisy=not quiet),
        Figure(f"{head}: {rate}, p99", p99, " ms", n, "<=", _P99_MS, noisy=not quiet),
        Figure(f"{head}: CPU of the gateway's side a decision", seen.own_cpu_ms, " ms", n),
        Figure(f"{head}: CPU of the vector process a decision", seen.process_cpu_ms, " ms", n),
        Figure(f"{head}: decisions over the budget of 5 ms", float(seen.late), "", n),
        Figure(f"{head}: hits among all of them", float(seen.hits), "", asked),
        Figure(f"{head}: wrong among those hits", float(seen.wrong), "", seen.hits),
        Figure(f"{head}: resident memory of the vector process", seen.rss_mib, " MiB", 1),
    ]
    return made + ([Figure(f"{head}: filled in", filled_s, " s", 1)] if filled_s else [])


def main() -> int:
    """Fill, ask, take apart, print, write OUT."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sizes = [int(each) for each in os.environ.get("SIZE", "100000").split(",")]
    encoder = embedder()
    stream = load_stream(_files("STREAMS", SHARED / "streams")[0], encoder)
    part = Shuffled.of(stream, 0, 1_000_000)
    known = part.questions[:_LEARNED]
    state = prepared(fit_route(known), known, Limits.of(0.05))
    short = [q for q in part.questions[_LEARNED:] if len(q.view.words) <= _MAX_WORDS]
    short = short[: int(os.environ.get("ASKED", "1000"))]
    answers = {f"{q.view.text} please": q.answer_group for q in short}
    everything = [question.view.text for question in part.questions]
    partition = asked_of("any").partition
    source = Source(
        part.name, everything, part.vectors, part.labels, partition, "t", "small", _ROUTE
    )
    figures: list[Figure] = []
    for size in sizes:
        with ExitStack() as stack:
            kept = os.environ.get("KEPT") or stack.enter_context(tempfile.TemporaryDirectory())
            folder = Path(kept) / str(size) if os.environ.get("KEPT") else Path(kept)
            folder.mkdir(parents=True, exist_ok=True)
            print(f"  filling {size:,}", file=sys.stderr, flush=True)
            filled_s = fill(folder, size, encoder, source)
            seen = asyncio.run(_measure(folder, size, state.copy(), answers))
            figures += _figures(size, seen, filled_s)
            figures += parts(folder, size, encoder, state.copy(), [asked_of(t) for t in answers])
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    has = ", ".join(each for each in _INSTRUCTIONS if f" {each}" in flags) or "unknown"
    print(table(figures))
    print(
        f"\n`~`: others used the machine. Vector instructions: {has}. {len(part.questions):,} texts were"
        f" embedded; the other vectors are theirs moved by noise of {NOISE:g} a dimension."
    )
    if out := os.environ.get("OUT"):
        Path(out).write_text(json.dumps([asdict(each) for each in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
