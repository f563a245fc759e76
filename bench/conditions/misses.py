"""What looking for an answer in the semantic cache costs a request that finds none."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path

import yaml

from app.cache.bound import Limits, Threshold
from app.cache.route_state import RouteState
from app.cache.routes import RouteStore
from app.cache.semantic import route_name
from app.settings_schema import SemanticCacheSettings
from bench import summary
from bench.conditions.rig import HEADERS, gateway
from bench.conditions.stage import Stage
from bench.figures import Figure
from bench.processes import NotReadyError, Server, ask, ask_json
from bench.scenarios import NONCE, Scenario
from bench.slices import Aim, Slice, measure
from bench.summary import by_target, over_rounds, rotated
from bench.targets.slipstream import CONFIG

_QUESTION = Scenario(
    "question_c1",
    "a stable question, streamed",
    "bench-slow",
    1,
    tokens=10,
    least_s=3.0,
    question=f"Explain what the word {NONCE} means.",
)
_LATER = replace(_QUESTION, name="question_later", model="bench-later")
"""The same of a model that takes 20 ms to its first token, as fast ones do: what a race can hide behind."""
_MODEL: dict[str, object] = {
    "name": _LATER.model, "provider": "local", "model": "mock-t20-n10-g5", "tier": "fast",
    "price": {"input": 0.15, "output": 0.60, "cached_input": 0.015},
}  # fmt: skip
_SCENARIOS = {_QUESTION: "a model that answers at once", _LATER: "one that takes 20 ms"}
_WAYS: dict[str, dict[str, object]] = {"waiting": {}, "racing": {"race_for": ["*"]}}
"""How a miss meets its look-up."""
_MARKER = "slipstream.json"
_SETTLE_S = 120.0
_EMBEDDED = 'slipstream_stage_seconds_count{stage="embed"}'
_CERTIFIED = Threshold(
    0.75, labels=1_000, hits=400, wrong=0, upper_per_request=0.002, upper_per_hit=0.004
)


def semantic_miss(stage: Stage) -> list[Figure]:
    """First token with the semantic cache over without, the same gateway otherwise, by turns.

    Where a miss waits for its look-up, and where the tenant pays for asking the model meanwhile; each with a
    model that answers at once, behind which nothing can hide, and with one that takes 20 ms.
    """
    with ExitStack() as stack:

        def start(name: str, semantic: dict[str, object]) -> AbstractContextManager[Server]:
            models = [*yaml.safe_load(CONFIG.read_text())["models"], _MODEL]
            sections = {"cache": {"semantic": semantic}, "models": models}
            # Not one CPU alone: the vector process would take it from the gateway.
            cpus = f"{stage.server_cpu},{stage.load_cpu}"
            return gateway(name, stage.folder, stage.upstream, cpus, sections)

        servers = {"off": stack.enter_context(start("off", {"enabled": False}))}
        for name, semantic in _WAYS.items():
            with start(name, semantic) as first:
                await_model(first)
            folder = stage.folder / f"{name}-data" / "semantic"
            marker = next(folder.glob(f"questions-*/{_MARKER}"))
            build = str(json.loads(marker.read_text())["build"])
            for scenario in _SCENARIOS:
                route = ("default", scenario.model)
                asyncio.run(open_route(folder, build, route, SemanticCacheSettings()))
            servers[name] = stack.enter_context(start(name, semantic))
            await_model(servers[name])
        slices: list[Slice] = []
        for number in range(-1, stage.rounds):
            for scenario, name in product(_SCENARIOS, rotated(list(servers), number + 1)):
                aim = Aim(name, servers[name], "", HEADERS, scenario.model)
                one = measure(stage.rigging, aim, scenario, stage.slice_s, number)
                slices += [one] if number >= 0 else []
        looked = {name: value_of(servers[name], _EMBEDDED) for name in _WAYS}
    if not all(looked.values()):
        raise NotReadyError("no request was looked up: the figures would say nothing")
    seen = by_target(slices)
    figures = []
    for name, (scenario, model) in product(_WAYS, _SCENARIOS.items()):
        pair = (seen[name, scenario.name], seen["off", scenario.name])
        for quantile, reading, bar in (
            ("p50", summary.ttft_p50, 0.2),
            ("p99", summary.ttft_p99, 1.0),
        ):
            found = over_rounds(summary.added(reading), *pair)
            if found is not None:
                what = f"semantic miss, {name}, {model}: added first token, {quantile}"
                noisy = not found.quiet
                value = found.value / 1e3
                figures.append(Figure(what, value, " ms", found.rounds, "<=", bar, noisy=noisy))
    return figures


async def open_route(
    folder: Path,
    build: str,
    of: tuple[str, str],
    wanted: SemanticCacheSettings,
    learned: RouteState | None = None,
) -> None:
    """Let the route of a tenant and a model serve under ``wanted``: one in shadow looks nothing up.

    ``learned``: what it knows; nothing where none is given.
    """
    faults: list[str] = []
    routes = RouteStore(
        folder / "routes",
        limits=Limits.of(wanted.max_error_rate),
        audit_rate=wanted.audit_rate,
        build_id=lambda: build,
        on_fault=faults.append,
    )
    route = await routes.load(route_name(*of))
    route.state = learned or route.state
    route.state.threshold, route.unsaved_changes = route.state.threshold or _CERTIFIED, 1
    await routes.save()
    if faults:
        raise NotReadyError(faults[0])


def await_model(server: Server) -> None:
    """Wait until the embedding model is loaded: until then nothing is looked up."""
    deadline_s = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline_s:
        ready = ask_json(server.port, "/readyz")
        if "semantic" not in str(ready.get("degraded", "")):
            return
        time.sleep(0.2)
    raise NotReadyError(f"the embedding model is not there after {_SETTLE_S:g} s")


def value_of(server: Server, series: str) -> float:
    """A series' value on the server's /metrics; 0 where there is none yet."""
    for line in ask(server.port, "/metrics").splitlines():
        if line.startswith(series):
            return float(line.rpartition(" ")[2])
    return 0.0
