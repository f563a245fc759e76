"""Upstreams behind TLS: beside nginx that speaks TLS to the same one, and for a client that comes cold."""

from __future__ import annotations

import http.client
import json
import ssl
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from bench import summary
from bench.conditions.rig import (
    HEADERS,
    Certificate,
    Link,
    await_answer,
    certificate,
    gateway,
    nginx,
)
from bench.conditions.stage import Stage
from bench.figures import Figure
from bench.processes import Server
from bench.scenarios import NONCE, SCENARIOS, request_body
from bench.slices import Aim, measure
from bench.summary import Estimate, Rounds, by_target, rotated

_LOADS = ("json_c1", "json_c50", "stream_c50")
_RTT_S = 0.020
_MODEL = "bench-slow"


def beside_nginx(stage: Stage) -> list[Figure]:
    """The ratios of `make bench`, with TLS between proxy and upstream on both sides."""
    with ExitStack() as stack:
        ours = certificate(stage.folder)
        enter = stack.enter_context
        end = enter(
            nginx(
                "tls-end", stage.folder, stage.upstream_port, stage.load_cpu, ends=ours, begins=None
            )
        )
        other = enter(
            nginx("tls-nginx", stage.folder, end.port, stage.server_cpu, ends=None, begins=ours)
        )
        await_answer(other)
        mine = enter(_over(stage, "tls-gateway", end.port, ours))
        direct = Server(None, stage.upstream_port, stage.folder / "none")
        upstream = {"nginx": other, "direct": direct}
        slices = []
        for number in range(-1, stage.rounds):
            for place, load in enumerate(_LOADS):
                scenario = SCENARIOS[load]
                for name in rotated(["direct", "nginx", "slipstream"], number + place):
                    model = (
                        scenario.model if name == "slipstream" else stage.upstream_model(scenario)
                    )
                    aim = Aim(name, upstream.get(name, mine), "", HEADERS, model)
                    one = measure(stage.rigging, aim, scenario, stage.slice_s, number)
                    slices += [one] if number >= 0 else []
    seen = by_target(slices)

    def over(load: str, compute: Callable[..., float | None], *names: str) -> Estimate | None:
        series: list[Rounds] = [seen[name, load] for name in names]
        return summary.over_rounds(compute, *series)

    three = ("slipstream", "nginx", "direct")
    p50, first = summary.added_ratio(summary.total_p50), summary.added_ratio(summary.ttft_p50)
    rps, cpu = summary.ratio(summary.rps), summary.ratio(summary.cpu_per_token)
    rows = [
        ("added p50, 1 at a time", over("json_c1", p50, *three), "<=", 1.3),
        ("requests/s at 50", over("json_c50", rps, *three[:2]), "", None),
        ("added p50 to the first token, 50 streams", over("stream_c50", first, *three), "<=", 1.5),
        ("CPU a streamed token", over("stream_c50", cpu, *three[:2]), "<=", 2.5),
    ]
    return [
        Figure(
            f"TLS upstream: {name}, over nginx's",
            found.value,
            "x",
            found.rounds,
            sense,
            bar,
            noisy=not found.quiet,
        )
        for name, found, sense, bar in rows
        if found is not None
    ]


def _over(stage: Stage, name: str, port: int, ours: Certificate) -> AbstractContextManager[Server]:
    """The gateway over the TLS end at ``port``."""
    env = {"SSL_CERT_FILE": str(ours.file)}
    return gateway(name, stage.folder, f"https://localhost:{port}", stage.server_cpu, env=env)


def cold_client(stage: Stage) -> list[Figure]:
    """First token of a client's first request, through a gateway beside it and without, by turns.

    The vendor is 20 ms away and speaks TLS; the client speaks TLS to whom it asks. The gateway's own
    connections to the vendor are warm, as they are kept.
    """
    with ExitStack() as stack:
        enter = stack.enter_context
        ours = certificate(stage.folder)
        end = enter(
            nginx(
                "cold-end",
                stage.folder,
                stage.upstream_port,
                stage.load_cpu,
                ends=ours,
                begins=None,
            )
        )
        link = enter(Link(end.port, _RTT_S))
        mine = enter(_over(stage, "cold-gateway", link.port, ours))
        front = enter(
            nginx("cold-front", stage.folder, mine.port, stage.server_cpu, ends=ours, begins=None)
        )
        await_answer(mine)
        took: dict[str, list[float]] = {"gateway": [], "direct": []}
        scenario = SCENARIOS["stream_c1"]
        for number in range(stage.colds + 1):
            for name, port, model in (
                ("gateway", front.port, scenario.model),
                ("direct", link.port, stage.upstream_model(scenario)),
            ):
                first_s = _first_token_s(port, ours, model, number)
                if number:
                    took[name].append(first_s)
    ratios = [a / b for a, b in zip(took["gateway"], took["direct"], strict=True)]
    what = f"cold client, TLS, {_RTT_S * 1e3:.0f} ms: first token"
    direct_ms = statistics.median(took["direct"]) * 1e3
    ratio = statistics.median(ratios)
    return [
        Figure(f"{what} direct", direct_ms, " ms", stage.colds),
        Figure(f"{what} through the gateway over direct", ratio, "x", stage.colds, "<=", 0.6),
    ]


def _first_token_s(port: int, ours: Certificate, model: str, number: int) -> float:
    """From the connection's first step to the first event, on a connection of its own."""
    context = ssl.create_default_context(cafile=str(ours.file))
    body = request_body(SCENARIOS["stream_c1"], model).replace(
        NONCE.encode(), b"%016x" % (number + 1)
    )
    began_s = time.perf_counter()
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
    try:
        connection.request(
            "POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **HEADERS}
        )
        response = connection.getresponse()
        line = response.readline()
        took_s = time.perf_counter() - began_s
        while not line.startswith(b"data:"):
            line = response.readline()
            took_s = time.perf_counter() - began_s
        json.loads(line.removeprefix(b"data:"))
        return took_s
    finally:
        connection.close()
