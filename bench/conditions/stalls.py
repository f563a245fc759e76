"""How long one request may wait for the event loop while heavy work of all kinds goes on beside it.

Told in two ways. The probe is an exact hit, asked at a steady rate by the C client: it needs nothing but the
loop, so what it waits beyond its usual time is somebody else's turn, the machine's included; the same probe
on the calm gateway, in the same run, says what the machine itself adds. And a second gateway with a watchdog
(`bench.conditions.watched`), under the same work, says how much CPU the loop's longest turn took, whatever
else the machine did; what its stack was goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.conditions.rig import HEADERS, gateway
from bench.conditions.stage import Stage
from bench.figures import Figure
from bench.processes import NotReadyError, Server, ask, post
from bench.scenarios import NONCE, SCENARIOS, request_body
from bench.slices import Aim, measure

_PROBE = replace(SCENARIOS["hit_c1"], name="probe", concurrency=4, rate=250.0, cycle=8, least_s=6.0)
_SCRAPE_EVERY_S = 0.25
_ASK_EVERY_S = 0.05
_LARGE_EVERY_S = 0.1
_RELOAD_EVERY_S = 4.0
_BAR_MS = 5.0
_BESIDE = "beside scrapes, embeddings, 200 KB bodies and reloads"
_TOLD_WITHIN_S = 10.0
_STACKS, _FRAMES = 12, 6


def stalls(stage: Stage) -> list[Figure]:
    """The worst wait of the probe, calm and busy, and the loop's longest turn."""
    with ExitStack() as stack:
        server = stack.enter_context(
            gateway("stalls", stage.folder, stage.upstream, stage.server_cpu)
        )
        aim = Aim("slipstream", server, "", HEADERS, _PROBE.model)
        measure(stage.rigging, aim, _PROBE, 1.0, -1)
        worst: dict[str, list[float]] = {"calm": [], "busy": []}
        noisy = False
        for number in range(stage.rounds):
            for kind in ("calm", "busy"):
                with ExitStack() as busy:
                    if kind == "busy":
                        busy.enter_context(_Beside(server))
                    one = measure(stage.rigging, aim, _PROBE, stage.slice_s, number)
                assert one.total_us is not None
                worst[kind].append((one.total_us.max - one.total_us.p50) / 1e3)
                noisy = noisy or (kind == "calm" and not one.quiet)
    rounds, what = stage.rounds, "worst wait for the loop"
    return [
        Figure(f"{what}, calm", max(worst["calm"]), " ms", rounds, noisy=noisy),
        Figure(f"{what}, {_BESIDE}", max(worst["busy"]), " ms", rounds, "<=", _BAR_MS, noisy=noisy),
        _longest_turn(stage),
    ]


def _longest_turn(stage: Stage) -> Figure:
    """The watched gateway's longest turn under the same work."""
    report = stage.folder / "turns.json"
    program = ("-m", "bench.conditions.watched", str(report))
    with gateway(
        "watched", stage.folder, stage.upstream, stage.server_cpu, program=program
    ) as server:
        aim = Aim("slipstream", server, "", HEADERS, _PROBE.model)
        measure(stage.rigging, aim, _PROBE, 1.0, -1)  # begins with all that a start leaves behind
        _told(server, report)
        turns: list[tuple[float, list[tuple[float, list[str]]]]] = []
        for number in range(stage.rounds):
            with _Beside(server):
                measure(stage.rigging, aim, _PROBE, stage.slice_s, number)
            turns += _told(server, report)
    longest_ms, stacks = max(turns, default=(0.0, []), key=lambda each: each[0])
    if longest_ms > _BAR_MS:
        for at_ms, frames in stacks[:_STACKS]:
            print(f"  at {at_ms:.1f} ms: {' < '.join(frames[:_FRAMES])}", file=sys.stderr)
    what = f"CPU of the loop's longest turn, {_BESIDE}"
    return Figure(what, longest_ms, " ms", stage.rounds, "<=", _BAR_MS)


def _told(server: Server, report: Path) -> list[tuple[float, list[tuple[float, list[str]]]]]:
    """The longest turns since the last time: milliseconds, and the stacks that were seen at which."""
    assert server.process is not None
    report.unlink(missing_ok=True)
    os.kill(server.process.pid, signal.SIGUSR2)
    until_s = time.monotonic() + _TOLD_WITHIN_S
    while not report.exists():
        if time.monotonic() > until_s:
            raise NotReadyError("the watched gateway told nothing of its loop")
        time.sleep(0.05)
    told = json.loads(report.read_text())
    return [(float(ms), stacks) for ms, stacks in told["longest"]]


class _Beside:
    """Threads that ask the gateway for heavy things until they are told to stop."""

    def __init__(self, server: Server) -> None:
        assert server.process is not None
        self._port, self._pid = server.port, server.process.pid
        self._over = threading.Event()
        jobs = (
            (self._scrape, _SCRAPE_EVERY_S),
            (self._question, _ASK_EVERY_S),
            (self._large, _LARGE_EVERY_S),
            (self._reload, _RELOAD_EVERY_S),
        )
        self._threads = [threading.Thread(target=self._repeat, args=job) for job in jobs]
        self._number = 0

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, ask: Callable[[], None], every_s: float) -> None:
        while not self._over.wait(every_s):
            ask()

    def _scrape(self) -> None:
        ask(self._port, "/metrics")

    def _question(self) -> None:
        self._number += 1
        text = f"What is the capital of the country that is number {self._number} in the alphabet?"
        message = {"role": "user", "content": text}
        self._post(json.dumps({"model": _PROBE.model, "messages": [message]}).encode())

    def _large(self) -> None:
        self._number += 1
        body = request_body(SCENARIOS["json_200k"], _PROBE.model)
        self._post(body.replace(NONCE.encode(), b"%016d" % self._number))

    def _reload(self) -> None:
        os.kill(self._pid, signal.SIGHUP)

    def _post(self, body: bytes) -> None:
        post(self._port, "/v1/chat/completions", body, HEADERS)
