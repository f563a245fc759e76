"""A hit by meaning as a client sees it, among many kept questions, and what it does to streams beside it.

A gateway keeps 100,000 questions of one partition (`bench.cache.filled`) on an open route; 50 times a second
a client asks one of them in other words, never twice in the same. What the gateway asks of the model all the
same, to keep its bound, is counted with the rest: the model behind it answers at once.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Self

import numpy as np

from app.cache.bound import Limits
from app.cache.route_state import RouteState
from app.cache.text_view import analyse
from app.cache.verifier import LabelledQuestion
from app.settings_schema import SemanticCacheSettings
from app.stores.onnx_embedder import OnnxEmbedder
from bench import machine, summary
from bench.cache.filled import Source, fill, opened
from bench.conditions.misses import await_model, open_route, value_of
from bench.conditions.rig import HEADERS, MissingError, gateway
from bench.conditions.stage import Stage
from bench.figures import Figure
from bench.processes import NotReadyError, Server, post
from bench.scenarios import SCENARIOS
from bench.slices import NOISY_SHARE, Aim, Slice, measure

KEPT, PER_S = 100_000, 50
_MODEL = "bench-json"
_ROUTE = ("default", _MODEL)
_STREAMS = replace(SCENARIOS["stream_c50_spread"], least_s=4.0)
_SLICE_S = 4.0
_LEAST_HITS = 25.0
"""Per cent; below, the figures would be those of misses."""
_P50_MS, _P99_MS, _GROWN_MS = 3.0, 10.0, 2.0
_KEPT_WITHIN_S = 60.0
_WANTED = SemanticCacheSettings(max_error_rate=0.2, audit_rate=0.01, ttl_s=86_400, budget_ms=1_000)
"""With the usual 1 % one hit of four would be asked of the model, as nobody here ever says what changed;
and a look-up that is late is to be measured, not to become a miss."""
_LABELLED_EACH = 13
"""Of so many things one was learned: all words of kinds and things, as few of a route's are ever new."""
_KINDS = (
    "wooden", "iron", "glass", "paper", "silk", "stone", "copper", "leather", "plastic", "rubber",
    "heavy", "light", "old", "modern", "cheap", "broken", "round", "square", "folding", "electric",
    "manual", "digital", "portable", "outdoor", "industrial", "medical", "military", "antique", "Roman",
    "Chinese", "French", "simple", "double", "hidden", "public", "private", "rural", "floating",
    "frozen", "painted",
)  # fmt: skip
_THINGS = (
    "bridge", "clock", "ladder", "window", "bottle", "lamp", "chair", "engine", "pump", "mirror",
    "boat", "tent", "drum", "violin", "kettle", "oven", "wheel", "anchor", "lens", "scale", "hammer",
    "saw", "plough", "loom", "mill", "tower", "gate", "fence", "bell", "flag", "mask", "helmet",
    "shield", "map", "globe", "compass", "telescope", "camera", "radio", "battery", "magnet", "spring",
    "valve", "pipe", "cable", "rope", "knife", "spoon", "basket", "brush",
)  # fmt: skip
_STORED = "Explain what a {} is."
_ASKED = (
    "Please explain what a {} is.", "Explain to me what a {} is.", "Explain what a {} is, please.",
    "Can you explain what a {} is?", "Explain in simple words what a {} is.",
)  # fmt: skip


def semantic_hits(stage: Stage) -> list[Figure]:
    """Latency of hits alone, and of a stream's tokens without and with hits beside them, by turns."""
    directory = Path(sys.prefix) / "embedder"
    if not directory.is_dir():
        raise MissingError("there is no embedding model: run make install")
    cpus = f"{stage.server_cpu},{stage.load_cpu}"
    with ExitStack() as stack:
        with gateway("hits", stage.folder, stage.upstream, cpus, _sections()) as first:
            await_model(first)
            _keep_one(first)
        folder = stage.folder / "hits-data" / "semantic"
        encoder = OnnxEmbedder(directory)
        fill(folder, KEPT, encoder, _source(folder, encoder))
        asyncio.run(open_route(folder, encoder.build_id, _ROUTE, _WANTED, _learned(encoder)))
        server = stack.enter_context(
            gateway("hits", stage.folder, stage.upstream, cpus, _sections())
        )
        await_model(server)
        return _measured(stage, server)


def _sections() -> dict[str, object]:
    return {"cache": {"semantic": _WANTED.model_dump()}}


def _measured(stage: Stage, server: Server) -> list[Figure]:
    asking = _Questions(server.port)
    with asking:  # the first searches read the index from disk
        time.sleep(2.0)
    asked, hits = len(asking.taken()), _hits(server)
    alone: list[float] = []
    streams: dict[str, list[Slice]] = {"without": [], "with": []}
    quiet = True
    aim = Aim("slipstream", server, "", HEADERS, _STREAMS.model)
    for number in range(stage.rounds):
        busy, ours = machine.busy_ns(), machine.cpu_ns(server.pids()) + time.process_time_ns()
        with asking:
            time.sleep(_SLICE_S)
        used = machine.cpu_ns(server.pids()) + time.process_time_ns() - ours
        quiet = quiet and machine.busy_ns() - busy - used <= NOISY_SHARE * 1e9 * _SLICE_S
        taken = asking.taken()
        alone += taken
        asked += len(taken)
        streams["without"].append(measure(stage.rigging, aim, _STREAMS, stage.slice_s, number))
        with asking:
            streams["with"].append(measure(stage.rigging, aim, _STREAMS, stage.slice_s, number))
        asked += len(asking.taken())
    share = 100 * (_hits(server) - hits) / max(1, asked)
    if share < _LEAST_HITS:
        raise NotReadyError(f"only {share:.0f} % of what was asked were hits by meaning")
    grown = _grown_ms(streams)
    what, n = f"semantic hit, {KEPT:,} kept, {PER_S}/s", len(alone)
    p50, p99 = (float(np.percentile(alone, q)) for q in (50, 99))
    calm = all(each.quiet for each in streams["without"])
    return [
        Figure(f"{what}: p50", p50, " ms", n, "<=", _P50_MS, noisy=not quiet),
        Figure(f"{what}: p99", p99, " ms", n, "<=", _P99_MS, noisy=not quiet),
        Figure(f"{what}: share of hits", share, " %", asked),
        Figure(f"{what}: p99 of 50 streams' tokens on their way beside it, grown by", grown, " ms",
               stage.rounds, "<=", _GROWN_MS, noisy=not calm),
    ]  # fmt: skip


def _grown_ms(streams: dict[str, list[Slice]]) -> float:
    grown = [
        (with_p99 - without_p99) / 1e3
        for with_hits, without in zip(streams["with"], streams["without"], strict=True)
        if (with_p99 := summary.transit_p99(with_hits)) is not None
        and (without_p99 := summary.transit_p99(without)) is not None
    ]
    if not grown:
        raise NotReadyError("no stream gave a token")
    return statistics.median(grown)


def _hits(server: Server) -> float:
    return value_of(server, 'slipstream_semantic_looks_total{outcome="hit"}')


def _keep_one(server: Server) -> None:
    """Ask one question and wait until its answer is kept: it shows the partition of the rest."""
    status, text = post(server.port, "/v1/chat/completions", _body(_kept(0)), HEADERS)
    if status != HTTPStatus.OK:
        raise NotReadyError(f"status {status}: {text[:200]}")
    deadline_s = time.monotonic() + _KEPT_WITHIN_S
    while value_of(server, 'slipstream_semantic_answers_total{outcome="kept"}') < 1:
        if time.monotonic() > deadline_s:
            raise NotReadyError("the first answer was not kept for hits by meaning")
        time.sleep(0.1)


def _source(folder: Path, encoder: OnnxEmbedder) -> Source:
    store = opened(folder, KEPT, encoder)
    (first, *_), _ = store.page(_ROUTE[0], "", 1)
    store.close()
    texts = [_kept(number) for number in range(len(_KINDS) * len(_THINGS))]
    # The model's own words: what is asked of it all the same must find the kept answer right.
    said = json.loads(first.body)
    return Source("things", texts, encoder.embed(texts), texts, first.partition, first.tenant, first.model,
                  said["route"], said["text"])  # fmt: skip


def _learned(encoder: OnnxEmbedder) -> RouteState:
    """What a route has learned from three wordings of each of some questions, all of them used alike."""
    numbers = range(0, len(_KINDS) * len(_THINGS), _LABELLED_EACH)
    texts = [
        (n, wording.format(_thing(n)))
        for place, n in enumerate(numbers)
        for wording in (_STORED, *(_ASKED[(place + more) % len(_ASKED)] for more in (0, 1)))
    ]
    vectors = encoder.embed([text for _, text in texts])
    questions = [
        LabelledQuestion(analyse(text), vector, _kept(n))
        for (n, text), vector in zip(texts, vectors, strict=True)
    ]
    state = RouteState(Limits.of(_WANTED.max_error_rate), audit_rate=_WANTED.audit_rate)
    state.unbiased.extend(questions)
    state.labels = len(questions)
    state.refit()
    return state


def _kept(number: int) -> str:
    return _STORED.format(_thing(number))


def _thing(number: int) -> str:
    kind, thing = divmod(number, len(_THINGS))
    return f"{_KINDS[kind % len(_KINDS)]} {_THINGS[thing]}"


def _body(text: str) -> bytes:
    return json.dumps({"model": _MODEL, "messages": [{"role": "user", "content": text}]}).encode()


@dataclass(slots=True)
class _Questions:
    """Asks at a steady rate while it is entered, in a thread with a loop of its own."""

    port: int
    _took_ms: list[float] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _asked: int = 0

    def __enter__(self) -> Self:
        self._over.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask_on()), name="asking")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def taken(self) -> list[float]:
        """Milliseconds of each since the last time."""
        taken, self._took_ms = self._took_ms, []
        return taken

    async def _ask_on(self) -> None:
        idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        begun_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            number = 0
            while not self._over.is_set():
                await asyncio.sleep(max(0.0, begun_s + number / PER_S - time.monotonic()))
                group.create_task(self._ask(self._asked, idle))
                number += 1
                self._asked += 1
        for _, writer in idle:
            writer.close()

    async def _ask(
        self, number: int, idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
    ) -> None:
        wordings, things = len(_ASKED), len(_KINDS) * len(_THINGS)
        wording, thing = _ASKED[number // things % wordings], number * 7 % things
        body = _body(wording.format(_thing(thing)))
        head = {"host": "localhost", "content-type": "application/json", **HEADERS,
                "content-length": str(len(body))}  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        asked = f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body
        reader, writer = (
            idle.pop() if idle else await asyncio.open_connection("127.0.0.1", self.port)
        )
        begun = time.perf_counter()
        writer.write(asked)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in answer.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        await reader.readexactly(length)
        self._took_ms.append((time.perf_counter() - begun) * 1e3)
        idle.append((reader, writer))
